// A blob → the body of an answer, by one buffer a download: reading small pieces of a file is so quick that
// a second one, read into meanwhile, gains nothing. As downloads get more, each gets a smaller one: a reader
// that stands still holds that and nothing else. A blob that ends early ends the connection, never a short body.
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { BlobReader, ByteRange } from '../storage/blobs.ts';

/** What the buffers of all downloads together come to, roughly: each takes its share as it begins. */
const BUDGET = 4 * 1024 * 1024;
const LARGEST = 256 * 1024;
const SMALLEST = 8 * 1024;

/** Buffers to be used again, by size: new ones by the thousand drive the garbage collector. */
const spares = new Map<number, Buffer[]>();
const SPARES_EACH = 32;

let active = 0;

/** Writes `part` of the blob as the body of `response`, whose head has been written, and ends it. */
export async function sendBlob(
  reader: BlobReader,
  part: ByteRange,
  response: ServerResponse,
): Promise<void> {
  active += 1;
  const size = bufferSize(part);
  const buffer = takeBuffer(size);
  try {
    await copy(reader, part, response, buffer);
    // Only now is it known to be nobody's any more: a write that was cut off may still hold it.
    giveBack(buffer);
  } catch {
    // The head has been sent: all that can be said now is that this is not the whole.
    response.destroy();
  } finally {
    active -= 1;
  }
}

function bufferSize({ start, end }: ByteRange): number {
  const most = Math.min(Math.max(BUDGET / active, SMALLEST), LARGEST, end - start);
  // A power of two, so that it can be used again: below the share, but not below what there is to send.
  const share = 2 ** Math.floor(Math.log2(most));
  return share < end - start && share < SMALLEST ? 2 * share : share;
}

function takeBuffer(size: number): Buffer {
  return spares.get(size)?.pop() ?? Buffer.allocUnsafeSlow(size);
}

function giveBack(buffer: Buffer): void {
  const list = spares.get(buffer.length) ?? [];
  if (list.length < SPARES_EACH) list.push(buffer);
  spares.set(buffer.length, list);
}

async function copy(
  reader: BlobReader,
  { start, end }: ByteRange,
  response: ServerResponse,
  buffer: Buffer,
): Promise<void> {
  const fill = async (position: number): Promise<Buffer> => {
    const wanted = buffer.subarray(0, Math.min(buffer.length, end - position));
    if ((await reader.read(wanted, position)) < wanted.length) throw new Error('the blob is short');
    return wanted;
  };
  let chunk = await fill(start);
  for (let at = start + chunk.length; at < end; at += chunk.length) {
    await write(response, chunk);
    chunk = await fill(at);
  }
  response.end(chunk);
  // Until it is gone, the buffer and the open file are in use.
  if (!response.closed) await once(response, 'close');
  if (!response.writableFinished) throw new Error('the client went away');
}

/** Fulfilled when `chunk` has gone to the socket; rejected when the client went away. */
function write(response: ServerResponse, chunk: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const gone = (): void => reject(new Error('the client went away'));
    if (response.destroyed) return gone();
    response.once('close', gone);
    response.write(chunk, (error) => {
      response.off('close', gone);
      if (error == null) resolve();
      else reject(error);
    });
  });
}
