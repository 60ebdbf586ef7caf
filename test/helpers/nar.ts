// NARs for tests: written token by token, so that each rule can be broken by itself, and random
// trees as fast-check arbitraries. Strings are byte strings (latin1), as in src/nix/nar-format.ts.
import fc from 'fast-check';
import type { NarEvent } from '../../src/nix/nar-format.ts';
import { readNar } from '../../src/nix/nar-read.ts';
import { writeNar } from '../../src/nix/nar-write.ts';

/** A 64-bit little-endian length. */
export function length(value: bigint | number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** A token whose padding is filled with `pad`. */
export function token(text: string, pad = 0): Buffer {
  const bytes = Buffer.from(text, 'latin1');
  return Buffer.concat([length(bytes.length), bytes, Buffer.alloc(-bytes.length & 7, pad)]);
}

/** Strings become tokens, buffers stay as they are. */
export function raw(...parts: (string | Buffer)[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'string' ? token(part) : part)));
}

export const nar = (...node: (string | Buffer)[]) => raw('nix-archive-1', ...node);
export const file = (contents: string) => raw('(', 'type', 'regular', 'contents', contents, ')');
export const symlink = (target: string) => raw('(', 'type', 'symlink', 'target', target, ')');
export const entry = (name: string, node: Buffer) =>
  raw('entry', '(', 'name', name, 'node', node, ')');
export const directory = (...entries: Buffer[]) =>
  raw('(', 'type', 'directory', Buffer.concat(entries), ')');

/** `count` directories inside one another with `leaf` in the innermost. */
export function nested(count: number, leaf: Buffer): Buffer {
  const head = raw('(', 'type', 'directory', 'entry', '(', 'name', 'd', 'node');
  const heads = Array.from({ length: count }, () => head);
  const tails = Array.from({ length: count }, () => raw(')', ')'));
  return Buffer.concat([...heads, leaf, ...tails]);
}

/** `bytes` in chunks of `size`. */
export async function* inChunks(
  bytes: Uint8Array,
  size = bytes.length,
): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** All bytes of a stream, copied, for chunks may be reused by their producer. */
export async function bytesOf(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const copies: Buffer[] = [];
  for await (const chunk of chunks) copies.push(Buffer.from(chunk));
  return Buffer.concat(copies);
}

/** The events of a NAR, with neighbouring contents joined and as hex, so that they compare. */
export async function eventsOf(bytes: Uint8Array, chunk?: number) {
  const events: (Exclude<NarEvent, { type: 'contents' }> | { type: 'contents'; hex: string })[] =
    [];
  for await (const event of readNar(inChunks(bytes, chunk))) {
    const last = events.at(-1);
    if (event.type !== 'contents') events.push(event);
    else {
      const hex = Buffer.from(event.data).toString('hex');
      if (last?.type === 'contents') last.hex += hex;
      else events.push({ type: 'contents', hex });
    }
  }
  return events;
}

/** Reads a NAR and writes it again. */
export async function rewritten(bytes: Uint8Array, chunk?: number): Promise<Buffer> {
  return bytesOf(writeNar(readNar(inChunks(bytes, chunk))));
}

export type Tree =
  | { readonly kind: 'file'; readonly contents: Uint8Array; readonly executable: boolean }
  | { readonly kind: 'symlink'; readonly target: string }
  | { readonly kind: 'directory'; readonly entries: ReadonlyMap<string, Tree> };

const byteString = (max: number) =>
  fc
    .uint8Array({ minLength: 1, maxLength: max })
    .map((bytes) => Buffer.from(bytes).toString('latin1'))
    .filter((text) => !text.includes('\0'));

const nameArbitrary = byteString(24).filter(
  (text) => !text.includes('/') && text !== '.' && text !== '..',
);

/** Random trees; names and targets are any bytes that a file system takes. */
export const treeArbitrary: fc.Arbitrary<Tree> = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 4, depthSize: 'small' },
    fc.record({
      kind: fc.constant('file' as const),
      contents: fc.uint8Array({ maxLength: 64 }),
      executable: fc.boolean(),
    }),
    fc.record({ kind: fc.constant('symlink' as const), target: byteString(40) }),
    fc.record({
      kind: fc.constant('directory' as const),
      entries: fc
        .array(fc.tuple(nameArbitrary, tie('tree')), { maxLength: 6 })
        .map((pairs) => new Map(pairs)),
    }),
  ),
})).tree;

/** A tree's events, its contents cut into pieces of `piece` bytes. */
export function* eventsOfTree(
  tree: Tree,
  name: string | null = null,
  piece = 7,
): Generator<NarEvent> {
  if (tree.kind === 'symlink') yield { type: 'symlink', name, target: tree.target };
  else if (tree.kind === 'file') {
    const { contents, executable } = tree;
    yield { type: 'file', name, executable, size: contents.length };
    for (let at = 0; at < contents.length; at += piece) {
      yield { type: 'contents', data: contents.subarray(at, at + piece) };
    }
  } else {
    yield { type: 'directory', name };
    for (const [child, node] of [...tree.entries].sort(([a], [b]) => (a < b ? -1 : 1))) {
      yield* eventsOfTree(node, child, piece);
    }
    yield { type: 'leave' };
  }
}
