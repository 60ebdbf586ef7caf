// What waits for approval, as one file for whoever holds a release key (SPEC §10.2): the roots, each host's new
// manifest and closure, and those it follows. Nothing in it is believed for being in it: trust begins with
// a root that the approver brought, and what is shown is what the approved digest names.
import type { BundleFile } from '../bundle/tar.ts';
import { FleetError, isFleetError } from '../errors.ts';
import type { Closure } from '../nix/closure.ts';
import { parseEnvelope } from './dsse.ts';
import { type Decommission, type Deployment, manifestDigest, parseManifest } from './manifest.ts';
import { approvalThreshold, type Root, requireCurrentRoot, verifyRootUpdate } from './root.ts';
import { verifyClosure, verifyProposal } from './verify.ts';

/** One host's change, as it is proposed. */
export type Proposed = {
  /** SHA-256 of the payload, lowercase hex: what is approved. */
  readonly digest: string;
  /** What it follows, if that names a system; null for a host's first. */
  readonly before: { readonly manifest: Deployment; readonly closure: Closure } | null;
  /** How many release keys must approve it. */
  readonly approvals: number;
} & (
  | { readonly manifest: Deployment; readonly closure: Closure }
  /** It ends the host. */
  | { readonly manifest: Decommission; readonly closure: null }
);

export type Proposal = { readonly root: Root; readonly changes: readonly Proposed[] };

/** Of a proposal of at most so many bytes in all. */
export const PROPOSAL_LIMITS = { fileBytes: 128 * 2 ** 20, totalBytes: 1024 * 2 ** 20 };

export type ProposalPart = {
  readonly host: string;
  /** Envelopes. */
  readonly manifest: string;
  readonly before: string | null;
};

/** Names of a proposal's files. */
export const PROPOSAL_FILES = {
  root: (version: number): string => `root/${version}.root.json`,
  manifest: (host: string): string => `manifest/${host}.json`,
  before: (host: string): string => `before/${host}.json`,
  closure: (sha256: string): string => `closure/${sha256}.fp`,
};

/** The files of a proposal; `closure` gives the bytes of a closure file, or null where it is gone. */
export async function* proposalFiles(
  roots: readonly string[],
  parts: readonly ProposalPart[],
  closure: (sha256: string) => Promise<Uint8Array | null>,
): AsyncGenerator<BundleFile> {
  for (const [i, text] of roots.entries()) {
    yield { name: PROPOSAL_FILES.root(i + 1), data: Buffer.from(text) };
  }
  const closures = new Set<string>();
  for (const { host, manifest, before } of parts) {
    yield { name: PROPOSAL_FILES.manifest(host), data: Buffer.from(manifest) };
    if (before !== null) yield { name: PROPOSAL_FILES.before(host), data: Buffer.from(before) };
    for (const text of before === null ? [manifest] : [manifest, before]) {
      const parsed = parseManifest(parseEnvelope(text).payload);
      if (parsed.intent !== 'decommission') closures.add(parsed.closure.sha256);
    }
  }
  for (const sha256 of [...closures].sort()) {
    const data = await closure(sha256);
    if (data !== null) yield { name: PROPOSAL_FILES.closure(sha256), data };
  }
}

/**
 * What is proposed, under `trusted`, which the approver brought, or a newer root that follows from it.
 * @throws FleetError E_PROPOSAL_FORM; those of a root and of a manifest.
 */
export function openProposal(
  files: ReadonlyMap<string, Uint8Array>,
  trusted: Root,
  now: number,
): Proposal {
  let root = trusted;
  for (;;) {
    const next = files.get(PROPOSAL_FILES.root(root.version + 1));
    if (next === undefined) break;
    root = verifyRootUpdate(root, parseEnvelope(next));
  }
  requireCurrentRoot(root, now);
  const changes: Proposed[] = [];
  for (const [name, data] of files) {
    const host = /^manifest\/(.+)\.json$/.exec(name)?.[1];
    if (host !== undefined) changes.push(openChange(host, data, files, root, now));
    else if (!/^(root\/[1-9]\d*\.root\.json|before\/.+\.json|closure\/.+\.fp)$/.test(name)) {
      refuse(`${name} does not belong to it`);
    }
  }
  if (changes.length === 0) refuse('it proposes nothing');
  return { root, changes };
}

function openChange(
  host: string,
  envelope: Uint8Array,
  files: ReadonlyMap<string, Uint8Array>,
  root: Root,
  now: number,
): Proposed {
  try {
    const { manifest, digest } = verifyProposal({ envelope, root, now });
    if (manifest.host.id !== host) refuse(`it is a manifest of ${manifest.host.id}`);
    const common = {
      digest,
      approvals: approvalThreshold(root, host),
      before: beforeOf(manifest, files),
    };
    if (manifest.intent === 'decommission') return { ...common, manifest, closure: null };
    return { ...common, manifest, closure: closureOf(manifest, files) };
  } catch (cause) {
    if (!isFleetError(cause)) throw cause;
    throw new FleetError(cause.code, `${host}: ${cause.message}`, { cause });
  }
}

/** Not verified again (its time may be over, its keys revoked): the new one names its digest. */
function beforeOf(
  manifest: Deployment | Decommission,
  files: ReadonlyMap<string, Uint8Array>,
): Proposed['before'] {
  const { previous, host } = manifest;
  const data = files.get(PROPOSAL_FILES.before(host.id));
  if (previous === null) return null;
  if (data === undefined) refuse('the manifest that it follows is missing');
  const { payload } = parseEnvelope(data);
  if (manifestDigest(payload) !== previous.sha256) {
    refuse('what is said to come before it is another manifest than the one it follows');
  }
  const before = parseManifest(payload);
  // Under a newer root it is said again.
  if (before.intent === 'decommission' && manifest.intent === 'decommission') return null;
  if (before.intent === 'decommission') refuse('it follows one that ended the host');
  return { manifest: before, closure: closureOf(before, files) };
}

function closureOf(manifest: Deployment, files: ReadonlyMap<string, Uint8Array>): Closure {
  const { sha256 } = manifest.closure;
  const data = files.get(PROPOSAL_FILES.closure(sha256));
  if (data === undefined) refuse(`the closure ${sha256} is missing`);
  return verifyClosure(manifest, data);
}

function refuse(what: string): never {
  throw new FleetError('E_PROPOSAL_FORM', `proposal: ${what}`);
}
