// What tests of patches share: making and applying them in memory, and a second decoder, written from SPEC §12.5 alone.
import { zstdDecompressSync } from 'node:zlib';
import { applyPatch } from '../../src/delta/apply-patch.ts';
import { makePatch } from '../../src/delta/make-patch.ts';
import { narInMemory } from '../../src/delta/old-nar.ts';
import { inChunks } from './nar.ts';

/** The patch from `old` to `next`, and how much memory it says to take. */
export async function patchOf(
  old: Uint8Array,
  next: Uint8Array,
  sizes?: Parameters<typeof makePatch>[2],
): Promise<{ patch: Buffer; memory: number }> {
  const making = makePatch(narInMemory(old), inChunks(Buffer.from(next), 10_000), sizes);
  const pieces: Uint8Array[] = [];
  for (;;) {
    const made = await making.next();
    if (made.done === true) return { patch: Buffer.concat(pieces), memory: made.value.memory };
    pieces.push(Uint8Array.from(made.value));
  }
}

/** Stops, as those do who compare with closure.fp, after `most` bytes. */
export async function applied(
  old: Uint8Array,
  patch: Uint8Array,
  { most = Number.POSITIVE_INFINITY, chunk = 1000, memory = Number.POSITIVE_INFINITY } = {},
): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  const chunks = inChunks(Buffer.from(patch), chunk);
  for await (const piece of applyPatch(narInMemory(old), chunks, memory)) {
    pieces.push(Uint8Array.from(piece));
    bytes += piece.length;
    if (bytes > most) break;
  }
  return Buffer.concat(pieces);
}

/** A patch's blocks, each with its streams. */
export function blocksOf(patch: Uint8Array): { length: number; streams: Buffer[] }[] {
  const blocks: { length: number; streams: Buffer[] }[] = [];
  let at = 0;
  const number = (bytes: Uint8Array): number => {
    let [value, byte] = [0n, 128];
    for (let shift = 0n; byte >= 128; shift += 7n) {
      byte = bytes[at++] ?? 0;
      value |= BigInt(byte & 127) << shift;
    }
    return Number(value);
  };
  while (at < patch.length) {
    const length = number(patch);
    const sizes = Array.from({ length: 4 }, () => [number(patch), number(patch)]);
    const streams = sizes.map(([, packed = 0]) => {
      const frame = patch.subarray(at, at + packed);
      at += packed;
      return packed === 0 ? Buffer.alloc(0) : zstdDecompressSync(frame);
    });
    blocks.push({ length, streams });
  }
  return blocks;
}

/** SPEC §12.5, a byte at a time. */
export function appliedSlowly(old: Uint8Array, patch: Uint8Array): Buffer {
  const made: number[] = [];
  for (const { streams } of blocksOf(patch)) {
    const [copies = [], gaps = [], values = [], literals = []] = streams.map((s) => [...s]);
    const number = (from: number[]): number => {
      let [value, scale] = [0, 1];
      for (;;) {
        const byte = from.shift() ?? 0;
        value += (byte % 128) * scale;
        if (byte < 128) return value;
        scale *= 128;
      }
    };
    let source = made.length;
    let until = gaps.length > 0 ? number(gaps) : -1;
    while (copies.length > 0) {
      made.push(...literals.splice(0, number(copies)));
      const copied = number(copies);
      if (copied === 0) continue;
      const where = number(copies);
      const shift = where % 2 === 1 ? number(copies) : 0;
      const half = Math.floor(where / 2);
      source += half % 2 === 0 ? half / 2 : -(half + 1) / 2;
      let carry = 0;
      for (let i = 0; i < copied; i++, source++) {
        const pair = (old[source] ?? 0) + 256 * (old[source + 1] ?? 0);
        let sum = (Math.floor(pair / 2 ** shift) % 256) + carry;
        if (until === 0) {
          const value = values.shift() ?? 0;
          sum += value > 127 ? value - 256 : value;
          until = gaps.length > 0 ? number(gaps) : -1;
        } else if (until > 0) until--;
        carry = sum > 255 ? 1 : sum < 0 ? -1 : 0;
        made.push(sum & 255);
      }
    }
  }
  return Buffer.from(made);
}
