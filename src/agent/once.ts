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
import { activate, requireSwitchable, settle } from './activate.ts';
import { askForOffer, getClosure } from './ask.ts';
import { ended, heard, mend, putOff, staged } from './at-machine.ts';
import { Client } from './client.ts';
import { listenForServer } from './fresh.ts';
import { goBackAsWished } from './go-back.ts';
import type { Host } from './host.ts';
import { probeNamespace } from './inside.ts';
import { isOpen, readJournal } from './journal.ts';
import { noteManifest } from './last-good.ts';
import { tryLock } from './lock.ts';
import { needsServer } from './lost.ts';
import { type ManifestId, type Memory, memoryFiles, readMemory } from './memory.ts';
import { type Attempt, attemptOf, DECOMMISSIONED, errorOf, idOf, type Outcome } from './outcome.ts';
import { placeAt, readBootId } from './place.ts';
import { type Chain, readChain, type Sent } from './receipts.ts';
import { renewInTime, withToken } from './renew-token.ts';
import { standingOf } from './standing.ts';
import { type Fetched, fetchClosure, requireStore } from './store.ts';
import { Teller } from './teller.ts';
import { type Clocks, RunTime } from './time.ts';
import { undo } from './undo.ts';
import { hasSystemd } from './units.ts';

export type OnceOptions = Clocks & {
  /** State directory. */
  readonly dir: string;
  /** Which boot of the machine this is; found out when it is not given. */
  readonly bootId?: string;
  /** Whether systemd can be asked about units; found out when it is not given. */
  readonly hasSystemd?: boolean;
  /** Root's word: no window, deferral, hold, or memory of what failed keeps the newest manifest from being tried. */
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
  readonly #teller: Teller;
  #manifest: ManifestId | null = null;
  #fetched: Fetched | null = null;

  private constructor(
    options: OnceOptions,
    lock: AsyncDisposable,
    { host, time, chain }: { readonly host: Host; readonly time: RunTime; readonly chain: Chain },
  ) {
    const { memory } = host;
    this.#options = options;
    this.#lock = lock;
    this.#memory = memory;
    this.#teller = new Teller(host, time, chain, options.say ?? (() => {}));
    this.#client = new Client({ ...memory.config, token: memory.token });
    this.#host = host;
    this.#time = time;
  }

  static async open(options: OnceOptions): Promise<Run> {
    const { dir } = options;
    // Read before the lock is taken: a directory that is no agent's gets no lock file.
    await readMemory(dir);
    const lock = await tryLock(memoryFiles(dir).lock);
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
      const host = { memory, place, bootId, hasSystemd: systemd, now };
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
    await mend(this.#options.dir, this.#host.now(), this.#options.say ?? (() => {}));
    await this.#settle();
    let attempt: Attempt | null;
    let error: FleetError | null = null;
    try {
      attempt = (await this.#goBack()) ?? (await this.#cycle());
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
    // neither be taken over nor undone.
    if (attempt?.phase !== 'awaiting-lock')
      attempt = (await this.#undoUnfinished(error)) ?? attempt;
    const outcome = attempt === null ? null : await this.#tell(attempt, this.#manifest);
    await this.#teller.tellRequests(this.#memory, outcome);
    const receipts = await this.#teller.send(this.#client, this.#memory, error);
    await renewInTime(this.#client, this.#memory, this.#options.clock(), error, this.#options.say);
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
        this.#teller.conflict = shown;
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
    const { dir } = this.#memory;
    await noteManifest(dir, id, manifest);
    const retry = this.#options.retry === true;
    const { held } = await heard(dir, id.sha256, retry);
    const attempt =
      (await standingOf(this.#host, this.#teller.chain, id, manifest.toplevel, retry, held)) ??
      (await this.#deploy(id, manifest, offer, root));
    await ended(dir, attempt);
    return attempt;
  }

  /** What somebody at the machine wants before anything else; null: nobody does. */
  async #goBack(): Promise<Attempt | null> {
    const { floor, decommissioned } = this.#memory.trust;
    if (decommissioned) return null;
    const attempt = await goBackAsWished(this.#host);
    if (attempt !== null && floor !== null) this.#manifest = idOf(floor, floor.digest);
    return attempt;
  }

  /** Verifies the log's checkpoint, and keeps what it says. */
  async #acceptLog(offer: Offer, root: TrustedRoot): Promise<VerifiedCheckpoint> {
    const { trust, dir } = this.#memory;
    try {
      const now = this.#time.now(trust);
      const { proved } = this.#time;
      const oweAge = async () => {
        await this.#teller.owe(dir, 'age-accepted');
      };
      const onAged = this.#options.acceptAge === true ? oweAge : null;
      const accepted = await acceptLog(dir, trust, offer, root, { now, proved, onAged });
      this.#memory = { ...this.#memory, trust: accepted.trust };
      return accepted.log;
    } catch (error) {
      // Two histories: what each of them signed is told, so that it can be proved.
      const contradicts = isFleetError(error, 'E_FORK', 'E_CONSISTENCY', 'E_CHECKPOINT_OLDER');
      if (contradicts) this.#teller.conflict = verifyCheckpoint(offer.checkpoint, root.root).text;
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

  async #deploy(
    found: ManifestId,
    manifest: Deployment,
    offer: Offer,
    root: TrustedRoot,
  ): Promise<Attempt> {
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
    const now = this.#time.now(this.#memory.trust);
    const wishes = await staged(dir, found, manifest, now);
    const waits = this.#options.retry === true ? null : putOff(wishes, now);
    if (waits !== null) return waits;
    // 11: fetching may have taken days.
    const again = this.#verify(offer, root, await this.#acceptLog(offer, root));
    await requireStore(place, closure);
    say(`activating ${toplevel}`);
    const { transaction, lost } = await readJournal(dir);
    const rules = manifest.activation;
    const { acceptAge } = this.#options;
    const id = idOf(again.manifest, again.digest);
    const listen = (seconds: number) => listenForServer(this.#memory, root.root, seconds);
    const attempt = await activate(this.#host, {
      manifest: id,
      target: toplevel,
      rules,
      // It gave the offer, so it could be heard before; of one whose log is old, root took the word all the same.
      listen: acceptAge !== true && needsServer(lost, id, rules) ? listen : null,
      unfinished: transaction,
    });
    const who = this.#options.retry === true ? 'root' : wishes.who;
    return who === null ? attempt : { ...attempt, who };
  }

  /** Finishes what a run that died was in the middle of. */
  async #settle(): Promise<void> {
    const { transaction } = await readJournal(this.#memory.dir);
    if (transaction === null) return;
    const attempt = await settle(this.#host, transaction);
    if (attempt !== null) await this.#tell(attempt, transaction.manifest);
  }

  async #undoUnfinished(error: unknown): Promise<Attempt | null> {
    const { transaction } = await readJournal(this.#memory.dir);
    // `committing` is finished by the next run; `undoing` was tried in this one.
    if (transaction === null || !isOpen(transaction)) return null;
    const text = `an activation broke off and could not go on${error === null ? '' : `: ${messageOf(error)}`}`;
    const why = makeReason('E_INTERRUPTED', text);
    this.#manifest = transaction.manifest;
    return await undo(this.#host, transaction, why, null);
  }

  async #tell(attempt: Attempt, manifest: ManifestId | null): Promise<Outcome> {
    return await this.#teller.tell(this.#memory, attempt, manifest);
  }
}
