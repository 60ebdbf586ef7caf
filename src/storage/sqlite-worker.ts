// The thread of sqlite-thread.ts: owns the writing connection and answers one message with one.
import { parentPort, workerData } from 'node:worker_threads';
import { threadError } from '../thread-error.ts';
import { OPENING, type ThreadData, type ThreadReply, type ThreadRequest } from './sqlite-thread.ts';
import { openInlineWriter, type WriteArgs, type WriteName } from './sqlite-writer.ts';

async function answer(id: number, work: () => Promise<unknown>): Promise<void> {
  let reply: ThreadReply;
  try {
    reply = { id, value: await work() };
  } catch (error) {
    reply = { id, error: threadError(error) };
  }
  parentPort?.postMessage(reply);
}

await answer(OPENING, async () => {
  const { file, patience } = workerData as ThreadData;
  const writer = await openInlineWriter(file, patience);
  parentPort?.on('message', (request: ThreadRequest) => {
    void answer(request.id, () =>
      request.name === 'close'
        ? writer.close()
        : writer.write(request.name, request.args as WriteArgs<WriteName>),
    );
  });
});
