// The agent that is there all day: asks at its pace and when the server hints at something, each time by a process
// of its own that ends (`fleet agent once`). So what waits is small, what works starts clean, and what breaks in
// the one does not end the other. This file and what it imports load neither undici, noble nor TypeBox.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { FleetError } from '../errors.ts';
import { type HintPlace, listenForHints } from './hints.ts';
import { afterHint, type Pace, type Past, untilNext } from './schedule.ts';
import { openSupervisor } from './supervise.ts';
import { readWaiting } from './waiting.ts';

export type RunOptions = {
  /** State directory. */
  readonly dir: string;
  /** The command line that runs the agent once and prints one JSON document. */
  readonly command: readonly string[];
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
  /** Seconds between two questions, instead of what agent.json says. */
  readonly pollSeconds?: number;
  /** The file of this service's unit; the loop ends when it leads elsewhere, to be started anew. */
  readonly unitFile?: string;
};

/** What a run printed, as far as it matters here. */
type Told = { readonly phase: string; readonly text: string };

/** A run that takes longer is still left alone; only a service's watchdog hears of it no more. */
const LONG_RUN_MS = 6 * 3_600_000;

/** @throws FleetError E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_STATE_ACCESS before it begins */
export async function runAgent(options: RunOptions): Promise<void> {
  const { dir, say, signal, unitFile } = options;
  const first = await readWaiting(dir);
  const pace: Pace = {
    poll: (options.pollSeconds ?? first.pollSeconds) * 1000,
    isPrivate: first.isPrivate,
  };
  let past: Past = { endedAt: null, hintedAt: null, failures: 0 };
  let busySince: number | null = null;
  const isAlive = (): boolean => busySince === null || performance.now() - busySince < LONG_RUN_MS;
  using supervisor = openSupervisor(isAlive);
  const hint = new Signal();
  const ending = new AbortController();
  const place = async (): Promise<HintPlace> => await readWaiting(dir);
  const listening = pace.isPrivate
    ? Promise.resolve()
    : listenForHints({
        place,
        onHint: () => hint.set(),
        onState: (reason) =>
          say(reason === null ? 'listening for hints' : `no hints for now: ${reason}`),
        signal: AbortSignal.any([signal, ending.signal]),
      });
  supervisor.ready();
  const unit = await linkOf(unitFile);
  let last: Told | null = null;
  while (!signal.aborted) {
    const isHinted = await waitFor(pace, past, hint, signal);
    if (signal.aborted) break;
    const beganAt = performance.now();
    busySince = beganAt;
    hint.clear();
    const { code, told } = await runOnce(options.command, signal);
    busySince = null;
    if (told !== null && (told.phase !== last?.phase || told.text !== last.text)) {
      say(told.text === '' ? told.phase : `${told.phase}: ${told.text}`);
      supervisor.status(told.phase);
    }
    last = told ?? last;
    past = {
      endedAt: performance.now(),
      hintedAt: isHinted ? beganAt : past.hintedAt,
      failures: code === 0 ? 0 : past.failures + 1,
    };
    if ((await linkOf(unitFile)) !== unit) {
      say('this service is another one now: ending, to be started anew');
      break;
    }
  }
  supervisor.stopping();
  ending.abort();
  await listening;
}

/** Waits until it is time to ask; returns whether that was because of a hint. */
async function waitFor(
  pace: Pace,
  past: Past,
  hint: Signal,
  signal: AbortSignal,
): Promise<boolean> {
  const done = new AbortController();
  const either = AbortSignal.any([signal, done.signal]);
  const wait = untilNext(pace, past, performance.now(), Math.random());
  const timer = sleep(wait, false, { signal: either }).catch(() => false);
  const isHinted = await Promise.race([timer, hint.wait(either)]);
  done.abort();
  if (isHinted && !signal.aborted) {
    const gap = afterHint(past, performance.now(), Math.random());
    await sleep(gap, undefined, { signal }).catch(() => {});
  }
  return isHinted;
}

/** Runs the agent once, to its end: it is not stopped when this process is, as a switch may be under way. */
async function runOnce(
  [program = '', ...args]: readonly string[],
  signal: AbortSignal,
): Promise<{ code: number | null; told: Told | null }> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (data: string) => {
    if (text.length < 65_536) text += data;
  });
  try {
    const [code] = (await once(child, 'close', { signal })) as [number | null];
    return { code, told: toldBy(text) };
  } catch (error) {
    if (signal.aborted) {
      child.unref();
      child.stdout.destroy();
      return { code: null, told: null };
    }
    throw new FleetError('E_TOOL_MISSING', `${program} cannot be started`, { cause: error });
  }
}

function toldBy(text: string): Told | null {
  try {
    const { phase, reason, error } = JSON.parse(text) as {
      phase?: string | null;
      reason?: { text: string } | null;
      error?: { message: string } | null;
    };
    return { phase: phase ?? 'nothing new', text: reason?.text ?? error?.message ?? '' };
  } catch {
    return null;
  }
}

async function linkOf(file: string | undefined): Promise<string | null> {
  if (file === undefined) return null;
  // A unit of NixOS is a symlink into the store; another one's contents say it as well.
  return await readlink(file).catch(async () => await readFile(file, 'utf8').catch(() => null));
}

/** Something that may be said at any time, and is heard by whoever waits. */
class Signal {
  #isSet = false;
  #heard: (() => void) | undefined;

  set(): void {
    this.#isSet = true;
    this.#heard?.();
  }

  clear(): void {
    this.#isSet = false;
  }

  async wait(signal: AbortSignal): Promise<boolean> {
    if (this.#isSet) return true;
    return await new Promise((resolve) => {
      this.#heard = () => resolve(true);
      signal.addEventListener('abort', () => resolve(false), { once: true });
    });
  }
}
