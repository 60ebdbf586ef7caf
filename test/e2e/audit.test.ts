// An audit of a real fleet: by its own state, by a bundle where there is no network, and by the server's log.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { cp, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, resolve } from 'node:path';
import { type TestContext, test } from 'node:test';
import { FIRST, Fleet, LOG_KEYS } from '../helpers/audited.ts';
import { fleet, fleetOk, run, serve } from '../helpers/cli.ts';
import { temporaryDir } from '../helpers/temporary.ts';
import { signRoot } from '../helpers/trust.ts';

async function world(t: TestContext) {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const demo = join(dir, 'demo');
  const file = (name: string): string => join(dir, name);
  await cp(resolve('examples/demo'), demo, { recursive: true });
  await fleetOk(['init', '--state', state, '--origin', 'demo.test']);
  const build = async (edition: string) => {
    await writeFile(join(demo, 'hosts/lantern/tree/edition'), `${edition}\n`);
    await fleetOk(['build', 'lantern', '--state', state, '--flake', `path:${demo}`]);
  };
  await build('one');
  const { url } = await serve(t, state);
  const agent = ['agent', '--root', file('lantern')];
  await fleetOk(['host', 'enroll', 'lantern', '--state', state, '--server', url, '-o', file('e')]);
  await fleetOk([...agent, 'enroll', file('e')]);
  const once = () => fleetOk([...agent, 'once']);
  await once();
  await build('two');
  await once();
  // The auditor's own copy.
  await cp(join(state, 'root/1.root.json'), file('1.root.json'));
  const audit = (...more: string[]) =>
    fleet(['audit', '--root', file('1.root.json'), '--json', ...more]);
  return { dir, state, url, file, build, once, audit };
}

test('what a host was told and ran: of the state, of a bundle without a network, of the server', async (t) => {
  const w = await world(t);
  const own = await w.audit('--state', w.state);
  assert.equal(own.code, 0, own.stderr);
  const report = JSON.parse(own.stdout);
  assert.deepEqual(report.irregularities, []);
  const [lantern] = report.hosts;
  assert.deepEqual(
    lantern.told.map(({ sequence }: { sequence: number }) => sequence),
    [1, 2],
  );
  assert.deepEqual(
    [lantern.keys.length, lantern.receipts > 1, lantern.phase],
    [1, true, 'in-sync'],
  );
  const ran = lantern.ran.map(({ toplevel }: { toplevel: string }) => toplevel);
  assert.deepEqual(ran.slice(-1), [lantern.told[1].toplevel]);

  // The same state, the same bytes; and no network where it is read.
  const exported = ['audit', 'export', '--state', w.state, '--out'];
  await fleetOk([...exported, w.file('a.tar')]);
  await fleetOk([...exported, w.file('b.tar')]);
  assert.deepEqual(await readFile(w.file('a.tar')), await readFile(w.file('b.tar')));
  // Nothing is written over, and nothing is left beside it.
  await writeFile(w.file('b.tar'), 'mine');
  const taken = await fleet([...exported, w.file('b.tar')]);
  assert.equal(taken.code, 1);
  assert.match(taken.stderr, /b\.tar exists already \[E_STATE_EXISTS\]\n.*nothing is overwritten/);
  assert.equal(await readFile(w.file('b.tar'), 'utf8'), 'mine');
  const beside = (await readdir(w.dir)).filter((name) => name.includes('.tar')).sort();
  assert.deepEqual(beside, ['a.tar', 'b.tar']);
  const alone = await run('unshare', [
    ...['--net', resolve('bin/fleet'), 'audit', '--json'],
    ...['--bundle', w.file('a.tar'), '--root', w.file('1.root.json')],
  ]);
  assert.equal(alone.code, 0, alone.stderr);
  assert.deepEqual(JSON.parse(alone.stdout).hosts, report.hosts);
  const text = await fleetOk([
    'audit',
    '--bundle',
    w.file('a.tar'),
    '--root',
    w.file('1.root.json'),
    '--host',
    'lantern',
  ]);
  assert.match(text, /Authentic and complete: nothing irregular/);
  assert.match(text, /lantern was told:\n {2}\S+ {2}1\.1 {2}\/nix\/store/);

  // The server's log, to whoever may read it; and on from there.
  assert.match(
    (await w.audit('--url', w.url)).stderr,
    /not open without a token \[E_UNAUTHORIZED\]\n.*--token-file FILE.*fleet token create/,
  );
  const { token } = JSON.parse(
    await fleetOk(['token', 'create', 'auditor', '--state', w.state, '--json']),
  );
  await writeFile(w.file('token'), token);
  const remote = ['--url', w.url, '--token-file', w.file('token'), '--since', w.file('seen')];
  const followed = await w.audit(...remote);
  assert.equal(followed.code, 0, followed.stderr);
  assert.equal(JSON.parse(followed.stdout).log.size, report.log.size);
  await w.build('three');
  assert.equal((await w.audit(...remote)).code, 0);
  const seen = await readFile(w.file('seen'), 'utf8');
  const [, size] = JSON.parse(seen.split('\n')[2] ?? '').checkpoint.split('\n');
  assert.ok(Number(size) > report.log.size);
  await w.build('four');
  const more = JSON.parse((await w.audit(...remote)).stdout);
  assert.deepEqual([more.log.from, more.irregularities], [Number(size), []]);
  assert.deepEqual(
    more.hosts[0].told.map(({ sequence }: { sequence: number }) => sequence),
    [4],
  );
  // Its key is older than what was read, and known all the same.
  const again = ['audit', '--root', w.file('1.root.json'), ...remote, '--host', 'lantern'];
  const key = lantern.keys[0].index;
  const known = await fleetOk(again);
  assert.match(
    known,
    new RegExp(`^keys of lantern: [0-9a-f]{16} \\(entry ${key}\\); those before`, 'm'),
  );
  assert.match(
    known,
    /^lantern was told:\n {2}nothing since entry \d+; before it 1\.4 \(entry \d+\)$/m,
  );
  // A file that is damaged is left as it is, and said to be.
  await writeFile(w.file('seen'), seen.slice(0, -5));
  const damaged = await w.audit(...remote);
  assert.deepEqual([damaged.code, /E_AUDIT_STATE/.test(damaged.stderr)], [1, true]);
  assert.equal(await readFile(w.file('seen'), 'utf8'), seen.slice(0, -5));
  await writeFile(w.file('seen'), 'nothing');
  assert.match((await w.audit(...remote)).stderr, /neither what an audit keeps.*E_AUDIT_STATE/);
  await writeFile(w.file('seen'), seen);
  // What was verified before is not what the bundle begins with, which is older.
  const older = await w.audit('--bundle', w.file('a.tar'), '--since', w.file('seen'));
  assert.equal(older.code, 3);
  assert.equal(JSON.parse(older.stdout).irregularities[0].code, 'E_FORK');
  assert.equal(await readFile(w.file('seen'), 'utf8'), seen);
});

test('a bundle that was changed, a root that is another, and options that are wrong', async (t) => {
  const w = await world(t);
  await fleetOk(['audit', 'export', '--state', w.state, '--out', w.file('a.tar'), '--closures']);
  const bytes = await readFile(w.file('a.tar'));
  assert.match((await run('tar', ['tf', w.file('a.tar')])).stdout, /closure\/[0-9a-f]{64}\.fp/);
  // One character of one signature in the log.
  const at = bytes.lastIndexOf('"sig":"', bytes.lastIndexOf('receipts/lantern')) + 20;
  bytes[at] = bytes[at] === 0x41 ? 0x42 : 0x41;
  await writeFile(w.file('bad.tar'), bytes);
  const bad = await w.audit('--bundle', w.file('bad.tar'));
  assert.equal(bad.code, 3, bad.stderr);
  const codes = JSON.parse(bad.stdout).irregularities.map(({ code }: { code: string }) => code);
  assert.ok(codes.includes('E_AUDIT_LOG'), codes.join());
  await writeFile(w.file('short.tar'), bytes.subarray(0, bytes.length / 2));
  assert.match(
    (await w.audit('--bundle', w.file('short.tar'))).stderr,
    /E_(BUNDLE_FORM|AUDIT_LOG)/,
  );

  await fleetOk(['init', '--state', w.file('other'), '--origin', 'demo.test']);
  const other = ['audit', '--bundle', w.file('a.tar'), '--root', w.file('other/root/1.root.json')];
  assert.match((await fleet(other)).stderr, /begins with another root .*\[E_ROOT_CHAIN\]/);
  for (const [args, pattern] of [
    [['--bundle', w.file('a.tar'), '--url', w.url], /one of --bundle and --url.*\[E_USAGE\]/],
    [['--bundle', w.file('none.tar')], /cannot read .*none\.tar.*\[E_USAGE\]/],
    [['--url', 'nonsense'], /E_USAGE/],
    [['--bundle', w.file('a.tar'), '--host', 'nosuch'], /no host nosuch.*\[E_HOST_UNKNOWN\]/],
    [['--bundle', w.file('a.tar'), '--since', w.file('no/seen')], /no directory.*\[E_USAGE\]/],
    [['--url', 'http://127.0.0.1:1'], /E_SERVER_UNREACHABLE/],
  ] as const) {
    assert.match((await w.audit(...args)).stderr, pattern);
  }
  assert.match((await fleet(['audit', '--state', w.state])).stderr, /needs --root.*\[E_USAGE\]/);
  const nowhere = ['audit', 'export', '--state', w.state, '--out', w.file('no/where.tar')];
  assert.match((await fleet(nowhere)).stderr, /E_USAGE/);
  await assert.rejects(stat(w.file('no')));
});

test('a server whose log is older than hosts take: irregular, and nothing is kept of it', async (t) => {
  const dir = await temporaryDir(t);
  const [root, since] = [join(dir, '1.root.json'), join(dir, 'seen')];
  await writeFile(root, signRoot(FIRST));
  const known = new Fleet();
  known.publish('web-1');
  const source = known.served([]);
  const now = Math.floor(Date.now() / 1000);
  let freshAt = now;
  const server = createServer(async (request, response) => {
    if (request.url === '/tlog/checkpoint') {
      response.end(known.log.checkpoint(FIRST, LOG_KEYS, freshAt));
    } else response.end(await source.bundle(0, known.log.size));
  });
  t.after(() => server.close());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const audit = () => fleet(['audit', '--root', root, '--json', '--url', url, '--since', since]);
  freshAt = now - FIRST.maxAge - 1;
  const stale = await audit();
  assert.equal(stale.code, 3, stale.stderr);
  const codes = JSON.parse(stale.stdout).irregularities.map(({ code }: { code: string }) => code);
  assert.deepEqual(codes, ['E_STALE']);
  await assert.rejects(stat(since), { code: 'ENOENT' });
  freshAt = now;
  const fresh = await audit();
  assert.equal(fresh.code, 0, fresh.stderr);
  await stat(since);
});

test('a server that does not let the auditor in: no token, a wrong one, one for something else', async (t) => {
  const dir = await temporaryDir(t);
  const [root, file] = [join(dir, '1.root.json'), join(dir, 'token')];
  await writeFile(root, signRoot(FIRST));
  await writeFile(file, 'some-token');
  let status = 401;
  const server = createServer((_request, response) => response.writeHead(status).end());
  t.after(() => server.close());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const audit = (...more: string[]) => fleet(['audit', '--root', root, '--url', url, ...more]);
  for (const [answer, given, code, what] of [
    [401, [], 'E_UNAUTHORIZED', 'this log is not open without a token'],
    [401, ['--token-file', file], 'E_UNAUTHORIZED', 'the token is wrong, expired or revoked'],
    [403, ['--token-file', file], 'E_FORBIDDEN', 'this token may not read the log'],
    [500, [], 'E_SERVER_ANSWER', 'status 500'],
  ] as const) {
    status = answer;
    const said = await audit(...given);
    assert.equal(said.code, 1);
    const [first = '', hint = ''] = said.stderr.split('\n');
    assert.equal(first, `fleet: ${url}/tlog/checkpoint: ${what} [${code}]`);
    if (answer !== 500) assert.match(hint, /--token-file FILE, made .* fleet token create NAME$/);
  }
});
