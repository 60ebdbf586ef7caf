// Garbage collection against a model: random histories of stores, publications, reports, pins, uploads
// and time. The model knows the policy (docs/CACHE.md) and nothing of the implementation: it keeps what
// is kept for itself, and closes that under references.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { collectGarbage } from '../../src/cache/gc.ts';
import { hashPartOf, type StorePath } from '../../src/nix/storepath.ts';
import { collect } from '../../src/server/collect.ts';
import { retentionRoots } from '../../src/server/retention.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import type { StagedNar, StoredPath } from '../../src/storage/state.ts';
import { storePath } from '../helpers/paths.ts';
import { commitManifests, hex, manifest } from '../helpers/rows.ts';
import { makeState } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const DAY = 86_400;
const START = 1_800_000_000;
const HOSTS = ['a', 'b'];

/** What happens in a history; numbers choose among what is there by then. */
type Step =
  | { readonly type: 'store'; readonly references: readonly number[] }
  | { readonly type: 'publish'; readonly host: number; readonly path: number }
  | { readonly type: 'pin' | 'unpin' | 'touch'; readonly path: number }
  | { readonly type: 'upload'; readonly references: readonly number[] }
  | { readonly type: 'wait'; readonly days: number };

const index = fc.nat(1000);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constant('store' as const),
      references: fc.array(index, { maxLength: 3 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant('publish' as const), host: fc.nat(1), path: index }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constantFrom('pin' as const, 'unpin' as const, 'touch' as const),
      path: index,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('upload' as const),
      references: fc.array(index, { maxLength: 2 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('wait' as const), days: fc.nat(6) }) },
);

type Known = { readonly references: readonly StorePath[]; usedAt: number };

/** A history as the model sees it. */
class Model {
  now = START;
  readonly paths = new Map<StorePath, Known>();
  readonly told = new Map<string, StorePath[]>();
  readonly pins = new Map<string, StorePath>();

  use(path: StorePath): void {
    const known = this.paths.get(path);
    if (known !== undefined) known.usedAt = this.now;
  }

  /** What the policy keeps, and nothing else. */
  kept(keepManifests: number, keepUnusedDays: number): StorePath[] {
    const kept = new Set<StorePath>();
    const keep = (path: StorePath): void => {
      const known = this.paths.get(path);
      if (known === undefined || kept.has(path)) return;
      kept.add(path);
      for (const reference of known.references) keep(reference);
    };
    for (const toplevels of this.told.values()) toplevels.slice(-keepManifests).forEach(keep);
    for (const path of this.pins.values()) keep(path);
    for (const [path, { usedAt }] of this.paths) {
      if (usedAt >= this.now - keepUnusedDays * DAY) keep(path);
    }
    return [...kept].sort();
  }
}

/** Does `step` to both. */
class History {
  readonly model = new Model();
  readonly #dir: StateDir;
  readonly #fence: number;
  #count = 0;

  constructor(dir: StateDir, fence: number) {
    this.#dir = dir;
    this.#fence = fence;
  }

  #pick(choice: number): StorePath | undefined {
    const all = [...this.model.paths.keys()];
    return all[choice % Math.max(all.length, 1)];
  }

  #picks(choices: readonly number[]): StorePath[] {
    const picked = choices.map((choice) => this.#pick(choice)).filter((path) => path !== undefined);
    return [...new Set(picked)].sort();
  }

  async newRow(references: readonly StorePath[], isOwn = true): Promise<StoredPath> {
    this.#count += 1;
    const path = storePath(`path ${this.#count}`);
    const blob = await this.#dir.blobs.put([Buffer.from(`blob ${this.#count}`)]);
    // Every third refers to itself.
    const all = isOwn && this.#count % 3 === 0 ? [...references, path].sort() : references;
    return {
      ...{
        path,
        narHash: `sha256:${hex('x').slice(0, 52)}` as StoredPath['narHash'],
        narSize: 100,
      },
      ...{ references: all, deriver: null, sigs: [], ca: null, compression: 'zstd' },
      ...{ blob: blob.id, blobSize: blob.size, upstream: null },
    };
  }

  async run(one: Step): Promise<void> {
    const { model } = this;
    const { state } = this.#dir;
    if (one.type === 'wait') model.now += one.days * DAY + 1;
    else if (one.type === 'store') {
      const row = await this.newRow(this.#picks(one.references));
      await state.addCachedPaths([row], model.now);
      model.paths.set(row.path, { references: row.references, usedAt: model.now });
    } else if (one.type === 'upload') {
      await this.upload(this.#picks(one.references));
    } else {
      const path = this.#pick(one.path);
      if (path === undefined) return;
      if (one.type === 'publish') {
        const host = HOSTS[one.host] ?? 'a';
        const toplevels = model.told.get(host) ?? [];
        const next = { ...manifest(host, 1, toplevels.length + 1), toplevel: path };
        await commitManifests(state, [next], this.#fence, model.now);
        model.told.set(host, [...toplevels, path]);
        model.use(path);
      } else if (one.type === 'pin') {
        await state.addPin({ name: path.slice(11, 43), path, createdAt: model.now });
        model.pins.set(path.slice(11, 43), path);
        model.use(path);
      } else if (one.type === 'unpin') {
        await state.removePin(path.slice(11, 43));
        model.pins.delete(path.slice(11, 43));
      } else {
        await state.touchPaths([path], model.now);
        model.use(path);
      }
    }
  }

  async stage(): Promise<StoredPath> {
    const row = await this.newRow([], false);
    const file = `upload-${this.#count}.nar.zst`;
    const nar: StagedNar = {
      ...{ file, narHash: row.narHash, narSize: row.narSize, fileHash: row.narHash, fileSize: 9 },
      ...{ blob: row.blob, blobSize: row.blobSize, flatHash: null, mentions: [] },
      contents: { listing: null, debugFiles: [] },
    };
    await this.#dir.state.stageNar(nar, this.model.now);
    return row;
  }

  async upload(references: readonly StorePath[]): Promise<void> {
    await this.describe({ ...(await this.stage()), references });
  }

  /** The narinfo of a staged NAR comes; what it refers to may have gone meanwhile, then it is refused. */
  async describe(row: StoredPath): Promise<void> {
    const { outcome } = await this.#dir.state.addUploadedPath(row, null, this.model.now);
    const isWhole = row.references.every((path) => this.model.paths.has(path));
    assert.equal(outcome, isWhole ? 'added' : 'references missing');
    if (!isWhole) return;
    this.model.paths.set(row.path, { references: row.references, usedAt: this.model.now });
    for (const path of row.references) this.model.use(path);
  }
}

async function contentsOf({ state }: StateDir): Promise<StorePath[]> {
  const rows = await state.cachedPathsAfter('', 10_000);
  return rows.map(({ path }) => path).sort();
}

async function requireWhole(dir: StateDir): Promise<void> {
  const rows = await dir.state.cachedPathsAfter('', 10_000);
  const there = new Set(rows.map(({ path }) => path));
  for (const { path, references, blob, blobSize } of rows) {
    for (const reference of references) assert.ok(there.has(reference), `${path} → ${reference}`);
    if (blob !== null) assert.equal(await dir.blobs.size(blob), blobSize);
  }
}

const settings = fc.record({
  keepManifests: fc.integer({ min: 1, max: 3 }),
  keepUnusedDays: fc.nat(8),
  keepNarDays: fc.constantFrom(0, 3),
});

test('what is kept is exactly what the policy says, dry or not, again and again', async (t) => {
  const base = await temporaryDir(t);
  let runs = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 30 }),
      fc.array(step, { maxLength: 15 }),
      settings,
      async (first, second, config) => {
        await using opened = await makeState(`${base}/${++runs}`, START);
        const dir = { ...opened, config: { ...opened.config, ...config } };
        const { fence } = await dir.state.recordLease(1, START);
        const history = new History(dir, fence);
        for (const steps of [first, second]) {
          for (const one of steps) await history.run(one);
          // Uses of this very second count as now; the policy is about those before.
          history.model.now += 1;
          const { now } = history.model;
          const before = await contentsOf(dir);
          const expected = history.model.kept(config.keepManifests, config.keepUnusedDays);
          const would: string[] = [];
          await collect(dir, { dryRun: true, now, onPath: ({ path }) => would.push(path) });
          assert.deepEqual(await contentsOf(dir), before);
          const done = await collect(dir, { dryRun: false, now });
          assert.deepEqual(await contentsOf(dir), expected);
          assert.deepEqual(
            would.sort(),
            before.filter((path) => !expected.includes(path)),
          );
          assert.equal(done?.paths, would.length);
          await requireWhole(dir);
          for (const path of history.model.paths.keys()) {
            if (!expected.includes(path)) history.model.paths.delete(path);
          }
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('an upload in flight is never left without what it refers to', async (t) => {
  const base = await temporaryDir(t);
  let runs = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 3, maxLength: 20 }),
      fc.array(fc.tuple(index, step), { minLength: 1, maxLength: 12 }),
      async (steps, meanwhile) => {
        await using dir = await makeState(`${base}/${++runs}`, START);
        const { fence } = await dir.state.recordLease(1, START);
        const history = new History(dir, fence);
        const { model } = history;
        for (const one of steps) await history.run(one);
        model.now += 1;
        const cutoff = model.now;
        const roots = await retentionRoots(dir.state, 1);
        await dir.state.beginSweep({ roots: roots.map(({ path }) => path), cutoff, dryRun: false });
        const protectedAtFirst = new Set(model.kept(1, 0));
        // Between any two steps of the sweep, others store, publish, pin and upload.
        for (let done = false; !done; ) {
          const swept = await dir.state.sweepPaths(1, model.now);
          for (const { path } of swept.removed) {
            assert.ok(!protectedAtFirst.has(path), `${path} was to be kept`);
            model.paths.delete(path);
          }
          await requireWhole(dir);
          const next = meanwhile.shift();
          if (next !== undefined) {
            const row = await history.stage();
            const chosen = [...model.paths.keys()][next[0] % Math.max(model.paths.size, 1)];
            await history.describe({
              ...row,
              references: chosen === undefined ? [] : [chosen],
            });
            if (next[1].type !== 'wait') await history.run(next[1]);
          }
          done = swept.done;
        }
        // All that came or was used meanwhile is there, with all that it refers to.
        assert.deepEqual(await contentsOf(dir), [...model.paths.keys()].sort());
      },
    ),
    { numRuns: 60 },
  );
});

test('bytes outlive their row for as long as was promised, and uploads before their narinfo stay', async (t) => {
  const base = await temporaryDir(t);
  await using dir = await makeState(`${base}/s`, START);
  const history = new History(dir, 0);
  const row = await history.newRow([]);
  await dir.state.addCachedPaths([row], START);
  const staged = await history.stage();
  const later = Math.floor(Date.now() / 1000) + 100 * DAY;
  const run = (now: number, releasedSince: number) =>
    collectGarbage({
      ...{
        state: dir.state,
        blobs: dir.blobs,
        roots: [],
        packs: { closures: [], bases: [] },
        usedSince: START + 1,
        buildingSince: Number.POSITIVE_INFINITY,
        now,
        releasedSince,
      },
      dryRun: false,
    });
  assert.equal((await run(later, later - 30 * DAY)).paths, 1);
  assert.equal(await dir.state.cachedPath(hashPartOf(row.path)), null);
  assert.equal(await dir.blobs.size(row.blob), row.blobSize);
  assert.equal(await dir.state.narBlobSize(row.blob), row.blobSize);
  assert.equal((await run(later + 29 * DAY, later - DAY)).blobs, 0);
  const last = await run(later + 31 * DAY, later + DAY);
  assert.equal(last.blobs, 1);
  assert.equal(await dir.blobs.size(row.blob), null);
  // The staged NAR was older than the grace of its row, and its file is nobody's since the first run.
  assert.equal(await dir.blobs.size(staged.blob), null);
});

test('a collection that is called off while it looks at all files ends at the next one', async (t) => {
  const made = await makeState(await temporaryDir(t), START);
  t.after(() => made[Symbol.asyncDispose]());
  const ending = new AbortController();
  let seen = 0;
  const list = async function* () {
    for (let i = 0; i < 100; i++) {
      if (++seen === 10) ending.abort();
      // Named or too young, as nearly all are: nothing comes of any.
      yield { id: hex(`blob ${i}`), size: 1, putAt: START + 1000 };
    }
  };
  const blobs = Object.assign(Object.create(made.blobs), { list });
  const collecting = collect(
    { ...made, blobs },
    { dryRun: false, signal: ending.signal, now: START },
  );
  await assert.rejects(collecting, { name: 'AbortError' });
  assert.equal(seen, 10);
});
