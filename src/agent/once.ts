// One run of the agent: ask, verify, fetch, activate, report (SPEC §5, ARCHITECTURE "The agent"). Each step
// trusts nothing of the one before it but what that verified; whatever refuses or fails leaves the
// system as it was, or takes it back there.
import { rm } from 'node:fs/promises';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { type VerifiedCheckpoint, verifyCheckpoint } from '../manifest/log-view.ts';
import type { Deployment } from '../manifest/manifest.ts';
import type { Offer } from '../manifest/offer.ts';
import { makeReason } from '../manifest/receipt.ts';
import { type VerifiedManifest, verifyClosure } from '../manifest/verify.ts';
import { type TrustedRoot, verifyOfferedManifest } from '../manifest/verify-offer.ts';
import { parseNixPublicKey } from '../nix/signature.ts';
import { acceptLog, acceptManifest } from './accept.ts';
import { abandon, activate, expire, requireSwitchable, settle } from './activate.ts';
import { askForOffer, getClosure } from './ask.ts';
import { Client } from './client.ts';
import type { Host } from './host.ts';
import { probeNamespace } from './inside.ts';
import { isUnderWay, readJournal } from './journal.ts';
import { takeLock, tryLock } from './lock.ts';
import { needsServer } from './lost.ts';
import { type ManifestId, type Memory, memoryFiles, readMemory } from './memory.ts';
import { type Attempt, attemptOf, DECOMMISSIONED, errorOf, idOf, type Outcome } from './outcome.ts';
import { unitAt } from './own-unit.ts';
import { placeAt, readBootId, readSystems, type Systems } from './place.ts';
import { type Chain, owe, readChain, type Sent, sendQueued, tell } from './receipts.ts';
import { renewInTime, withToken } from './renew-token.ts';
import { standingOf } from './standing.ts';
import { type Fetched, fetchClosure, requireStore } from './store.ts';
import { type Clocks, RunTime } from './time.ts';
import { hasSystemd } from './units.ts';

export type OnceOptions = Clocks & {
  /** State directory. */
  readonly dir: string;
  /** Which boot of the machine this is; found out when it is not given. */
  readonly bootId?: string;
  /** Whether systemd can be asked about units; found out when it is not given. */
  readonly hasSystemd?: boolean;
  /** The command line that starts this program, without a verb: for the watchdog of a switch. */
  readonly program: readonly string[];
  /** The file of the unit that this run is a service of. */
  readonly unitFile?: string;
  /** The watchdog's run: gives up this transaction if nobody confirmed it, and asks for nothing. */
  readonly expired?: string;
  /** Of the watchdog's: whether an agent that holds the lock is left alone. */
  readonly waits?: boolean;
  /** Try a manifest again that was rolled back. */
  readonly retry?: boolean;
  /** Accept a checkpoint that is older than the root's maxAge: root's word, which the receipt has. */
  readonly acceptAge?: boolean;
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
  readonly #time: RunTime;
  #memory: Memory;
  #chain: Chain;
  #manifest: ManifestId | null = null;
  #fetched: Fetched | null = null;
  /** A checkpoint that contradicts the one that was accepted, or the proof of time. */
  #conflict: string | null = null;
  /** Why an outcome could not be kept to be told. */
  #untold: FleetError | null = null;

  private constructor(
    options: OnceOptions,
    lock: AsyncDisposable,
    { host, time, chain }: { readonly host: Host; readonly time: RunTime; readonly chain: Chain },
  ) {
    const { memory } = host;
    this.#options = options;
    this.#lock = lock;
    this.#memory = memory;
    this.#chain = chain;
    this.#client = new Client({ ...memory.config, token: memory.token });
    this.#host = host;
    this.#time = time;
  }

  static async open(options: OnceOptions): Promise<Run> {
    const { dir } = options;
    // Read before the lock is taken: a directory that is no agent's gets no lock file.
    await readMemory(dir);
    const file = memoryFiles(dir).lock;
    const { expired, waits } = options;
    const isOurs = expired === undefined || waits === true;
    const lock = await (isOurs ? tryLock(file) : takeLock(file, () => isUnderWay(dir, expired)));
    if (lock === null) throw new FleetError('E_AGENT_BUSY', `another agent works in ${dir}`);
    try {
      const memory = await readMemory(dir);
      const { scratch } = memoryFiles(dir);
      // What an agent left that was killed. Where it cannot be removed it is used as it is.
      await rm(scratch, { recursive: true, force: true }).catch(() => {});
      const place = placeAt(memory.config.root, scratch);
      const bootId = options.bootId ?? (await readBootId(place));
      const time = new RunTime(options);
      const now = () => time.now(memory.trust);
      const systemd = options.hasSystemd ?? (await hasSystemd(place));
      const { program, unitFile } = options;
      const unit = unitFile === undefined ? null : { file: unitFile, was: await unitAt(unitFile) };
      const mayBoot = async () => null;
      const host = { memory, place, bootId, hasSystemd: systemd, unit, program, now, mayBoot };
      return new Run(options, lock, { host, time, chain: await readChain(dir) });
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
    const { expired } = this.#options;
    if (expired !== undefined) return await this.#expire(expired);
    const settled = await this.#settle();
    // The machine goes down, or another agent has the word.
    const isOver = settled?.phase === 'rebooting' || settled?.phase === 'verifying';
    if (isOver) return await this.#end(settled, null);
    let attempt: Attempt | null;
    let error: FleetError | null = null;
    try {
      attempt = await this.#cycle();
    } catch (thrown) {
      if (!isFleetError(thrown)) {
        const undone = await this.#undoUnfinished(thrown);
        if (undone !== null) await this.#tell(undone, this.#manifest);
        throw thrown;
      }
      error = thrown;
      attempt = attemptOf(thrown, this.#manifest);
    }
    // What an earlier run began and this one did not take over. While another switch is going on it can
    // neither be taken over nor undone; and what was handed over is for another agent to decide.
    if (attempt?.phase !== 'awaiting-lock' && attempt?.phase !== 'verifying') {
      attempt = (await this.#undoUnfinished(error)) ?? attempt;
    }
    const outcome = attempt === null ? settled : await this.#tell(attempt, this.#manifest);
    return await this.#end(outcome, error);
  }

  async #end(outcome: Outcome | null, thrown: FleetError | null): Promise<OnceResult> {
    let error = thrown;
    const receipts = await this.#report(error);
    const { clock, say } = this.#options;
    await renewInTime(this.#client, this.#memory, clock(), error, say);
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
    const ask = async () => {
      // Again after a renewal: what an attempt before this one came to trust is on disk.
      this.#memory = await readMemory(this.#options.dir);
      return await askForOffer(this.#client, this.#memory, this.#time, (shown) => {
        this.#conflict = shown;
      });
    };
    const asked = await withToken(this.#client, this.#memory, this.#options.clock(), ask);
    this.#memory = { ...this.#memory, trust: asked.trust };
    const { root, offer } = asked;
    if (offer === null) return null;
    const checkpoint = await this.#acceptLog(offer, root);
    const verified = this.#verify(offer, root, checkpoint);
    await this.#accept(verified);
    await asked.keep();
    const { manifest } = verified;
    if (manifest.intent === 'decommission') return DECOMMISSIONED;
    const id = idOf(manifest, verified.digest);
    const retry = this.#options.retry === true;
    const standing = await standingOf(this.#here(), this.#chain, id, manifest.toplevel, retry);
    if (standing !== null) return standing;
    return await this.#deploy(manifest, offer, root);
  }

  /** Verifies the log's checkpoint, and keeps what it says. */
  async #acceptLog(offer: Offer, root: TrustedRoot): Promise<VerifiedCheckpoint> {
    const { trust, dir } = this.#memory;
    try {
      const now = this.#time.now(trust);
      const { proved } = this.#time;
      const oweAge = async () => {
        this.#chain = await owe(dir, this.#chain, 'age-accepted');
      };
      const onAged = this.#options.acceptAge === true ? oweAge : null;
      const accepted = await acceptLog(dir, trust, offer, root, { now, proved, onAged });
      this.#memory = { ...this.#memory, trust: accepted.trust };
      return accepted.log;
    } catch (error) {
      // Two histories: what each of them signed is told, so that it can be proved.
      const contradicts = isFleetError(error, 'E_FORK', 'E_CONSISTENCY', 'E_CHECKPOINT_OLDER');
      if (contradicts) this.#conflict = verifyCheckpoint(offer.checkpoint, root.root).text;
      throw error;
    }
  }

  #verify(offer: Offer, root: TrustedRoot, checkpoint: VerifiedCheckpoint): VerifiedManifest {
    const { host, system } = this.#memory.config;
    const { floor } = this.#memory.trust;
    const expect = { host, system, floor };
    const now = this.#time.now(this.#memory.trust);
    return verifyOfferedManifest(offer, root, checkpoint, expect, now);
  }

  /** Keeps how far this host has come, before anything is fetched. */
  async #accept(verified: VerifiedManifest): Promise<void> {
    this.#manifest = idOf(verified.manifest, verified.digest);
    const trust = await acceptManifest(this.#memory.dir, this.#memory.trust, verified);
    this.#memory = { ...this.#memory, trust };
  }

  async #deploy(manifest: Deployment, offer: Offer, root: TrustedRoot): Promise<Attempt> {
    const { toplevel } = manifest;
    const { place } = this.#host;
    const { config, dir } = this.#memory;
    const say = this.#options.say ?? (() => {});
    await probeNamespace(place);
    const bytes = await getClosure(this.#client, manifest);
    const closure = verifyClosure(manifest, bytes);
    say(`fetching ${toplevel} (paths in all: ${closure.paths.size})`);
    this.#fetched = await fetchClosure({
      client: this.#client,
      place,
      closure,
      keys: root.root.cache.keys.map(parseNixPublicKey),
      roots: memoryFiles(dir).roots,
      repair: config.repair,
    });
    await requireSwitchable(place, toplevel);
    // 11: fetching may have taken days.
    const again = this.#verify(offer, root, await this.#acceptLog(offer, root));
    await requireStore(place, closure);
    say(`activating ${toplevel}`);
    const { transaction, lost } = await readJournal(dir);
    const rules = manifest.activation;
    const { acceptAge } = this.#options;
    const id = idOf(again.manifest, again.digest);
    return await activate(this.#here(), {
      manifest: id,
      target: toplevel,
      rules,
      // It gave the offer, so it could be heard before; of one whose log is old, root took the word all the same.
      needsServer: acceptAge !== true && needsServer(lost, id, rules),
      unfinished: transaction,
    });
  }

  /** Finishes what a run that died was in the middle of. */
  async #settle(): Promise<Outcome | null> {
    const { transaction } = await readJournal(this.#memory.dir);
    if (transaction === null) return null;
    const attempt = await settle(this.#host, transaction);
    return attempt === null ? null : await this.#tell(attempt, transaction.manifest);
  }

  /** What the watchdog does. */
  async #expire(id: string): Promise<OnceResult> {
    const { transaction } = await readJournal(this.#memory.dir);
    let outcome: Outcome | null = null;
    if (transaction?.id === id) {
      const attempt = await expire(this.#host, transaction);
      if (attempt !== null) outcome = await this.#tell(attempt, transaction.manifest);
    }
    const receipts = await this.#report(null);
    return { outcome, error: null, fetched: null, receipts };
  }

  async #undoUnfinished(error: unknown): Promise<Attempt | null> {
    const { transaction } = await readJournal(this.#memory.dir);
    // `committing` is finished by the next run; `undoing` was tried in this one.
    if (transaction === null) return null;
    const text = `an activation broke off and could not go on${error === null ? '' : `: ${messageOf(error)}`}`;
    const why = makeReason('E_INTERRUPTED', text);
    const attempt = await abandon(this.#host, transaction, why);
    if (attempt !== null) this.#manifest = transaction.manifest;
    return attempt;
  }

  /** The host, with what this run came to know. */
  #here(): Host {
    return { ...this.#host, memory: this.#memory };
  }

  async #tell(attempt: Attempt, manifest: ManifestId | null): Promise<Outcome> {
    const outcome: Outcome = { ...attempt, manifest, systems: await this.#systems() };
    const context = {
      bootId: this.#host.bootId,
      ...this.#time.span(this.#memory.trust),
      conflict: this.#conflict,
    };
    try {
      this.#chain = await tell(this.#memory, this.#chain, outcome, context);
    } catch (error) {
      // The next run has the same news.
      if (!isFleetError(error, 'E_DISK_FULL')) throw error;
      this.#untold = error;
      this.#options.say?.(`not told: ${error.message}`);
    }
    return outcome;
  }

  async #report(error: FleetError | null): Promise<Sent> {
    const problem = isFleetError(error, 'E_SERVER_UNREACHABLE') ? error : this.#untold;
    if (problem !== null) return { sent: 0, queued: this.#chain.queue.length, problem };
    const { chain, report } = await sendQueued(this.#client, this.#memory, this.#chain);
    this.#chain = chain;
    return report;
  }

  async #systems(): Promise<Systems> {
    return await readSystems(this.#host.place);
  }
}
