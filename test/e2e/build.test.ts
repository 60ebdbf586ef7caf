// fleet build and fleet serve with the real Nix on both sides: what is published, what a failing host
// does to the others, two builds at once, and a stock Nix client that trusts nothing but the cache's key.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { lstat, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import Database from 'better-sqlite3';
import { fleet, fleetOk, run, serve, startFleet } from '../helpers/cli.ts';
import { writeFlake } from '../helpers/flakes.ts';
import { enrolByHand, readWhole, rootOf } from '../helpers/served.ts';
import { temporaryDir } from '../helpers/temporary.ts';

type Context = Parameters<typeof temporaryDir>[0];
type Built = {
  hosts: {
    host: string;
    change: string | null;
    toplevel: string;
    before: string | null;
    published: { sequence: number } | null;
    error: { code: string; log: string[] } | null;
  }[];
};

async function world(t: Context, hosts: [string, number][] = [['alpha', 3]]) {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await fleetOk([
    'init',
    '--state',
    state,
    '--origin',
    'build.test',
    '--url',
    'http://127.0.0.1:1',
  ]);
  const write = (over: Partial<Parameters<typeof writeFlake>[1]> = {}) =>
    writeFlake(join(dir, 'flake'), { hosts: new Map(hosts), fileBytes: 5000, ...over });
  const build = async (...args: string[]) => {
    const outcome = await fleet(['build', '--state', state, '--json', ...args]);
    return { ...outcome, built: JSON.parse(outcome.stdout) as Built };
  };
  return { dir, state, write, build };
}

const sequences = ({ hosts }: Built) => hosts.map((one) => [one.host, one.published?.sequence]);

test('a build publishes every host once; the next one, with nothing changed, nothing', async (t) => {
  const { state, write, build } = await world(t, [
    ['alpha', 3],
    ['beta', 4],
  ]);
  const flake = await write();
  const first = await build('--flake', flake);
  assert.equal(first.code, 0, first.stderr);
  assert.deepEqual(sequences(first.built), [
    ['alpha', 1],
    ['beta', 1],
  ]);
  const links = (await readdir(join(state, 'gcroots'))).sort();
  assert.match(links.join(), /^systems\.(\d+)\.1,systems\.\1\.1-2$/);
  for (const [i, { toplevel }] of first.built.hosts.entries()) {
    const root = join(state, 'gcroots', links[i] ?? '');
    assert.ok((await lstat(root)).isSymbolicLink());
    assert.ok(toplevel.startsWith('/nix/store/'));
    const roots = await run('nix-store', ['--query', '--roots', toplevel], { NIX_CONFIG: NIX });
    assert.ok(roots.stdout.includes(root), roots.stdout + roots.stderr);
  }
  const second = await build('--flake', flake);
  assert.equal(second.code, 0);
  assert.deepEqual(
    second.built.hosts.map(({ change }) => change),
    ['none', 'none'],
  );
  assert.deepEqual((await readdir(join(state, 'gcroots'))).sort(), links);
});

test('only the hosts that are named are built; an unknown one is told which there are', async (t) => {
  const { write, build } = await world(t, [
    ['alpha', 1],
    ['beta', 1],
  ]);
  const flake = await write();
  const one = await build('beta', '--flake', flake);
  assert.deepEqual(sequences(one.built), [['beta', 1]]);
  const { code, stderr } = await build('gamma', '--flake', flake);
  assert.equal(code, 2);
  assert.match(stderr, /E_HOST_NOT_IN_FLAKE/);
  assert.match(stderr, /alpha, beta/);
});

test('a dry run says what would be published, and changes nothing', async (t) => {
  const { state, write, build } = await world(t);
  const flake = await write();
  const dry = await build('--dry-run', '--flake', flake);
  assert.equal(dry.code, 0);
  assert.deepEqual(
    dry.built.hosts.map(({ change, published }) => [change, published]),
    [['new', null]],
  );
  assert.deepEqual(await readdir(join(state, 'gcroots')), []);
  assert.match(await fleetOk(['status', '--state', state]), /No hosts yet/);
  await build('--flake', flake);
  assert.equal((await build('--dry-run', '--flake', flake)).built.hosts[0]?.change, 'none');
  const changed = await build('--dry-run', '--flake', await write());
  assert.equal(changed.built.hosts[0]?.change, 'system');
});

test('--emergency: published as one, also where nothing else changed, and shown', async (t) => {
  const { state, write, build } = await world(t);
  const flake = await write();
  await build('--flake', flake);
  const show = async () =>
    JSON.parse(await fleetOk(['host', 'show', 'alpha', '--state', state, '--json'])).desired;
  assert.deepEqual([(await show()).sequence, (await show()).emergency], [1, false]);
  const dry = await build('--dry-run', '--emergency', '--flake', flake);
  assert.equal(dry.built.hosts[0]?.change, 'emergency');
  const { built } = await build('--emergency', '--flake', flake);
  assert.deepEqual([built.hosts[0]?.change, built.hosts[0]?.published?.sequence], ['emergency', 2]);
  assert.deepEqual([(await show()).sequence, (await show()).emergency], [2, true]);
  assert.match(await fleetOk(['host', 'show', 'alpha', '--state', state]), /EMERGENCY/);
  assert.match(await fleetOk(['status', '--state', state]), /#2 .*, EMERGENCY/);
  // The same once more is nothing new; the next system is no emergency, unless it is said to be.
  assert.equal((await build('--emergency', '--flake', flake)).built.hosts[0]?.change, 'none');
  assert.equal((await build('--flake', flake)).built.hosts[0]?.change, 'none');
  await build('--no-publish', '--emergency', '--flake', await write());
  assert.match(await fleetOk(['status', '--state', state]), /#3 .*, EMERGENCY, waits/);
  const text = await fleetOk(['build', '--state', state, '--flake', await write()]);
  assert.doesNotMatch(text, /EMERGENCY/);
  assert.equal((await show()).emergency, false);
});

test('a host that fails to evaluate or to build stops no other: exit 4, with its log', async (t) => {
  const { state, write, build } = await world(t, [
    ['alpha', 1],
    ['beta', 1],
    ['gamma', 1],
  ]);
  const flake = await write({ evalFails: ['alpha'], buildFails: ['beta'] });
  const { code, built, stderr } = await build('--flake', flake);
  assert.equal(code, 4);
  const [alpha, beta, gamma] = built.hosts;
  assert.equal(alpha?.error?.code, 'E_EVAL');
  assert.match(stderr, /this host is broken on purpose/);
  assert.equal(beta?.error?.code, 'E_BUILD');
  assert.deepEqual(beta?.error?.log, ['working on it', 'this is the reason']);
  assert.match(stderr, /\| this is the reason/);
  assert.equal(gamma?.published?.sequence, 1);
  const text = await fleet(['build', '--state', state, '--flake', flake]);
  assert.equal(text.code, 4);
  assert.match(text.stdout, /alpha +FAILED/);
  assert.match(text.stdout, /gamma +unchanged/);
});

test('two builds at once publish one after the other, and the second says for whom it waits', async (t) => {
  const { dir, state, write } = await world(t);
  const first = await write();
  // A holder of the lease that takes its time: the lock is an open transaction on publish.lock.
  await fleetOk(['build', '--state', state, '--flake', first]);
  const lock = new Database(join(state, 'publish.lock'));
  lock.exec('BEGIN EXCLUSIVE');
  const flake = await write();
  const waiting = startFleet(['build', '--state', state, '--flake', flake]);
  while (!/waiting for/.test(waiting.stderr())) {
    assert.equal(waiting.child.exitCode, null, waiting.stderr());
    await new Promise((settle) => setTimeout(settle, 20));
  }
  assert.match(
    waiting.stderr(),
    /everything is built; waiting for process \d+, which is publishing/,
  );
  assert.match(await fleetOk(['status', '--state', state]), /alpha +#1/);
  lock.close();
  assert.equal((await waiting.done).code, 0);
  assert.match(await fleetOk(['status', '--state', state]), /alpha +#2/);
  await rm(dir, { recursive: true, force: true });
});

test('real builds in parallel all end well, and sequences only grow by one', async (t) => {
  const { state, write } = await world(t);
  const flake = await write();
  const runs = await Promise.all(
    [1, 2, 3].map(() => fleet(['build', '--state', state, '--flake', flake])),
  );
  assert.deepEqual(
    runs.map(({ code }) => code),
    [0, 0, 0],
    runs.map((one) => one.stderr).join(),
  );
  assert.match(await fleetOk(['status', '--state', state]), /alpha +#1 /);
});

const NIX = 'build-users-group =\nexperimental-features = nix-command\nsubstitute = true';

test('stock Nix with only the cache’s key gets the closure; with one byte changed it refuses', async (t) => {
  const { dir, state, write } = await world(t, [['alpha', 12]]);
  await fleetOk(['build', '--state', state, '--flake', await write()]);
  const server = await serve(t, state);
  const token = JSON.parse(
    await fleetOk(['token', 'create', 'nix', '--state', state, '--json']),
  ).token;
  const { root } = { root: await rootOf({ url: server.url, token }) };
  const toplevel = JSON.parse(await fleetOk(['status', '--state', state, '--json'])).hosts[0]
    .desired.toplevel;
  const netrc = join(dir, 'netrc');
  await writeFile(netrc, `machine 127.0.0.1 login fleet password ${token}\n`);
  const nix = (store: string, options: { netrc?: string; keys?: string } = {}) =>
    run(
      'nix',
      [
        'build',
        '--store',
        join(dir, store),
        '--substituters',
        server.url,
        '--max-jobs',
        '0',
        '--no-link',
        toplevel,
      ],
      {
        NIX_CONFIG: `${NIX}\nnetrc-file = ${options.netrc ?? netrc}\ntrusted-public-keys = ${options.keys ?? root.cache.keys.join(' ')}`,
        XDG_CACHE_HOME: join(dir, `${store}-cache`),
      },
    );
  const inStore = (store: string) => existsSync(join(dir, store, toplevel));

  const good = await nix('good');
  assert.equal(good.code, 0, good.stderr);
  const paths = (await readdir(join(dir, 'good/nix/store'))).filter((name) => name !== '.links');
  assert.equal(paths.length, 13);
  const valid = await run(
    'nix',
    ['store', 'verify', '--store', join(dir, 'good'), '--all', '--sigs-needed', '1'],
    { NIX_CONFIG: `${NIX}\ntrusted-public-keys = ${root.cache.keys.join(' ')}` },
  );
  assert.equal(valid.code, 0, valid.stderr);

  const anyone = await nix('anyone', { netrc: join(dir, 'none') });
  assert.notEqual(anyone.code, 0);
  const stranger = await nix('stranger', {
    keys: `build.test-1:${Buffer.alloc(32, 1).toString('base64')}`,
  });
  assert.notEqual(stranger.code, 0);
  assert.match(stranger.stderr, /lacks a (valid )?signature|not signed|signature/i);
  assert.ok(!inStore('anyone') && !inStore('stranger'));

  // One byte in the middle of every blob, so that the toplevel's is among them.
  const blobs = (await readdir(join(state, 'blobs'), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  for (const blob of blobs) {
    const at = Math.floor((await stat(blob)).size / 2);
    const file = await open(blob, 'r+');
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, at);
    byte[0] = (byte[0] ?? 0) ^ 1;
    await file.write(byte, 0, 1, at);
    await file.close();
  }
  const bad = await nix('bad');
  assert.notEqual(bad.code, 0);
  assert.ok(!inStore('bad'));
});

test('what is served for a host is whole, to the last byte', async (t) => {
  const { dir, state, write } = await world(t, [['alpha', 5]]);
  await fleetOk(['build', '--state', state, '--flake', await write()]);
  const { url } = await serve(t, state);
  const file = join(dir, 'alpha.json');
  await fleetOk(['host', 'enroll', 'alpha', '--state', state, '-o', file]);
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  const { token } = await enrolByHand(await readFile(file, 'utf8'), url);
  assert.deepEqual((await readWhole({ url, token }, 'alpha'))?.paths, 6);
});

test('a build that is interrupted says so and publishes nothing', async (t) => {
  const { state, write } = await world(t);
  const build = startFleet(['build', '--state', state, '--flake', await write()]);
  while (!/evaluating/.test(build.stderr())) await new Promise((settle) => setTimeout(settle, 5));
  build.child.kill('SIGINT');
  const { code, stderr } = await build.done;
  assert.equal(code, 1);
  assert.match(stderr, /E_INTERRUPTED/);
  assert.match(await fleetOk(['status', '--state', state]), /No hosts yet/);
});

test('a path that was rebuilt with other bytes changes nothing that hosts were told', async (t) => {
  const { dir, state, write, build } = await world(t);
  const flake = await write();
  const first = await build('--flake', flake);
  const toplevel = first.built.hosts[0]?.toplevel ?? '';
  const { url } = await serve(t, state);
  const file = join(dir, 'alpha.json');
  await fleetOk(['host', 'enroll', 'alpha', '--state', state, '-o', file]);
  const { token } = await enrolByHand(await readFile(file, 'utf8'), url);
  const before = await readWhole({ url, token }, 'alpha');
  // As a build that is not reproducible would leave it: other bytes, rightly registered.
  const dump = await run('nix-store', ['--dump-db', toplevel], { NIX_CONFIG: NIX });
  await run('chmod', ['u+w', toplevel]);
  await writeFile(toplevel, `${await readFile(toplevel, 'utf8')}# built again\n`);
  const hash = await run('nix-hash', ['--type', 'sha256', toplevel], { NIX_CONFIG: NIX });
  const [path, , , ...rest] = dump.stdout.split('\n');
  const size = (await run('nix-store', ['--dump', toplevel], { NIX_CONFIG: NIX })).stdout.length;
  const registration = [path, hash.stdout.trim(), size, ...rest].join('\n');
  await writeFile(join(dir, 'registration'), registration);
  const load = `nix-store --load-db < ${join(dir, 'registration')}`;
  assert.equal((await run('sh', ['-c', load], { NIX_CONFIG: NIX })).code, 0);

  const after = await run('nix-store', ['--dump-db', toplevel], { NIX_CONFIG: NIX });
  assert.notEqual(after.stdout, dump.stdout);

  const again = await build('--flake', flake);
  assert.equal(again.code, 0, again.stderr);
  assert.equal(again.built.hosts[0]?.change, 'none');
  assert.deepEqual(await readWhole({ url, token }, 'alpha'), before);
});

test('a host with a name that cannot be one stops no other', async (t) => {
  const { write, build } = await world(t, [
    ['alpha', 1],
    ['Web_01', 1],
  ]);
  const flake = await write();
  const alone = await build('alpha', '--flake', flake);
  assert.equal(alone.code, 0, alone.stderr);
  const all = await build('--flake', flake);
  assert.equal(all.code, 4);
  assert.deepEqual(
    all.built.hosts.map(({ host, change, error }) => [host, change ?? error?.code]),
    [
      ['Web_01', 'E_HOST_NAME'],
      ['alpha', 'none'],
    ],
  );
});
