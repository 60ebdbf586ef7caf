// A line to a server with a delay each way and a rate that all connections share, as a process of its own (line-child.ts).
// Bytes are those of TCP's payload, without headers; TCP's slow start is not there, nor loss.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export type LineKind = {
  readonly name: string;
  /** Milliseconds each way. */
  readonly delay: number;
  /** Bits a second, each way. */
  readonly rate: number;
};

export type Traffic = {
  readonly down: number;
  readonly up: number;
  readonly requests: number;
  readonly connections: number;
};

export type Line = AsyncDisposable & {
  readonly url: string;
  /** What went over the line since the last call. */
  readonly counts: () => Promise<Traffic>;
};

const CHILD = fileURLToPath(new URL('./line-child.ts', import.meta.url));

/** @param target base URL of a server on this machine. */
export async function startLine(target: string, { delay, rate }: LineKind): Promise<Line> {
  const { hostname, port } = new URL(target);
  const child = fork(CHILD, [hostname, port, String(delay), String(rate)]);
  const message = <T>(): Promise<T> =>
    new Promise((resolve, reject) => {
      const onExit = (code: number | null): void => reject(new Error(`the line ended: ${code}`));
      child.once('exit', onExit);
      child.once('message', (value) => {
        child.off('exit', onExit);
        resolve(value as T);
      });
    });
  const { port: own } = await message<{ port: number }>();
  return {
    url: `http://127.0.0.1:${own}`,
    counts: () => {
      const answer = message<Traffic>();
      child.send('counts');
      return answer;
    },
    [Symbol.asyncDispose]: async () => {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.disconnect();
      await ended;
    },
  };
}
