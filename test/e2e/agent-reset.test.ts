// A damaged state and its repair: what cannot be read is given up with notice, all else stays, the fleet is told.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { tryLock } from '../../src/agent/lock.ts';
import { memoryFiles, readMemory, writeTrust } from '../../src/agent/memory.ts';
import { readChain } from '../../src/agent/receipts.ts';
import { type ResetOptions, type ResetPlan, resetTrust } from '../../src/agent/reset.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { FleetError } from '../../src/errors.ts';
import { signEnvelope } from '../../src/manifest/dsse.ts';
import { parseEnrolFile } from '../../src/manifest/enrol-file.ts';
import { formatRoot, ROOT_PAYLOAD_TYPE } from '../../src/manifest/root.ts';
import { formatVerifierKey, NOTE_ED25519, parseVerifierKey } from '../../src/tlog/vkey.ts';
import { fleet, fleetOk, run } from '../helpers/cli.ts';
import { all, type Setting, setting, systemsOf, type TestHost } from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { enrolFileOf, HOST } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

const FILES = ['trust.json', 'journal.json', 'receipts.json'] as const;

async function reset({ world, host }: Setting, options: Partial<ResetOptions> = {}) {
  const rootFile = world.roots[0] ?? null;
  const defaults = { dir: host.state, rootFile, now: world.now, confirm: async () => {} };
  return await resetTrust({ ...defaults, ...options });
}

/** Replaces some fields of trust.json. */
async function edit(host: TestHost, changes: object): Promise<void> {
  const file = join(host.state, 'trust.json');
  await writeFile(
    file,
    JSON.stringify({ ...JSON.parse(await readFile(file, 'utf8')), ...changes }),
  );
}

/** Every file of the state, with its contents. */
async function contents(host: TestHost): Promise<Map<string, string>> {
  const names = await readdir(host.state, { withFileTypes: true });
  const files = names.filter((entry) => entry.isFile() && entry.name !== 'agent.lock');
  const read = async (name: string): Promise<[string, string]> => [
    name,
    await readFile(join(host.state, name), 'latin1'),
  ];
  return new Map(await Promise.all(files.map(({ name }) => read(name)).sort()));
}

async function takesIt({ host }: Setting): Promise<void> {
  const { outcome, error } = await host.once();
  assert.equal(outcome?.phase, 'in-sync', `${error}`);
  assert.deepEqual(await systemsOf(host), all(two));
}

for (const name of FILES) {
  test(`${name}: damaged in any way, it is refused by name; reset, the host goes on`, async () => {
    await using s = await setting(one);
    const { world, host } = s;
    const file = join(host.state, name);
    const kept = await readFile(file);
    const damages: (string | Buffer | null)[] = [
      '',
      '{"version":1}',
      '[1]',
      '\0'.repeat(512),
      null,
    ];
    for (const damage of [...damages, kept.subarray(0, kept.length / 2)]) {
      if (damage === null) await rm(file);
      else await writeFile(file, damage);
      await assert.rejects(host.once(), (error) => {
        assert.ok(error instanceof FleetError);
        assert.deepEqual(
          [error.code, error.message.includes(name)],
          ['E_AGENT_STATE_CORRUPT', true],
        );
        assert.match(error.hint, /fleet agent reset-trust/);
        return true;
      });
      const done = await reset(s);
      assert.deepEqual(
        done.damaged.map((one) => one.file),
        [file],
      );
      assert.equal(done.kept.length, damage === null ? 0 : 1);
      for (const aside of done.kept) {
        assert.deepEqual(await readFile(join(host.state, aside)), Buffer.from(damage ?? ''));
      }
      assert.deepEqual((await readChain(host.state)).untold, ['trust-reset']);
      await readMemory(host.state);
    }
    world.publish(two);
    await takesIt(s);
    const { untold, queue } = await readChain(host.state);
    assert.deepEqual(untold, []);
    // A chain that began anew is not taken any more; any other is told of at once.
    assert.equal(queue.length, name === 'receipts.json' ? 1 : 0);
    if (name !== 'receipts.json') {
      assert.deepEqual(world.reports.at(-1)?.exceptions, ['trust-reset']);
    }
    await host.once();
    assert.equal(world.reports.length, name === 'receipts.json' ? 1 : 2);
  });
}

test('what is lost is named, and the floor is among it only where it cannot be read', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two);
  await takesIt(s);
  const before = (await readMemory(host.state)).trust;
  const plans: ResetPlan[] = [];
  const confirm = async (plan: ResetPlan): Promise<void> => void plans.push(plan);
  // The root is lost; all else can be read, and stays.
  for (const root of [7, 'no envelope']) {
    await edit(host, { root });
    assert.deepEqual((await reset(s, { confirm })).floor, before.floor);
    assert.deepEqual((await readMemory(host.state)).trust, before);
  }
  for (const { damaged, root } of plans) {
    assert.match(damaged[0]?.lost.join('\n') ?? '', /^the root: .* version 1$/);
    assert.equal(root?.version, 1);
  }
  // An older manifest is refused as before.
  world.show({ ...world.manifestOf(one), sequence: 1 });
  assert.equal((await host.once()).error?.code, 'E_SEQUENCE_OLDER');
  // Now the floor is lost, and nothing else.
  await edit(host, { floor: { epoch: 1 } });
  const lost = await reset(s, { confirm, rootFile: null });
  assert.deepEqual([lost.floor, lost.root], [null, null]);
  assert.match(lost.damaged[0]?.lost.join('\n') ?? '', /^the number of its newest manifest: .*$/);
  const { trust } = await readMemory(host.state);
  assert.deepEqual({ ...trust, checkpoint: null }, { ...before, floor: null, checkpoint: null });
});

test('a checkpoint that its log did not sign is not kept: it would contradict every true one', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { checkpoint } = (await readMemory(host.state)).trust;
  assert.ok(checkpoint !== null);
  const origin = 'world.test/log/9';
  const key = parseVerifierKey(world.root.log.vkey, NOTE_ED25519);
  const log = { ...world.root.log, origin, vkey: formatVerifierKey({ ...key, name: origin }) };
  for (const [text, stays] of [
    [checkpoint.replace('\n4\n', '\n5\n'), false],
    [checkpoint, true],
    [world.log.checkpoint({ ...world.root, log }, world.logKeys, world.now), true],
  ] as const) {
    await edit(host, { checkpoint: text, time: 'never' });
    const { damaged } = await reset(s);
    assert.equal(damaged[0]?.lost.length, stays ? 1 : 2);
    assert.equal((await readMemory(host.state)).trust.checkpoint, stays ? text : null);
  }
  world.publish(two);
  await takesIt(s);
});

test('the root: the stored one where it can be read, else the one that is given', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.rotate({ epoch: 2 });
  world.rotate({});
  world.publish(two, { sequence: 1 });
  await takesIt(s);
  const newest = (await readMemory(host.state)).trust;
  await edit(host, { time: 'never' });
  assert.equal((await reset(s)).root, null);
  assert.equal((await readMemory(host.state)).trust.root, newest.root);
  // From the first root all newer ones follow.
  await edit(host, { root: null });
  assert.equal((await reset(s)).root?.version, 1);
  await takesIt(s);
  assert.equal((await readMemory(host.state)).trust.root, newest.root);
  // An enrolment file brings one, long after its own time.
  await edit(host, { root: null });
  const old = JSON.parse(enrolFileOf(world));
  const rootFile = JSON.stringify({ ...old, expiresAt: '2020-01-01T00:00:00Z' });
  assert.ok(parseEnrolFile(rootFile));
  assert.equal((await reset(s, { rootFile })).root?.version, 3);
  await takesIt(s);
});

test('roots that are none, or another fleet’s, are refused; nothing is changed', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await writeFile(join(host.state, 'trust.json'), '');
  const before = await contents(host);
  const other = { ...world.root, fleet: 'other.test' };
  const log = { ...other.log, origin: 'other.test/log/1' };
  log.vkey = log.vkey.replace(/^world\.test/, 'other.test');
  const byStranger = signEnvelope(ROOT_PAYLOAD_TYPE, formatRoot(world.root), [generateSecretKey()]);
  const { root: _, ...noRoot } = JSON.parse(enrolFileOf(world));
  for (const [rootFile, code] of [
    [null, 'E_USAGE'],
    ['', 'E_ENVELOPE'],
    [world.manifest, 'E_ROOT_FORM'],
    [byStranger, 'E_ROOT_OWN_SIGNATURE'],
    [JSON.stringify(noRoot), 'E_ENROL_FORM'],
  ] as const) {
    await assert.rejects(reset(s, { rootFile }), { code }, String(rootFile));
  }
  await using another = await setting(null);
  const config = join(host.state, 'agent.json');
  const kept = await readFile(config, 'utf8');
  await writeFile(config, kept.replace('"world.test"', '"other.test"'));
  await assert.rejects(reset(s, { rootFile: another.world.roots[0] ?? '' }), {
    code: 'E_FLEET_MISMATCH',
  });
  await writeFile(config, kept);
  assert.deepEqual(await contents(host), before);
});

test('nothing damaged, nobody who agrees, another agent at work, a newer fleet: nothing is changed', async () => {
  await using s = await setting(one);
  const { host } = s;
  const whole = await contents(host);
  const confirm = async (): Promise<never> => Promise.reject(new Error('no'));
  assert.deepEqual((await reset(s, { confirm })).damaged, []);
  assert.deepEqual(await contents(host), whole);
  await writeFile(join(host.state, 'trust.json'), '');
  const damaged = await contents(host);
  await assert.rejects(reset(s, { confirm }), { message: 'no' });
  {
    await using lock = await tryLock(memoryFiles(host.state).lock);
    assert.ok(lock);
    await assert.rejects(reset(s), { code: 'E_AGENT_BUSY' });
  }
  await writeFile(join(host.state, 'journal.json'), '{"version":2}');
  await assert.rejects(reset(s), { code: 'E_STATE_NEWER' });
  damaged.set('journal.json', '{"version":2}');
  assert.deepEqual(await contents(host), damaged);
});

test('what enrolment alone gives is not made up', async () => {
  await using s = await setting(one);
  const { host } = s;
  await writeFile(join(host.state, 'trust.json'), '');
  for (const name of ['agent.json', 'host-key.pem', 'token']) {
    const file = join(host.state, name);
    const kept = await readFile(file);
    await writeFile(file, name === 'token' ? '' : '{');
    const before = await contents(host);
    await assert.rejects(reset(s), (error) => {
      assert.ok(error instanceof FleetError);
      assert.equal(error.code, 'E_AGENT_STATE_CORRUPT');
      assert.match(error.message, new RegExp(name));
      assert.match(error.hint, /enrol again/);
      return true;
    });
    assert.deepEqual(await contents(host), before);
    await writeFile(file, kept);
  }
});

test('receipts that wait stay, in their order, before the one that tells', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.misbehave = (path, response) => {
    if (!path.endsWith('/reports')) return false;
    response.writeHead(503).end();
    return true;
  };
  world.publish(two);
  assert.equal((await host.once()).receipts.queued, 1);
  await writeFile(join(host.state, 'trust.json'), '{');
  await reset(s);
  // The same file, damaged the same way in the same second, is kept as well.
  await writeFile(join(host.state, 'trust.json'), '{');
  assert.deepEqual((await reset(s)).kept, [`trust.json.damaged-${world.now}-2`]);
  world.misbehave = () => false;
  await takesIt(s);
  const told = world.reports.map(({ counter, exceptions }) => [counter, exceptions?.join()]);
  assert.deepEqual(told, [
    [1, undefined],
    [2, undefined],
    [3, 'trust-reset'],
  ]);
});

test('receipts of which the queue is lost go on; without their head they begin anew', async () => {
  await using s = await setting(one);
  const { host } = s;
  const file = join(host.state, 'receipts.json');
  const chain = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...chain, queue: 'none' }));
  const { damaged } = await reset(s);
  assert.deepEqual(damaged[0]?.lost, ['receipts that waited to be sent, if any']);
  assert.equal((await host.once()).receipts.problem, null);
  const next = JSON.parse(await readFile(file, 'utf8'));
  assert.deepEqual([next.counter, next.queue], [2, []]);
  await writeFile(file, JSON.stringify({ ...next, head: 'none' }));
  assert.match((await reset(s)).damaged[0]?.lost.join('\n') ?? '', /until this host is enrolled/);
  assert.equal((await host.once()).receipts.problem?.code, 'E_RECEIPT_REFUSED');
});

test('fleet agent reset-trust: says what is given up, and does it only when told to', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const command = ['agent', '--root', host.root, '--state', host.state, 'reset-trust'];
  assert.match(await fleetOk(command), /^Nothing is damaged; nothing was changed\.$/m);
  await writeFile(join(host.state, 'trust.json'), '{');
  const before = await contents(host);
  const rootFile = join(host.root, '1.root.json');
  await writeFile(rootFile, world.roots[0] ?? '');
  const noRoot = await fleet([...command, '--yes']);
  assert.deepEqual([noRoot.code, /--root-file FILE/.test(noRoot.stderr)], [2, true]);
  const unasked = await fleet([...command, '--root-file', rootFile]);
  assert.equal(unasked.code, 2);
  assert.match(unasked.stderr, /trust\.json: .*\n.*the root: .* version 1\n.*newest manifest/);
  assert.match(unasked.stderr, /Newest manifest accepted: not known/);
  assert.deepEqual(await contents(host), before);
  // Where the machine's own configuration put a root, none need be given.
  await mkdir(join(host.root, 'etc/fleet'), { recursive: true });
  await writeFile(join(host.root, 'etc/fleet/root.json'), world.roots[0] ?? '');
  const done = JSON.parse(await fleetOk([...command, '--yes', '--json']));
  assert.deepEqual([done.version, done.root.version, done.floor], [1, 1, null]);
  assert.equal(await readFile(join(host.state, done.kept[0]), 'utf8'), '{');
  world.publish(two);
  await takesIt(s);
});

test('a chain of receipts that is lost: the advice is to enrol anew, and it works', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.now = Math.floor(Date.now() / 1000);
  await host.once();
  const place = ['--root', host.root, '--state', host.state];
  const spelt = ` --state ${host.state} --root ${host.root}`;
  // A run that can find out nothing has an error to tell, and nothing else.
  world.misbehave = (_path, response) => {
    response.writeHead(500).end();
    return true;
  };
  const away = await fleet(['agent', 'once', ...place]);
  assert.deepEqual([away.code, away.stdout], [1, ''], away.stderr);
  world.misbehave = () => false;
  await rm(join(host.state, 'receipts.json'));
  const refused = await fleet(['agent', 'once', ...place]);
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /receipts\.json is damaged: it is missing.* \[E_AGENT_STATE_CORRUPT\]/,
  );
  assert.ok(
    refused.stderr.endsWith(`repair it: fleet agent reset-trust${spelt}\n`),
    refused.stderr,
  );
  const said = await fleetOk(['agent', 'reset-trust', '--yes', ...place]);
  assert.doesNotMatch(said, /fleet agent once/);
  assert.ok(said.includes(`fleet host enroll ${HOST} --replace\n`), said);
  assert.ok(said.includes(`${host.state} moved away:\n  fleet agent enroll FILE${spelt}\n`), said);
  // What it says.
  await rename(host.state, `${host.state}-lost`);
  const file = join(host.root, 'file');
  await writeFile(file, enrolFileOf(world));
  await fleetOk(['agent', 'enroll', file, '--host', HOST, ...place]);
  const anew = { ...s, host: { ...host } };
  world.publish(two);
  await takesIt(anew);
});

test('on the machine itself, what overrides a rule is for root alone', async (t) => {
  if (process.geteuid?.() !== 0) return t.skip('needs root, to be someone else');
  await using s = await setting(one);
  const { host } = s;
  const config = join(host.state, 'agent.json');
  const { root: _, ...rest } = JSON.parse(await readFile(config, 'utf8'));
  await writeFile(config, JSON.stringify({ ...rest, root: null }));
  await using dir = await temporaryDirectory();
  const [open, state] = [join(dir.path, 'open'), join(dir.path, 'state')];
  assert.equal((await run('cp', ['-r', host.state, state])).code, 0);
  assert.equal((await run('chmod', ['755', dir.path])).code, 0);
  assert.equal((await run('chown', ['-R', '65534:65534', state])).code, 0);
  const script =
    'mkdir -p "$1" && mount --bind "$2" "$1" && shift 2 && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"';
  const node = [join(open, 'node_modules/.bin/node'), join(open, 'cli/fleet.ts')];
  for (const verb of [['once', '--accept-age'], ['reset-trust']]) {
    const said = await run('unshare', [
      ...['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', open, process.cwd()],
      ...[...node, 'agent', '--state', state, ...verb],
    ]);
    assert.equal(said.code, 1, said.stderr);
    assert.match(said.stderr, /is for root alone \[E_STATE_ACCESS\]\n {2}→ .*run it as root/);
  }
});

test('fleet agent once --accept-age, as a command', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.now = Math.floor(Date.now() / 1000);
  world.publish(two);
  world.freshAt = world.now - world.root.maxAge - 1000;
  const { trust } = await readMemory(host.state);
  await writeTrust(host.state, { ...trust, time: null });
  const command = ['agent', '--root', host.root, '--state', host.state, 'once', '--json'];
  assert.equal((await fleet(command)).code, 3);
  await fleetOk([...command, '--accept-age']);
  assert.deepEqual(world.reports.at(-1)?.exceptions, ['age-accepted']);
  assert.deepEqual(await systemsOf(host), all(two));
});
