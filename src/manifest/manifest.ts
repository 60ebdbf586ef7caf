// A manifest's signed bytes ↔ what one host is to run, and under which rules (SPEC §4): an in-toto
// Statement v1 with a predicate of our own. Deploy and rollback name a toplevel and its closure;
// decommission names none, and its subject is the manifest that it ends.
// Refuses unknown fields of the predicate, subjects that the predicate contradicts, and numbers and
// times that contradict each other. Who signed it, and whether it applies here: verify.ts.
import { createHash } from 'node:crypto';
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { FleetError } from '../errors.ts';
import { formatNarHash, type NarHash, narHashHex } from '../nix/hash.ts';
import type { StorePath } from '../nix/storepath.ts';
import { ActivationSchema } from './activation.ts';
import {
  Count,
  Exact,
  FleetName,
  HostId,
  Line,
  Nullable,
  Ordinal,
  Sha256,
  StorePathText,
  System,
  Time,
} from './fields.ts';
import { type Frozen, requireShape } from './shape.ts';
import { formatStatement, parseStatement, requireSubjects, type Subject } from './statement.ts';
import { formatTime, parseTime } from './time.ts';

export const MANIFEST_PREDICATE_TYPE = 'urn:fleet:manifest:v1';

const COMMON = {
  fleet: Exact({ name: FleetName, rootVersion: Ordinal }),
  host: Exact({ id: HostId, system: System }),
  epoch: Ordinal,
  sequence: Ordinal,
  minSequence: Count,
  previous: Nullable(Exact({ epoch: Ordinal, sequence: Ordinal, sha256: Sha256 })),
  emergency: Type.Boolean(),
  issuedAt: Time,
  notBefore: Time,
  expiresAt: Time,
};

const Provenance = Exact({
  flakeRef: Line,
  rev: Type.Optional(Type.String({ pattern: '^([0-9a-f]{40}|[0-9a-f]{64})$' })),
  dirty: Type.Optional(Type.Literal(true)),
  flakeNarHash: Type.Optional(Line),
  lockSha256: Type.Optional(Sha256),
  attribute: Line,
  drvPath: StorePathText,
  builder: Exact({ id: Line, nixVersion: Line, system: System }),
});

/** The predicate of a manifest that names a system. */
export const DeploymentSchema = Exact({
  ...COMMON,
  intent: Type.Enum(['deploy', 'rollback']),
  toplevel: StorePathText,
  closure: Exact({ sha256: Sha256, bytes: Ordinal, paths: Ordinal, narBytes: Ordinal }),
  activation: ActivationSchema,
  provenance: Provenance,
});

/** The predicate of a manifest that ends a host. */
export const DecommissionSchema = Exact({ ...COMMON, intent: Type.Literal('decommission') });

type DeploymentPayload = Frozen<Static<typeof DeploymentSchema>>;
type DecommissionPayload = Frozen<Static<typeof DecommissionSchema>>;

type Times = 'issuedAt' | 'notBefore' | 'expiresAt';
type WithTimes<Payload> = Omit<Payload, Times> & {
  /** POSIX seconds. */
  readonly issuedAt: number;
  readonly notBefore: number;
  readonly expiresAt: number;
};

/** Where a system came from. */
export type Provenance = {
  readonly flakeRef: string;
  /** Commit of the flake; null for a source that no revision names ("dirty"). */
  readonly rev: string | null;
  /** SRI hash of the flake's source, where known. */
  readonly flakeNarHash: string | null;
  readonly lockSha256: string | null;
  readonly attribute: string;
  readonly drvPath: StorePath;
  readonly builder: DeploymentPayload['provenance']['builder'];
};

/** A manifest that names a system to run. Times are POSIX seconds. */
export type Deployment = Omit<WithTimes<DeploymentPayload>, 'provenance'> & {
  /** The toplevel's NAR, as its line of closure.fp has it. */
  readonly toplevelNarHash: NarHash;
  readonly provenance: Provenance;
};

/** A manifest that ends a host; `previous` is never null. */
export type Decommission = WithTimes<DecommissionPayload>;

export type Manifest = Deployment | Decommission;

/** The name of the closure file in the first subject. */
const CLOSURE_NAME = 'closure.fp';

/** @throws FleetError E_PAYLOAD_FORM, E_MANIFEST_FORM. SPEC §4.2 */
export function parseManifest(payload: Uint8Array): Manifest {
  const { subjects, predicate } = parseStatement(
    payload,
    MANIFEST_PREDICATE_TYPE,
    'E_MANIFEST_FORM',
    'manifest',
  );
  return intentOf(predicate) === 'decommission'
    ? parseDecommission(predicate, subjects)
    : parseDeployment(predicate, subjects);
}

/** The payload's bytes, canonical. @throws as parseManifest for what parseManifest would not accept. */
export function formatManifest(manifest: Manifest): Uint8Array {
  const statement =
    manifest.intent === 'decommission'
      ? { subjects: decommissionSubjects(manifest), predicate: withTimeTexts(manifest) }
      : { subjects: deploymentSubjects(manifest), predicate: deploymentPayload(manifest) };
  const payload = formatStatement(MANIFEST_PREDICATE_TYPE, statement);
  parseManifest(payload);
  return payload;
}

/** What names a manifest everywhere: SHA-256 of its payload, lowercase hex. SPEC §4.2 */
export function manifestDigest(payload: Uint8Array): string {
  return createHash('sha256').update(payload).digest('hex');
}

function parseDeployment(predicate: unknown, subjects: readonly Subject[]): Deployment {
  const wire = requireShape(DeploymentSchema, predicate, 'E_MANIFEST_FORM', 'manifest');
  const { rev, dirty, flakeNarHash, lockSha256, ...provenance } = wire.provenance;
  if ((rev === undefined) !== (dirty === true)) {
    refuse('provenance has either rev or dirty');
  }
  const narHash = subjects[1]?.sha256;
  if (narHash === undefined) refuse('it has no second subject');
  const manifest = {
    ...withTimeNumbers(wire),
    toplevelNarHash: formatNarHash(Buffer.from(narHash, 'hex')),
    provenance: {
      ...provenance,
      rev: rev ?? null,
      flakeNarHash: flakeNarHash ?? null,
      lockSha256: lockSha256 ?? null,
    },
  };
  requireSubjects(subjects, deploymentSubjects(manifest), 'E_MANIFEST_FORM', 'manifest');
  requireSense(manifest);
  return manifest;
}

function parseDecommission(predicate: unknown, subjects: readonly Subject[]): Decommission {
  const wire = requireShape(DecommissionSchema, predicate, 'E_MANIFEST_FORM', 'manifest');
  const manifest = withTimeNumbers(wire);
  requireSubjects(subjects, decommissionSubjects(manifest), 'E_MANIFEST_FORM', 'manifest');
  requireSense(manifest);
  return manifest;
}

function deploymentPayload(manifest: Deployment): unknown {
  const { toplevelNarHash: _inSubject, provenance, ...rest } = withTimeTexts(manifest);
  const { rev, flakeNarHash, lockSha256, ...source } = provenance;
  return {
    ...rest,
    provenance: {
      ...source,
      ...(rev === null ? { dirty: true } : { rev }),
      ...(flakeNarHash === null ? {} : { flakeNarHash }),
      ...(lockSha256 === null ? {} : { lockSha256 }),
    },
  };
}

function deploymentSubjects(manifest: Deployment): Subject[] {
  return [
    { name: CLOSURE_NAME, sha256: manifest.closure.sha256 },
    { name: manifest.toplevel, sha256: narHashHex(manifest.toplevelNarHash) },
  ];
}

function decommissionSubjects({ host, previous }: Decommission): Subject[] {
  if (previous === null) refuse('a decommission must name the manifest that it ends');
  return [{ name: `manifest of ${host.id}`, sha256: previous.sha256 }];
}

// SPEC §4.3
function requireSense(manifest: WithTimes<Pick<DecommissionPayload, keyof typeof COMMON>>): void {
  const { epoch, sequence, minSequence, previous, issuedAt, notBefore, expiresAt } = manifest;
  if (minSequence > sequence) refuse('minSequence is above its own sequence');
  if (previous !== null) {
    const grows =
      previous.epoch < epoch || (previous.epoch === epoch && previous.sequence < sequence);
    if (!grows) refuse('it does not follow the manifest that it names as previous');
  }
  if (expiresAt <= issuedAt || expiresAt <= notBefore) refuse('it expires before it is valid');
}

function withTimeNumbers<Payload extends Record<Times, string>>(
  payload: Payload,
): WithTimes<Payload> {
  return {
    ...payload,
    issuedAt: parseTime(payload.issuedAt),
    notBefore: parseTime(payload.notBefore),
    expiresAt: parseTime(payload.expiresAt),
  };
}

function withTimeTexts<M extends Record<Times, number>>(manifest: M) {
  return {
    ...manifest,
    issuedAt: formatTime(manifest.issuedAt),
    notBefore: formatTime(manifest.notBefore),
    expiresAt: formatTime(manifest.expiresAt),
  };
}

function intentOf(predicate: unknown): unknown {
  return typeof predicate === 'object' && predicate !== null
    ? Reflect.get(predicate, 'intent')
    : undefined;
}

function refuse(what: string): never {
  throw new FleetError('E_MANIFEST_FORM', `manifest: ${what}`);
}
