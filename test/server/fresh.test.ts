// Proofs of time over HTTP: to the host alone, for each nonce once, of the newest checkpoint, by the key that
// the newest root names.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { verifyNonceProof } from '../../src/manifest/nonce-proof.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { logStoreOf } from '../../src/server/log-writer.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import { parseNote } from '../../src/tlog/note.ts';
import { serveState } from '../helpers/app.ts';
import { addServerKey, signNext } from '../helpers/rotation.ts';
import { publishHost } from '../helpers/state.ts';

const NOW = 1_800_000_000;
const nonce = (): string => randomBytes(32).toString('hex');

async function world(t: TestContext) {
  const { dir, url, clock } = await serveState(t, NOW);
  await publishHost(dir, 'lantern', 'one', NOW);
  const tokens = { host: generateToken(), read: generateToken() };
  const base = { createdAt: NOW, expiresAt: null };
  const host = { ...base, name: 'host:lantern', scope: 'host', host: 'lantern' } as const;
  await dir.state.addCredential({ ...host, tokenHash: hashToken(tokens.host) });
  const read = { ...base, name: 'r', scope: 'read', host: null } as const;
  await dir.state.addCredential({ ...read, tokenHash: hashToken(tokens.read) });
  const ask = (query: string, token: string | null = tokens.host, name = 'lantern') =>
    fetch(`${url}/v1/hosts/${name}/fresh${query}`, {
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
    });
  return { dir, clock, tokens, ask };
}

/** The text of the newest checkpoint, without signatures. */
async function newest(dir: StateDir): Promise<string> {
  return parseNote((await logStoreOf(dir).checkpoint()) ?? '').text;
}

async function refused(response: Response, status: number, code: string): Promise<void> {
  const body = (await response.json()) as { error: string };
  assert.deepEqual([response.status, body.error], [status, code]);
}

test('a proof is of now, and of the checkpoint that is the newest now', async (t) => {
  const { dir, clock, ask } = await world(t);
  for (const later of [0, 90]) {
    clock.now = NOW + later;
    if (later > 0) await publishHost(dir, 'gateway', 'two', clock.now);
    const mine = nonce();
    const answer = await ask(`?nonce=${mine}`);
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get('cache-control'), 'no-store');
    assert.equal(answer.headers.get('content-type'), 'application/json; charset=utf-8');
    const expect = { root: dir.root, nonce: mine, checkpoint: await newest(dir), floor: null };
    assert.equal(verifyNonceProof(await answer.text(), expect), NOW + later);
  }
});

test('to the host itself, and to nobody else', async (t) => {
  const { ask, tokens } = await world(t);
  await refused(await ask(`?nonce=${nonce()}`, null), 401, 'E_UNAUTHORIZED');
  await refused(await ask(`?nonce=${nonce()}`, tokens.read), 403, 'E_FORBIDDEN');
  await refused(await ask(`?nonce=${nonce()}`, tokens.host, 'gateway'), 403, 'E_FORBIDDEN');
});

test('what is no nonce, and one that was used, is refused', async (t) => {
  const { ask } = await world(t);
  const mine = nonce();
  const bad = ['', '?', '?nonce=', `?nonce=${mine.slice(1)}`, `?nonce=${mine}0`];
  const odd = [
    `?nonce=${mine.toUpperCase().replace(/^\d*/, 'AB')}`,
    `?nonce=${mine}%0a`,
    `?nonce=%20${mine}`,
    `?nonce=${mine}&nonce=${nonce()}`,
    `?nonce[]=${mine}`,
    `?nonce=${'g'.repeat(64)}`,
  ];
  for (const query of [...bad, ...odd]) await refused(await ask(query), 400, 'E_REQUEST');
  assert.equal((await ask(`?nonce=${mine}`)).status, 200);
  await refused(await ask(`?nonce=${mine}`), 409, 'E_NONCE_USED');
  assert.equal((await ask(`?nonce=${nonce()}`)).status, 200);
});

test('a new root names another nonce key, and that one signs from then on', async (t) => {
  const { dir, ask } = await world(t);
  const before = dir.root;
  const mine = nonce();
  assert.equal((await ask(`?nonce=${nonce()}`)).status, 200);
  const key = await addServerKey(dir, 'nonce');
  const keys = new Map([['nonce', [key]]] as const);
  await importRoot(dir, await signNext(dir, NOW, { keys }), NOW);
  await dir.refreshRoots();
  assert.deepEqual(dir.root.nonce.keys, [key]);
  const proof = await (await ask(`?nonce=${mine}`)).text();
  const expect = { root: dir.root, nonce: mine, checkpoint: await newest(dir), floor: null };
  assert.equal(verifyNonceProof(proof, expect), NOW);
  assert.throws(() => verifyNonceProof(proof, { ...expect, root: before }), {
    code: 'E_SIGNATURE_UNKNOWN_KEY',
  });
});
