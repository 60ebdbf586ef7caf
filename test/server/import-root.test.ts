// A root put in force: nothing is, unless hosts can go on under it; and what broke off can be done again.
import assert from 'node:assert/strict';
import { cp, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { FleetError } from '../../src/errors.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { parseManifest } from '../../src/manifest/manifest.ts';
import { parseOffer } from '../../src/manifest/offer.ts';
import type { Root } from '../../src/manifest/root.ts';
import {
  headOf,
  verifyOfferedLog,
  verifyOfferedManifest,
} from '../../src/manifest/verify-offer.ts';
import {
  formatNixPublicKey,
  formatNixSecretKey,
  generateNixKey,
  nixPublicKeyOf,
} from '../../src/nix/signature.ts';
import { hashPartOf, type StorePath } from '../../src/nix/storepath.ts';
import { buildApp } from '../../src/server/app.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { logStoreOf } from '../../src/server/log-writer.ts';
import { makeOffer } from '../../src/server/offers.ts';
import { PublishedLog } from '../../src/server/published.ts';
import { removeHost } from '../../src/server/remove-host.ts';
import { openStateDir, type StateDir } from '../../src/server/statedir.ts';
import { hashToken } from '../../src/server/tokens.ts';
import { formatVerifierKey, NOTE_COSIGNATURE, parseVerifierKey } from '../../src/tlog/vkey.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { addServerKey, signNext } from '../helpers/rotation.ts';
import { makeState, publishHost, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

async function world(t: TestContext) {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  await publishHost(dir, 'lantern', 'one', NOW);
  return dir;
}

const anchored = (size: number) => (draft: Root) => ({
  ...draft,
  log: { ...draft.log, anchor: { size, sha256: '0'.repeat(64) } },
});

test('a root under which no host could go on is not put in force', async (t) => {
  const dir = await world(t);
  const another = await addServerKey(dir, 'director');
  const before = await logStoreOf(dir).checkpoint();
  const freshness = parseVerifierKey(dir.root.freshness.keys[0] ?? '', NOTE_COSIGNATURE);
  const cases: [(draft: Root) => unknown, string, RegExp][] = [
    [
      ({ roles, ...draft }) => {
        const keys = [...roles.director.keys, another];
        return { ...draft, roles: { ...roles, director: { keys, threshold: 2 } } };
      },
      'E_ROOT_FORM',
      /director needs 2 signatures/,
    ],
    ...['\u0001', 'a\u0085b', 'a b'].map((name): (typeof cases)[number] => [
      (draft) => ({ ...draft, freshness: { keys: [formatVerifierKey({ ...freshness, name })] } }),
      'E_ROOT_FORM',
      /verifier key/,
    ]),
    [(draft) => ({ ...draft, maxAge: 1 }), 'E_ROOT_FORM', /maxAge/],
    [anchored(0), 'E_FORK', /nothing/],
    [anchored(3), 'E_CONSISTENCY', /3 entries/],
    [anchored(4), 'E_FORK', /another history/],
    [anchored(2 ** 53 - 1), 'E_CHECKPOINT_OLDER', /now it has 4/],
    [
      (draft) => ({ ...draft, limits: { ...draft.limits, closurePaths: 1 } }),
      'E_CLOSURE_LIMIT',
      /lantern/,
    ],
  ];
  for (const [edit, code, message] of cases) {
    const imported = async () => importRoot(dir, await signNext(dir, NOW, {}, edit), NOW);
    await assert.rejects(imported(), refused(code, message));
    await assert.rejects(stat(dir.layout.root(2)));
  }
  assert.equal(dir.root.version, 1);
  assert.equal(await logStoreOf(dir).checkpoint(), before);
  const head = headOf(before ?? '');
  const text = await signNext(dir, NOW, { anchor: head });
  assert.equal((await importRoot(dir, text, NOW)).root.log.anchor.size, head.size);
});

test('narinfos carry signatures by the keys of a root from when it is in force', async (t) => {
  const dir = await world(t);
  const app = buildApp(
    Object.defineProperty(Object.create(dir), 'config', { value: { ...dir.config, public: true } }),
    { now: () => NOW },
  );
  t.after(() => app.close());
  const row = await dir.state.currentManifest('lantern');
  const hash = hashPartOf(row?.toplevel ?? ('' as StorePath));
  const served = async () => {
    const one = await app.inject(`/${hash}.narinfo`);
    const all = await app.inject(`/v1/closures/${row?.closure}/narinfos`);
    return [one.body, all.body.split('\n\n').at(-2) ?? ''].map((text) =>
      [...text.matchAll(/^Sig: ([^:]+):/gm)].map(([, name]) => name),
    );
  };
  const before = await served();
  assert.equal(before[0]?.length, 1);
  const key = generateNixKey('another-1');
  await writeFile(dir.layout.key('cache-another.sec'), formatNixSecretKey(key));
  assert.deepEqual(await served(), before);
  const cacheKeys = [formatNixPublicKey(nixPublicKeyOf(key))];
  // By another process, as `fleet root import` is.
  const other = await openStateDir(dir.layout.top, { writer: 'inline' });
  await importRoot(other, await signNext(dir, NOW, { cacheKeys }), NOW);
  await other[Symbol.asyncDispose]();
  assert.equal((await app.inject('/v1/root/2.json')).statusCode, 200);
  for (const names of await served()) assert.ok(names.includes('another-1'), names.join());
});

test('a key that a host enrolled with is given no role', async (t) => {
  const dir = await world(t);
  const secretHash = hashToken('invitation');
  await dir.state.invite({ secretHash, host: 'lantern', expiresAt: NOW + 9 });
  const key = await addServerKey(dir, 'release');
  const tokenHash = hashToken('token');
  await dir.state.enrol({ secretHash, publicKey: key, tokenHash, now: NOW });
  const text = await signNext(dir, NOW, { keys: new Map([['release', [key]]]) });
  await assert.rejects(importRoot(dir, text, NOW), refused('E_KEY_ROLE', /host key/));
});

/** The state, but it dies at its nth step: before the step, or after it was done. */
function dying(dir: StateDir, at: number): StateDir {
  let steps = 0;
  const step = (): void => {
    steps += 1;
    if (steps === at) throw new Error('died');
  };
  const state = new Proxy(dir.state, {
    get(object, name) {
      const value = Reflect.get(object, name) as unknown;
      if (typeof value !== 'function') return value;
      return async (...args: unknown[]) => {
        step();
        const result = await Reflect.apply(value, object, args);
        step();
        return result;
      };
    },
  });
  return Object.defineProperty(Object.create(dir), 'state', { value: state });
}

for (const newLog of [false, true])
  test(`an import that dies at some step can be done again, ${newLog ? 'with a new log' : 'in its log'}`, async (t) => {
    const top = await temporaryDir(t);
    for (let at = 1, died = true; died; at += 3) {
      const dir = await makeState(join(top, String(at)), NOW);
      await publishHost(dir, 'lantern', 'one', NOW);
      const before = (await logStoreOf(dir).checkpoint()) ?? '';
      const [first] = dir.roots;
      assert.ok(first !== undefined);
      const keys = new Map([['log', [await addServerKey(dir, 'log')]] as const]);
      const text = await signNext(dir, NOW, { keys, newLog });
      const asked = async () => {
        const known = { root: 1, from: headOf(before).size };
        const made = await makeOffer(dir, new PublishedLog(dir), 'lantern', known);
        assert.ok(made !== null, 'nothing yet');
        const offer = parseOffer(made.text);
        const root = offer.roots.length === 0 ? first : { root: dir.root, envelope: text };
        const log = verifyOfferedLog(offer, root, before, NOW);
        const expect = { host: 'lantern', system: 'x86_64-linux', floor: null };
        return verifyOfferedManifest(offer, root, log, expect, NOW).manifest.sequence;
      };
      died = await importRoot(dying(dir, at), text, NOW).then(
        () => false,
        (error: Error) => {
          assert.equal(error.message, 'died');
          return true;
        },
      );
      await asked().then(
        (sequence) => assert.ok(sequence === 1 || sequence === 2),
        (error: FleetError) =>
          assert.match(`${error.code}`, /^(ERR_ASSERTION|E_ROOT_VERSION|E_CHECKPOINT_UNSIGNED)$/),
      );
      await importRoot(dir, text, NOW);
      assert.equal(await asked(), 2, `died at ${at}`);
      await dir[Symbol.asyncDispose]();
    }
  });

test('a new log does not begin where files of one lie that the database does not know', async (t) => {
  const dir = await world(t);
  await cp(dir.layout.log(1), dir.layout.log(2), { recursive: true });
  const text = await signNext(dir, NOW, { newLog: true });
  await assert.rejects(importRoot(dir, text, NOW), refused('E_LOG_DAMAGED', /does not know/));
  await assert.rejects(stat(dir.layout.root(2)));
  await rm(dir.layout.log(2), { recursive: true });
  assert.equal((await importRoot(dir, text, NOW)).reissued.length, 1);
});

test('a log that was left is not gone back to', async (t) => {
  const dir = await world(t);
  const { log } = dir.root;
  await importRoot(dir, await signNext(dir, NOW, { newLog: true }), NOW);
  const back = await signNext(dir, NOW, {}, (draft) => ({ ...draft, log }));
  await assert.rejects(importRoot(dir, back, NOW), refused('E_ROOT_FORM', /must not go back/));
});

test('what a publisher that died had staged in the log that is left keeps nothing from going on', async (t) => {
  const dir = await world(t);
  const { fence } = await dir.state.recordLease(process.pid, NOW);
  const current = await dir.state.currentManifest('lantern');
  assert.ok(current !== null);
  const staged = { ...current, sequence: current.sequence + 1 };
  const other = { ...current, host: 'gateway', sequence: 9 };
  await dir.state.stageEntries(1, [{ index: 4, manifest: staged }], fence);
  await dir.state.stageEntries(1, [{ index: 5, manifest: other }], fence);
  const text = await signNext(dir, NOW, { newLog: true });
  const { reissued } = await importRoot(dir, text, NOW);
  assert.deepEqual(
    reissued.map(({ host, sequence }) => [host, sequence]),
    [['lantern', 2]],
  );
  const hosts = await dir.state.hostEntries(2, 4);
  assert.deepEqual(
    hosts.map(({ host, sequence, digest }) => [host, sequence, digest]),
    reissued.map(({ host, sequence, digest }) => [host, sequence, digest]),
  );
});

test('an offer that is being made while another log begins is of one log, as is the next', async (t) => {
  const dir = await world(t);
  const published = new PublishedLog(dir);
  const known = { root: 1, from: 0 };
  const [first] = dir.roots;
  assert.ok(first !== undefined);
  const text = await signNext(dir, NOW, { newLog: true });
  const { state } = dir;
  const loggedManifest: StateDir['state']['loggedManifest'] = async (...args) => {
    const manifest = await state.loggedManifest(...args);
    await importRoot(dir, text, NOW);
    await published.view();
    return manifest;
  };
  const slow = { ...dir, state: { ...state, loggedManifest } };
  const during = parseOffer((await makeOffer(slow, published, 'lantern', known))?.text ?? '');
  const expect = { host: 'lantern', system: 'x86_64-linux', floor: null };
  const log = verifyOfferedLog(during, first, null, NOW);
  assert.equal(verifyOfferedManifest(during, first, log, expect, NOW).manifest.sequence, 1);

  const after = parseOffer((await makeOffer(dir, published, 'lantern', known))?.text ?? '');
  assert.deepEqual(after.roots, [text]);
  const second = { root: dir.root, envelope: text };
  const next = verifyOfferedLog(after, second, null, NOW);
  assert.equal(verifyOfferedManifest(after, second, next, expect, NOW).manifest.sequence, 2);
});

const approvals = (needed: number) => (draft: Root) => ({
  ...draft,
  groups: [{ name: 'all', hosts: ['*'], approvals: needed }],
});

test('the same root imported again leaves what waits under it as it is', async (t) => {
  const dir = await world(t);
  await publishHost(dir, 'gone', 'one', NOW);
  await publishHost(dir, 'slow', 'one', NOW);
  const text = await signNext(dir, NOW, {}, approvals(1));
  const first = await importRoot(dir, text, NOW);
  assert.deepEqual(
    first.waiting.map(({ host }) => host),
    ['gone', 'lantern', 'slow'],
  );
  await publishHosts(dir, ['lantern'], 'two', NOW, true);
  await removeHost(dir, 'gone', { now: NOW });
  const waiting = await dir.state.pendingManifests();
  const again = await importRoot(dir, text, NOW + 5);
  assert.deepEqual(await dir.state.pendingManifests(), waiting);
  assert.deepEqual(again.waiting, waiting);
  assert.deepEqual([again.isNew, again.reissued, again.removed], [false, [], []]);
  // What has expired meanwhile is signed anew.
  const later = NOW + 91 * 86_400;
  const { waiting: anew } = await importRoot(dir, text, later);
  assert.deepEqual(
    anew.map(({ host, toplevel, expiresAt }) => [host, toplevel === null, expiresAt > later]),
    [
      ['gone', true, true],
      ['lantern', false, true],
      ['slow', false, true],
    ],
  );
});

test('a removal that waited is published by a root that wants no approval, which is told', async (t) => {
  const dir = await world(t);
  await publishHost(dir, 'gone', 'one', NOW);
  await importRoot(dir, await signNext(dir, NOW, {}, approvals(1)), NOW);
  await removeHost(dir, 'gone', { now: NOW });
  const { removed, reissued } = await importRoot(
    dir,
    await signNext(dir, NOW, {}, approvals(0)),
    NOW,
  );
  assert.deepEqual(removed, ['gone']);
  assert.deepEqual(
    reissued.map(({ host, toplevel }) => [host, toplevel === null]),
    [
      ['gone', true],
      ['lantern', false],
    ],
  );
});

test('a removal that was published is said again until its time is over, and no longer', async (t) => {
  const dir = await world(t);
  await removeHost(dir, 'lantern', { now: NOW });
  const end = (await dir.state.currentManifest('lantern'))?.expiresAt ?? 0;
  // It waits for an approval, and then one of the next root does, and then none is wanted any more.
  for (const [days, needed] of [
    [20, 1],
    [60, 1],
    [80, 0],
  ] as const) {
    const at = NOW + days * 86_400;
    const text = await signNext(dir, at, {}, approvals(needed));
    const { waiting, reissued, removed } = await importRoot(dir, text, at);
    const [one, more] = needed === 0 ? reissued : waiting;
    assert.ok(one !== undefined && more === undefined);
    const { expiresAt } = parseManifest(parseEnvelope(one.envelope).payload);
    assert.deepEqual([one.toplevel, one.expiresAt, expiresAt], [null, end, end]);
    assert.deepEqual(removed, []);
  }
  const text = await signNext(dir, end, {}, approvals(1));
  const { waiting, reissued } = await importRoot(dir, text, end);
  assert.deepEqual([waiting, reissued], [[], []]);
});
