// The beginning of a pack, from the line or from disk → its index, where the segments begin, and what of the bytes came behind
// that. Bounded before anything is kept.
import { MAX_HEAD, parsePackHead } from '../delta/pack-index.ts';
import { FleetError } from '../errors.ts';

/** Of the index, packed: a system of 10,000 paths needs a tenth. */
const MAX_INDEX = 16 * 1024 * 1024;

export type PackHead = {
  /** First line and index, as they came. */
  readonly bytes: Buffer;
  /** Of the first line. */
  readonly line: number;
  readonly rest: AsyncGenerator<Uint8Array, void, undefined>;
};

/** @throws FleetError E_PACK_BAD, E_PACK_VERSION; what `chunks` throws, which it returns then */
export async function readPackHead(
  chunks: AsyncGenerator<Uint8Array, void, undefined>,
): Promise<PackHead> {
  try {
    let bytes: Buffer = Buffer.alloc(0);
    let head: ReturnType<typeof parsePackHead> = null;
    const more = async (size: number): Promise<void> => {
      const parts = [bytes];
      for (let held = bytes.length; held < size; ) {
        const next = await chunks.next();
        if (next.done === true) throw bad('it ends within its index');
        parts.push(Buffer.from(next.value));
        held += next.value.length;
      }
      bytes = Buffer.concat(parts);
    };
    while (head === null) {
      if (bytes.length >= MAX_HEAD) throw bad('it does not begin as one');
      await more(bytes.length + 1);
      head = parsePackHead(bytes);
    }
    if (head.index > MAX_INDEX) throw bad(`its index has ${head.index} bytes`);
    const end = head.head + head.index;
    await more(end);
    return {
      bytes: bytes.subarray(0, end),
      line: head.head,
      rest: behind(bytes.subarray(end), chunks),
    };
  } catch (error) {
    await chunks.return();
    throw error;
  }
}

async function* behind(
  first: Uint8Array,
  chunks: AsyncGenerator<Uint8Array, void, undefined>,
): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    if (first.length > 0) yield first;
    yield* chunks;
  } finally {
    await chunks.return();
  }
}

function bad(what: string): FleetError {
  return new FleetError('E_PACK_BAD', `the update pack is malformed: ${what}`);
}
