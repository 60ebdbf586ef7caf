// One run of the agent: ask, verify, fetch, activate, report (SPEC §5, ARCHITECTURE "The agent"). Each step
// trusts nothing of the one before it but what that verified; whatever refuses or fails leaves the
// system as it was, or takes it back there.
import { type FleetError, isFleetError } from '../errors.ts';
import type { Activation } from '../manifest/activation.ts';
import { type VerifiedCheckpoint, verifyCheckpoint } from '../manifest/log-view.ts';
import type { Deployment } from '../manifest/manifest.ts';
import type { Offer } from '../manifest/offer.ts';
import type { VerifiedManifest } from '../manifest/verify.ts';
import { type TrustedRoot, verifyOfferedManifest } from '../manifest/verify-offer.ts';
import { acceptLog, acceptManifest, contradicts } from './accept.ts';
import { abandon, activate, expire, settle } from './activate.ts';
import { type Asked, askBundle, askServer } from './ask.ts';
import { coming, ended, heard, mend } from './at-machine.ts';
import { type Update, waitBeforeFetch, waitBeforeReboot, waitBeforeSwitch } from './begin.ts';
import { withBundle } from './bundle-source.ts';
import { Client } from './client.ts';
import type { Fetched } from './fetch-missing.ts';
import { fetchSystem } from './fetch-system.ts';
import { goBackAsWished } from './go-back.ts';
import type { Host } from './host.ts';
import { probeNamespace } from './inside.ts';
import { readJournal } from './journal.ts';
import { noteManifest } from './last-good.ts';
import { readLocal, type Who } from './local.ts';
import { needsServer } from './lost.ts';
import { type ManifestId, type Memory, readMemory } from './memory.ts';
import type { OnceOptions, OnceResult } from './once-options.ts';
import { type OpenRun, openRun } from './open-run.ts';
import {
  type Attempt,
  attemptOf,
  couldNotGoOn,
  DECOMMISSIONED,
  errorOf,
  idOf,
  type Outcome,
} from './outcome.ts';
import type { Wait } from './policy.ts';
import { tellServer } from './progress.ts';
import { renewInTime } from './renew-token.ts';
import type { Source } from './source.ts';
import { standingOf } from './standing.ts';
import { requireStore } from './store.ts';
import { Teller } from './teller.ts';
import type { RunTime } from './time.ts';
import { type Wishes, wishesFor } from './wishes.ts';

type Offered = { readonly offer: Offer; readonly root: TrustedRoot };

/** Thrown where nothing could be found out: the server cannot be reached, the state is damaged, … */
export async function runOnce(options: OnceOptions): Promise<OnceResult> {
  await using run = new Run(options, await openRun(options));
  return await run.once();
}

class Run implements AsyncDisposable {
  readonly #options: OnceOptions;
  readonly #say: (line: string) => void;
  readonly #lock: AsyncDisposable;
  readonly #client: Client;
  /** What is asked: the server, or a bundle. */
  #source: Source;
  /** Who brought a bundle; null: it is the server that is asked. */
  readonly #bringer: Who | null;
  readonly #host: Host;
  readonly #time: RunTime;
  readonly #teller: Teller;
  #memory: Memory;
  #manifest: ManifestId | null = null;
  #fetched: Fetched | null = null;
  /** What the server told of, verified, and who wants what of it. */
  #update: Update | null = null;
  #next: number | null = null;

  constructor(options: OnceOptions, { lock, host, time, chain }: OpenRun) {
    const { memory } = host;
    this.#options = options;
    this.#say = options.say ?? (() => {});
    this.#lock = lock;
    this.#memory = memory;
    this.#teller = new Teller(host, time, chain, this.#say);
    this.#client = new Client({ ...memory.config, token: memory.token });
    this.#source = this.#client;
    this.#bringer = options.bundle?.who ?? null;
    this.#host = host;
    this.#time = time;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client[Symbol.asyncDispose]();
    await this.#lock[Symbol.asyncDispose]();
  }

  async once(): Promise<OnceResult> {
    const { dir, expired } = this.#options;
    if (expired !== undefined) return await this.#expire(expired);
    await mend(dir, this.#host.now(), this.#say);
    const settled = await this.#settle();
    // The machine goes down, or another agent has the word.
    const isOver = settled?.phase === 'rebooting' || settled?.phase === 'verifying';
    if (isOver) return await this.#end(settled, null);
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
    // neither be taken over nor undone; and what was handed over is for another agent to decide.
    if (attempt?.phase !== 'awaiting-lock' && attempt?.phase !== 'verifying') {
      attempt = (await this.#undoUnfinished(error)) ?? attempt;
    }
    const outcome = attempt === null ? settled : await this.#tell(attempt, this.#manifest);
    await this.#teller.tellRequests(this.#memory, outcome);
    return await this.#end(outcome, error);
  }

  async #end(outcome: Outcome | null, thrown: FleetError | null): Promise<OnceResult> {
    let error = thrown;
    const receipts = await this.#teller.send(this.#client, this.#memory, error);
    await renewInTime(this.#client, this.#memory, this.#options.clock(), error, this.#say);
    error ??= outcome === null ? null : errorOf(outcome);
    return { outcome, error, fetched: this.#fetched, receipts, next: this.#next };
  }

  /** null: there is nothing to do and nothing to say. */
  async #cycle(): Promise<Attempt | null> {
    const { floor, decommissioned } = this.#memory.trust;
    if (decommissioned) {
      if (floor !== null) this.#manifest = idOf(floor, floor.digest);
      return DECOMMISSIONED;
    }
    const { bundle, clock } = this.#options;
    if (bundle === undefined) {
      const { onOther } = this.#teller;
      const asked = askServer(this.#client, this.#memory, this.#time, clock(), onOther);
      return await this.#follow(await asked);
    }
    return await withBundle(bundle.chunks, this.#memory, async (source) => {
      this.#source = source;
      return await this.#follow(await askBundle(source, this.#memory, this.#time, this.#onAged()));
    });
  }

  async #follow(asked: Asked): Promise<Attempt | null> {
    const { dir } = this.#options;
    // With the token of now.
    this.#memory = { ...(await readMemory(dir)), trust: asked.trust };
    const { root, offer } = asked;
    if (offer === null) return null;
    const checkpoint = await this.#acceptLog(offer, root);
    const verified = this.#verify(offer, root, checkpoint);
    const { manifest, digest } = verified;
    const id = idOf(manifest, digest);
    this.#manifest = id;
    // Before anything is fetched.
    const trust = await acceptManifest(dir, this.#memory.trust, verified);
    this.#memory = { ...this.#memory, trust };
    await asked.keep();
    if (manifest.intent === 'decommission') return DECOMMISSIONED;
    await noteManifest(dir, id, manifest);
    const retry = this.#options.retry === true;
    const local = await heard(dir, id.sha256, retry);
    this.#update = {
      manifest: id,
      deployment: manifest,
      wishes: wishesFor(local, digest, this.#bringer),
    };
    const { drift } = manifest.activation;
    const mayReplace = retry || manifest.emergency || drift === 'replace';
    const { chain } = this.#teller;
    const how = { retry, mayReplace, held: local.held };
    const attempt =
      (await standingOf(this.#here(), chain, id, manifest.toplevel, how)) ??
      (await this.#deploy(manifest, this.#update, { offer, root }));
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
      const { proved } = this.#time;
      const time = { now: this.#time.now(trust), proved, onAged: this.#onAged() };
      const accepted = await acceptLog(dir, trust, offer, root, time);
      this.#memory = { ...this.#memory, trust: accepted.trust };
      return accepted.log;
    } catch (error) {
      // What each of them signed is told, so that it can be proved.
      if (contradicts(error, this.#bringer === null)) {
        this.#teller.conflict = verifyCheckpoint(offer.checkpoint, root.root).text;
      }
      throw error;
    }
  }

  #onAged(): (() => Promise<void>) | null {
    const owe = () => this.#teller.owe(this.#memory.dir, 'age-accepted');
    return this.#options.acceptAge === true ? owe : null;
  }

  #verify(offer: Offer, root: TrustedRoot, checkpoint: VerifiedCheckpoint): VerifiedManifest {
    const { host, system } = this.#memory.config;
    const { trust } = this.#memory;
    const expect = { host, system, floor: trust.floor };
    return verifyOfferedManifest(offer, root, checkpoint, expect, this.#time.now(trust));
  }

  async #deploy(manifest: Deployment, update: Update, { offer, root }: Offered): Promise<Attempt> {
    const { toplevel, emergency, activation: rules } = manifest;
    const { place } = this.#host;
    const { dir } = this.#memory;
    const { manifest: id } = update;
    const { acceptAge, retry, tellAfter } = this.#options;
    // People may say something about it from now on.
    const local = await coming(dir, id, manifest, this.#host.now());
    const heard = { ...update, wishes: wishesFor(local, id.sha256, this.#bringer) };
    const before = retry === true ? null : await waitBeforeFetch(this.#host, heard);
    if (before !== null) return this.#wait(before, heard.wishes);
    await probeNamespace(place);
    const { host, privacy } = this.#memory.config;
    const mayTell = this.#bringer === null && !privacy;
    const tell = mayTell ? tellServer(this.#client, host, id.sha256, tellAfter) : null;
    const what = { manifest, root: root.root, tell };
    const { closure, fetched } = await fetchSystem(this.#source, this.#host, what, this.#say);
    this.#fetched = fetched;
    const wishes = wishesFor(await readLocal(dir), id.sha256, this.#bringer);
    this.#update = { ...update, wishes };
    const wait = retry === true ? null : await waitBeforeSwitch(this.#host, this.#update);
    if (wait !== null) return this.#wait(wait, wishes);
    // 11: fetching may have taken days.
    this.#verify(offer, root, await this.#acceptLog(offer, root));
    await requireStore(place, closure);
    this.#say(`activating ${toplevel}${emergency ? ' (an emergency)' : ''}`);
    const { transaction, lost } = await readJournal(dir);
    const attempt = await activate(this.#here(), {
      manifest: id,
      target: toplevel,
      rules,
      // It gave the offer, so it could be heard before; of one whose log is old, root took the word all the same.
      needsServer: this.#bringer === null && acceptAge !== true && needsServer(lost, id, rules),
      unfinished: transaction,
    });
    const who = retry === true ? 'root' : wishes.who;
    return who === null ? attempt : { ...attempt, who };
  }

  #wait({ attempt, next }: Wait, { who }: Pick<Wishes, 'who'>): Attempt {
    this.#next = next;
    const isWish = attempt.reason?.code === 'deferred' && who !== null;
    return isWish ? { ...attempt, who } : attempt;
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
    const receipts = await this.#teller.send(this.#client, this.#memory, null);
    return { outcome, error: null, fetched: null, receipts, next: null };
  }

  async #undoUnfinished(error: unknown): Promise<Attempt | null> {
    const { transaction } = await readJournal(this.#memory.dir);
    // `committing` is finished by the next run; `undoing` was tried in this one.
    if (transaction === null) return null;
    const attempt = await abandon(this.#host, transaction, couldNotGoOn(error));
    if (attempt !== null) this.#manifest = transaction.manifest;
    return attempt;
  }

  /** The host, with what this run came to know. */
  #here(): Host {
    const mayBoot = async (rules: Activation): Promise<Attempt | null> => {
      const wait = await waitBeforeReboot(this.#host, rules, this.#update);
      return wait === null ? null : this.#wait(wait, { who: null });
    };
    return { ...this.#host, memory: this.#memory, mayBoot };
  }

  async #tell(attempt: Attempt, manifest: ManifestId | null): Promise<Outcome> {
    return await this.#teller.tell(this.#memory, attempt, manifest);
  }
}
