// A small fleet with every key it needs, for tests of what is signed. Secret keys are 32 equal bytes,
// as in docs/SPEC.md, so that a failing test shows the same values in every run.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { publicKeyOf } from '../../src/ed25519.ts';
import { type ErrorCode, isFleetError } from '../../src/errors.ts';
import { type PublicKey, publicKeyOfSecret } from '../../src/keyfile.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { signEnvelope } from '../../src/manifest/dsse.ts';
import { type Deployment, formatManifest, type Manifest } from '../../src/manifest/manifest.ts';
import {
  formatRoot,
  type InitialRoot,
  makeInitialRoot,
  ROOT_PAYLOAD_TYPE,
  type Root,
} from '../../src/manifest/root.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { parseTime } from '../../src/manifest/time.ts';
import { type Closure, formatClosure, parseClosure } from '../../src/nix/closure.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { formatNixPublicKey } from '../../src/nix/signature.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';

export const NOW = parseTime('2026-03-01T12:00:00Z');

/** The secret key of 32 bytes `n`. */
export const secretKey = (n: number): Uint8Array => new Uint8Array(32).fill(n);
export const publicKey = (n: number): PublicKey => publicKeyOfSecret(secretKey(n));

export const SECRETS = {
  root: secretKey(1),
  release: secretKey(2),
  director: secretKey(3),
  log: secretKey(4),
  freshness: secretKey(5),
  nonce: secretKey(6),
  cache: secretKey(7),
  host: secretKey(8),
};

export const KEYS = {
  root: [publicKey(1)],
  release: [publicKey(2)],
  director: [publicKey(3)],
  log: publicKey(4),
  freshness: publicKey(5),
  nonce: publicKey(6),
  cache: [formatNixPublicKey({ name: 'cache.example-1', publicKey: publicKeyOf(secretKey(7)) })],
};

export function makeRoot(options: Partial<InitialRoot> = {}): Root {
  return makeInitialRoot({ fleet: 'fleet.example.org', now: NOW, keys: KEYS, ...options });
}

export function signRoot(root: Root, ...secrets: readonly Uint8Array[]): string {
  const signers = secrets.length === 0 ? [SECRETS.root] : secrets;
  return signEnvelope(ROOT_PAYLOAD_TYPE, formatRoot(root), signers);
}

export const storePath = (digit: string, name: string): StorePath =>
  parseStorePath(`/nix/store/${digit.repeat(32)}-${name}`);

/** A closure of three paths: the toplevel needs b, and b needs a. */
export function makeClosure(seed = 0): { readonly bytes: Uint8Array; readonly closure: Closure } {
  const [a, b, toplevel] = [
    storePath('a', 'liba'),
    storePath('b', 'b-1.0'),
    storePath('c', 'host'),
  ];
  const narHash = (n: number) => formatNarHash(new Uint8Array(32).fill(n + seed));
  const bytes = formatClosure([
    { path: a, narHash: narHash(1), narSize: 1000, references: [] },
    { path: b, narHash: narHash(2), narSize: 2000, references: [a, b] },
    { path: toplevel, narHash: narHash(3), narSize: 3000, references: [b] },
  ]);
  return { bytes, closure: parseClosure(bytes, toplevel) };
}

export function makeManifest(overrides: Partial<Deployment> = {}): Deployment {
  const { bytes, closure } = makeClosure();
  const narHash = closure.paths.get(closure.toplevel)?.narHash;
  assert.ok(narHash !== undefined);
  return {
    fleet: { name: 'fleet.example.org', rootVersion: 1 },
    host: { id: 'web-1', system: 'x86_64-linux' },
    epoch: 1,
    sequence: 7,
    minSequence: 0,
    previous: null,
    intent: 'deploy',
    emergency: false,
    issuedAt: NOW,
    notBefore: NOW,
    expiresAt: NOW + 90 * 86_400,
    toplevel: closure.toplevel,
    toplevelNarHash: narHash,
    closure: {
      sha256: createHash('sha256').update(bytes).digest('hex'),
      bytes: bytes.length,
      paths: closure.paths.size,
      narBytes: closure.narBytes,
    },
    activation: DEFAULT_ACTIVATION,
    provenance: {
      flakeRef: 'git+https://git.example.org/hosts',
      rev: '0123456789abcdef0123456789abcdef01234567',
      flakeNarHash: null,
      lockSha256: null,
      attribute: 'nixosConfigurations.web-1.config.system.build.toplevel',
      drvPath: storePath('d', 'host.drv'),
      builder: { id: 'build-1', nixVersion: '2.28.3', system: 'x86_64-linux' },
    },
    ...overrides,
  };
}

export function signManifest(manifest: Manifest, ...secrets: readonly Uint8Array[]): string {
  const signers = secrets.length === 0 ? [SECRETS.director] : secrets;
  return signEnvelope(STATEMENT_PAYLOAD_TYPE, formatManifest(manifest), signers);
}

/** Asserts that `action` throws a FleetError of `code`, and that its message matches `pattern`. */
export function refuses(
  code: ErrorCode,
  action: () => unknown,
  pattern: RegExp = /./,
  what?: string,
): void {
  const check = (error: unknown): true => {
    if (!isFleetError(error)) throw error;
    assert.equal(error.code, code, what ?? error.message);
    assert.match(error.message, pattern);
    return true;
  };
  assert.throws(action, check, what);
}
