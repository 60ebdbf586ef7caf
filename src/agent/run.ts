// The agent that is there all day: asks at its pace and when the server hints at something, each time by a process
// of its own that ends (`fleet agent once`). So what waits is small, what works starts clean, and what breaks in
// the one does not end the other. This file and what it imports load neither undici, noble nor TypeBox.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { isFleetError, messageOf } from '../errors.ts';
import { openControl } from './control.ts';
import { Intake } from './control-intake.ts';
import { socketPath } from './control-place.ts';
import { type StatusSource, statusBy } from './control-status.ts';
import { type HintOptions, listenForHints } from './hints.ts';
import { readLocal } from './local.ts';
import { unitAt } from './own-unit.ts';
import { readProxies } from './proxy.ts';
import { afterHint, dueAt, type Pace, type Past, untilNext } from './schedule.ts';
import { openSupervisor } from './supervise.ts';
import { readWaiting, type Waiting } from './waiting.ts';

export type RunOptions = {
  /** State directory. */
  readonly dir: string;
  /** The command line that runs the agent once and prints one JSON document. */
  readonly command: readonly string[];
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
  /** Seconds between two questions, instead of what agent.json says. */
  readonly pollSeconds?: number;
  /** The control socket, where the machine's people are to have one: its place, its group, who answers for the status. */
  readonly control?: {
    readonly socket?: string;
    readonly group?: string;
    readonly statusCommand: readonly string[];
    /** As `command`, of a bundle, whose file is added. */
    readonly bundleCommand: readonly string[];
  };
  /** The file of this service's unit; the loop ends when it leads elsewhere, to be started anew. */
  readonly unitFile?: string;
};

/** What a run printed, as far as it matters here. */
type Told = {
  readonly phase: string;
  readonly text: string;
  /** When what it waits for is over, POSIX seconds. */
  readonly next: number | null;
};

/** A run that takes longer is still left alone; only a service's watchdog hears of it no more. */
const LONG_RUN_MS = 6 * 3_600_000;
/** How long the last of a run's output may take to arrive, once it has ended. */
const OUTPUT_MS = 2000;

/** @throws FleetError E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_STATE_ACCESS, E_PROXY before it begins */
export async function runAgent(options: RunOptions): Promise<void> {
  const { dir, say, signal, unitFile } = options;
  readProxies();
  let waiting = await readWaiting(dir);
  let past: Past = { endedAt: null, hintedAt: null, failures: 0, due: null };
  let busySince: number | null = null;
  const isAlive = (): boolean => busySince === null || performance.now() - busySince < LONG_RUN_MS;
  using supervisor = openSupervisor(isAlive);
  const hint = new Signal();
  const wish = new Signal();
  const status = statusBy(options.control?.statusCommand ?? []);
  await using intake = await Intake.open(dir);
  await using _control = await openDoor(options, waiting, { status, intake }, () => wish.set());
  await using listener = new Listener({
    place: async () => await readWaiting(dir),
    onHint: () => hint.set(),
    onState: (reason) =>
      say(reason === null ? 'listening for hints' : `no hints for now: ${reason}`),
  });
  supervisor.ready();
  const unit = await unitOf(unitFile);
  let last: Told | null = null;
  while (!signal.aborted) {
    // Anew each time: agent.json may have been edited. One that is damaged is the run's to tell of.
    waiting = await readWaiting(dir).catch(() => waiting);
    const poll = (options.pollSeconds ?? waiting.pollSeconds) * 1000;
    const pace: Pace = { poll, isPrivate: waiting.isPrivate };
    await listener.listen(!pace.isPrivate);
    const until = await nextDeadline(dir);
    const why = await waitFor(pace, past, { hint, wish, until }, signal);
    if (signal.aborted) break;
    const beganAt = performance.now();
    busySince = beganAt;
    const { file } = intake;
    // A bundle says nothing of what the server hinted at.
    if (file === null) hint.clear();
    wish.clear();
    const command =
      file === null ? options.command : [...(options.control?.bundleCommand ?? []), file];
    const { code, told } = await runOnce(command, signal);
    if (file !== null) await intake.done();
    busySince = null;
    status.forget();
    if (told !== null && (told.phase !== last?.phase || told.text !== last.text)) {
      say(told.text === '' ? told.phase : `${told.phase}: ${told.text}`);
      supervisor.status(told.phase);
    }
    last = told ?? last;
    const now = performance.now();
    const due = dueAt(told?.next ?? null, Date.now(), now);
    // One that people asked for puts no other off: else they could keep this host from ever asking its server.
    past =
      past.endedAt !== null && (file !== null || why === 'wish')
        ? { ...past, due: due ?? past.due }
        : {
            endedAt: now,
            hintedAt: why === 'hint' ? beganAt : past.hintedAt,
            failures: code === 0 ? 0 : past.failures + 1,
            due,
          };
    if ((await unitOf(unitFile)) !== unit) {
      say('this service is another one now: ending, to be started anew');
      break;
    }
  }
  supervisor.stopping();
}

/** Listens for hints while it is told to. */
class Listener implements AsyncDisposable {
  readonly #options: Omit<HintOptions, 'signal'>;
  #ending: AbortController | null = null;
  #listening: Promise<void> = Promise.resolve();

  constructor(options: Omit<HintOptions, 'signal'>) {
    this.#options = options;
  }

  async listen(isWanted: boolean): Promise<void> {
    if (isWanted === (this.#ending !== null)) return;
    if (!isWanted) return await this[Symbol.asyncDispose]();
    this.#ending = new AbortController();
    this.#listening = listenForHints({ ...this.#options, signal: this.#ending.signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending?.abort();
    this.#ending = null;
    await this.#listening;
  }
}

/**
 * Opens the control socket. An agent without one does all else: what is in the way is said, and looked at again at the
 * next start.
 */
async function openDoor(
  { dir, say, control }: RunOptions,
  waiting: Waiting,
  sources: { readonly status: StatusSource; readonly intake: Intake },
  onWish: () => void,
): Promise<AsyncDisposable | null> {
  if (control === undefined) return null;
  try {
    return await openControl({
      dir,
      socket: control.socket ?? socketPath(waiting.root),
      group: control.group ?? waiting.localGroup,
      ...sources,
      onWish,
    });
  } catch (error) {
    if (!isFleetError(error, 'E_LOCAL_SOCKET')) throw error;
    say(`${error.message} [${error.code}]`);
    return null;
  }
}

/** When what somebody put off is to be looked at again, POSIX seconds; null: nothing was. */
async function nextDeadline(dir: string): Promise<number | null> {
  // One that is damaged is the run's to mend.
  const local = await readLocal(dir).catch(() => null);
  return local?.deferred?.until ?? null;
}

type Why = 'time' | 'hint' | 'wish';

/** Waits until it is time to ask; returns because of what. */
async function waitFor(
  pace: Pace,
  past: Past,
  { hint, wish, until }: { hint: Signal; wish: Signal; until: number | null },
  signal: AbortSignal,
): Promise<Why> {
  const done = new AbortController();
  const either = AbortSignal.any([signal, done.signal]);
  const usual = untilNext(pace, past, performance.now(), Math.random());
  const ms = until === null ? null : until * 1000 - Date.now();
  // One that is over was looked at by the run that followed.
  const wait = ms === null || ms <= 0 ? usual : Math.min(usual, ms + 1000);
  const timer = sleep(wait, 'time' as const, { signal: either }).catch(() => 'time' as const);
  const hinted = hint.wait(either).then(() => 'hint' as const);
  const wished = wish.wait(either).then(() => 'wish' as const);
  const why: Why = await Promise.race([timer, hinted, wished]);
  if (why === 'hint' && !signal.aborted) {
    const gap = afterHint(past, performance.now(), Math.random());
    const over = sleep(gap, undefined, { signal: either }).catch(() => {});
    await Promise.race([over, wished]);
  }
  done.abort();
  return why;
}

/** Runs the agent once, to its end: it is not stopped when this process is, as a switch may be under way. */
async function runOnce(
  [program = '', ...args]: readonly string[],
  signal: AbortSignal,
): Promise<{ code: number | null; told: Told | null }> {
  try {
    // A session of its own: what is meant for this process, from a terminal, does not reach it.
    const child = spawn(program, args, { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    const output = child.stdout;
    output.setEncoding('utf8').on('data', (data: string) => {
      if (text.length < 65_536) text += data;
    });
    const closed = once(output, 'close').catch(() => {});
    try {
      const [code] = (await once(child, 'exit', { signal })) as [number | null];
      // Not for ever: something that it started may hold on to it.
      await Promise.race([closed, sleep(OUTPUT_MS, undefined, { ref: false })]);
      return { code, told: toldBy(text) };
    } finally {
      child.unref();
      output.destroy();
    }
  } catch (error) {
    // Too many processes, no memory, a program that is being replaced: the next time may be better.
    const problem = `a run could not be started: ${messageOf(error)}`;
    return {
      code: null,
      told: signal.aborted ? null : { phase: 'failed', text: problem, next: null },
    };
  }
}

function toldBy(text: string): Told | null {
  try {
    const { phase, reason, error, next } = JSON.parse(text) as {
      phase?: string | null;
      reason?: { text: string } | null;
      error?: { message: string } | null;
      next?: unknown;
    };
    const outcome = phase ?? (error == null ? 'nothing is published yet' : 'failed');
    const time = typeof next === 'number' && Number.isSafeInteger(next) ? next : null;
    return { phase: outcome, text: reason?.text ?? error?.message ?? '', next: time };
  } catch {
    return null;
  }
}

async function unitOf(file: string | undefined): Promise<string | null> {
  return file === undefined ? null : await unitAt(file);
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
