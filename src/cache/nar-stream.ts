// A blob → the body of an answer. While few read, by two buffers a download that take turns: one is read
// into while the other is on its way to the client, which is as quick as sendfile. As downloads get
// more, each has one, and a smaller one: a reader that stands still holds that and nothing else. A blob
// that ends early ends the connection, never a short body.
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { BlobReader, ByteRange } from '../storage/blobs.ts';

/** What the buffers of all downloads together come to, roughly: each takes its share as it begins. */
const BUDGET = 4 * 1024 * 1024;
const LARGEST = 256 * 1024;
const SMALLEST = 8 * 1024;
/** Up to so many downloads read ahead; more of them keep the disk and the line busy by themselves. */
const READING_AHEAD = 16;

/** Buffers to be used again, by size: new ones by the thousand drive the garbage collector. */
const spares = new Map<number, Buffer[]>();
const SPARES_EACH = 2 * READING_AHEAD;

let active = 0;

/** Writes `part` of the blob as the body of `response`, whose head has been written, and ends it. */
export async function sendBlob(
  reader: BlobReader,
  part: ByteRange,
  response: ServerResponse,
): Promise<void> {
  active += 1;
  const size = bufferSize(part);
  const buffers = [takeBuffer(size)];
  if (active <= READING_AHEAD && part.end - part.start > size) buffers.push(takeBuffer(size));
  try {
    await copy(reader, part, response, buffers);
    // Only these are known to be nobody's any more: a write that was cut off may still hold its own.
    for (const buffer of buffers) giveBack(buffer);
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
  buffers: readonly Buffer[],
): Promise<void> {
  const fill = async (target: Buffer | undefined, position: number): Promise<Buffer> => {
    if (target === undefined) throw new Error('there is no buffer');
    const wanted = target.subarray(0, Math.min(target.length, end - position));
    if ((await reader.read(wanted, position)) < wanted.length) throw new Error('the blob is short');
    return wanted;
  };
  let turn = 0;
  let chunk = await fill(buffers[turn], start);
  for (let at = start + chunk.length; at < end; at += chunk.length) {
    const writing = write(response, chunk);
    if (buffers.length === 1) {
      await writing;
      chunk = await fill(buffers[0], at);
      continue;
    }
    turn = 1 - turn;
    // Both, whatever happens: neither may go on with a buffer or a file that is given up.
    const [read, written] = await Promise.allSettled([fill(buffers[turn], at), writing]);
    if (written.status === 'rejected') throw written.reason;
    if (read.status === 'rejected') throw read.reason;
    chunk = read.value;
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
