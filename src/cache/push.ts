// Paths of a local store → a cache on another machine, by its upload routes: one question which of them
// are missing, then their NARs several at a time, and each narinfo as soon as all that it refers to is
// there. What arrived stays there: the next push goes on from it. NARs are named by their own hash, so
// they can be sent while they are compressed.
import { FleetError } from '../errors.ts';
import { narBytesOf } from '../nix/closure.ts';
import type { RegisteredPath } from '../nix/dump-db.ts';
import { formatNarInfo } from '../nix/narinfo.ts';
import type { PathExtras } from '../nix/query-signatures.ts';
import { hashPartOf, STORE_DIR } from '../nix/storepath.ts';
import { compressed } from './compress.ts';
import { Gate } from './gate.ts';
import { PushClient, type PushTarget } from './push-client.ts';
import { ReferenceOrder } from './reference-order.ts';
import { checkedDump } from './store-dump.ts';

export type PushOptions = PushTarget & {
  /** Where the store's files really lie (default: /nix/store). */
  readonly storeDir?: string;
  /** zstd's, 1 to 19. */
  readonly level?: number;
  readonly extras?: ReadonlyMap<string, PathExtras>;
  readonly onProgress?: (done: number, total: number) => void;
};

export type Pushed = { readonly pushed: number; readonly there: number; readonly narBytes: number };

const PARALLEL = 4;
const DEFAULT_LEVEL = 3;

/**
 * Uploads what of `infos` (a whole closure) is missing there.
 * @throws FleetError E_PUSH, E_STORE_CORRUPT, E_NAR_CHANGED; the signal's reason when aborted.
 */
export async function pushPaths(
  infos: readonly RegisteredPath[],
  options: PushOptions,
): Promise<Pushed> {
  await using client = new PushClient(options, 2 * PARALLEL);
  const missing = await client.missing(infos.map(({ path }) => path));
  const todo = infos.filter(({ path }) => missing.has(path));
  const order = new ReferenceOrder<RegisteredPath>(todo.map(({ path }) => path));
  const gate = new Gate(PARALLEL);
  const failure = new AbortController();
  let done = 0;
  // Narinfos go out one wave after the other: what a wave refers to came before it.
  let wave: Promise<void> = Promise.resolve();

  const push = async (info: RegisteredPath): Promise<void> => {
    using _place = await gate.enter();
    if (failure.signal.aborted) return;
    const file = fileOf(info);
    if (!(await client.hasNar(file))) await client.putNar(file, () => narOf(info, options));
    const ready = order.finish(info);
    wave = wave.then(async () => {
      for (const next of ready) {
        await describe(client, next, options);
        done += 1;
        options.onProgress?.(done, todo.length);
      }
    });
    await wave;
  };
  await Promise.all(
    todo.map((info) =>
      push(info).catch((error: unknown) => {
        failure.abort(error);
      }),
    ),
  );
  failure.signal.throwIfAborted();
  const narBytes = narBytesOf(todo);
  return { pushed: todo.length, there: infos.length - todo.length, narBytes };
}

/** Sends the narinfo; once more with its NAR, where somebody else's was there under its name. */
async function describe(
  client: PushClient,
  info: RegisteredPath,
  options: PushOptions,
): Promise<void> {
  const { path, narHash, narSize, references, deriver } = info;
  const { sigs, ca } = options.extras?.get(path) ?? { sigs: [], ca: null };
  const file = fileOf(info);
  const text = formatNarInfo({
    ...{ path, url: `nar/${file}`, compression: 'zstd', fileHash: null, fileSize: null },
    ...{ narHash, narSize, references, deriver, sigs, ca },
  });
  if ((await client.putNarInfo(hashPartOf(path), text)) === null) return;
  await client.putNar(file, () => narOf(info, options));
  const again = await client.putNarInfo(hashPartOf(path), text);
  if (again !== null) throw new FleetError('E_PUSH', `${path} was refused twice (${again})`);
}

function narOf(info: RegisteredPath, options: PushOptions): AsyncIterable<Uint8Array> {
  const { storeDir = STORE_DIR, level = DEFAULT_LEVEL } = options;
  return copied(compressed(checkedDump(info, storeDir), info.narSize, level));
}

/** An HTTP client may hold a chunk while it asks for the next one. */
async function* copied(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) yield Uint8Array.from(chunk);
}

/** Not `<hash>.nar.zst`: that name would promise the hash of the compressed bytes. */
function fileOf({ narHash }: RegisteredPath): string {
  return `of-${narHash.slice('sha256:'.length)}.nar.zst`;
}
