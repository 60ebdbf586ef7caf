// kill -9 of `fleet build` at random moments of ingest and publication: what is served is always the
// old publication or the new one, whole, for all hosts alike; the next run finishes. The number of
// moments is FLEET_CRASH_MOMENTS (10 unless said; `npm run test:crash` does 100).
import assert from 'node:assert/strict';
import { readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fleetOk, serve, startFleet } from '../helpers/cli.ts';
import { writeFlake } from '../helpers/flakes.ts';
import { waitFor } from '../helpers/hosts.ts';
import { type Access, enrolByHand, get, readWhole } from '../helpers/served.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const MOMENTS = Number(process.env['FLEET_CRASH_MOMENTS'] ?? 10);
const HOSTS = ['alpha', 'beta'];
// Printed, so that the moments of a run that failed can be had again.
const SEED = Number(process.env['FLEET_CRASH_SEED'] ?? Date.now() % 2 ** 31);

test(`kill -9 of a build at ${MOMENTS} random moments`, async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  const flakeDir = join(dir, 'flake');
  const change = (): Promise<string> =>
    writeFlake(flakeDir, { hosts: new Map(HOSTS.map((host) => [host, 12])), fileBytes: 100_000 });

  await fleetOk([
    'init',
    '--state',
    state,
    '--origin',
    'crash.test',
    '--url',
    'http://127.0.0.1:1',
  ]);
  let flake = await change();
  await fleetOk(['build', '--state', state, '--flake', flake]);
  const { url } = await serve(t, state);
  const access = new Map<string, Access>();
  for (const host of HOSTS) {
    const file = join(dir, `${host}.json`);
    await fleetOk(['host', 'enroll', host, '--state', state, '-o', file]);
    const { token } = await enrolByHand(await readFile(file, 'utf8'), url);
    access.set(host, { url, token });
  }
  const served = () =>
    Promise.all(HOSTS.map((host) => readWhole(access.get(host) as Access, host)));
  const sequences = async () => (await served()).map((one) => one?.sequence);

  // How long a whole run takes from its first word on, so that moments fall all over it.
  flake = await change();
  const measured = startFleet(['build', '--state', state, '--flake', flake]);
  await heard(measured, /evaluating/);
  const started = performance.now();
  assert.equal((await measured.done).code, 0);
  const duration = performance.now() - started;

  const random = randomFrom(SEED);
  let published = 2;
  let span = duration;
  let tries = 0;
  for (let moment = 0; moment < MOMENTS; tries++) {
    assert.ok(
      tries < MOMENTS * 4,
      `only ${moment} of ${tries} builds were killed before their end`,
    );
    flake = await change();
    assert.deepEqual(await sequences(), [published, published]);
    const build = startFleet(['build', '--state', state, '--flake', flake]);
    // Every third moment is close to the publication, which random times would seldom meet.
    const late = moment % 3 === 2;
    await heard(build, late ? /beta: \d+ new paths/ : /evaluating/);
    const delay = random() * (late ? 120 : span);
    await sleep(delay);
    build.child.kill('SIGKILL');
    const isKilled = (await build.done).code === null;
    const where = `moment ${moment}, ${Math.round(delay)} ms ${late ? 'after ingest' : 'in'}, seed ${SEED}`;
    const after = await sequences();
    const isOld = after.every((sequence) => sequence === published);
    const isNew = after.every((sequence) => sequence === published + 1);
    assert.ok(isOld || isNew, `${where}: a mixture, ${published} → ${after}`);

    await fleetOk(['build', '--state', state, '--flake', flake]);
    published += 1;
    assert.deepEqual(await sequences(), [published, published], where);
    const roots = await readdir(join(state, 'gcroots'));
    assert.deepEqual(
      roots.filter((name) => name.startsWith('building-')),
      [],
      where,
    );
    // The server may be making a pack; what a build left behind would stay.
    const temporary = () => readdir(join(state, 'blobs', 'tmp'));
    await waitFor(async () => (await temporary()).length === 0, 30_000).catch(async () => {
      assert.deepEqual(await temporary(), [], where);
    });
    // One that ended by itself was no moment; the machine is quicker than it was when measured.
    if (isKilled) moment += 1;
    else span *= 0.8;
  }
  t.diagnostic(
    `${MOMENTS} of ${tries} builds of about ${Math.round(duration)} ms were killed (seed ${SEED})`,
  );
});

test('what a build that died had committed is served once the next one ends, unchanged as it is', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  const hosts = new Map([['alpha', 2]]);
  const change = () => writeFlake(join(dir, 'flake'), { hosts, fileBytes: 1_000 });
  const build = async (flake: string) => {
    const text = await fleetOk(['build', '--state', state, '--flake', flake, '--json']);
    return JSON.parse(text).hosts[0].change as string;
  };
  await fleetOk(['init', '--state', state, '--origin', 'crash.test']);
  await build(await change());
  const checkpoint = join(state, 'log', '1', 'checkpoint');
  const before = await readFile(checkpoint);
  const flake = await change();
  assert.equal(await build(flake), 'system');
  const after = await readFile(checkpoint, 'utf8');
  // As if it had died after the commit: no checkpoint says so yet.
  await writeFile(checkpoint, before);
  assert.equal(await build(flake), 'none');
  assert.equal((await readFile(checkpoint, 'utf8')).split('\n')[1], after.split('\n')[1]);
});

test('an orphan or damaged blob keeps nothing from being healed', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  const flake = await writeFlake(join(dir, 'flake'), {
    hosts: new Map([['alpha', 5]]),
    fileBytes: 10_000,
  });
  await fleetOk([
    'init',
    '--state',
    state,
    '--origin',
    'crash.test',
    '--url',
    'http://127.0.0.1:1',
  ]);
  await fleetOk(['build', '--state', state, '--flake', flake]);
  const { url } = await serve(t, state);
  await fleetOk(['host', 'enroll', 'alpha', '--state', state, '-o', join(dir, 'a.json')]);
  const { token } = await enrolByHand(await readFile(join(dir, 'a.json'), 'utf8'), url);
  const access = { url, token };
  const whole = await readWhole(access, 'alpha');
  assert.equal(whole?.paths, 6);

  // Its update pack as well, for a host that has reported nothing.
  const offer = JSON.parse(await (await get(access, '/v1/hosts/alpha/offer')).text());
  const pack = `/v1/packs/${offer.closure.sha256}`;
  await waitFor(async () => (await get(access, pack)).status === 200, 30_000);
  const blobs = (await readdir(join(state, 'blobs'), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  // Six NARs, the closure file, the log of the build, and the pack's index.
  assert.equal(blobs.length, 9);
  for (const [index, blob] of blobs.entries()) {
    if (index % 2 === 0) await truncate(blob, 10);
    else await writeFile(blob, '');
  }
  // Until then a client is told that it is missing, and not given half of it.
  const list = await get(access, `/${/store\/(.{32})/.exec(whole?.toplevel ?? '')?.[1]}.narinfo`);
  assert.equal(list.status, 404);
  await fleetOk(['build', '--state', state, '--flake', flake]);
  assert.deepEqual(await readWhole(access, 'alpha'), whole);
});

/** Numbers in [0, 1), the same ones for the same seed (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

async function heard(build: ReturnType<typeof startFleet>, what: RegExp): Promise<void> {
  let over = false;
  void build.done.then(() => {
    over = true;
  });
  while (!what.test(build.stderr()) && !over) await sleep(1);
}
