// The newest root and what is to change → the next one, as a draft; a draft or a half-signed root and one
// more signature → an envelope (SPEC §3.4). A draft is a root's payload as indented JSON, to be read, edited
// and carried to where the keys are; what is signed is its canonical form. Nothing here decides whether a
// root counts: that is verifyRootUpdate's.

import { sign, verify } from '../ed25519.ts';
import { FleetError, messageOf } from '../errors.ts';
import { keyId, type PublicKey, publicKeyBytes, publicKeyOfSecret } from '../keyfile.ts';
import { formatNixPublicKey, parseNixPublicKey } from '../nix/signature.ts';
import type { TreeHead } from '../tlog/merkle.ts';
import { formatVerifierKey, NOTE_COSIGNATURE, NOTE_ED25519 } from '../tlog/vkey.ts';
import { addSignature, type Envelope, pae, parseEnvelope } from './dsse.ts';
import { canonicalBytes } from './jcs.ts';
import { formatRoot, parseRoot, ROOT_PAYLOAD_TYPE, type Root } from './root.ts';
import { keyUses } from './root-form.ts';

export const ROLES = ['root', 'release', 'director'] as const;
export const SINGLE_ROLES = ['log', 'freshness', 'nonce'] as const;
export type KeyedRole = (typeof ROLES)[number] | (typeof SINGLE_ROLES)[number];

export type RootChanges = {
  /** POSIX seconds; the next root is valid for `days` from then. */
  readonly now: number;
  readonly days: number;
  /** All the keys of a role, in place of those it had. */
  readonly keys: ReadonlyMap<KeyedRole, readonly PublicKey[]>;
  /** As Nix writes them, in place of those there were; null: the same. */
  readonly cacheKeys: readonly string[] | null;
  readonly thresholds: ReadonlyMap<(typeof ROLES)[number], number>;
  /** IDs of keys that lose their role and are named as revoked. */
  readonly revoke: readonly string[];
  /** Agents forget sequences of the epoch before. */
  readonly newEpoch: boolean;
  /** Another log begins, for a server that was restored from a backup. */
  readonly newLog: boolean;
  /** What every checkpoint must go on from; null: as before. */
  readonly anchor: TreeHead | null;
  /** How many entries the log has: those after it do not count if a revoked key signed them. */
  readonly logSize: number;
};

/** @throws FleetError E_ROOT_FORM, E_KEY_ROLE, E_USAGE. */
export function draftRoot(current: Root, changes: RootChanges): Root {
  const { now, keys, thresholds, newLog, anchor } = changes;
  const gone = revokedKeys(current, changes.revoke);
  const keysOf = (role: KeyedRole, had: readonly PublicKey[]): readonly PublicKey[] => {
    const left = (keys.get(role) ?? had).filter((key) => !gone.includes(key));
    if (left.length > 0) return left;
    throw new FleetError('E_USAGE', `role ${role} would have no key left`, {
      hint: `name the key that takes its place: --key ${role}=FILE`,
    });
  };
  const role = (name: (typeof ROLES)[number]) => {
    const { keys: had, threshold } = current.roles[name];
    return { keys: keysOf(name, had), threshold: thresholds.get(name) ?? threshold };
  };
  const single = (name: KeyedRole): readonly PublicKey[] =>
    keysOf(
      name,
      keyUses(current)
        .filter((use) => use.role === name)
        .map(({ key }) => key),
    );
  const number = Number(current.log.origin.split('/').at(-1)) + (newLog ? 1 : 0);
  const origin = `${current.fleet}/log/${number}`;
  const [logKey, ...more] = single('log');
  if (logKey === undefined || more.length > 0) {
    throw new FleetError('E_USAGE', 'a log has one key', { hint: 'give --key log=FILE once' });
  }
  const nothing = { size: 0, root: EMPTY };
  const from = newLog ? nothing : anchor;
  const freshnessName = `${current.fleet}/freshness`;
  const next: Root = {
    ...current,
    version: current.version + 1,
    epoch: current.epoch + (changes.newEpoch ? 1 : 0),
    issuedAt: now,
    expiresAt: now + changes.days * 86_400,
    roles: { root: role('root'), release: role('release'), director: role('director') },
    log: {
      origin,
      vkey: formatVerifierKey({ name: origin, type: NOTE_ED25519, publicKey: logKey }),
      anchor: from === null ? current.log.anchor : { size: from.size, sha256: hex(from.root) },
    },
    freshness: {
      keys: single('freshness').map((publicKey) =>
        formatVerifierKey({ name: freshnessName, type: NOTE_COSIGNATURE, publicKey }),
      ),
    },
    nonce: { keys: single('nonce') },
    cache: {
      keys: changes.cacheKeys ?? current.cache.keys.filter((text) => !isGoneCacheKey(text, gone)),
    },
    revoked: [
      ...current.revoked,
      ...gone.map((key) => ({ key, notAfterIndex: Math.max(changes.logSize - 1, 0) })),
    ],
  };
  return parseRoot(formatRoot(next));
}

const EMPTY = Buffer.from(
  'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  'hex',
);

/** The draft's text. */
export function formatDraft(root: Root): string {
  const payload: unknown = JSON.parse(Buffer.from(formatRoot(root)).toString());
  return `${JSON.stringify(payload, null, 2)}\n`;
}

export const DRAFT_ADVICE =
  'give what fleet root rotate wrote, or an N.root.json, as it was made or signed';

/**
 * A draft, or an envelope that may have signatures already, as an envelope.
 * @throws FleetError E_ROOT_FORM, E_KEY_ROLE, E_ENVELOPE, E_PAYLOAD_FORM.
 */
export function openDraft(text: string): Envelope {
  if (text.includes('"payloadType"')) {
    const envelope = parseEnvelope(text);
    if (envelope.payloadType !== ROOT_PAYLOAD_TYPE) {
      throw new FleetError('E_ROOT_FORM', 'the envelope holds something else than a root', {
        hint: DRAFT_ADVICE,
      });
    }
    parseRoot(envelope.payload);
    return envelope;
  }
  let payload: Uint8Array;
  try {
    const draft: unknown = JSON.parse(text);
    payload = canonicalBytes(draft);
    // What is read first by a person who signs would not be what is signed.
    if (namesIn(text) !== fieldsOf(draft)) throw new Error('it has a field twice');
  } catch (cause) {
    throw new FleetError('E_ROOT_FORM', `not a draft of a root: ${messageOf(cause)}`, {
      hint: DRAFT_ADVICE,
      cause,
    });
  }
  parseRoot(payload);
  return { payloadType: ROOT_PAYLOAD_TYPE, payload, signatures: [] };
}

/** How many names of fields a JSON text has: strings with a colon behind them. */
function namesIn(text: string): number {
  return [...text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?/g)].filter(([, colon]) => colon).length;
}

function fieldsOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const inside = Object.values(value).reduce((sum: number, one) => sum + fieldsOf(one), 0);
  return inside + (Array.isArray(value) ? 0 : Object.keys(value).length);
}

/** The envelope's text with a signature by `secret`, in place of one that the key made before. */
export function signWith(envelope: Envelope, secret: Uint8Array): string {
  const message = pae(envelope.payloadType, envelope.payload);
  return addSignature(envelope, publicKeyOfSecret(secret), sign(message, secret));
}

/**
 * The same with a signature that another program made over `pae` of the envelope (64 bytes).
 * @throws FleetError E_SIGNATURE when it does not hold.
 */
export function attachSignature(envelope: Envelope, key: PublicKey, signature: Uint8Array): string {
  const message = pae(envelope.payloadType, envelope.payload);
  if (!verify(signature, message, publicKeyBytes(key))) {
    throw new FleetError('E_SIGNATURE', `it is no signature of this by key ${keyId(key)}`, {
      hint: 'sign the file that --pae wrote: openssl pkeyutl -sign -rawin -inkey KEY -in FILE',
    });
  }
  return addSignature(envelope, key, signature);
}

function revokedKeys(root: Root, ids: readonly string[]): PublicKey[] {
  return ids.map((id) => {
    const use = keyUses(root).find(({ key }) => keyId(key) === id || key === id);
    if (use !== undefined) return use.key;
    throw new FleetError('E_USAGE', `root version ${root.version} has no key ${id}`, {
      hint: 'see: fleet root show',
    });
  });
}

function isGoneCacheKey(text: string, gone: readonly PublicKey[]): boolean {
  const { publicKey } = parseNixPublicKey(text);
  return gone.some((key) => Buffer.from(publicKeyBytes(key)).equals(Buffer.from(publicKey)));
}

/** Used where a cache key is given by hand: refuses what Nix would not read. */
export function parseCacheKey(text: string): string {
  return formatNixPublicKey(parseNixPublicKey(text));
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
