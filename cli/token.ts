// fleet token create|list|revoke: read tokens, with which stock Nix clients may use the cache.
// The token is printed once and stored only as a hash.
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import { formatTime } from '../src/manifest/time.ts';
import { generateToken, hashToken } from '../src/server/tokens.ts';
import { globalsOf, print, table } from './output.ts';
import { withStateDir } from './state.ts';

export function registerToken(program: Command): void {
  const token = program.command('token').description('tokens for reading the binary cache');
  token
    .command('create')
    .argument('<name>', 'what it is for; also the name to revoke it by')
    .option('--days <n>', 'valid for so many days (default: until revoked)')
    .description('make a token with which Nix clients may read the cache')
    .action(async (name: string, options: { days?: string }, command: Command) => {
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
      await withStateDir(globals, async ({ state, config }) => {
        const taken = (await state.credentials()).some(
          (c) => c.scope === 'read' && c.name === name,
        );
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
          scope: 'read',
          host: null,
          createdAt: now,
          expiresAt,
        });
        const machine = config.url === null ? 'SERVER' : new URL(config.url).hostname;
        print(
          globals,
          { version: 1, token: secret, name, expiresAt },
          `${secret}\n\nIt is shown only this once. For Nix, put this line into a file only root can read,\nand name that file in nix.conf (netrc-file = …):\n\n  machine ${machine} login fleet password ${secret}`,
        );
      });
    });
  token
    .command('list')
    .description('list the tokens that may read the cache')
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      await withStateDir(globals, async ({ state }) => {
        const found = (await state.credentials()).filter((c) => c.scope === 'read');
        const rows = found.map((c) => [
          c.name,
          formatTime(c.createdAt),
          c.expiresAt === null ? 'never' : formatTime(c.expiresAt),
        ]);
        print(
          globals,
          {
            version: 1,
            tokens: found.map(({ name, createdAt, expiresAt }) => ({ name, createdAt, expiresAt })),
          },
          rows.length === 0 ? 'no tokens' : table([['NAME', 'CREATED', 'EXPIRES'], ...rows]),
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
