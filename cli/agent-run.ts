// fleet agent run: there all day. It asks by starting `fleet agent once` each time.
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import { ownProgram, placed, rootOf, stateOf } from './agent-place.ts';
import { globalsOf, say } from './output.ts';

type RunOptions = { poll?: string; unit?: string; socket?: string; group?: string };

export function registerRun(agent: Command): void {
  agent
    .command('run')
    .description('stay, and run "agent once" from time to time and when the server hints at news')
    .option('--poll <seconds>', 'time between two questions (default: pollSeconds of agent.json)')
    .option('--unit <file>', 'end once this file, the unit of this service, is another one')
    .option('--socket <file>', 'where the control socket is to be')
    .option('--group <name>', 'who may use it besides root (default: localGroup of agent.json)')
    .action(
      placed(async (options: RunOptions, command: Command) => {
        const globals = globalsOf(command);
        const dir = stateOf(command);
        const root = rootOf(command);
        const { runAgent } = await import('../src/agent/run.ts');
        const stopping = new AbortController();
        for (const signal of ['SIGTERM', 'SIGINT'] as const) {
          process.once(signal, () => stopping.abort());
        }
        const place = ['--state', dir, ...(root === null ? [] : ['--root', root])];
        const unit = options.unit === undefined ? [] : ['--unit', options.unit];
        const agentOf = (verb: string): string[] => [
          ...ownProgram(),
          ...['agent', ...place, verb, '--json'],
        ];
        await runAgent({
          dir,
          command: [...agentOf('once'), ...unit],
          control: {
            statusCommand: agentOf('status'),
            bundleCommand: [...agentOf('apply'), ...unit, '--for-group'],
            ...(options.socket === undefined ? {} : { socket: resolve(options.socket) }),
            ...(options.group === undefined ? {} : { group: options.group }),
          },
          say: (line) => say(globals, line),
          signal: stopping.signal,
          ...(options.poll === undefined ? {} : { pollSeconds: pollOf(options.poll) }),
          ...(options.unit === undefined ? {} : { unitFile: options.unit }),
        });
      }),
    );
}

function pollOf(text: string): number {
  const seconds = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (seconds > 0 && seconds <= 604_800) return seconds;
  throw new FleetError('E_USAGE', `--poll ${text} is no whole number of seconds, 1 to 604800`);
}
