// The last leaf of every publication ↔ what each host is to run at that moment, as one hash (SPEC §9.5):
// the newest root, and the RFC 6962 root over one entry for each host, sorted bytewise by id. It is what
// keeps a server from hiding a newer manifest, and from mixing two publications. Refuses any other spelling.
import { createHash } from 'node:crypto';
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { FleetError } from '../errors.ts';
import { HASH_BYTES, hashLeaf } from '../tlog/merkle.ts';
import { canonicalBytes } from './jcs.ts';

export type Snapshot = {
  /** Counts the snapshots of a log, from 1. */
  readonly sequence: number;
  /** The newest root: its version, and the SHA-256 of its payload in lowercase hex. */
  readonly rootVersion: number;
  readonly rootSha256: string;
  /** How many hosts ever had a manifest, decommissioned ones included. */
  readonly hosts: number;
  /** 32 bytes: the root of the tree over the hosts' entries. */
  readonly root: Uint8Array;
};

/** A host's newest manifest: its number, and the SHA-256 of its payload in lowercase hex. */
export type SnapshotEntry = {
  readonly host: string;
  readonly epoch: number;
  readonly sequence: number;
  readonly sha256: string;
};

const HEADER = 'fleet-snapshot/v1';
const NUMBER = '[1-9]\\d{0,15}';
const FORM = new RegExp(
  `^${HEADER}\\n(${NUMBER})\\n(${NUMBER}) ([0-9a-f]{64})\\n(0|${NUMBER})\\n([A-Za-z0-9+/]{43}=)\\n$`,
);

/** @throws FleetError E_SNAPSHOT_FORM. */
export function parseSnapshot(text: string): Snapshot {
  const [, sequence, rootVersion, rootSha256, hosts, base64] = FORM.exec(text) ?? [];
  const root = decodeBase64(base64 ?? '');
  const numbers = [sequence, rootVersion, hosts].map(Number);
  if (root?.length !== HASH_BYTES || !numbers.every(Number.isSafeInteger)) {
    throw new FleetError('E_SNAPSHOT_FORM', 'the last entry of the log is not a snapshot');
  }
  const [first = 0, second = 0, third = 0] = numbers;
  return {
    ...{ sequence: first, rootVersion: second, hosts: third },
    ...{ rootSha256: rootSha256 ?? '', root },
  };
}

/** The leaf's text. @throws FleetError E_SNAPSHOT_FORM for what parseSnapshot would not accept. */
export function formatSnapshot(snapshot: Snapshot): string {
  const { sequence, rootVersion, rootSha256, hosts, root } = snapshot;
  const lines = [HEADER, sequence, `${rootVersion} ${rootSha256}`, hosts, encodeBase64(root)];
  const text = `${lines.join('\n')}\n`;
  parseSnapshot(text);
  return text;
}

/** True for the data of a leaf that begins as snapshots do; what else is in the log is JSON. */
export function isSnapshotLeaf(data: Uint8Array): boolean {
  return Buffer.from(data.subarray(0, HEADER.length + 1)).toString('latin1') === `${HEADER}\n`;
}

/** An entry's hash as a leaf of the snapshot's tree. */
export function hashEntry({ host, epoch, sequence, sha256 }: SnapshotEntry): Uint8Array {
  return hashLeaf(canonicalBytes({ host, epoch, sequence, sha256 }));
}

/** In the order of the snapshot's tree: bytewise by id, which is of ASCII. */
export function compareHosts(one: { host: string }, other: { host: string }): number {
  return one.host < other.host ? -1 : one.host > other.host ? 1 : 0;
}

/** What a snapshot names a root by: the SHA-256 of its payload, lowercase hex. */
export function rootDigest(payload: Uint8Array): string {
  return createHash('sha256').update(payload).digest('hex');
}
