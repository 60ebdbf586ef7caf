// Uploads and garbage collection, one between any two steps of the other: what was acknowledged is there,
// and no row refers to what is not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatNarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { collect } from '../../src/server/collect.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { type Between, between } from '../helpers/between.ts';
import {
  type Cache,
  cache,
  NOW,
  narinfoPath,
  type Parcel,
  parcel,
  put,
} from '../helpers/uploads.ts';

const DAY = 86_400;
/** What was last used before `NOW - DAY / 2` may go, and its bytes with it. */
const POLICY = { keepUnusedDays: 1, keepNarDays: 0 };
const collectIn = (dir: StateDir) => collect(dir, { dryRun: false, now: NOW + DAY / 2 });

type Parcels = { readonly one: Parcel; readonly two: Parcel; readonly user: Parcel };

async function sendNar({ send }: Cache, { file, nar }: Parcel): Promise<boolean> {
  const { status } = await send('PUT', `/nar/${file}`, nar);
  assert.ok(status === 201 || status === 503, String(status));
  return status === 201;
}

async function describe({ send }: Cache, { info }: Parcel, url = info.url): Promise<boolean> {
  const { status } = await send('PUT', narinfoPath(info), formatNarInfo({ ...info, url }));
  assert.ok([200, 201, 422].includes(status), String(status));
  return status < 300;
}

/** As `nix copy` does. */
async function push(made: Cache, one: Parcel): Promise<boolean> {
  const { status } = await made.send('HEAD', `/nar/${one.file}`);
  return (status === 200 || (await sendNar(made, one))) && (await describe(made, one));
}

/** What clients do; each returns what it was told that is there. */
const CLIENTS: Record<string, (made: Cache, parcels: Parcels) => Promise<Parcel[]>> = {
  'pushes the path': async (made, { one }) => ((await push(made, one)) ? [one] : []),
  'sends the path whatever is there': async (made, { one }) =>
    (await sendNar(made, one)) && (await describe(made, one)) ? [one] : [],
  'describes the path': async (made, { one }) =>
    (await describe(made, one, 'nar/none.nar.zst')) ? [one] : [],
  'pushes another path of the same bytes': async (made, { two }) =>
    (await push(made, two)) ? [two] : [],
  'pushes what refers to it': async (made, { one, user }) =>
    (await push(made, user)) ? [one, user] : [],
  'asks whether it is there': async ({ send }, { one }) => {
    const body = JSON.stringify({ paths: [one.info.path] });
    const answer = await send('POST', '/v1/cache/missing', body);
    const { missing } = (await answer.json()) as { missing: string[] };
    return missing.length === 0 ? [one] : [];
  },
};

/** What there is of the path at first, all of it old enough to go. */
const BEFORE = ['row', 'released', 'staged', 'row and staged', 'file'] as const;

async function prepare(made: Cache, { one }: Parcels, before: (typeof BEFORE)[number]) {
  const { state } = made.dir;
  const old = NOW - 10 * DAY;
  await put(made, one);
  const row = (await state.cachedPath(hashPartOf(one.info.path))) ?? assert.fail();
  const staged = (await state.stagedNar(one.file)) ?? assert.fail();
  await state.dropPath(row.path, old);
  await state.stageNar(staged, 0);
  await state.sweepLeftovers(1, 0, 1000);
  if (before === 'staged' || before === 'file') await state.sweepNars(NOW, 1000, false);
  if (before.includes('row')) await state.addCachedPaths([row], old);
  if (before.includes('staged')) await state.stageNar(staged, old);
}

async function requireThere(made: Cache, told: readonly Parcel[], where: string): Promise<void> {
  for (const { info } of told) {
    const answer = await made.send('GET', narinfoPath(info));
    assert.equal(answer.status, 200, where);
    const { url } = parseNarInfo(await answer.text());
    assert.equal((await made.send('GET', `/${url}`)).status, 200, where);
  }
  const { state } = made.dir;
  const rows = await state.cachedPathsAfter('', 1000);
  for (const { path, references } of rows) {
    assert.equal(
      (await state.cachedPaths(references)).length,
      references.length,
      `${path} ${where}`,
    );
  }
}

/** Leaves little for the next round to look at. */
async function forget({ dir: { state, blobs } }: Cache, parcels: Parcels): Promise<void> {
  for (const { info, file } of Object.values(parcels) as Parcel[]) {
    await state.dropPath(info.path, NOW);
    const staged = await state.stagedNar(file);
    if (staged !== null) await state.stageNar({ ...staged, mentions: [] }, 0);
  }
  await state.sweepLeftovers(1, 0, 1000);
  for (const { id } of await state.sweepNars(NOW + DAY, 1000, false)) await blobs.delete(id);
}

test('a collection between any two steps of an upload takes nothing that was acknowledged', async (t) => {
  let racing: Between | undefined;
  const made = await cache(t, POLICY, (dir) => {
    racing = between(dir);
    return racing.dir;
  });
  assert.ok(racing !== undefined);
  for (const [name, client] of Object.entries(CLIENTS)) {
    for (const before of ['row', 'row and staged'] as const) {
      for (let calls = 1, wasDone = true; wasDone; calls++) {
        const where = `${name}, ${before}, after ${calls} calls`;
        const parcels = parcelsOf(where);
        await prepare(made, parcels, before);
        racing.after(calls, async () => void (await collectIn(made.dir)));
        const told = await client(made, parcels);
        wasDone = racing.stop();
        await requireThere(made, told, where);
        await forget(made, parcels);
      }
    }
  }
});

test('an upload between any two steps of a collection keeps what was acknowledged', async (t) => {
  const made = await cache(t, POLICY);
  const racing = between(made.dir);
  for (const [name, client] of Object.entries(CLIENTS)) {
    for (const before of BEFORE) {
      for (let calls = 1, wasDone = true; wasDone; calls++) {
        const where = `${name}, ${before}, after ${calls} calls of a collection`;
        const parcels = parcelsOf(where);
        await prepare(made, parcels, before);
        let told: Parcel[] = [];
        racing.after(calls, async () => {
          told = await client(made, parcels);
        });
        await collectIn(racing.dir);
        wasDone = racing.stop();
        await requireThere(made, told, where);
        await forget(made, parcels);
      }
    }
  }
});

function parcelsOf(seed: string): Parcels {
  const one = parcel(`one ${seed}`, seed);
  const two = parcel(`two ${seed}`, seed);
  return { one, two, user: parcel(`user ${seed}`, `uses, ${seed}`, [one.info.path]) };
}
