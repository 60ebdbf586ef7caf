// fleet agent watchdog: what undoes a switch that nobody confirmed. Not for people: the agent arms it.
import type { Command } from 'commander';
import { ownProgram, placed, stateOf } from './agent-place.ts';
import { globalsOf, say } from './output.ts';

export function registerWatchdog(agent: Command): void {
  agent
    .command('watchdog', { hidden: true })
    .description('go back, if this transaction was not confirmed')
    .requiredOption('--transaction <id>', 'of the journal')
    .action(
      placed(async ({ transaction }: { transaction: string }, command: Command) => {
        const globals = globalsOf(command);
        const dir = stateOf(command);
        const { runOnce } = await import('../src/agent/once.ts');
        const { outcome } = await runOnce({
          dir,
          clock: () => Math.floor(Date.now() / 1000),
          program: ownProgram(),
          expired: transaction,
          say: (line) => say(globals, line),
        });
        if (outcome !== null) say(globals, `${outcome.phase}: ${outcome.reason?.text ?? ''}`);
      }),
    );
}
