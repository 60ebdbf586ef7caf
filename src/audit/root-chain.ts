// The roots of a log, as its reader meets them → which one is in force for what comes next. The first must be the
// auditor's own; each later one must follow the one before it (SPEC §3.4).
import { FleetError } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { type Root, verifyInitialRoot, verifyRootUpdate } from '../manifest/root.ts';
import { rootDigest } from '../manifest/snapshot.ts';
import type { KeysInForce } from './facts.ts';

export class RootChain {
  readonly #trusted: { readonly root: Root; readonly digest: string };
  #root: Root | null = null;
  #digest = '';
  readonly #later: string[] = [];
  readonly #logKeys = new Set<string>();

  /** `envelope`: the auditor's own root. @throws FleetError as verifyInitialRoot. */
  constructor(envelope: string) {
    const parsed = parseEnvelope(envelope);
    this.#trusted = { root: verifyInitialRoot(parsed), digest: rootDigest(parsed.payload) };
    this.#logKeys.add(this.#trusted.root.log.vkey);
  }

  /** The root in force; the auditor's own before the log has named any. */
  get root(): Root {
    return this.#root ?? this.#trusted.root;
  }

  /** SHA-256 of its payload; '' before the log has named any. */
  get digest(): string {
    return this.#digest;
  }

  /** Envelopes of all roots that followed the auditor's own. */
  get later(): readonly string[] {
    return this.#later;
  }

  /** SHA-256 of the payload of the auditor's own. */
  get trustedDigest(): string {
    return this.#trusted.digest;
  }

  /** The keys of the log in every root so far, as roots name them. */
  get logKeys(): readonly string[] {
    return [...this.#logKeys];
  }

  get keys(): KeysInForce {
    const { director, release } = this.root.roles;
    return { director: director.keys, release: release.keys };
  }

  /** Goes on from where another auditor's reading under the same root had come to. @throws FleetError. */
  resume(later: readonly string[]): void {
    this.#root = this.#trusted.root;
    this.#digest = this.#trusted.digest;
    for (const text of later) this.add(text);
  }

  /** Takes a root that the log holds. @throws FleetError where it does not follow. */
  add(text: string): void {
    const envelope = parseEnvelope(text);
    const digest = rootDigest(envelope.payload);
    if (this.#root !== null) {
      this.#root = verifyRootUpdate(this.#root, envelope);
      this.#logKeys.add(this.#root.log.vkey);
      this.#later.push(text);
    } else if (digest === this.#trusted.digest) this.#root = this.#trusted.root;
    else {
      const { version } = this.#trusted.root;
      throw new FleetError(
        'E_ROOT_CHAIN',
        `the log begins with another root than version ${version} here`,
        { hint: 'begin with the first root of the fleet, 1.root.json, as it came to you' },
      );
    }
    this.#digest = digest;
  }
}
