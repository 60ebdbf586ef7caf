// A `Range` header → the one range to serve (RFC 9110 §14.2). Several ranges and malformed ones are
// ignored, as the RFC allows; one that lies wholly past the end cannot be satisfied.
import type { ByteRange } from '../storage/blobs.ts';

/**
 * The range asked for, for a body of `size` bytes; `'whole'` where the header is absent, malformed,
 * inverted or names several ranges; `'unsatisfiable'` where the answer is 416.
 */
export function parseRange(
  header: string | undefined,
  size: number,
): ByteRange | 'whole' | 'unsatisfiable' {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '');
  const [, first = '', last = ''] = match ?? [];
  if (match === null || (first === '' && last === '')) return 'whole';
  if (first === '') {
    const length = Math.min(Number(last), size);
    return length === 0 ? 'unsatisfiable' : { start: size - length, end: size };
  }
  const start = Number(first);
  if (last !== '' && Number(last) < start) return 'whole';
  if (start >= size) return 'unsatisfiable';
  return { start, end: last === '' ? size : Math.min(Number(last) + 1, size) };
}
