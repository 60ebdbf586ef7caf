// fleet cache push PATH…: the closure of paths of the local Nix store into a cache: another machine's, by
// its upload routes, or the local state's.
import type { Command } from 'commander';
import { parseBaseUrl } from '../src/config.ts';
import { FleetError, messageOf } from '../src/errors.ts';
import { counted, formatBytes, type Globals, globalsOf, print, say } from './output.ts';
import { withStateDir } from './state.ts';
import { pathArgument } from './store-argument.ts';
import { tokenOf } from './token-file.ts';

type Options = { to?: string; tokenFile?: string };

export function registerCachePush(cache: Command): void {
  cache
    .command('push')
    .argument('<paths...>', 'store paths, or links to them')
    .option('--to <url>', 'the server to push to (default: the local state)')
    .option('--token-file <file>', 'a token of scope push (default: $FLEET_TOKEN)')
    .description('store paths, and all that they refer to, in a cache')
    .action(async (texts: string[], options: Options, command: Command) => {
      const globals = globalsOf(command);
      const target = options.to === undefined ? null : urlOf(options.to);
      if (target === null && options.tokenFile !== undefined) {
        throw new FleetError('E_USAGE', '--token-file is for a server, and there is no --to', {
          hint: 'name the server: --to URL; the local state takes no token',
        });
      }
      const token =
        target === null ? '' : await pushToken(options.tokenFile, new URL(target).hostname);
      const { queryClosure, queryPathInfos } = await import('../src/nix/query.ts');
      const paths = await Promise.all(texts.map(pathArgument));
      const infos = await queryPathInfos(await queryClosure(paths));
      if (target === null) {
        await pushHere(globals, infos);
        return;
      }
      const { pushPaths } = await import('../src/cache/push.ts');
      const { queryExtras } = await import('../src/nix/query-signatures.ts');
      const result = await pushPaths(infos, {
        url: target,
        token,
        extras: await queryExtras(infos.map(({ path }) => path)),
        onProgress: (done, total) => {
          if (done % 50 === 0 || done === total) say(globals, `${done} of ${total} paths`);
        },
      });
      const { pushed, there, narBytes } = result;
      print(
        globals,
        { version: 1, ...result },
        `pushed ${counted(pushed, 'path')} (${formatBytes(narBytes)} unpacked); ${there} ${there === 1 ? 'was' : 'were'} there`,
      );
    });
}

async function pushHere(
  globals: Globals,
  infos: Parameters<typeof import('../src/cache/ingest.ts')['ingestClosure']>[0],
): Promise<void> {
  const { ingestClosure } = await import('../src/cache/ingest.ts');
  await withStateDir(globals, async ({ state, blobs, config }) => {
    // Paths that are there already come first: what is new begins behind them.
    const bytesAfter = [0];
    const result = await ingestClosure(infos, {
      state,
      blobs,
      level: config.zstdLevel,
      onProgress: ({ narBytes }) => void bytesAfter.push(narBytes),
    });
    const { ingested, reused } = result;
    const narBytes = result.narBytes - (bytesAfter[reused] ?? 0);
    print(
      globals,
      { version: 1, pushed: ingested, there: reused, narBytes },
      `stored ${ingested} paths (${formatBytes(narBytes)} unpacked); ${reused} were there`,
    );
  });
}

function urlOf(text: string): string {
  try {
    return parseBaseUrl(text);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--to ${text}: ${messageOf(cause)}`, { cause });
  }
}

async function pushToken(file: string | undefined, host: string): Promise<string> {
  const token = await tokenOf(file, host);
  if (token !== null) return token;
  throw new FleetError('E_USAGE', 'a token is needed to push', {
    hint: 'make one on the server: fleet token create NAME --scope push; then --token-file FILE',
  });
}
