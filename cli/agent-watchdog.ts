// fleet agent watchdog: what undoes a switch that nobody confirmed. Not for people: the agent arms it.
import type { Command } from 'commander';
import { ownProgram, placed, stateOf } from './agent-place.ts';
import { globalsOf, say } from './output.ts';

type WatchdogOptions = { transaction: string; unit?: string };

export function registerWatchdog(agent: Command): void {
  agent
    .command('watchdog', { hidden: true })
    .description('go back, if this transaction was not confirmed')
    .requiredOption('--transaction <id>', 'of the journal')
    .option('--unit <file>', 'the unit of the agent, to be started again')
    .action(
      placed(async ({ transaction, unit }: WatchdogOptions, command: Command) => {
        const globals = globalsOf(command);
        const { watch } = await import('../src/agent/watch.ts');
        await watch({
          dir: stateOf(command),
          clock: () => Math.floor(Date.now() / 1000),
          program: ownProgram(),
          ...(unit === undefined ? {} : { unitFile: unit }),
          expired: transaction,
          say: (line) => say(globals, line),
        });
      }),
    );
}
