// Makes update packs in the background while the server runs, one at a time: for the steps that hosts are to take since a
// publication or the server's start, and for those that hosts ask for. What cannot be made is told and counted, and left
// alone for a while: hosts then fetch NARs, as they would without packs.
import { availableParallelism } from 'node:os';
import { makePack } from '../cache/make-pack.ts';
import { openPackPool, type PackPool } from '../cache/pack-pool.ts';
import { PackSegments } from '../cache/pack-segments.ts';
import { readyPack, signersOf } from '../cache/ready-pack.ts';
import { logNumber } from '../manifest/append.ts';
import type { NixSecretKey } from '../nix/signature.ts';
import type { KeptPack, PackStep } from '../storage/packs.ts';
import { Bell } from './log-keeper.ts';
import { PackQueue, stepKey } from './pack-queue.ts';
import { currentSteps } from './pack-steps.ts';
import type { StateDir } from './statedir.ts';

/** `coming`: it is made now or soon, perhaps in so many seconds; `none`: it will not be. */
export type AskedPack =
  | { readonly kind: 'ready'; readonly pack: KeptPack }
  | { readonly kind: 'coming'; readonly seconds: number }
  | { readonly kind: 'none' };

export type PackCounts = {
  made: number;
  failed: number;
  /** Of the packs that were made, as they are sent. */
  bytes: number;
  seconds: number;
};

export type PackKeeperOptions = {
  /** POSIX seconds. */
  readonly now: () => number;
  readonly onError: (error: unknown) => void;
  /** How often a publication is looked for, in milliseconds. */
  readonly lookEvery?: number;
};

const LOOK_EVERY = 500;
/** What failed is tried again after so many seconds, or when something is published. */
const FAILED_SECONDS = 600;
const MOST_FAILED = 1000;
/** Who waits is told to come again after so many seconds at most. */
const LONGEST_WAIT = 300;

export class PackKeeper {
  readonly counts: PackCounts = { made: 0, failed: 0, bytes: 0, seconds: 0 };
  readonly segments: PackSegments;
  readonly #dir: StateDir;
  readonly #options: PackKeeperOptions;
  readonly #queue = new PackQueue();
  readonly #bell = new Bell();
  /** Until when steps that failed are left alone. */
  readonly #failed = new Map<string, number>();
  #running: string | null = null;
  /** Nobody is told to wait for what nobody is going to make. */
  #isOver = false;
  #pool: PackPool | null = null;
  #published: string | null = null;
  #signers: { readonly keys: readonly NixSecretKey[]; readonly text: string } | null = null;

  constructor(dir: StateDir, options: PackKeeperOptions) {
    this.#dir = dir;
    this.#options = options;
    this.segments = new PackSegments(dir.state, dir.blobs, options.now);
  }

  /** How many packs are still to be made, with the one that is being made. */
  get waiting(): number {
    return this.#queue.size + (this.#running === null ? 0 : 1);
  }

  /** What becomes of a pack that `who` asks for. */
  async ask(step: PackStep, who: string): Promise<AskedPack> {
    const { state, config } = this.#dir;
    if (!config.packs) return { kind: 'none' };
    const pack = await this.ready(step);
    if (pack !== null) return { kind: 'ready', pack };
    if (this.#isOver) return { kind: 'none' };
    const key = stepKey(step);
    if ((this.#failed.get(key) ?? 0) > this.#options.now()) return { kind: 'none' };
    if (this.#running === key) return { kind: 'coming', seconds: this.#wait(0) };
    const isKnown =
      step.base !== step.closure &&
      (await state.isRecentClosure(step.closure, config.keepManifests)) &&
      (step.base === null || (await state.systemOf(step.base)) !== null);
    if (!isKnown) return { kind: 'none' };
    // Where there is no room it may be asked for once more.
    if (this.#queue.add(step, who)) this.#bell.ring();
    return { kind: 'coming', seconds: this.#wait(this.waiting) };
  }

  /** A pack that is there with all its bytes and signed as the others are now. */
  async ready(step: PackStep): Promise<KeptPack | null> {
    return await readyPack(step, this.#signersNow(), this.#dir);
  }

  /** Until `signal` is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    if (!this.#dir.config.packs) return;
    const stop = () => {
      this.#isOver = true;
      void this.#closePool();
    };
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop);
    while (!signal.aborted) {
      try {
        await this.#look();
      } catch (error) {
        this.#options.onError(error);
      }
      const step = this.#queue.next();
      if (step !== null && !signal.aborted) {
        await this.#make(step, signal);
        continue;
      }
      await this.#closePool();
      await this.#bell.heard(this.#options.lookEvery ?? LOOK_EVERY, signal);
    }
    signal.removeEventListener('abort', stop);
    await this.#closePool();
  }

  /** Queues the steps of now, when something was published since the last look. */
  async #look(): Promise<void> {
    const { state, root } = this.#dir;
    const head = await state.logHead(logNumber(root));
    const published = `${logNumber(root)} ${head?.size ?? 0}`;
    if (published === this.#published) return;
    const steps = await currentSteps(state);
    this.#published = published;
    for (const step of steps) {
      this.#failed.delete(stepKey(step));
      this.#queue.add(step, null);
    }
  }

  async #make(step: PackStep, signal: AbortSignal): Promise<void> {
    const { state, blobs, config, layout, cacheKeys } = this.#dir;
    const { now, onError } = this.#options;
    const key = stepKey(step);
    this.#running = key;
    const began = performance.now();
    try {
      if ((await this.ready(step)) !== null || signal.aborted) return;
      const threads = Math.min(config.packWorkers, availableParallelism());
      const settings = { scratch: layout.blobTemporary, threads };
      this.#pool ??= openPackPool(blobs, settings);
      const { segments } = this;
      const making = { state, blobs, segments, pool: this.#pool, keys: cacheKeys, now: now() };
      const made = await makePack(step, making);
      this.counts.made += 1;
      this.counts.bytes += made.parts.reduce((sum, { size }) => sum + size, 0);
      this.counts.seconds += (performance.now() - began) / 1000;
    } catch (error) {
      // Its threads were ended.
      if (signal.aborted) return;
      this.counts.failed += 1;
      if (this.#failed.size >= MOST_FAILED) this.#failed.clear();
      this.#failed.set(key, now() + FAILED_SECONDS);
      onError(error);
      // One of its threads may be what failed.
      await this.#closePool();
    } finally {
      this.#running = null;
    }
  }

  async #closePool(): Promise<void> {
    const pool = this.#pool;
    this.#pool = null;
    await pool?.[Symbol.asyncDispose]();
  }

  #signersNow(): string {
    const keys = this.#dir.cacheKeys;
    if (this.#signers?.keys !== keys) this.#signers = { keys, text: signersOf(keys) };
    return this.#signers.text;
  }

  /** Seconds that so many packs before another may take. */
  #wait(before: number): number {
    const { made, seconds } = this.counts;
    const each = made === 0 ? 2 : seconds / made;
    return Math.min(Math.max(1, Math.ceil(each * (before + 1))), LONGEST_WAIT);
  }
}
