// A publisher whose process is killed just before each step that changes what lasts, in turn: a publication, the
// import of a root, and what a running server does for the log. Whatever anybody could read as a checkpoint, before,
// meanwhile and after, is a beginning of what came later; an audit finds nothing; and the next publication goes on.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { auditLog } from '../../src/audit/audit.ts';
import { openFactsPool } from '../../src/audit/facts-pool.ts';
import { openBundleSource } from '../../src/audit/source.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { appendEntries } from '../../src/manifest/append.ts';
import { verifyCheckpoint } from '../../src/manifest/log-view.ts';
import { auditFiles } from '../../src/server/audit-files.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { keepLog } from '../../src/server/log-keeper.ts';
import { logStoreOf, openLogWriter } from '../../src/server/log-writer.ts';
import { publishPending } from '../../src/server/pending.ts';
import { openStateDir, type StateDir } from '../../src/server/statedir.ts';
import { hashToken } from '../../src/server/tokens.ts';
import { acquireLease } from '../../src/storage/lease.ts';
import type { LogStore } from '../../src/storage/log.ts';
import type { Checkpoint } from '../../src/tlog/checkpoint.ts';
import { equalHashes, hashLeaf, rootOf, verifyConsistency } from '../../src/tlog/merkle.ts';
import { proveConsistency } from '../../src/tlog/prove.ts';
import {
  formatTilePath,
  parseBundle,
  TILE_WIDTH,
  type TileId,
  widthOfTile,
} from '../../src/tlog/tile.ts';
import { addServerKey, signNext } from '../helpers/rotation.ts';
import { makeState, publishHost, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const PRELOAD = resolve('test/fixtures/die-at-step.ts');
const FLEET = resolve('cli/fleet.ts');
const KEEPER = resolve('test/fixtures/keep-log.ts');
/** Processes at a time. */
const LANES = 2;
/** Each step, unless said otherwise. */
const EVERY = Number(process.env['FLEET_KILL_EVERY'] ?? 1);
const time = (): number => Math.floor(Date.now() / 1000);

type Killed = {
  /** What the killed process was to do: the program and its arguments, given the state. */
  readonly program: (state: string) => readonly string[];
  /** The same, to its end, in this process; and what must hold then. */
  readonly again: (dir: StateDir) => Promise<void>;
  /** Fewer steps than this were not all of them. */
  readonly leastSteps: number;
};

/**
 * Appends so many publications of nothing, written out together at the end: readers find the last one's tiles and
 * checkpoint, as if they had not looked before.
 */
async function appendNothing(dir: StateDir, times: number): Promise<void> {
  await using lease = await acquireLease({ file: dir.layout.publishLock, state: dir.state });
  const writer = await openLogWriter(dir);
  const tiles = new Map<string, { readonly id: TileId; readonly bytes: Uint8Array }>();
  const before = await writer.store.checkpoint();
  let text = before;
  const store: LogStore = {
    tile: async (id) => tiles.get(formatTilePath(id))?.bytes ?? (await writer.store.tile(id)),
    putTile: async (id, bytes) => void tiles.set(formatTilePath(id), { id, bytes }),
    checkpoint: async () => text,
    putCheckpoint: async (next) => {
      text = next;
    },
  };
  for (let i = 0; i < times; i++) {
    await appendEntries({ ...writer, store }, [], { fence: lease.holder.fence, now: time() });
  }
  const { size } = open(dir, text ?? '');
  for (const { id, bytes } of tiles.values()) {
    if (id.width !== widthOfTile(id.level, id.index, size)) continue;
    await writer.store.putTile(id, bytes);
  }
  await writer.store.putCheckpoint(text ?? '', before);
}

/** Enrols `host`, so that the log has a key to tell. */
async function enrol({ state }: StateDir, host: string): Promise<void> {
  const secretHash = hashToken(`invitation of ${host}`);
  await state.invite({ secretHash, host, expiresAt: time() + 3600 });
  const publicKey = publicKeyOfSecret(generateSecretKey());
  const request = { secretHash, publicKey, tokenHash: hashToken(host), now: time() };
  assert.equal(await state.enrol(request), 'enrolled');
}

/** Runs it, killed at step `at` where that is not 0; tells `seen` of each checkpoint that can be read meanwhile. */
async function run(
  program: readonly string[],
  state: string,
  at: number,
  seen: (text: string) => void,
): Promise<{
  readonly signal: string | null;
  readonly code: number | null;
  readonly stderr: string;
}> {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    FLEET_DIE_AT: String(at),
    FLEET_STEPS: join(state, '../steps'),
    // Hundreds of processes start: what they compile is kept for the next.
    NODE_COMPILE_CACHE: join(state, '../../compiled'),
  };
  delete env['NODE_TEST_CONTEXT'];
  const child = spawn(process.execPath, ['--import', PRELOAD, ...program], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const ended = new Promise<{ code: number | null; signal: string | null }>((settle, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => settle({ code, signal }));
  });
  let isOver = false;
  const watching = (async () => {
    while (!isOver) {
      seen(readFileSync(join(state, 'log/1/checkpoint'), 'utf8'));
      await sleep(1);
    }
  })();
  const end = await ended;
  isOver = true;
  await watching;
  return { ...end, stderr };
}

/** What a reader makes of the files: the checkpoint, which some root's keys signed, and a tree that comes to it. */
async function readLog(dir: StateDir): Promise<{ readonly text: string; readonly size: number }> {
  const store = logStoreOf(dir);
  const text = (await store.checkpoint()) ?? '';
  const checkpoint = open(dir, text);
  const hashes: Uint8Array[] = [];
  for (let index = 0; index * TILE_WIDTH < checkpoint.size; index++) {
    const width = widthOfTile('entries', index, checkpoint.size);
    const bundle = (await store.tile({ level: 'entries', index, width })) ?? Buffer.of();
    const leaves = parseBundle(bundle, width).map(hashLeaf);
    const tile = await store.tile({
      level: 0,
      index,
      width: widthOfTile(0, index, checkpoint.size),
    });
    assert.deepEqual(Buffer.from(tile ?? []), Buffer.concat(leaves));
    hashes.push(...leaves);
  }
  assert.ok(equalHashes(rootOf(hashes), checkpoint.root));
  return { text, size: checkpoint.size };
}

function open(dir: StateDir, text: string): Checkpoint {
  const errors: unknown[] = [];
  for (const { root } of dir.roots) {
    try {
      return verifyCheckpoint(text, root).checkpoint;
    } catch (error) {
      errors.push(error);
    }
  }
  throw new AggregateError(errors, `no root's keys signed ${text}`);
}

/** Each of these checkpoints, in the order in which they were seen, is a beginning of the next. */
async function assertConsistent(dir: StateDir, texts: Iterable<string>): Promise<void> {
  const all = [...texts].map((text) => open(dir, text));
  for (const [i, newer] of all.entries()) {
    const older = all[i - 1];
    if (older === undefined) continue;
    const proof = await proveConsistency(logStoreOf(dir).tile, older.size, newer.size);
    assert.ok(verifyConsistency({ older, newer, proof }), `${older.size} → ${newer.size}`);
  }
}

async function killEverywhere(t: TestContext, template: StateDir, killed: Killed): Promise<void> {
  const dir = await temporaryDir(t);
  const { top } = template.layout;
  await template[Symbol.asyncDispose]();
  const trusted = await readFile(join(top, 'root/1.root.json'), 'utf8');
  await using pool = openFactsPool();
  const irregularities = async (state: StateDir): Promise<readonly unknown[]> => {
    const source = await openBundleSource(auditFiles(state, { closures: false }));
    return (await auditLog(source, trusted, pool)).irregularities;
  };

  const killAt = async (at: number): Promise<{ steps: number; checkpoints: number }> => {
    const where = join(dir, String(at));
    const state = join(where, 'state');
    await cp(top, state, { recursive: true });
    const texts = new Set<string>();
    const seen = (text: string): void => void texts.add(text);
    const { signal, code, stderr } = await run(killed.program(state), state, at, seen);
    if (at === 0) assert.equal(code, 0, stderr);
    else assert.equal(signal, 'SIGKILL', `step ${at}: ${code} ${stderr}`);
    await using opened = await openStateDir(state, { writer: 'inline' });
    const left = await readLog(opened);
    seen(left.text);
    await killed.again(opened);
    seen((await readLog(opened)).text);
    await publishHost(opened, 'lantern', 'the next', time());
    const last = await readLog(opened);
    seen(last.text);
    await assertConsistent(opened, texts);
    assert.ok(last.size > left.size);
    // Whatever was in the log after the kill still is.
    assert.deepEqual(await irregularities(opened), [], `after step ${at}`);
    const steps = at === 0 ? Number(await readFile(join(where, 'steps'), 'utf8')) : 0;
    await rm(where, { recursive: true });
    return { steps, checkpoints: texts.size };
  };

  const { steps } = await killAt(0);
  assert.ok(steps >= killed.leastSteps, `only ${steps} steps`);
  let next = 1;
  const lane = async (): Promise<void> => {
    for (let at = next; at <= steps; at = next) {
      next += EVERY;
      await killAt(at);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  t.diagnostic(`killed before each of ${steps} steps`);
}

test('a publication', async (t) => {
  const dir = await makeState(await temporaryDir(t), time());
  await publishHosts(dir, ['lantern', 'archive'], 'one', time());
  await publishHosts(dir, ['lantern', 'gateway', 'archive'], 'two', time(), true);
  // Close to the border of a tile, so that full ones are written too.
  await appendNothing(dir, TILE_WIDTH - 6);
  await enrol(dir, 'lantern');
  await killEverywhere(t, dir, {
    program: (state) => [FLEET, 'publish', '--state', state],
    again: async (opened) => {
      const results = await publishPending(opened, { approvals: [], now: time() });
      assert.ok(results.length === 3 || results.length === 0);
      assert.deepEqual(
        results.filter(({ error }) => error !== null),
        [],
      );
      assert.deepEqual(await opened.state.pendingManifests(), []);
      for (const [host, sequence] of [
        ['lantern', 2],
        ['gateway', 1],
        ['archive', 2],
      ] as const) {
        assert.equal((await opened.state.currentManifest(host))?.sequence, sequence);
      }
      assert.deepEqual(await opened.state.unloggedKeys(1), []);
    },
    leastSteps: 60,
  });
});

test('the import of a root with another log key', async (t) => {
  const dir = await makeState(await temporaryDir(t), time());
  await publishHosts(dir, ['lantern', 'gateway'], 'one', time());
  const keys = new Map([['log', [await addServerKey(dir, 'log')]] as const]);
  const text = await signNext(dir, time(), { keys });
  const file = join(await temporaryDir(t), '2.json');
  await writeFile(file, text);
  await killEverywhere(t, dir, {
    program: (state) => [FLEET, 'root', 'import', file, '--state', state],
    again: async (opened) => {
      await importRoot(opened, text, time());
      assert.equal(opened.root.version, 2);
      for (const host of ['lantern', 'gateway']) {
        assert.equal((await opened.state.currentManifest(host))?.sequence, 2);
      }
      const store = logStoreOf(opened);
      verifyCheckpoint((await store.checkpoint()) ?? '', opened.root);
    },
    leastSteps: 60,
  });
});

/** What the keeper does, to its end. */
async function keepOnce(opened: StateDir): Promise<void> {
  const stop = new AbortController();
  const errors: unknown[] = [];
  const onError = (error: unknown): void => void errors.push(error);
  const options = {
    state: opened.state,
    publishLock: opened.layout.publishLock,
    now: time,
    onError,
  };
  const looking = keepLog(() => openLogWriter(opened), options, stop.signal, 1_000_000);
  stop.abort();
  await looking;
  assert.deepEqual(errors, []);
}

test('a renewal of the checkpoint’s time', async (t) => {
  const dir = await makeState(await temporaryDir(t), time() - 8000);
  await publishHost(dir, 'lantern', 'one', time() - 7200);
  await killEverywhere(t, dir, {
    program: (state) => [KEEPER, state],
    again: async (opened) => {
      await keepOnce(opened);
      const text = (await logStoreOf(opened).checkpoint()) ?? '';
      const { freshAt } = verifyCheckpoint(text, opened.root);
      assert.ok(time() - (freshAt ?? 0) < 600, `${freshAt}`);
    },
    leastSteps: 6,
  });
});

test('a key of a host that the keeper tells the log', async (t) => {
  const dir = await makeState(await temporaryDir(t), time());
  await publishHost(dir, 'lantern', 'one', time());
  await enrol(dir, 'lantern');
  await killEverywhere(t, dir, {
    program: (state) => [KEEPER, state],
    again: async (opened) => {
      await keepOnce(opened);
      assert.deepEqual(await opened.state.unloggedKeys(1), []);
    },
    leastSteps: 30,
  });
});
