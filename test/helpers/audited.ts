// A fleet that publishes as fleet does, unless it is told to lie; and its log, as a bundle or a server shows it.
import { Readable } from 'node:stream';
import { auditLog, type LogSource } from '../../src/audit/audit.ts';
import { factsOf } from '../../src/audit/facts.ts';
import type { FactsPool } from '../../src/audit/facts-pool.ts';
import { makeApproval } from '../../src/manifest/approval.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { signEnrolment } from '../../src/manifest/enrolment.ts';
import {
  type Decommission,
  type Deployment,
  formatManifest,
  manifestDigest,
} from '../../src/manifest/manifest.ts';
import { type Receipt, signReceipt } from '../../src/manifest/receipt.ts';
import type { Root } from '../../src/manifest/root.ts';
import { rootDigest, type SnapshotEntry } from '../../src/manifest/snapshot.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { hashLeaf, rootOf } from '../../src/tlog/merkle.ts';
import type { TileReader } from '../../src/tlog/prove.ts';
import { formatBundle, TILE_WIDTH } from '../../src/tlog/tile.ts';
import { formatVerifierKey, NOTE_ED25519 } from '../../src/tlog/vkey.ts';
import { TestLog } from './log.ts';
import {
  KEYS,
  makeManifest,
  makeRoot,
  NOW,
  publicKey,
  SECRETS,
  secretKey,
  signManifest,
  signRoot,
  storePath,
} from './trust.ts';

export const LOG_KEYS = { log: SECRETS.log, freshness: SECRETS.freshness };
export const FIRST = makeRoot({
  keys: { ...KEYS, release: [publicKey(2), publicKey(12)] },
  groups: [
    { name: 'all', hosts: ['*'], approvals: 0 },
    { name: 'gates', hosts: ['gate-*'], approvals: 2 },
  ],
});
/** In this thread: what threads add is tested by itself. */
export const pool: FactsPool = {
  width: 3,
  facts: async (entries, keys) => factsOf(entries, keys),
  [Symbol.asyncDispose]: async () => {},
};

/** A fleet that publishes as fleet does, unless it is told to lie. */
export class Fleet {
  readonly log = new TestLog();
  readonly batches = new Map<number, readonly string[]>();
  readonly receipts = new Map<string, string[]>();
  /** What the server refused. */
  readonly conflicts = new Map<string, string[]>();
  readonly last = new Map<string, { epoch: number; sequence: number; sha256: string }>();
  readonly chain = new Map<string, { counter: number; digest: string }>();
  #told = new Map<string, SnapshotEntry>();
  root: Root = FIRST;
  envelope = signRoot(FIRST);

  constructor() {
    this.append([this.envelope]);
  }

  append(entries: readonly string[]): void {
    this.#told = new Map(this.log.hosts);
    const sha256 = rootDigest(parseEnvelope(this.envelope).payload);
    this.log.publish(entries, { version: this.root.version, sha256 });
  }

  /** The next manifest of a host, noted as its newest. */
  manifest(host: string, changes: Partial<Deployment> = {}, ...keys: Uint8Array[]): string {
    const last = this.last.get(host) ?? null;
    const manifest = makeManifest({
      host: { id: host, system: 'x86_64-linux' },
      fleet: { name: this.root.fleet, rootVersion: this.root.version },
      epoch: this.root.epoch,
      sequence: (last?.sequence ?? 0) + 1,
      previous: last,
      ...changes,
    });
    const sha256 = manifestDigest(formatManifest(manifest));
    const { epoch, sequence } = manifest;
    this.last.set(host, { epoch, sequence, sha256 });
    this.log.hosts.set(host, { host, epoch, sequence, sha256 });
    return signManifest(manifest, ...keys);
  }

  publish(host: string, changes: Partial<Deployment> = {}, ...keys: Uint8Array[]): number {
    this.append([this.manifest(host, changes, ...keys)]);
    return this.log.size - 2;
  }

  /** The manifest that ends a host; returns its entry. */
  remove(host: string): number {
    const previous = this.last.get(host) ?? null;
    const { toplevel, toplevelNarHash, closure, activation, provenance, ...rest } = makeManifest({
      host: { id: host, system: 'x86_64-linux' },
      sequence: (previous?.sequence ?? 0) + 1,
      previous,
    });
    const manifest = { ...rest, intent: 'decommission' } as Decommission;
    const sha256 = manifestDigest(formatManifest(manifest));
    const { epoch, sequence } = manifest;
    this.log.hosts.set(host, { host, epoch, sequence, sha256 });
    this.append([signManifest(manifest)]);
    return this.log.size - 2;
  }

  approve(digests: readonly string[], ...keys: Uint8Array[]): void {
    const times = { issuedAt: NOW - 10, expiresAt: NOW + 86_400 };
    const { payload, batch } = makeApproval(digests, times, this.root);
    this.batches.set(this.log.size, batch);
    this.append([signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, keys)]);
  }

  rotate(changes: Partial<Root>, ...keys: Uint8Array[]): void {
    this.root = { ...this.root, version: this.root.version + 1, ...changes };
    this.envelope = signRoot(this.root, ...keys);
    this.append([this.envelope]);
  }

  enrol(host: string, key: number, replaces: number | null = null, director = SECRETS.director) {
    const keys = {
      publicKey: publicKey(key),
      replaces: replaces === null ? null : publicKey(replaces),
    };
    this.append([signEnrolment({ fleet: this.root.fleet, host, ...keys }, director)]);
  }

  report(host: string, key: number, changes: Partial<Receipt> = {}): void {
    const before = this.chain.get(host);
    const last = this.last.get(host);
    const receipt: Receipt = {
      fleet: this.root.fleet,
      host,
      counter: (before?.counter ?? 0) + 1,
      previous: before?.digest ?? null,
      manifest: last ?? null,
      checkpoint: this.log.checkpoint(this.root, LOG_KEYS, NOW),
      conflict: null,
      phase: 'in-sync',
      reason: null,
      booted: null,
      current: storePath('c', 'host'),
      profile: null,
      exitCode: 0,
      failedUnits: { added: [], removed: [] },
      who: 'policy',
      times: { started: NOW, finished: NOW + 10 },
      ...changes,
    };
    const { envelope, digest } = signReceipt(receipt, secretKey(key));
    this.chain.set(host, { counter: receipt.counter, digest });
    this.receipts.set(host, [...(this.receipts.get(host) ?? []), envelope]);
  }

  source(): LogSource {
    const { leaves } = this.log;
    const { receipts, conflicts } = this;
    return {
      checkpoint: this.log.checkpoint(this.root, LOG_KEYS, NOW),
      bundle: async (index, width) =>
        formatBundle(leaves.slice(index * TILE_WIDTH, index * TILE_WIDTH + width)),
      batch: async (index) => this.batches.get(index) ?? null,
      async *receipts() {
        for (const [host, envelopes] of receipts) {
          yield { host, envelopes: Readable.from(envelopes), contradict: false };
        }
        for (const [host, envelopes] of conflicts) {
          yield { host, envelopes: Readable.from(envelopes), contradict: true };
        }
      },
    };
  }

  /** As a server shows it, which may be asked for any part. `asked`: takes the bundles that were. */
  served(
    asked: number[],
    leaves: readonly Uint8Array[] = this.log.leaves,
  ): LogSource & { readonly tile: TileReader } {
    const source = this.source();
    const hashes = leaves.map(hashLeaf);
    return {
      ...source,
      async bundle(index, width) {
        asked.push(index);
        return formatBundle(leaves.slice(index * TILE_WIDTH, index * TILE_WIDTH + width));
      },
      async *receipts() {},
      async tile({ level, index, width }) {
        const span = TILE_WIDTH ** Number(level);
        const nodes = Array.from({ length: width }, (_, i) => {
          const at = (index * TILE_WIDTH + i) * span;
          return rootOf(hashes.slice(at, at + span));
        });
        return Buffer.concat(nodes);
      },
    };
  }

  /** What the newest snapshot says of a host. */
  told(host: string): SnapshotEntry | undefined {
    return this.#told.get(host);
  }

  /** What a root says that begins another log. */
  toLog(number: number): Pick<Root, 'log'> {
    const origin = `${this.root.fleet}/log/${number}`;
    const vkey = formatVerifierKey({ name: origin, type: NOTE_ED25519, publicKey: KEYS.log });
    return { log: { ...this.root.log, origin, vkey } };
  }

  audit(seen: string | null = null) {
    const before = seen === null ? null : { checkpoint: seen };
    return auditLog(this.source(), signRoot(FIRST), pool, before);
  }

  /** Codes and places of what is irregular. */
  async irregular(): Promise<[string, number | null][]> {
    const { irregularities } = await this.audit();
    return irregularities.map(({ code, index }) => [code, index]);
  }
}

/** A fleet with a past: three hosts, an approval, a rotation, an enrolment, a host that was away. */
export function honest(): Fleet {
  const fleet = new Fleet();
  fleet.publish('web-1');
  fleet.append([fleet.manifest('web-2'), fleet.manifest('web-1')]);
  const gate = fleet.manifest('gate-1');
  fleet.log.hosts.delete('gate-1');
  fleet.approve([fleet.last.get('gate-1')?.sha256 ?? ''], SECRETS.release, secretKey(12));
  const { epoch, sequence, sha256 } = fleet.last.get('gate-1') as {
    epoch: 1;
    sequence: 1;
    sha256: string;
  };
  fleet.log.hosts.set('gate-1', { host: 'gate-1', epoch, sequence, sha256 });
  fleet.append([gate]);
  fleet.enrol('web-1', 31);
  fleet.report('web-1', 31);
  fleet.report('web-1', 31);
  fleet.rotate({ roles: { ...FIRST.roles, director: { keys: [publicKey(13)], threshold: 1 } } });
  fleet.append([
    fleet.manifest('web-1', {}, secretKey(13)),
    fleet.manifest('web-2', {}, secretKey(13)),
  ]);
  fleet.report('web-1', 31, { current: storePath('d', 'next') });
  return fleet;
}
