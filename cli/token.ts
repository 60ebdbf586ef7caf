// fleet token create|list|revoke: tokens with which stock Nix clients may use the cache, upload to it, or
// see metrics. (Hosts get theirs by enrolling.)
// The token is printed once and stored only as a hash.
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import { formatTime } from '../src/manifest/time.ts';
import { generateToken, hashToken } from '../src/server/tokens.ts';
import { globalsOf, print, table } from './output.ts';
import { withStateDir } from './state.ts';

/** What a token made here may be good for; a host's own comes with its enrolment. */
const SCOPES = ['read', 'push', 'admin'] as const;

export function registerToken(program: Command): void {
  const token = program.command('token').description('tokens for the binary cache and its metrics');
  token
    .command('create')
    .argument('<name>', 'what it is for; also the name to revoke it by')
    .option('--days <n>', 'valid for so many days (default: until revoked)')
    .option('--scope <scope>', `what it is good for: ${SCOPES.join(', ')}`, 'read')
    .description('make a token for Nix clients, uploads or metrics')
    .action(async (name: string, options: { days?: string; scope: string }, command: Command) => {
      const globals = globalsOf(command);
      if (!/^[A-Za-z0-9._@-]{1,64}$/.test(name)) {
        throw new FleetError('E_USAGE', `"${name}" is no name for a token`, {
          hint: 'use letters, digits, and . _ @ -',
        });
      }
      const days = options.days === undefined ? null : Number(options.days);
      if (days !== null && !(Number.isInteger(days) && days >= 1 && days <= 3650)) {
        throw new FleetError('E_USAGE', '--days wants a whole number from 1 to 3650');
      }
      const scope = SCOPES.find((known) => known === options.scope);
      if (scope === undefined) {
        throw new FleetError('E_USAGE', `"${options.scope}" is no scope of a token`, {
          hint: `choose one of: ${SCOPES.join(', ')}`,
        });
      }
      await withStateDir(globals, async ({ state, config }) => {
        const taken = (await state.credentials()).some((c) => c.host === null && c.name === name);
        if (taken) {
          throw new FleetError('E_USAGE', `there is a token named ${name} already`, {
            hint: `choose another name, or first: fleet token revoke ${name}`,
          });
        }
        const now = Math.floor(Date.now() / 1000);
        const secret = generateToken();
        const expiresAt = days === null ? null : now + days * 86_400;
        await state.addCredential({
          tokenHash: hashToken(secret),
          name,
          scope,
          host: null,
          createdAt: now,
          expiresAt,
        });
        const machine = config.url === null ? 'SERVER' : new URL(config.url).hostname;
        print(
          globals,
          { version: 1, token: secret, name, scope, expiresAt },
          `${secret}\n\nIt is shown only this once. For Nix, put this line into a file only root can read,\nand name that file in nix.conf (netrc-file = …):\n\n  machine ${machine} login fleet password ${secret}`,
        );
      });
    });
  token
    .command('list')
    .description('list the tokens')
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      await withStateDir(globals, async ({ state }) => {
        const found = (await state.credentials()).filter((c) => c.host === null);
        const now = Math.floor(Date.now() / 1000);
        const rows = found.map((c) => [
          c.name,
          c.scope,
          formatTime(c.createdAt),
          c.expiresAt === null
            ? 'never'
            : `${formatTime(c.expiresAt)}${c.expiresAt <= now ? ' (expired)' : ''}`,
        ]);
        print(
          globals,
          {
            version: 1,
            tokens: found.map(({ name, scope, createdAt, expiresAt }) => ({
              name,
              scope,
              createdAt,
              expiresAt,
            })),
          },
          rows.length === 0
            ? 'no tokens'
            : table([['NAME', 'SCOPE', 'CREATED', 'EXPIRES'], ...rows]),
        );
      });
    });
  token
    .command('revoke')
    .argument('<name>', 'the name it was made with')
    .description('make a token worthless, at once')
    .action(async (name: string, _options, command: Command) => {
      const globals = globalsOf(command);
      await withStateDir(globals, async ({ state }) => {
        if ((await state.revokeCredentials(name)) === 0) {
          throw new FleetError('E_USAGE', `there is no token named ${name}`, {
            hint: 'list them with: fleet token list',
          });
        }
        print(globals, { version: 1, revoked: name }, `revoked ${name}`);
      });
    });
}
