// fleet cache gc|pin|unpin|info|verify|push: what an admin does with the binary cache.
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import type { CollectResult } from '../src/server/collect.ts';
import { registerCacheInfo } from './cache-info.ts';
import { registerCachePush } from './cache-push.ts';
import { registerCacheVerify } from './cache-verify.ts';
import { counted, formatBytes, type Globals, globalsOf, print, table } from './output.ts';
import { withStateDir } from './state.ts';
import { pathArgument } from './store-argument.ts';

/** As many paths are told in a dry run, unless -v. */
const SHOWN = 20;

export function registerCache(program: Command): void {
  const cache = program
    .command('cache')
    .description('the binary cache: what is in it, and what goes');
  registerCacheInfo(cache);
  registerCacheVerify(cache);
  registerCachePush(cache);
  cache
    .command('gc')
    .option('--dry-run', 'say what would go and what is kept, and why; remove nothing')
    .description('remove what no host runs or should run, no pin keeps and nobody used lately')
    .action(async (options: { dryRun?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const { collect } = await import('../src/server/collect.ts');
      const dryRun = options.dryRun === true;
      await withStateDir(globals, async (dir) => {
        const removed: { path: string; narSize: number; usedAt: number }[] = [];
        const onPath = (one: (typeof removed)[number]): void => void removed.push(one);
        const result = await collect(dir, dryRun ? { dryRun, onPath } : { dryRun });
        if (result === null) {
          throw new FleetError('E_STATE_BUSY', 'another garbage collection is under way', {
            hint: 'wait until it is done',
          });
        }
        const { roots, releasedLinks, ...counts } = result;
        const document = { version: 1, dryRun, ...counts, releasedLinks, roots };
        print(
          globals,
          dryRun ? { ...document, removed } : document,
          formatResult(globals, dryRun, result, removed),
        );
      });
    });
  cache
    .command('pin')
    .argument('<name>', 'what it is for; also the name to unpin it by')
    .argument('<path>', 'a store path of the cache')
    .description('keep a path, and all that it refers to, until it is unpinned')
    .action(async (name: string, text: string, _options, command: Command) => {
      const globals = globalsOf(command);
      if (!/^[A-Za-z0-9._@-]{1,64}$/.test(name)) {
        throw new FleetError('E_USAGE', `"${name}" is no name for a pin`, {
          hint: 'use letters, digits, and . _ @ -',
        });
      }
      const path = await pathArgument(text);
      await withStateDir(globals, async ({ state }) => {
        const createdAt = Math.floor(Date.now() / 1000);
        if (!(await state.addPin({ name, path, createdAt }))) {
          throw new FleetError('E_PATH_UNKNOWN', `${path} is not in this cache`);
        }
        print(globals, { version: 1, name, path }, `pinned ${path} as ${name}`);
      });
    });
  cache
    .command('unpin')
    .argument('<name>', 'the name it was pinned with')
    .description('keep a path no longer')
    .action(async (name: string, _options, command: Command) => {
      const globals = globalsOf(command);
      await withStateDir(globals, async ({ state }) => {
        if (!(await state.removePin(name))) {
          throw new FleetError('E_USAGE', `there is no pin named ${name}`, {
            hint: 'list them with: fleet cache info',
          });
        }
        print(globals, { version: 1, unpinned: name }, `unpinned ${name}`);
      });
    });
}

function formatResult(
  globals: Globals,
  dryRun: boolean,
  result: CollectResult,
  removed: readonly { path: string; narSize: number; usedAt: number }[],
): string {
  const { paths, narBytes, blobs, blobBytes, releasedLinks, roots } = result;
  const lines: string[] = [];
  if (dryRun) {
    lines.push(`kept, with all that they refer to: ${roots.length}`);
    lines.push(...roots.map(({ path, reason }) => `  ${path}: ${reason}`));
    const shown = globals.verbose ? removed : removed.slice(0, SHOWN);
    lines.push(
      ...(shown.length === 0
        ? []
        : [
            table(
              shown.map(({ path, narSize, usedAt }) => [
                path,
                formatBytes(narSize),
                `last used ${new Date(usedAt * 1000).toISOString().slice(0, 10)}`,
              ]),
            ),
          ]),
    );
    if (shown.length < removed.length)
      lines.push(`… and ${removed.length - shown.length} more (-v)`);
  }
  const would = dryRun ? 'would remove' : 'removed';
  lines.push(
    `${would} ${counted(paths, 'path')} (${formatBytes(narBytes)} unpacked) and ${counted(blobs, 'file')} (${formatBytes(blobBytes)})`,
  );
  if (releasedLinks > 0)
    lines.push(`released ${releasedLinks} built systems to this box's own Nix`);
  return lines.join('\n');
}
