// What a server serves for a host, read to the last byte as a client would: the offer, the closure
// file, every narinfo and every NAR, with each hash and size checked against what is signed.
import { strict as assert } from 'node:assert';
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { createZstdDecompress } from 'node:zlib';
import { generateSecretKey } from '../../src/ed25519.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { parseEnrolFile } from '../../src/manifest/enrol-file.ts';
import { signEnrolRequest } from '../../src/manifest/enrolment.ts';
import { parseOffer } from '../../src/manifest/offer.ts';
import { type Root, verifyInitialRoot } from '../../src/manifest/root.ts';
import { verifyManifest } from '../../src/manifest/verify.ts';
import { checkNar } from '../../src/nix/nar-check.ts';
import { parseNarInfo } from '../../src/nix/narinfo.ts';
import { parseNixPublicKey, verifyPathSignature } from '../../src/nix/signature.ts';
import { hashPartOf, type StorePath } from '../../src/nix/storepath.ts';

export type Access = { readonly url: string; readonly token: string };

export async function get(
  { url, token }: Access,
  path: string,
  headers: Record<string, string> = {},
): Promise<Response> {
  return await fetch(`${url}${path}`, {
    headers: { authorization: `Bearer ${token}`, ...headers },
  });
}

export async function rootOf(access: Access, version = 1): Promise<Root> {
  const response = await get(access, `/v1/root/${version}.json`);
  assert.equal(response.status, 200);
  return verifyInitialRoot(parseEnvelope(await response.text()));
}

/** Verifies all that is served for `host` and returns what it is told to run; null before the first. */
export async function readWhole(
  access: Access,
  host: string,
): Promise<{ toplevel: StorePath; sequence: number; paths: number } | null> {
  const response = await get(access, `/v1/hosts/${host}/offer`);
  if (response.status === 404) return null;
  assert.equal(response.status, 200, await response.clone().text());
  const offer = parseOffer(await response.text());
  const root = await rootOf(access);
  const sha256 = offer.closure?.sha256 ?? '';
  const file = await get(access, `/v1/closures/${sha256}`);
  assert.equal(file.status, 200, `closure file of ${host}`);
  const { manifest, closure } = verifyManifest({
    envelope: offer.manifest,
    root,
    now: Math.floor(Date.now() / 1000),
    closure: new Uint8Array(await file.arrayBuffer()),
  });
  assert.ok(manifest.intent !== 'decommission' && closure !== null);
  const keys = root.cache.keys.map(parseNixPublicKey);
  for (const info of closure.paths.values()) {
    const hashPart = hashPartOf(info.path);
    const found = await get(access, `/${hashPart}.narinfo`);
    assert.equal(found.status, 200, `narinfo of ${info.path}`);
    const narinfo = parseNarInfo(await found.text(), { hashPart });
    assert.equal(narinfo.narHash, info.narHash, info.path);
    assert.ok(narinfo.sigs.some((sig) => verifyPathSignature(info, sig, keys)));
    const nar = await get(access, `/${narinfo.url}`);
    assert.equal(nar.status, 200, `NAR of ${info.path}`);
    const bytes = Buffer.from(await nar.arrayBuffer());
    assert.equal(bytes.length, narinfo.fileSize);
    assert.ok(narinfo.url.includes(createHash('sha256').update(bytes).digest('hex')));
    const unpacked = Readable.from([bytes]).pipe(createZstdDecompress());
    for await (const _ of checkNar(unpacked, info)) {
      // Reading it to its end is the check.
    }
  }
  return { toplevel: manifest.toplevel, sequence: manifest.sequence, paths: closure.paths.size };
}

/** Enrols `host` as its agent would, with a fresh key; returns the host's token and secret key. */
export async function enrolByHand(
  enrolFileText: string,
  url?: string,
): Promise<{ token: string; hostKey: Uint8Array }> {
  const file = parseEnrolFile(enrolFileText);
  const hostKey = generateSecretKey();
  const response = await fetch(`${url ?? file.server}/v1/enroll`, {
    method: 'POST',
    headers: { authorization: `Bearer ${file.secret}`, 'content-type': 'application/json' },
    body: signEnrolRequest(file, hostKey),
  });
  const body = (await response.json()) as { token: string };
  assert.equal(response.status, 200, JSON.stringify(body));
  return { token: body.token, hostKey };
}
