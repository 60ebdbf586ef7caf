// fleet init: creates the server's state directory, and refuses to overwrite one.
import type { Command } from 'commander';
import { parseBaseUrl } from '../src/config.ts';
import { FleetError, messageOf } from '../src/errors.ts';
import { globalsOf, print, serverState } from './output.ts';
import { becomeOwner } from './state.ts';

export function registerInit(program: Command): void {
  program
    .command('init')
    .description('create the state directory, keys and first root of a new fleet')
    .option('--origin <name>', "the fleet's name, such as fleet.example.org (default: this host's)")
    .option('--url <url>', 'where hosts will reach the server, such as https://fleet.example.org')
    .action(async (options: { origin?: string; url?: string }, command: Command) => {
      const globals = globalsOf(command);
      const dir = serverState(globals);
      const { initStateDir } = await import('../src/server/init.ts');
      // A directory that a service's user was given stays theirs.
      await becomeOwner(dir);
      const made = await initStateDir(dir, {
        origin: options.origin ?? null,
        url: options.url === undefined ? null : urlOf(options.url),
        now: Math.floor(Date.now() / 1000),
      });
      const { fleet } = made.config;
      print(
        globals,
        { version: 1, state: dir, fleet, cacheKey: made.cacheKey, rootKeyId: made.rootKeyId },
        [
          `Fleet ${fleet} was created in ${dir}.`,
          '',
          `Nix clients trust its cache with   trusted-public-keys = ${made.cacheKey}`,
          `Move the root key to where no network reaches: whoever holds it (${made.rootKeyId}) can take over the fleet.`,
          `  fleet key export root --move --state ${dir} --out /SOME/STICK/root.pem         (and the same for release)`,
          'The server works without them.',
          '',
          'Next:',
          `  fleet build --state ${dir} --flake .`,
          `  fleet serve --state ${dir}         (stays; listens on ${made.config.listen})`,
          `  fleet host enroll HOST --state ${dir}${made.config.url === null ? ' --server URL' : ''}`,
        ].join('\n'),
      );
    });
}

function urlOf(text: string): string {
  try {
    return parseBaseUrl(text);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--url ${text}: it ${messageOf(cause)}`, { cause });
  }
}
