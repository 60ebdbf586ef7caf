// What time it is in a run (SPEC §5.3): by the machine's clock, or, where nobody keeps that, by a proof of the
// server's and what went by since it was asked for. Never earlier than the latest time that was signed.
// Refuses proofs as manifest/nonce-proof.ts does, answers that took too long, and a server that gives none.
import { uptime } from 'node:os';
import { FleetError } from '../errors.ts';
import { verifyNonceProof } from '../manifest/nonce-proof.ts';
import type { Root } from '../manifest/root.ts';
import { parseNote } from '../tlog/note.ts';
import { isClockSynchronised } from './clock.ts';
import { askFresh } from './fresh.ts';
import type { Memory, Trust } from './memory.ts';
import type { Source } from './source.ts';

/** The clocks of a machine; tests have their own. */
export type Clocks = {
  /** POSIX seconds, as the machine believes. */
  readonly clock: () => number;
  /** Seconds since some moment, by a clock that nobody sets and that goes on while the machine sleeps. */
  readonly uptime?: () => number;
  readonly isSynchronised?: () => Promise<boolean>;
};

/** Longer than this and the proof says little about now; well below what freshness allows clocks to differ. */
const MAX_ROUND_TRIP_SECONDS = 120;

export class RunTime {
  readonly #clock: () => number;
  /** The kernel's CLOCK_BOOTTIME, as /proc/uptime has it. */
  readonly #uptime: () => number;
  readonly #isSynchronised: () => Promise<boolean>;
  readonly #began: number;
  #proof: { readonly time: number; readonly asked: number } | null = null;

  constructor(clocks: Clocks) {
    this.#clock = clocks.clock;
    this.#uptime = clocks.uptime ?? uptime;
    this.#isSynchronised = clocks.isSynchronised ?? isClockSynchronised;
    this.#began = this.#uptime();
  }

  /** The time that was proved in this run, POSIX seconds, or null. */
  get proved(): number | null {
    return this.#proof?.time ?? null;
  }

  /** POSIX seconds. */
  now({ time }: Pick<Trust, 'time'>): number {
    const proof = this.#proof;
    // From when it was asked for, not from when it came: what has expired never passes.
    const since = proof === null ? 0 : Math.floor(this.#uptime() - proof.asked);
    const now = proof === null ? this.#clock() : proof.time + since;
    return Math.max(now, time ?? 0);
  }

  /** From the run's beginning until now, both by what is known now. */
  span(trust: Pick<Trust, 'time'>): { readonly started: number; readonly finished: number } {
    const finished = this.now(trust);
    const started = Math.max(0, finished - Math.floor(this.#uptime() - this.#began));
    return { started, finished };
  }

  async needsProof({ config }: Pick<Memory, 'config'>): Promise<boolean> {
    if (config.clock !== 'auto') return config.clock === 'untrusted';
    return !(await this.#isSynchronised());
  }

  /**
   * Has the server prove what time it is, and that `checkpoint` (a note) is the newest.
   * @throws FleetError E_NONCE_…, E_SIGNATURE…, E_SERVER_…
   */
  async prove(
    source: Source,
    { config, trust }: Pick<Memory, 'config' | 'trust'>,
    { root, checkpoint }: { readonly root: Root; readonly checkpoint: string },
  ): Promise<void> {
    const asked = this.#uptime();
    const { nonce, proof, refusal } = await askFresh(source, config.host);
    const seconds = this.#uptime() - asked;
    if (proof === null) {
      const who = 'this machine’s clock is not synchronised, and the server gives no proof of time';
      throw new FleetError('E_NONCE_MISSING', `${who}: ${refusal}`);
    }
    const { text } = parseNote(checkpoint);
    const expect = { root, nonce, checkpoint: text, floor: trust.time };
    const time = verifyNonceProof(proof, expect);
    if (!(seconds <= MAX_ROUND_TRIP_SECONDS)) {
      const took = `${Math.round(seconds)} s, more than ${MAX_ROUND_TRIP_SECONDS} s`;
      throw new FleetError('E_NONCE_SLOW', `the proof of time took ${took}`);
    }
    this.#proof = { time, asked };
  }
}
