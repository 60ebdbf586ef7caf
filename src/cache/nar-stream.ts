// A blob → the body of an answer, by two buffers a download that take turns: one is read into while
// the other is on its way to the client. As quick as sendfile, and bounded: buffers come from one
// budget, so they get smaller as downloads get more, and a reader that stands still holds two of them
// and nothing else. A blob that ends early ends the connection, never a short body.
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { BlobReader, ByteRange } from '../storage/blobs.ts';

/** What the buffers of all downloads together come to, roughly: each takes its part as it begins. */
const BUDGET = 16 * 1024 * 1024;
const LARGEST = 256 * 1024;
const SMALLEST = 16 * 1024;

let active = 0;

/** Writes `part` of the blob as the body of `response`, whose head has been written, and ends it. */
export async function sendBlob(
  reader: BlobReader,
  part: ByteRange,
  response: ServerResponse,
): Promise<void> {
  active += 1;
  try {
    await copy(reader, part, response);
  } catch {
    // The head has been sent: all that can be said now is that this is not the whole.
    response.destroy();
  } finally {
    active -= 1;
  }
}

async function copy(
  reader: BlobReader,
  { start, end }: ByteRange,
  response: ServerResponse,
): Promise<void> {
  const share = Math.floor(BUDGET / (2 * active));
  const size = Math.min(Math.max(share, SMALLEST), LARGEST, end - start);
  let buffer: Buffer = Buffer.allocUnsafeSlow(size);
  let spare: Buffer | null = null;
  const fill = async (target: Buffer, position: number): Promise<Buffer> => {
    const wanted = target.subarray(0, Math.min(target.length, end - position));
    if ((await reader.read(wanted, position)) < wanted.length) throw new Error('the blob is short');
    return wanted;
  };
  let chunk = await fill(buffer, start);
  for (let at = start + chunk.length; ; at += chunk.length) {
    if (at === end) {
      response.end(chunk);
      // Until it is gone, the buffer and the open file are in use.
      if (!response.closed) await once(response, 'close');
      return;
    }
    const writing = write(response, chunk);
    spare ??= Buffer.allocUnsafeSlow(size);
    const reading = fill(spare, at);
    // Both, whatever happens: neither may go on with a buffer or a file that is given up.
    const [read, written] = await Promise.allSettled([reading, writing]);
    if (written.status === 'rejected') throw written.reason;
    if (read.status === 'rejected') throw read.reason;
    chunk = read.value;
    [buffer, spare] = [spare, buffer];
  }
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
