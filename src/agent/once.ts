// One run of the agent: ask, verify, fetch, activate, report (SPEC §5, ARCHITECTURE "The agent"). Each step
// trusts nothing of the one before it but what that verified; whatever refuses or fails leaves the
// system as it was, or takes it back there. The checks of the
// transparency log are not there yet.
import { FleetError, isFleetError } from '../errors.ts';
import type { Deployment } from '../manifest/manifest.ts';
import { makeReason } from '../manifest/receipt.ts';
import type { Root } from '../manifest/root.ts';
import { type VerifiedManifest, verifyClosure, verifyManifest } from '../manifest/verify.ts';
import { parseNixPublicKey } from '../nix/signature.ts';
import { activate, bootIdOf, type Host, requireSwitchable, settle, undo } from './activate.ts';
import { askForOffer, getClosure } from './ask.ts';
import { Client } from './client.ts';
import { tryLock } from './lock.ts';
import {
  type ManifestId,
  type Memory,
  memoryFiles,
  readJournal,
  readMemory,
  writeTrust,
} from './memory.ts';
import {
  type Attempt,
  attemptOf,
  DECOMMISSIONED,
  errorOf,
  IN_SYNC,
  INTERRUPTED,
  idOf,
  type Outcome,
} from './outcome.ts';
import { placeAt, readSystems, type Systems } from './place.ts';
import { type Chain, readChain, type Sent, sendQueued, tell } from './receipts.ts';
import { type Fetched, fetchClosure, requireStore } from './store.ts';
import { probeNamespace } from './switch.ts';

export type OnceOptions = {
  /** State directory. */
  readonly dir: string;
  /** POSIX seconds; read once per cycle. */
  readonly clock: () => number;
  /** Try a manifest again that was rolled back. */
  readonly retry?: boolean;
  /** A line of progress for people. */
  readonly say?: (line: string) => void;
};

export type OnceResult = {
  /** null: the server has no manifest for this host yet. */
  readonly outcome: Outcome | null;
  /** What a person is to be told, and the exit code; null when all is well. */
  readonly error: FleetError | null;
  readonly fetched: Fetched | null;
  readonly receipts: Sent;
};

/** Thrown where nothing could be found out: the server cannot be reached, the state is damaged, … */
export async function runOnce(options: OnceOptions): Promise<OnceResult> {
  await using run = await Run.open(options);
  return await run.once();
}

class Run implements AsyncDisposable {
  readonly #options: OnceOptions;
  readonly #lock: AsyncDisposable;
  readonly #client: Client;
  readonly #host: Host;
  readonly #started: number;
  #memory: Memory;
  #chain: Chain;
  #manifest: ManifestId | null = null;
  #fetched: Fetched | null = null;

  private constructor(options: OnceOptions, lock: AsyncDisposable, memory: Memory, chain: Chain) {
    this.#options = options;
    this.#lock = lock;
    this.#memory = memory;
    this.#chain = chain;
    this.#client = new Client({ ...memory.config, token: memory.token });
    this.#host = { memory, place: placeAt(memory.config.root) };
    this.#started = options.clock();
  }

  static async open(options: OnceOptions): Promise<Run> {
    const { dir } = options;
    // Read before the lock is taken: a directory that is no agent's gets no lock file.
    await readMemory(dir);
    const lock = await tryLock(memoryFiles(dir).lock);
    if (lock === null) throw new FleetError('E_AGENT_BUSY', `another agent works in ${dir}`);
    try {
      return new Run(options, lock, await readMemory(dir), await readChain(dir));
    } catch (error) {
      await lock[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client[Symbol.asyncDispose]();
    await this.#lock[Symbol.asyncDispose]();
  }

  async once(): Promise<OnceResult> {
    await this.#settle();
    let attempt: Attempt | null;
    let error: FleetError | null = null;
    try {
      attempt = await this.#cycle();
    } catch (thrown) {
      if (!isFleetError(thrown)) throw thrown;
      error = thrown;
      attempt = attemptOf(thrown, this.#manifest);
    }
    // An activation that an earlier run began and this one did not take over.
    attempt = (await this.#undoUnfinished(error)) ?? attempt;
    const outcome = attempt === null ? null : await this.#tell(attempt, this.#manifest);
    const receipts = await this.#report(error);
    error ??= outcome === null ? null : errorOf(outcome);
    return { outcome, error, fetched: this.#fetched, receipts };
  }

  /** null: there is nothing to do and nothing to say. */
  async #cycle(): Promise<Attempt | null> {
    const { floor, decommissioned } = this.#memory.trust;
    if (decommissioned) {
      if (floor !== null) this.#manifest = idOf(floor, floor.digest);
      return DECOMMISSIONED;
    }
    const asked = await askForOffer(this.#client, this.#memory);
    this.#memory = { ...this.#memory, trust: asked.trust };
    if (asked.manifest === null) return null;
    const { root, manifest: envelope } = asked;
    const verified = this.#verify(envelope, root);
    await this.#accept(verified);
    const { manifest } = verified;
    if (manifest.intent === 'decommission') return DECOMMISSIONED;
    const standing = await this.#standing(manifest);
    if (standing !== null) return standing;
    return await this.#deploy(manifest, envelope, root);
  }

  #verify(envelope: string, root: Root): VerifiedManifest {
    const { host, system } = this.#memory.config;
    const { floor } = this.#memory.trust;
    const now = this.#options.clock();
    return verifyManifest({ envelope, root, now, expect: { host, system, floor } });
  }

  /** Persists how far this host has come, before anything is fetched. */
  async #accept({ manifest, digest }: VerifiedManifest): Promise<void> {
    const { epoch, sequence, intent } = manifest;
    this.#manifest = idOf(manifest, digest);
    const { trust, dir } = this.#memory;
    const decommissioned = intent === 'decommission';
    if (trust.floor?.digest === digest && !decommissioned) return;
    const next = { ...trust, floor: { epoch, sequence, digest }, decommissioned };
    await writeTrust(dir, next);
    this.#memory = { ...this.#memory, trust: next };
  }

  /** What holds already and needs no activation, or null. */
  async #standing({ toplevel }: Deployment): Promise<Attempt | null> {
    const { transaction, rejected } = await readJournal(this.#memory.dir);
    if (this.#options.retry !== true) {
      if (rejected !== null && this.#isThis(rejected.manifest)) {
        return { phase: rejected.phase, reason: rejected.reason, exitCode: null };
      }
      if (transaction?.step === 'undoing' && this.#isThis(transaction.manifest)) {
        return { phase: 'failed', reason: transaction.why, exitCode: null };
      }
    }
    const { current, profile } = await this.#systems();
    if (transaction !== null || profile !== toplevel) return null;
    const { told } = this.#chain;
    const again = this.#isThis(told?.manifest) ? told : null;
    const reason = again?.code == null ? null : makeReason(again.code, again.text ?? '');
    if (current === toplevel) {
      if (again?.phase !== 'in-sync-degraded') return IN_SYNC;
      return { phase: again.phase, reason, exitCode: 4 };
    }
    if (again?.phase !== 'reboot-pending') return null;
    if (again.bootId !== (await bootIdOf(this.#host.place))) return null;
    return { phase: again.phase, reason, exitCode: null };
  }

  #isThis(manifest: ManifestId | null | undefined): boolean {
    return manifest != null && manifest.sha256 === this.#manifest?.sha256;
  }

  async #deploy(manifest: Deployment, envelope: string, root: Root): Promise<Attempt> {
    const { toplevel } = manifest;
    const { place } = this.#host;
    const { config, dir } = this.#memory;
    const say = this.#options.say ?? (() => {});
    await probeNamespace(place);
    const bytes = await getClosure(this.#client, manifest);
    const closure = verifyClosure(manifest, bytes);
    say(`fetching ${toplevel} (${closure.paths.size} paths in all)`);
    this.#fetched = await fetchClosure({
      client: this.#client,
      place,
      closure,
      keys: root.cache.keys.map(parseNixPublicKey),
      roots: memoryFiles(dir).roots,
      repair: config.repair,
    });
    await requireSwitchable(place, toplevel);
    // 11: fetching may have taken days.
    const again = this.#verify(envelope, root);
    await requireStore(place, closure);
    say(`activating ${toplevel}`);
    let { transaction } = await readJournal(dir);
    const { reboot, onFailure } = manifest.activation;
    const mode = reboot === 'required' ? 'boot' : manifest.activation.mode;
    if (mode === 'boot' && transaction !== null) {
      // What an earlier run half activated does not belong to what is only set for the next boot.
      const back = await undo(this.#host, transaction, INTERRUPTED, null);
      if (back.phase !== 'rolled-back') return back;
      transaction = null;
    }
    const id = idOf(again.manifest, again.digest);
    return await activate(this.#host, {
      manifest: id,
      target: toplevel,
      mode,
      keep: onFailure === 'keep',
      unfinished: transaction,
    });
  }

  /** Finishes what a run that died was in the middle of. */
  async #settle(): Promise<void> {
    const { transaction } = this.#memory.journal;
    if (transaction === null) return;
    const attempt = await settle(this.#host, transaction);
    if (attempt !== null) await this.#tell(attempt, transaction.manifest);
  }

  async #undoUnfinished(error: FleetError | null): Promise<Attempt | null> {
    const { transaction } = await readJournal(this.#memory.dir);
    // `committing` is finished by the next run; `undoing` was tried in this one.
    if (transaction?.step !== 'activating') return null;
    const text = `an activation broke off and could not go on${error === null ? '' : `: ${error.message}`}`;
    const why = makeReason('E_INTERRUPTED', text);
    this.#manifest = transaction.manifest;
    return await undo(this.#host, transaction, why, null);
  }

  async #tell(attempt: Attempt, manifest: ManifestId | null): Promise<Outcome> {
    const outcome: Outcome = { ...attempt, manifest, systems: await this.#systems() };
    this.#chain = await tell(this.#memory, this.#chain, outcome, {
      bootId: await bootIdOf(this.#host.place),
      started: this.#started,
      finished: this.#options.clock(),
    });
    return outcome;
  }

  async #report(error: FleetError | null): Promise<Sent> {
    if (isFleetError(error, 'E_SERVER_UNREACHABLE')) {
      return { sent: 0, queued: this.#chain.queue.length, problem: error };
    }
    const { chain, report } = await sendQueued(this.#client, this.#memory, this.#chain);
    this.#chain = chain;
    return report;
  }

  async #systems(): Promise<Systems> {
    return await readSystems(this.#host.place);
  }
}
