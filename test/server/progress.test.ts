// How far hosts are, as they tell the server: to the route, in the status, and for how long it is believed.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '../../src/agent/client.ts';
import { Progress, tellServer } from '../../src/agent/progress.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { parseReceipt, type Receipt, signReceipt } from '../../src/manifest/receipt.ts';
import { TOLD_PROGRESS_SECONDS } from '../../src/manifest/told-progress.ts';
import { hostStatus } from '../../src/server/status.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import type { ReportRecord } from '../../src/storage/state.ts';
import { serveState } from '../helpers/app.ts';
import { reportRunning } from '../helpers/reports.ts';
import { addPath, publishHost } from '../helpers/state.ts';
import { publicKey, secretKey } from '../helpers/trust.ts';

const NOW = 1_800_000_000;

async function world(t: TestContext) {
  const { top, dir, url, clock } = await serveState(t, NOW);
  await publishHost(dir, 'lantern', 'one', NOW);
  const { digest = '' } = (await dir.state.currentManifest('lantern')) ?? {};
  const secretHash = hashToken('invitation');
  await dir.state.invite({ secretHash, host: 'lantern', expiresAt: NOW + 100 });
  const token = generateToken();
  const enrolment = { secretHash, publicKey: publicKey(8), tokenHash: hashToken(token), now: NOW };
  assert.equal(await dir.state.enrol(enrolment), 'enrolled');
  const tell = async (
    body: string | Uint8Array<ArrayBuffer>,
    how: { token?: string; host?: string } = {},
  ) => {
    const response = await fetch(`${url}/v1/hosts/${how.host ?? 'lantern'}/progress`, {
      method: 'POST',
      headers: { authorization: `Bearer ${how.token ?? token}` },
      body,
    });
    const text = await response.text();
    return { status: response.status, code: text === '' ? null : JSON.parse(text).error, response };
  };
  const status = async (now = clock.now) => {
    const row = (await dir.state.status()).find(({ record }) => record.host === 'lantern');
    assert.ok(row);
    return hostStatus(row, now);
  };
  return { top, dir, url, clock, digest, token, tell, status };
}

const HALF = { paths: { done: 1, total: 4 }, bytes: { done: 500, total: 1000 }, secondsLeft: 30 };

test('what an agent tells is what the status says, for as long as it is about now', async (t) => {
  const { top, dir, url, clock, digest, token, status } = await world(t);
  assert.deepEqual([(await status()).phase, (await status()).fetching], ['manifest-pending', null]);
  const infos = [
    await addPath(dir, 'first', Buffer.alloc(100)),
    await addPath(dir, 'second', Buffer.alloc(900)),
  ];
  const [first, second] = infos;
  assert.ok(first && second);
  await using client = new Client({
    ...{ server: url, token, leastBytesPerSecond: 1, patienceSeconds: 5 },
  });
  {
    const tell = tellServer(client, 'lantern', digest, 100);
    await using progress = new Progress({ dir: top, toplevel: second.path, tell }, infos, null);
    progress.served(first.path, first.narSize);
    // The same again is not more.
    progress.given(first.path, 10);
    progress.served(first.path, first.narSize);
    progress.given(second.path, 400);
    progress.given(second.path, 500);
    while ((await status()).fetching === null) await sleep(20);
  }
  const { phase, why, fetching } = await status();
  assert.deepEqual([phase, why], ['fetching', null]);
  const { secondsLeft, ...said } = fetching ?? { secondsLeft: null };
  const total = first.narSize + second.narSize;
  assert.deepEqual(said, {
    paths: { done: 1, total: 2 },
    bytes: { done: first.narSize + 500, total },
    toldAt: NOW,
  });
  assert.ok(secondsLeft !== null && secondsLeft < 60);
  assert.equal((await status(NOW + TOLD_PROGRESS_SECONDS)).phase, 'fetching');
  assert.equal((await status(NOW + TOLD_PROGRESS_SECONDS + 1)).fetching, null);
  // Of another manifest by now.
  clock.now += 20;
  await publishHost(dir, 'lantern', 'two', clock.now);
  assert.deepEqual([(await status()).phase, (await status()).fetching], ['manifest-pending', null]);
});

test('a report that comes later says more', async (t) => {
  const { dir, digest } = await world(t);
  await reportRunning(dir, 'lantern', null, NOW - 1);
  await dir.state.noteProgress('lantern', JSON.stringify({ manifest: digest, ...HALF }), NOW);
  const [row] = await dir.state.status();
  assert.ok(row?.report);
  for (const [receivedAt, fetching] of [
    [NOW - 1, { ...HALF, toldAt: NOW }],
    [NOW, null],
  ] as const) {
    const report: ReportRecord = { ...row.report, receivedAt };
    assert.deepEqual(hostStatus({ ...row, report }, NOW).fetching, fetching);
  }
});

test('what a host signed of the newest manifest is not covered by what nobody signed', async (t) => {
  const { dir, digest, clock } = await world(t);
  await reportRunning(dir, 'lantern', null, NOW - 1);
  await dir.state.noteProgress('lantern', JSON.stringify({ manifest: digest, ...HALF }), NOW);
  const [row] = await dir.state.status();
  assert.ok(row?.manifest);
  assert.equal(hostStatus(row, clock.now).phase, 'fetching');
  const receipt = parseReceipt(parseEnvelope(row.report?.envelope ?? '').payload);
  const { epoch, sequence } = row.manifest;
  const failed: Receipt = {
    ...receipt,
    ...{ manifest: { epoch, sequence, sha256: digest }, phase: 'failed' },
    reason: { code: 'E_FETCH', text: 'it broke' },
  };
  const { envelope } = signReceipt(failed, secretKey(8));
  const report = { ...row.report, envelope } as ReportRecord;
  const { phase, why, fetching } = hostStatus({ ...row, report }, clock.now);
  assert.deepEqual([phase, why?.code, fetching?.toldAt], ['failed', 'E_FETCH', NOW]);
});

test('what is kept and cannot be read is not shown, and hides nothing else', async (t) => {
  const { dir, digest, status } = await world(t);
  const newer = { manifest: digest, ...HALF, more: 1 };
  for (const kept of ['', '{', '{}', JSON.stringify(newer)]) {
    await dir.state.noteProgress('lantern', kept, NOW);
    const { phase, fetching } = await status();
    assert.deepEqual([phase, fetching], ['manifest-pending', null], kept);
  }
});

test('a host that is enrolled with another key said nothing yet', async (t) => {
  const { dir, digest, tell, status } = await world(t);
  assert.equal((await tell(JSON.stringify({ manifest: digest, ...HALF }))).status, 204);
  assert.equal((await status()).phase, 'fetching');
  const secretHash = hashToken('another invitation');
  await dir.state.invite({ secretHash, host: 'lantern', expiresAt: NOW + 100 });
  const other = { secretHash, publicKey: publicKey(9), tokenHash: hashToken('other'), now: NOW };
  assert.equal(await dir.state.enrol(other), 'enrolled');
  const { phase, fetching } = await status();
  assert.deepEqual([phase, fetching], ['manifest-pending', null]);
});

test('what is no progress, comes too often, or from somebody else is refused, and changes nothing', async (t) => {
  const { dir, clock, digest, tell } = await world(t);
  const good = { manifest: digest, ...HALF };
  const bad = [
    'no JSON',
    Uint8Array.of(0x22, 0xff, 0x22),
    '{}',
    JSON.stringify({ ...good, manifest: 'x' }),
    JSON.stringify({ ...good, more: 1 }),
    JSON.stringify({ ...good, paths: { done: 5, total: 4 } }),
    JSON.stringify({ ...good, bytes: { done: 1001, total: 1000 } }),
    JSON.stringify({ ...good, bytes: { done: -1, total: 1000 } }),
    JSON.stringify({ ...good, secondsLeft: 1.5 }),
    JSON.stringify(good) + ' '.repeat(1024),
  ];
  for (const body of bad) {
    const { status, code } = await tell(body);
    assert.deepEqual([status, code], [400, 'E_REQUEST'], String(body));
  }
  assert.deepEqual(await tell('x'.repeat(70_000)).then(({ status }) => status), 413);
  const other = await tell(JSON.stringify(good), { host: 'other' });
  assert.deepEqual([other.status, other.code], [403, 'E_FORBIDDEN']);
  const nobody = await tell(JSON.stringify(good), { token: generateToken() });
  assert.equal(nobody.status, 401);
  assert.equal((await dir.state.host('lantern'))?.progress, null);

  assert.equal((await tell(JSON.stringify(good))).status, 204);
  clock.now += 9;
  const early = await tell(JSON.stringify({ ...good, secondsLeft: 1 }));
  assert.deepEqual([early.status, early.code], [429, 'E_RATE_LIMITED']);
  assert.equal(early.response.headers.get('retry-after'), '10');
  assert.deepEqual((await dir.state.host('lantern'))?.progressAt, NOW);
  clock.now += 1;
  assert.equal((await tell(JSON.stringify({ ...good, secondsLeft: null }))).status, 204);
  const { progress } = (await dir.state.host('lantern')) ?? {};
  assert.deepEqual(JSON.parse(progress ?? ''), { ...good, secondsLeft: null });
});
