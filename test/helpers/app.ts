// A server of a new state in a test's own process, on loopback, at the time that the test sets.
import type { TestContext } from 'node:test';
import { buildApp } from '../../src/server/app.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { makeState } from './state.ts';
import { temporaryDir } from './temporary.ts';

export type TestApp = {
  /** Holds the state, and what else the test puts there. */
  readonly top: string;
  readonly dir: StateDir;
  readonly url: string;
  /** POSIX seconds. */
  readonly clock: { now: number };
};

/** Ends with the test. */
export async function serveState(t: TestContext, now: number): Promise<TestApp> {
  const top = await temporaryDir(t);
  const dir = await makeState(top, now);
  const clock = { now };
  const app = buildApp(dir, { now: () => clock.now });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await dir[Symbol.asyncDispose]();
  });
  return { top, dir, url, clock };
}
