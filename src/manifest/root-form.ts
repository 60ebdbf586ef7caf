// The form of a root's payload (SPEC §3.1, §3.2): its schema, and what no schema can say.
// Refuses, with E_ROOT_FORM naming the field: unknown fields, thresholds that the keys cannot meet,
// a log origin that is not this fleet's, witnesses (reserved), groups that cannot be told apart or
// approved; and, with E_KEY_ROLE, one public key in two places.
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { encodeBase64 } from '../base64.ts';
import { FleetError, messageOf } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { parseNixPublicKey } from '../nix/signature.ts';
import { NOTE_COSIGNATURE, NOTE_ED25519, parseVerifierKey } from '../tlog/vkey.ts';
import { Count, Exact, FleetName, Ordinal, PublicKeyText, Sha256, Time } from './fields.ts';
import type { Frozen } from './shape.ts';

const Role = Exact({
  keys: Type.Array(PublicKeyText, { minItems: 1, maxItems: 32 }),
  threshold: Ordinal,
});

/** The payload of a root, type `application/vnd.fleet.root+json`. */
export const RootSchema = Exact({
  version: Ordinal,
  issuedAt: Time,
  expiresAt: Time,
  fleet: FleetName,
  epoch: Ordinal,
  roles: Exact({ root: Role, release: Role, director: Role }),
  log: Exact({
    origin: Type.String({ maxLength: 255 }),
    vkey: Type.String({ maxLength: 512 }),
    anchor: Exact({ size: Count, sha256: Sha256 }),
  }),
  freshness: Exact({
    keys: Type.Array(Type.String({ maxLength: 512 }), { minItems: 1, maxItems: 8 }),
  }),
  nonce: Exact({ keys: Type.Array(PublicKeyText, { minItems: 1, maxItems: 8 }) }),
  cache: Exact({
    keys: Type.Array(Type.String({ maxLength: 512 }), { minItems: 1, maxItems: 8 }),
  }),
  groups: Type.Array(
    Exact({
      name: Type.String({ pattern: '^[a-z0-9-]{1,63}$' }),
      hosts: Type.Array(Type.String({ pattern: '^([a-z0-9-]{1,63}|[a-z0-9-]{0,62}\\*)$' }), {
        minItems: 1,
      }),
      approvals: Count,
    }),
    { maxItems: 256 },
  ),
  limits: Exact({ closureBytes: Ordinal, closurePaths: Ordinal, narBytes: Ordinal }),
  maxAge: Ordinal,
  witnesses: Type.Array(Type.Never(), { maxItems: 0 }),
  revoked: Type.Array(Exact({ key: PublicKeyText, notAfterIndex: Count }), { maxItems: 256 }),
});

export type RootPayload = Frozen<Static<typeof RootSchema>>;

/** A public key that the root names, and the place that names it. */
export type KeyUse = { readonly key: PublicKey; readonly role: string };

type KeyPlaces = Pick<RootPayload, 'roles' | 'log' | 'freshness' | 'nonce' | 'cache'>;

/** Every key of a root with its role. @throws FleetError E_PUBLIC_KEY, E_NIX_KEY. */
export function keyUses(root: KeyPlaces): KeyUse[] {
  const uses = (role: string, keys: readonly PublicKey[]): KeyUse[] =>
    keys.map((key) => ({ key, role }));
  return [
    ...uses('root', root.roles.root.keys),
    ...uses('release', root.roles.release.keys),
    ...uses('director', root.roles.director.keys),
    ...uses('log', [parseVerifierKey(root.log.vkey, NOTE_ED25519).publicKey]),
    ...uses(
      'freshness',
      root.freshness.keys.map((text) => parseVerifierKey(text, NOTE_COSIGNATURE).publicKey),
    ),
    ...uses('nonce', root.nonce.keys),
    ...uses(
      'cache',
      root.cache.keys.map((text) => encodeBase64(parseNixPublicKey(text).publicKey) as PublicKey),
    ),
  ];
}

/** @throws FleetError E_ROOT_FORM, E_KEY_ROLE unless the payload means something. SPEC §3.2 */
export function checkRootMeaning(root: RootPayload): void {
  let uses: KeyUse[];
  try {
    uses = keyUses(root);
  } catch (cause) {
    throw new FleetError('E_ROOT_FORM', `root: ${messageOf(cause)}`, { cause });
  }
  const seen = new Map<string, string>();
  for (const { key, role } of uses) {
    const other = seen.get(key);
    if (other === role) refuse(`names ${role} key ${key} twice`);
    if (other !== undefined) {
      throw new FleetError('E_KEY_ROLE', `root: key ${key} holds the roles ${other} and ${role}`);
    }
    seen.set(key, role);
  }
  for (const { key } of root.revoked) {
    if (seen.has(key)) refuse(`key ${key} is revoked and holds the role ${seen.get(key)}`);
  }
  for (const [name, role] of Object.entries(root.roles)) {
    if (role.threshold > role.keys.length) {
      refuse(
        `roles.${name} needs ${role.threshold} signatures and has ${role.keys.length} ${role.keys.length === 1 ? 'key' : 'keys'}`,
      );
    }
  }
  if (root.expiresAt <= root.issuedAt) refuse('it expires before it is issued');
  checkLog(root);
  checkGroups(root);
}

function checkLog(root: RootPayload): void {
  const { origin, vkey } = root.log;
  const prefix = `${root.fleet}/log/`;
  if (!origin.startsWith(prefix) || !/^[1-9]\d{0,14}$/.test(origin.slice(prefix.length))) {
    refuse(`log.origin must be ${prefix}<number>`);
  }
  if (parseVerifierKey(vkey, NOTE_ED25519).name !== origin) refuse('log.vkey must name log.origin');
}

function checkGroups(root: RootPayload): void {
  const names = new Set<string>();
  for (const { name, approvals } of root.groups) {
    if (names.has(name)) refuse(`two groups are named ${name}`);
    names.add(name);
    if (approvals > root.roles.release.keys.length) {
      refuse(`group ${name} wants ${approvals} approvals, more than there are release keys`);
    }
  }
}

function refuse(what: string): never {
  throw new FleetError('E_ROOT_FORM', `root: ${what}`);
}
