// Update packs made and applied in a test: by the format alone (SPEC §12), with every NAR compared with the closure.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { makePack, type PackMaking } from '../../src/cache/make-pack.ts';
import { openPackPool, type PackPool } from '../../src/cache/pack-pool.ts';
import { PackSegments } from '../../src/cache/pack-segments.ts';
import { applyPatch } from '../../src/delta/apply-patch.ts';
import { narInMemory } from '../../src/delta/old-nar.ts';
import { type PackIndex, parsePackHead, parsePackIndex } from '../../src/delta/pack-index.ts';
import { readNar, rewritten } from '../../src/delta/rewrite.ts';
import { type Closure, formatClosure, type PathInfo } from '../../src/nix/closure.ts';
import { decompress } from '../../src/nix/decompress.ts';
import { checkNar } from '../../src/nix/nar-check.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { type BlobId, blobIdOf } from '../../src/storage/blobs.ts';
import type { KeptPack, PackStep } from '../../src/storage/packs.ts';
import { bytesOf } from './nar.ts';

export const digestOf = (closure: readonly PathInfo[]): BlobId => blobIdOf(formatClosure(closure));

/** A closure as packs want it: sorted by path. */
export function closureOf(infos: readonly PathInfo[]): Pick<Closure, 'paths'> {
  const sorted = [...infos].sort((a, b) => (a.path < b.path ? -1 : 1));
  return { paths: new Map(sorted.map((info) => [info.path, info])) };
}

/** Makes packs of a state in this process. `tasks`: what threads were asked for. */
export function packing(
  dir: StateDir,
  now: number,
): PackMaking & AsyncDisposable & { readonly tasks: string[]; readonly segments: PackSegments } {
  const { state, blobs } = dir;
  const tasks: string[] = [];
  const pool = openPackPool(blobs, { scratch: `${dir.layout.blobs}/tmp`, threads: 2 });
  const counting: PackPool = {
    ...pool,
    make: (task) => {
      tasks.push(task.kind);
      return pool.make(task);
    },
    [Symbol.asyncDispose]: () => pool[Symbol.asyncDispose](),
  };
  return {
    ...{ state, blobs, now, keys: dir.cacheKeys, tasks, pool: counting },
    segments: new PackSegments(state, blobs, () => now),
    [Symbol.asyncDispose]: () => pool[Symbol.asyncDispose](),
  };
}

export async function packBytes({ blobs }: StateDir, { parts }: KeptPack): Promise<Buffer> {
  const all: Buffer[] = [];
  for (const { id, size } of parts) {
    const blob = await bytesOf(orEmpty(await blobs.get(id)));
    assert.equal(blob.length, size);
    all.push(blob);
  }
  return Buffer.concat(all);
}

/** Makes the pack of a step between two closures, and returns what it is. */
export async function made(
  making: PackMaking,
  closure: readonly PathInfo[],
  base: readonly PathInfo[] | null,
): Promise<KeptPack> {
  return await makePack(stepOf(closure, base), making);
}

export function stepOf(closure: readonly PathInfo[], base: readonly PathInfo[] | null): PackStep {
  return { closure: digestOf(closure), base: base === null ? null : digestOf(base) };
}

/** The NAR of a path that the host has. */
export type OldNars = (path: StorePath) => Promise<Buffer>;

/** Every NAR that a pack gives, each the one that the closure says; and its index. */
export async function unpack(
  pack: Buffer,
  closure: readonly PathInfo[],
  base: readonly PathInfo[] | null,
  oldNar: OldNars,
): Promise<{ readonly index: PackIndex; readonly nars: ReadonlyMap<StorePath, Buffer> }> {
  const head = parsePackHead(pack);
  assert.ok(head !== null);
  let at = head.head + head.index;
  const index = parsePackIndex(pack.subarray(head.head, at), {
    closure: closureOf(closure),
    digest: digestOf(closure),
    base: base === null ? null : digestOf(base),
  });
  const segments = index.segments.map(({ bytes, sha256 }) => {
    const segment = pack.subarray(at, at + bytes);
    at += bytes;
    assert.equal(createHash('sha256').update(segment).digest('hex'), sha256);
    return segment;
  });
  assert.equal(at, pack.length);
  const unpacked = new Map<number, { bytes: Buffer; at: number }>();
  const nars = new Map<StorePath, Buffer>();
  for (const path of index.paths) {
    let nar: AsyncIterable<Uint8Array>;
    if (path.kind === 'whole') {
      const stored = segments[path.segment] ?? Buffer.alloc(0);
      const whole = unpacked.get(path.segment) ?? {
        bytes: await bytesOf(decompress(once(stored), 'zstd')),
        at: 0,
      };
      nar = once(whole.bytes.subarray(whole.at, whole.at + path.info.narSize));
      whole.at += path.info.narSize;
      unpacked.set(path.segment, whole);
    } else {
      const old = rewritten(narInMemory(await oldNar(path.old)), path.renames);
      nar =
        path.kind === 'copy'
          ? copied(readNar(old))
          : applyPatch(
              old,
              once(segments[path.segment] ?? Buffer.alloc(0)),
              index.segments[path.segment]?.memory ?? 0,
            );
    }
    nars.set(path.info.path, await bytesOf(checkNar(copied(nar), path.info)));
  }
  for (const { bytes, at: end } of unpacked.values()) assert.equal(end, bytes.length);
  return { index, nars };
}

async function* once(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

async function* copied(
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) yield Uint8Array.from(chunk);
}

/** What a blob holds, where there is one. */
export function orEmpty(stream: Readable | null): Readable {
  return stream ?? Readable.from([]);
}
