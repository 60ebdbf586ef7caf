// The thread of dump-pool.ts: a small store path comes, its frame and what is in it go back.
import { parentPort, workerData } from 'node:worker_threads';
import { NarListing } from '../nix/nar-listing.ts';
import { NODE_ROOM } from '../nix/nar-write.ts';
import { threadError } from '../thread-error.ts';
import { compressedNow } from './compress.ts';
import {
  type Dumped,
  type DumpReply,
  type DumpRequest,
  type DumpSettings,
  WHOLE_NAR,
} from './dump-pool.ts';
import { contentsOf } from './nar-contents.ts';
import { checkedDump } from './store-dump.ts';

const { storeDir, level } = workerData as DumpSettings;
const buffer = Buffer.allocUnsafeSlow(WHOLE_NAR + 2 * NODE_ROOM);

async function dumped(info: DumpRequest['info']): Promise<Dumped> {
  const listing = new NarListing();
  let whole: Uint8Array = new Uint8Array();
  // One chunk: there is room for all of it, and a larger one is refused.
  for await (const chunk of checkedDump(info, storeDir, (node) => listing.add(node), buffer)) {
    whole = chunk;
  }
  return { frame: compressedNow(whole, level), contents: await contentsOf(listing) };
}

// One after another: they share the buffer.
let last: Promise<void> = Promise.resolve();
parentPort?.on('message', ({ id, info }: DumpRequest) => {
  last = last.then(async () => {
    let reply: DumpReply;
    try {
      reply = { id, ...(await dumped(info)) };
    } catch (error) {
      reply = { id, error: threadError(error) };
    }
    parentPort?.postMessage(reply, 'frame' in reply ? [reply.frame.buffer] : []);
  });
});
