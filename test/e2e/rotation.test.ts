// Roots that change, end to end: keys that are elsewhere, files in and out, a server that goes on serving, and
// hosts that were away for all of it.
import assert from 'node:assert/strict';
import { cp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type TestContext, test } from 'node:test';
import { buildFleet } from '../../src/server/build.ts';
import { openStateDir } from '../../src/server/statedir.ts';
import { fleet, fleetOk, run, serve } from '../helpers/cli.ts';
import { temporaryDir } from '../helpers/temporary.ts';

async function world(t: TestContext) {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const demo = join(dir, 'demo');
  await cp(resolve('examples/demo'), demo, { recursive: true });
  await fleetOk(['init', '--state', state, '--origin', 'demo.test']);
  const build = async (edition?: string) => {
    if (edition !== undefined)
      await writeFile(join(demo, 'hosts/lantern/tree/edition'), `${edition}\n`);
    await fleetOk(['build', 'lantern', '--state', state, '--flake', `path:${demo}`]);
  };
  const { url } = await serve(t, state);
  const chroot = join(dir, 'lantern');
  const agent = ['agent', '--root', chroot];
  const enrol = async () => {
    const file = join(dir, 'lantern.json');
    await fleetOk(['host', 'enroll', 'lantern', '--state', state, '--server', url, '-o', file]);
    await fleetOk([...agent, 'enroll', file]);
  };
  const once = async () => {
    const { code, stdout, stderr } = await fleet([...agent, 'once', '--json']);
    return {
      code,
      stderr,
      ...(JSON.parse(stdout) as { phase: string; error: { code: string } | null }),
    };
  };
  const file = (name: string): string => join(dir, name);
  const rotate = async (name: string, ...options: string[]) => {
    await fleetOk(['root', 'rotate', '--state', state, '--out', file(name), ...options]);
    return file(name);
  };
  const sign = (root: string, key: string) => fleetOk(['root', 'sign', root, '--key', key]);
  const load = (root: string) => fleet(['root', 'import', root, '--state', state, '--json']);
  const newKey = async (role: string, name: string): Promise<string> => {
    await fleetOk(['key', 'generate', role, '--out', file(name)]);
    return file(name);
  };
  return { dir, state, url, build, enrol, once, file, rotate, sign, load, newKey, agent };
}

test('2-of-3 to another 2-of-3, a director revoked, a host that was away for all of it', async (t) => {
  const w = await world(t);
  await w.build();
  await w.enrol();
  assert.equal((await w.once()).phase, 'in-sync');

  // The only root key leaves the server, and becomes three.
  const first = w.file('usb-root.pem');
  const exported = await fleet([
    'key',
    'export',
    'root',
    '--state',
    w.state,
    '--out',
    first,
    '--move',
  ]);
  assert.equal(exported.code, 0, exported.stderr);
  assert.equal((await stat(first)).mode & 0o777, 0o600);
  await assert.rejects(stat(join(w.state, 'keys/root.pem')));
  const three = [await w.newKey('root', 'a.pem'), await w.newKey('root', 'b.pem')];
  three.push(await w.newKey('root', 'c.pem'));
  const named = three.flatMap((file) => ['--key', `root=${file}.pub`]);
  const second = await w.rotate('2.json', ...named, '--threshold', 'root=2');

  // Too few signatures, at each step.
  assert.match((await w.load(second)).stderr, /E_ROOT_SIGNATURE/);
  await w.sign(second, three[0] ?? '');
  await w.sign(second, three[1] ?? '');
  assert.match((await w.load(second)).stderr, /root \(of version 1\).*\[E_ROOT_SIGNATURE\]/);
  const alone = await w.rotate('2-alone.json', ...named, '--threshold', 'root=2');
  await w.sign(alone, first);
  await w.sign(alone, three[0] ?? '');
  assert.match((await w.load(alone)).stderr, /signed by 1 of 2 .*\[E_ROOT_OWN_SIGNATURE\]/);
  await w.sign(second, first);
  const imported = await w.load(second);
  assert.equal(imported.code, 0, imported.stderr);
  const said = JSON.parse(imported.stdout);
  assert.deepEqual([said.rootVersion, said.isNew, said.reissued], [2, true, ['lantern']]);
  // Once more does no harm, and a gap is none.
  const again = JSON.parse((await w.load(second)).stdout);
  assert.deepEqual([again.isNew, again.reissued], [false, []]);

  // Another director, made on the server; the old one is revoked.
  const list = JSON.parse(await fleetOk(['key', 'list', '--state', w.state, '--json']));
  const old = list.keys.find(({ role }: { role: string }) => role === 'director');
  const made = JSON.parse(
    await fleetOk(['key', 'generate', 'director', '--state', w.state, '--json']),
  );
  const third = await w.rotate(
    '3.json',
    '--revoke',
    old.keyId,
    '--key',
    `director=${made.file}.pub`,
  );
  for (const key of three.slice(1)) await w.sign(third, key);
  const taken = await w.load(third);
  assert.equal(taken.code, 0, taken.stderr);
  await rm(old.file);

  // And three other root keys; one of them signs with openssl alone.
  const next = [await w.newKey('root', 'd.pem'), await w.newKey('root', 'e.pem')];
  const own = w.file('openssl.pem');
  await run('openssl', ['genpkey', '-algorithm', 'ed25519', '-out', own]);
  await run('openssl', ['pkey', '-in', own, '-pubout', '-out', `${own}.pub`]);
  next.push(own);
  const fourth = await w.rotate('4.json', ...next.flatMap((key) => ['--key', `root=${key}.pub`]));
  await w.sign(fourth, three[0] ?? '');
  await w.sign(fourth, three[2] ?? '');
  await w.sign(fourth, next[0] ?? '');
  const [pae, sig] = [w.file('4.pae'), w.file('4.sig')];
  await fleetOk(['root', 'sign', fourth, '--pae', pae]);
  const openssl = await run('openssl', [
    ...['pkeyutl', '-sign', '-rawin', '-inkey', own, '-in', pae, '-out', sig],
  ]);
  assert.equal(openssl.code, 0, openssl.stderr);
  const attach = ['root', 'sign', fourth, '--signature', sig, '--public-key'];
  const wrong = await fleet([...attach, `${next[0]}.pub`]);
  assert.match(wrong.stderr, /E_SIGNATURE\]/);
  await fleetOk([...attach, `${own}.pub`]);
  assert.equal((await w.load(fourth)).code, 0);
  // A root that skips one is refused by the server, as it is by every host.
  const skipping = await w.rotate('5.json');
  const draft = JSON.parse(await readFile(skipping, 'utf8'));
  await writeFile(skipping, JSON.stringify({ ...draft, version: 6 }));
  for (const key of next.slice(0, 2)) await w.sign(skipping, key);
  assert.match((await w.load(skipping)).stderr, /E_ROOT_CHAIN/);

  // The server went on serving; the host comes back after three rotations, and takes what is new.
  await w.build('after the rotations');
  const back = await w.once();
  assert.deepEqual([back.phase, back.code], ['in-sync', 0], back.stderr);
  const status = JSON.parse(await fleetOk([...w.agent, 'status', '--json']));
  assert.equal(status.rootVersion, 4);
  const shown = JSON.parse(await fleetOk(['root', 'show', '--state', w.state, '--json'])).root;
  assert.deepEqual([shown.version, shown.roles.root.threshold, shown.revoked.length], [4, 2, 1]);
  // What the revoked director signed before counts for nothing any more.
  assert.equal(shown.keys.filter(({ keyId }: { keyId: string }) => keyId === old.keyId).length, 0);
  // Whoever has the first root alone follows it all, too.
  const audit = ['audit', '--state', w.state, '--root', join(w.state, 'root/1.root.json')];
  const report = JSON.parse(await fleetOk([...audit, '--json']));
  assert.deepEqual([report.root.version, report.irregularities], [4, []]);
});

test('a build that began before a root was imported publishes under that root', async (t) => {
  const w = await world(t);
  await w.build('one');
  await w.enrol();
  const demo = `path:${join(w.dir, 'demo')}`;
  await writeFile(join(w.dir, 'demo/hosts/lantern/tree/edition'), 'two\n');
  const draft = await w.rotate('2.json');
  await w.sign(draft, join(w.state, 'keys/root.pem'));
  await using begun = await openStateDir(w.state, { writer: 'inline' });
  assert.equal((await w.load(draft)).code, 0);
  const request = {
    flake: demo,
    hosts: ['lantern'],
    dryRun: false,
    noPublish: false,
    emergency: false,
    minimum: false,
    keepGoing: false,
  };
  const [result] = await buildFleet(begun, request);
  assert.equal(result?.error, null);
  const after = await w.once();
  assert.deepEqual([after.phase, after.error], ['in-sync', null], after.stderr);
});

test('a server from a backup: hosts that saw more refuse it, until a new root names a new log', async (t) => {
  const w = await world(t);
  const root = w.file('root.pem');
  await fleetOk(['key', 'export', 'root', '--state', w.state, '--out', root]);
  await w.build('one');
  await w.enrol();
  assert.equal((await w.once()).phase, 'in-sync');
  const backup = join(w.dir, 'backup');
  for (const name of ['log', 'fleet.db', 'fleet.db-wal']) {
    await cp(join(w.state, name), join(backup, name), { recursive: true }).catch(() => {});
  }
  await w.build('two');
  assert.equal((await w.once()).phase, 'in-sync');

  // The old copy comes back: in a state of its own, served anew at the same address.
  const old = join(w.dir, 'restored');
  await cp(w.state, old, { recursive: true });
  for (const name of ['log', 'fleet.db', 'fleet.db-wal', 'fleet.db-shm']) {
    await rm(join(old, name), { recursive: true, force: true });
    await cp(join(backup, name), join(old, name), { recursive: true }).catch(() => {});
  }
  const { url } = await serve(t, old);
  const config = join(w.dir, 'lantern/var/lib/fleet-agent/agent.json');
  const agent = JSON.parse(await readFile(config, 'utf8'));
  await writeFile(config, JSON.stringify({ ...agent, server: url }));
  const refused = await w.once();
  assert.deepEqual([refused.phase, refused.error?.code], ['refused', 'E_CHECKPOINT_OLDER']);

  const draft = w.file('new-log.json');
  await fleetOk(['root', 'rotate', '--state', old, '--out', draft, '--new-log', '--new-epoch']);
  await fleetOk(['root', 'sign', draft, '--key', root]);
  const imported = await fleet(['root', 'import', draft, '--state', old]);
  assert.equal(imported.code, 0, imported.stderr);
  assert.match(imported.stdout, /Root version 2 is now in force/);
  const back = await w.once();
  assert.deepEqual([back.phase, back.error], ['in-sync', null], back.stderr);
});

test('what cannot be rotated, and what is misspelt, is told', async (t) => {
  const w = await world(t);
  for (const [args, pattern] of [
    [['rotate', '--out', w.file('x'), '--days', '0'], /E_USAGE/],
    [['rotate', '--out', w.file('x'), '--key', 'root'], /ROLE=VALUE.*\[E_USAGE/],
    [
      ['rotate', '--out', w.file('x'), '--key', `chief=${w.file('k')}`],
      /cannot read|no role chief/,
    ],
    [['rotate', '--out', w.file('x'), '--threshold', 'log=2'], /E_USAGE/],
    [
      ['rotate', '--out', w.file('x'), '--threshold', 'root=2'],
      /2 signatures and has 1 key.*\[E_ROOT_FORM/,
    ],
    [['rotate', '--out', w.file('x'), '--revoke', 'abcd'], /has no key abcd.*\[E_USAGE/],
    [['rotate', '--out', join(w.dir, 'no/where'), '--new-log'], /E_USAGE/],
  ] as const) {
    const { code, stderr } = await fleet(['root', ...args, '--state', w.state]);
    assert.notEqual(code, 0, args.join(' '));
    assert.match(stderr, pattern, args.join(' '));
    await assert.rejects(stat(w.file('x')));
  }
  const list = JSON.parse(await fleetOk(['key', 'list', '--state', w.state, '--json']));
  const log = list.keys.find(({ role }: { role: string }) => role === 'log');
  const revoke = [
    'root',
    'rotate',
    '--state',
    w.state,
    '--out',
    w.file('x'),
    '--revoke',
    log.keyId,
  ];
  const none = await fleet(revoke);
  assert.match(none.stderr, /role log would have no key left \[E_USAGE\]\n.*--key log=FILE/);

  // A director key that the server has not: nothing is imported.
  const away = await w.newKey('director', 'director.pem');
  const draft = await w.rotate('2.json', '--key', `director=${away}.pub`);
  // Nobody but holders of root keys has a say in it.
  const before = await readFile(draft, 'utf8');
  for (const role of ['release', 'log']) {
    const other = ['root', 'sign', draft, '--key', join(w.state, `keys/${role}.pem`)];
    const { code, stderr } = await fleet(other);
    assert.equal(code, 3, stderr);
    assert.match(stderr, new RegExp(`is a ${role} key of this root, and no root key .*E_KEY_ROLE`));
    assert.match(
      stderr,
      /→ these may sign it: [0-9a-f]{16}, and the root keys of the version before/,
    );
  }
  assert.equal(await readFile(draft, 'utf8'), before);
  const stranger = await w.newKey('root', 'stranger.pem');
  const said = await fleetOk([
    'root',
    'sign',
    draft,
    '--key',
    stranger,
    '--out',
    w.file('strange'),
  ]);
  assert.match(said, /is none of them: it counts only as a root key of the version before/);
  await w.sign(draft, join(w.state, 'keys/root.pem'));
  const refused = await w.load(draft);
  assert.match(refused.stderr, /no director key that the new root names \[E_STATE_INCOMPLETE\]/);
  await assert.rejects(stat(join(w.state, 'root/2.root.json')));
  // Nothing is written over.
  const twice = await fleet(['root', 'rotate', '--state', w.state, '--out', draft]);
  assert.match(twice.stderr, /E_STATE_EXISTS/);
  const key = await fleet(['key', 'generate', 'root', '--out', away]);
  assert.match(key.stderr, /E_STATE_EXISTS/);
  for (const [args, pattern] of [
    [['generate', 'root'], /no place on the server/],
    [['generate', 'chief'], /no role chief/],
    [['export', 'cache', '--out', w.file('y')], /stays on the server/],
    [['export', 'director', '--out', w.file('y'), '--move'], /signs with .*director\.pem/],
  ] as const) {
    assert.match((await fleet(['key', ...args, '--state', w.state])).stderr, pattern);
    await assert.rejects(stat(w.file('y')));
  }
  await stat(join(w.state, 'keys/director.pem'));
  // The same by `key revoke`: with a successor, and without one where it is the last.
  const list2 = ['key', 'revoke', log.keyId, '--state', w.state, '--out', w.file('r.json')];
  assert.match((await fleet(list2)).stderr, /is the only log key/);
  const anew = await w.newKey('log', 'log.pem');
  await fleetOk([...list2, '--successor', `${anew}.pub`]);
  const drafted = JSON.parse(await fleetOk(['root', 'show', w.file('r.json'), '--json'])).root;
  assert.deepEqual(drafted.revoked.length, 1);
  const cacheKey = JSON.parse(await fleetOk(['key', 'list', '--state', w.state, '--json'])).keys.at(
    -1,
  );
  assert.equal(cacheKey.role, 'cache');
  const nix = await w.newKey('cache', 'cache.sec');
  const swap = ['key', 'revoke', cacheKey.keyId, '--state', w.state, '--out', w.file('s.json')];
  await fleetOk([...swap, '--successor', `${nix}.pub`]);
  const swapped = JSON.parse(await fleetOk(['root', 'show', w.file('s.json'), '--json'])).root;
  assert.deepEqual(swapped.cache.keys, [(await readFile(`${nix}.pub`, 'utf8')).trim()]);
  const unknown = ['key', 'revoke', 'abcd', '--state', w.state, '--out', w.file('t.json')];
  assert.match((await fleet(unknown)).stderr, /has no key abcd \[E_USAGE\]/);
  const both = await fleet(['root', 'sign', draft, '--key', away, '--pae', w.file('y')]);
  assert.match(both.stderr, /E_USAGE/);
  await writeFile(w.file('z'), '{"version": 2}');
  assert.match((await fleet(['root', 'sign', w.file('z'), '--key', away])).stderr, /E_ROOT_FORM/);
  assert.match((await fleet(['root', 'show', w.file('z')])).stderr, /E_ROOT_FORM/);
});
