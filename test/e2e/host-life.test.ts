// What happens to hosts, through the real server and the real agent: a machine that was cloned, a host that is removed,
// at any step of which somebody may die.
import assert from 'node:assert/strict';
import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readMemory } from '../../src/agent/memory.ts';
import { auditLog } from '../../src/audit/audit.ts';
import { openFactsPool } from '../../src/audit/facts-pool.ts';
import { openBundleSource } from '../../src/audit/source.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { parseOffer } from '../../src/manifest/offer.ts';
import { parseReceipt } from '../../src/manifest/receipt.ts';
import { formatToldProgress } from '../../src/manifest/told-progress.ts';
import { auditFiles } from '../../src/server/audit-files.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { removeHost } from '../../src/server/remove-host.ts';
import { retentionRoots } from '../../src/server/retention.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { hostStatus } from '../../src/server/status.ts';
import { hashToken } from '../../src/server/tokens.ts';
import { DAY, type Live, type LiveAgent, live } from '../helpers/live.ts';
import { signNext } from '../helpers/rotation.ts';
import { get } from '../helpers/served.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

async function statusOf({ dir, now }: Pick<Live, 'dir' | 'now'>, host: string) {
  const row = (await dir.state.status()).find(({ record }) => record.host === host);
  assert.ok(row);
  return hostStatus(row, now);
}

/** Irregularities, as an auditor finds them in a bundle. */
async function audit(dir: StateDir) {
  await using pool = openFactsPool();
  const source = await openBundleSource(auditFiles(dir, { closures: false }));
  const root = await readFile(dir.layout.root(1), 'utf8');
  const report = await auditLog(source, root, pool);
  return { report, codes: report.irregularities.map(({ host, code }) => [host, code]) };
}

const tokenOf = async ({ state }: LiveAgent) => (await readMemory(state)).token;

/** An agent that refuses whatever is published for it, for being for another machine: it has something to tell. */
async function refusing(w: Live, host: string): Promise<LiveAgent> {
  const agent = await w.agent(host);
  const file = join(agent.state, 'agent.json');
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, system: 'riscv64-linux' }));
  return agent;
}

/** Has it tell again what it told last, in a receipt of its own. */
async function tellAgain({ state }: LiveAgent): Promise<void> {
  const file = join(state, 'receipts.json');
  const chain = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...chain, told: null }));
}

test('a cloned machine: both receipts are kept and told, until the host is enrolled anew', async (t) => {
  const w = await live(t);
  const { dir } = w;
  await publishHost(dir, 'a', 'one', w.now);
  const agent = await refusing(w, 'a');
  // Whoever publishes next tells the log its key.
  await publishHost(dir, 'b', 'one', w.now);
  await agent.once();
  const copy = join(w.top, 'copy');
  await cp(agent.state, copy, { recursive: true });
  const clone = w.agentAt(copy);
  // Nothing new, nothing told: nobody can know.
  await clone.once();
  assert.equal((await statusOf(w, 'a')).conflict, null);
  await tellAgain(agent);
  await agent.once();
  w.now += 1;
  await tellAgain(clone);
  for (let i = 0; i < 3; i++) {
    const { receipts } = await clone.once();
    assert.deepEqual([receipts.sent, receipts.problem?.code], [0, 'E_RECEIPT_REFUSED']);
  }
  const { conflict } = await statusOf(w, 'a');
  assert.deepEqual([conflict?.kind, conflict?.count, conflict?.since], ['fork', 1, w.now]);
  assert.match(conflict?.text ?? '', /two receipts follow one/);
  const [evidence] = await dir.state.conflicts('a');
  const counters = [...(await dir.state.receipts('a')), evidence?.envelope ?? ''].map((text) => {
    const { counter, previous } = parseReceipt(parseEnvelope(text).payload);
    return [counter, previous];
  });
  assert.deepEqual(counters.at(-1), counters.at(-2));
  assert.deepEqual((await audit(dir)).codes, [['a', 'E_RECEIPT_CHAIN']]);

  // The one that stays.
  const anew = await w.agent('a', 'anew');
  assert.equal((await statusOf(w, 'a')).conflict, null);
  assert.equal((await clone.once().catch((error) => ({ error }))).error?.code, 'E_SERVER_AUTH');
  await publishHost(dir, 'b', 'two', w.now);
  await anew.once();
  // What was cloned stays in the books, as history.
  const { codes, report } = await audit(dir);
  const settled = report.settled.map(({ host, code }) => [host, code]);
  assert.deepEqual([codes, settled], [[], [['a', 'E_RECEIPT_CHAIN']]]);
});

test('receipts that are missing are told as that', async (t) => {
  const w = await live(t);
  await publishHost(w.dir, 'a', 'one', w.now);
  const agent = await refusing(w, 'a');
  await agent.once();
  const file = join(agent.state, 'receipts.json');
  const chain = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...chain, counter: 7, told: null }));
  assert.equal((await agent.once()).receipts.problem?.code, 'E_RECEIPT_REFUSED');
  assert.equal((await statusOf(w, 'a')).conflict?.kind, 'gap');
});

test('a removed host is told so, and its token is good for nothing else; then it ends', async (t) => {
  const w = await live(t);
  const { dir } = w;
  await publishHost(dir, 'a', 'one', w.now);
  await publishHost(dir, 'b', 'one', w.now);
  const agent = await w.agent('a');
  const token = await tokenOf(agent);
  const access = { url: w.url, token };
  const closure = (await dir.state.currentManifest('a'))?.closure ?? '';
  assert.equal((await get(access, `/v1/closures/${closure}`)).status, 200);
  const { manifest, isNew, waits } = await removeHost(dir, 'a', { now: w.now });
  assert.deepEqual([manifest.sequence, isNew, waits], [2, true, false]);
  const status = await statusOf(w, 'a');
  assert.deepEqual(
    [status.phase, status.why?.code, status.desired?.toplevel],
    ['manifest-pending', 'removed', null],
  );
  const again = await removeHost(dir, 'a', { now: w.now });
  assert.deepEqual([again.isNew, again.manifest.digest], [false, manifest.digest]);

  assert.equal((await get(access, `/v1/closures/${closure}`)).status, 403);
  assert.equal((await get(access, '/tlog/checkpoint')).status, 403);
  const told = await fetch(`${w.url}/v1/hosts/a/progress`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}` },
    body: formatToldProgress({
      ...{ manifest: manifest.digest, secondsLeft: null },
      ...{ paths: { done: 0, total: 1 }, bytes: { done: 0, total: 1 } },
    }),
  });
  assert.equal(told.status, 403);
  const offer = await get(access, '/v1/hosts/a/offer');
  assert.equal(offer.headers.get('fleet-token'), null);
  assert.equal(parseOffer(await offer.text()).closure, null);
  // Away for most of a month.
  w.now += 29 * DAY;
  await w.freshen();
  const { outcome, error, receipts } = await agent.once();
  assert.deepEqual([outcome?.phase, error, receipts.queued], ['decommissioned', null, 0]);
  assert.equal((await statusOf(w, 'a')).phase, 'decommissioned');
  const { expiresAt } = (await dir.state.credentials()).find(({ host }) => host === 'a') ?? {};
  assert.equal(expiresAt, w.now + DAY);
  w.now += DAY;
  assert.equal((await get(access, '/v1/hosts/a/offer')).status, 401);
  assert.equal((await agent.once()).outcome?.phase, 'decommissioned');
  assert.equal(w.sent.filter(({ path }) => path.endsWith('/token')).length, 0);

  // Its name is gone for good; the others', and what they run, are not.
  await assert.rejects(w.agent('a', 'another'), { code: 'E_DECOMMISSIONED' });
  await assert.rejects(publishHost(dir, 'a', 'two', w.now), { code: 'E_DECOMMISSIONED' });
  const kept = (await retentionRoots(dir.state, 5)).map(({ reason }) => reason);
  assert.deepEqual(kept, ['manifest 1.1 of b']);
  assert.deepEqual((await audit(dir)).codes, []);
});

test('a host whose token had run out before its removal is told all the same, and has thirty days', async (t) => {
  const w = await live(t);
  await publishHost(w.dir, 'a', 'one', w.now);
  const agent = await w.agent('a');
  const access = { url: w.url, token: await tokenOf(agent) };
  w.now += 91 * DAY;
  assert.equal((await get(access, '/v1/hosts/a/offer')).status, 401);
  await removeHost(w.dir, 'a', { now: w.now });
  const end = w.now + 30 * DAY;
  // Said again under another root, the thirty days are the same.
  w.now += 10 * DAY;
  await importRoot(w.dir, await signNext(w.dir, w.now), w.now);
  const tokens = (await w.dir.state.credentials()).map((one) => [one.scope, one.expiresAt]);
  assert.deepEqual(tokens, [['leaving', end]]);
  assert.equal((await get(access, '/tlog/checkpoint')).status, 403);
  w.now = end - 1;
  await w.freshen();
  const { outcome, error } = await agent.once();
  assert.deepEqual([outcome?.phase, error], ['decommissioned', null]);
});

test('a host that never heard of the next token that it got is told of its removal', async (t) => {
  const w = await live(t);
  await publishHost(w.dir, 'a', 'one', w.now);
  const agent = await w.agent('a');
  const first = { url: w.url, token: await tokenOf(agent) };
  w.lose.answer = /\/token$/;
  w.now += 80 * DAY;
  await w.freshen();
  await publishHost(w.dir, 'a', 'one', w.now);
  await agent.once();
  w.lose.answer = null;
  assert.deepEqual(
    (await w.dir.state.credentials()).map(({ scope }) => scope),
    ['host', 'host'],
  );
  w.now += DAY;
  await removeHost(w.dir, 'a', { now: w.now });
  // That one was replaced, and stays dead.
  assert.equal((await get(first, '/v1/hosts/a/offer')).status, 401);
  const { outcome, error } = await agent.once();
  assert.deepEqual([outcome?.phase, error], ['decommissioned', null]);
});

test('a token that was taken from a host before its removal stays taken', async (t) => {
  const w = await live(t);
  await publishHost(w.dir, 'a', 'one', w.now);
  const agent = await w.agent('a');
  await w.dir.state.revokeCredentials('host:a');
  await removeHost(w.dir, 'a', { now: w.now });
  assert.equal((await agent.once()).error?.code, 'E_SERVER_AUTH');
  assert.deepEqual(await w.dir.state.credentials(), []);
});

test('a removed host that never came: its token ends after thirty days, and its key gets it no other', async (t) => {
  const w = await live(t);
  await publishHost(w.dir, 'a', 'one', w.now);
  const agent = await w.agent('a');
  const invitation = await w.invite('a');
  await removeHost(w.dir, 'a', { now: w.now });
  assert.equal((await w.dir.state.status()).length, 1);
  w.now += 30 * DAY;
  const { error } = await agent.once();
  assert.equal(error?.code, 'E_DECOMMISSIONED');
  assert.match(error?.hint ?? '', /what this machine runs is left as it is/);
  // Nor does an invitation from before.
  const { secret } = JSON.parse(invitation);
  const headers = { authorization: `Bearer ${secret}` };
  const answer = await fetch(`${w.url}/v1/enroll`, { method: 'POST', headers, body: '{}' });
  assert.equal(answer.status, 401);
});

test('a new root between the removal and the host that hears of it', async (t) => {
  const w = await live(t);
  await publishHost(w.dir, 'a', 'one', w.now);
  const agent = await w.agent('a');
  await removeHost(w.dir, 'a', { now: w.now });
  const { reissued } = await importRoot(w.dir, await signNext(w.dir, w.now), w.now);
  assert.deepEqual(
    reissued.map(({ host, toplevel, sequence }) => [host, toplevel, sequence]),
    [['a', null, 3]],
  );
  assert.equal((await agent.once()).outcome?.phase, 'decommissioned');
  assert.deepEqual((await audit(w.dir)).codes, []);
  // Not for ever.
  w.now += 100 * DAY;
  const later = await importRoot(w.dir, await signNext(w.dir, w.now), w.now);
  assert.deepEqual(later.reissued, []);
});

/** A state that dies instead of writing for the `nth` time, before it or after it. */
function dying(dir: StateDir, nth: number, after: boolean): { dir: StateDir; died: () => boolean } {
  let count = 0;
  let died = false;
  const names = ['recordLease', 'changePending', 'dropStaged', 'stageEntries', 'commitLog'];
  const state = new Proxy(dir.state, {
    get(target, name, receiver) {
      const value: unknown = Reflect.get(target, name, receiver);
      if (!names.includes(String(name)) || typeof value !== 'function') return value;
      return async (...args: unknown[]) => {
        count += 1;
        const dies = count === nth;
        if (dies) died = true;
        if (dies && !after) throw new Error('died');
        const result = await value.apply(target, args);
        if (dies) throw new Error('died');
        return result;
      };
    },
  });
  return { dir: { ...dir, state, root: dir.root, roots: dir.roots }, died: () => died };
}

async function once(t: TestContext, nth: number, after: boolean): Promise<boolean> {
  const now = Math.floor(Date.now() / 1000);
  await using dir = await makeState(await temporaryDir(t), now);
  await publishHost(dir, 'a', 'one', now);
  const token = { tokenHash: hashToken('t'), name: 'host:a', scope: 'host', host: 'a' } as const;
  await dir.state.addCredential({ ...token, createdAt: now, expiresAt: null });
  const { dir: mortal, died } = dying(dir, nth, after);
  await removeHost(mortal, 'a', { now }).catch((error) => assert.equal(error.message, 'died'));
  const manifest = await dir.state.currentManifest('a');
  // All of it or nothing.
  const isGone = manifest?.toplevel === null;
  const scopes = (await dir.state.credentials()).map(({ scope }) => scope);
  assert.deepEqual(scopes, [isGone ? 'leaving' : 'host']);
  const done = await removeHost(dir, 'a', { now });
  assert.equal(done.isNew, !isGone);
  assert.equal((await dir.state.currentManifest('a'))?.sequence, 2);
  // The log holds it once, whichever way it came there.
  if (nth === 4) assert.deepEqual((await audit(dir)).codes, []);
  return died();
}

test('a removal that dies before or after any of its writes is done, or is done again', async (t) => {
  let steps = 0;
  for (const after of [false, true]) {
    for (let nth = 1; await once(t, nth, after); nth++) steps += 1;
  }
  assert.equal(steps, 8);
});

test('what cannot be removed is told as what it is', async (t) => {
  const w = await live(t);
  await assert.rejects(removeHost(w.dir, 'nobody', { now: w.now }), { code: 'E_HOST_UNKNOWN' });
  await w.agent('fresh');
  await assert.rejects(removeHost(w.dir, 'fresh', { now: w.now }), { code: 'E_NO_MANIFEST' });
});
