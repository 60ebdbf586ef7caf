// fleet agent enroll|once: what runs on each host. Nothing of the server is loaded here.
import type { Command } from 'commander';
import { registerLocal } from './agent-local.ts';
import { registerNotify } from './agent-notify.ts';
import { printOnce } from './agent-once.ts';
import {
  ownProgram,
  placed,
  placeOptions,
  requireRoot,
  requireSuperuser,
  rootOf,
  stateOf,
} from './agent-place.ts';
import { registerReset } from './agent-reset.ts';
import { registerRun } from './agent-run.ts';
import { registerWatchdog } from './agent-watchdog.ts';
import { readInput } from './input.ts';
import { globalsOf, print, say } from './output.ts';

type EnrollOptions = { host?: string; system?: string };
type OnceOptions = { acceptAge?: boolean; unit?: string };

export function registerAgent(program: Command): void {
  const agent = program
    .command('agent')
    .description('what runs on each host')
    .option('--root <dir>', 'a chroot store with its own profile, instead of this machine');
  agent
    .command('enroll')
    .argument('<file>', 'the one-time file that "fleet host enroll" wrote')
    .description('make this machine a host of a fleet')
    .option('--host <id>', 'what this machine is called; the file must agree')
    .option('--system <system>', 'Nix system of this machine, such as x86_64-linux')
    .action(
      placed(async (file: string, options: EnrollOptions, command: Command) => {
        const globals = globalsOf(command);
        const { enroll } = await import('../src/agent/enroll.ts');
        const { config, ...key } = await enroll({
          dir: stateOf(command),
          file: (await readInput(file, 'give the file that "fleet host enroll" wrote')).toString(),
          host: options.host ?? null,
          system: options.system ?? null,
          root: rootOf(command),
          now: now(),
        });
        const { fleet, host, system, server, root } = config;
        print(
          globals,
          { version: 1, fleet, host, system, server, root, ...key },
          [
            `This machine is ${host} of fleet ${fleet}.`,
            `Compare its key with "fleet host show ${host}" on the server:`,
            `  ${key.fingerprint}`,
            `Next:  fleet agent once${placeOptions(command)}`,
          ].join('\n'),
        );
      }),
    );
  agent
    .command('once')
    .description('ask, verify, fetch, switch, report; then end')
    .option('--accept-age', 'accept a log that was last heard of longer ago than the root allows')
    .option('--unit <file>', 'the unit of this service: one that an update brings anew confirms it')
    .action(
      placed(async (options: OnceOptions, command: Command) => {
        const globals = globalsOf(command);
        const dir = stateOf(command);
        await requireRoot(dir, command);
        if (options.acceptAge === true) await requireSuperuser(dir, '--accept-age');
        const { runOnce } = await import('../src/agent/once.ts');
        const result = await runOnce({
          dir,
          clock: now,
          program: ownProgram(),
          ...(options.unit === undefined ? {} : { unitFile: options.unit }),
          acceptAge: options.acceptAge === true,
          say: (line) => say(globals, line),
        });
        printOnce(globals, result, command);
      }),
    );
  registerLocal(agent);
  registerNotify(agent);
  registerRun(agent);
  registerWatchdog(agent);
  registerReset(agent);
}

function now(): number {
  return Math.floor(Date.now() / 1000);
}
