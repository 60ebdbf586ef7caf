// The command that prints what `fleet agent status` knows → that document, for people who may not read the state. By a
// process of its own, as it loads what the one that waits does not; one at a time, and what it said is good for a moment.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { FleetError, messageOf } from '../errors.ts';
import { MAX_ANSWER } from './control-protocol.ts';

const PATIENCE_MS = 60_000;
const GOOD_FOR_MS = 2000;

export type StatusSource = {
  /** Asks at most as often as an answer is good; who asks meanwhile gets the same. */
  readonly ask: () => Promise<object>;
  /** What was said is old: something has changed. */
  readonly forget: () => void;
};

export function statusBy([program = '', ...args]: readonly string[]): StatusSource {
  let last: { readonly answer: Promise<object>; until: number } | null = null;
  const forget = (): void => {
    last = null;
  };
  const asked = async (): Promise<object> => {
    if (last !== null && performance.now() < last.until) return await last.answer;
    const answer = ask(program, args);
    const mine = { answer, until: Number.POSITIVE_INFINITY };
    last = mine;
    await answer.catch(() => {});
    mine.until = performance.now() + GOOD_FOR_MS;
    return await answer;
  };
  return { ask: asked, forget };
}

async function ask(program: string, args: readonly string[]): Promise<object> {
  const options = {
    maxBuffer: MAX_ANSWER - 4096,
    timeout: PATIENCE_MS,
    killSignal: 'SIGKILL',
  } as const;
  // Where the state is damaged, the document says so, and the exit code as well.
  const { stdout } = await promisify(execFile)(program, args, options).catch((error: unknown) => {
    const said = error instanceof Error && 'stdout' in error ? String(error.stdout) : '';
    if (said.startsWith('{')) return { stdout: said };
    throw new FleetError('E_INTERNAL', `the status cannot be found out: ${messageOf(error)}`);
  });
  const document: unknown = JSON.parse(stdout);
  if (typeof document === 'object' && document !== null) return document;
  throw new FleetError('E_INTERNAL', 'the status is no document');
}
