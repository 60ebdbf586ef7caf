// A question to a program of this machine → what it said, in a limited time. It gets none of the agent's secrets, speaks
// the language that its words are known in, and need not be there.
import { execFile } from 'node:child_process';
import { cleanEnvironment } from './inside.ts';

export type Said = {
  /** null: it did not end by itself, or there is no such program. */
  readonly code: number | null;
  readonly stdout: string;
  /** Why there is no better answer. */
  readonly said: string;
};

/** Within `patience` milliseconds, and a megabyte. Throws nothing. */
export async function hear(
  program: string,
  args: readonly string[],
  patience: number,
): Promise<Said> {
  const { promise, resolve } = Promise.withResolvers<Said>();
  const env = { ...cleanEnvironment(), LC_ALL: 'C', SYSTEMD_COLORS: '0' };
  const limits = {
    timeout: Math.max(1, Math.round(patience)),
    killSignal: 'SIGKILL',
    maxBuffer: 1024 * 1024,
  } as const;
  execFile(program, args, { ...limits, env, cwd: '/' }, (error, stdout, stderr) => {
    const last = stderr.trim().split('\n').at(-1) ?? '';
    const code = error === null ? 0 : typeof error.code === 'number' ? error.code : null;
    const how = error?.killed === true ? 'it does not answer' : (error?.message ?? 'no answer');
    resolve({ code, stdout, said: last === '' ? how : last });
  });
  return await promise;
}
