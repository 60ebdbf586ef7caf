// A host's whole life with nothing of its own in between: enrolled, its disk lost, enrolled anew, removed; what the log,
// the auditor and openssl say of it; and a removal that wants approval.
import assert from 'node:assert/strict';
import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type TestContext, test } from 'node:test';
import { pae, parseEnvelope } from '../../src/manifest/dsse.ts';
import { fleet, fleetOk, run, serve } from '../helpers/cli.ts';
import { waitFor } from '../helpers/hosts.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

/** Whether openssl accepts the only signature of an envelope, by a key as it was exported. */
async function opensslAccepts(t: TestContext, envelope: string, key: string): Promise<boolean> {
  const dir = await temporaryDir(t);
  const { payloadType, payload, signatures } = parseEnvelope(envelope);
  await writeFile(join(dir, 'signed'), pae(payloadType, payload));
  await writeFile(join(dir, 'sig'), signatures[0]?.sig ?? '');
  const { code } = await run('openssl', [
    ...['pkeyutl', '-verify', '-rawin', '-pubin', '-inkey', key],
    ...['-in', join(dir, 'signed'), '-sigfile', join(dir, 'sig')],
  ]);
  return code === 0;
}

test('enrolled, its disk lost, enrolled anew, audited, exported, removed, skipped', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const demo = join(dir, 'demo');
  const file = (name: string): string => join(dir, name);
  await cp(resolve('examples/demo'), demo, { recursive: true });
  const on = ['--state', state];
  await fleetOk(['init', ...on, '--origin', 'demo.test']);
  const flake = ['--flake', `path:${demo}`];
  await fleetOk(['build', 'lantern', ...on, ...flake]);
  const { url } = await serve(t, state);
  const enrol = async (machine: string, ...more: string[]) => {
    const made = [
      'host',
      'enroll',
      'lantern',
      ...on,
      '--server',
      url,
      '-o',
      file(`${machine}.json`),
    ];
    await fleetOk([...made, ...more]);
    await fleetOk(['agent', '--root', file(machine), 'enroll', file(`${machine}.json`)]);
  };
  const once = async (machine: string) =>
    JSON.parse((await fleet(['agent', '--root', file(machine), 'once', '--json'])).stdout);
  const told = async (keys: number) => {
    const root = join(state, 'root/1.root.json');
    const { stdout } = await fleet(['audit', ...on, '--root', root, '--json']);
    const { hosts, irregularities } = JSON.parse(stdout);
    const lantern = hosts.find(({ host }: { host: string }) => host === 'lantern');
    return lantern?.keys.length === keys ? { ...lantern, irregularities } : null;
  };
  await enrol('first');
  assert.equal((await once('first')).phase, 'in-sync');
  await waitFor(async () => (await told(1)) !== null);
  const early = await fleet(['host', 'enroll', 'lantern', ...on, '-o', file('early')]);
  assert.match(early.stderr, /E_ENROLLED\]\n.*--replace/);

  // Its disk is gone, with its key.
  await enrol('second', '--replace');
  const [shown] = JSON.parse(await fleetOk(['status', ...on, '--json'])).hosts;
  assert.deepEqual([shown.phase, shown.actual, shown.conflict], ['manifest-pending', null, null]);
  assert.equal((await once('second')).phase, 'in-sync');
  await waitFor(async () => (await told(2)) !== null);
  const lantern = await told(2);
  assert.deepEqual(lantern.irregularities, []);
  assert.ok(lantern.keys[0].index < lantern.keys[1].index && lantern.receipts >= 2);
  // The old disk turns up again.
  assert.equal((await fleet(['agent', '--root', file('first'), 'once'])).code, 1);

  // What an auditor takes along, and what openssl says of it.
  const show = ['host', 'show', 'lantern', ...on, '--export'];
  await fleetOk([...show, file('export')]);
  await fleetOk([...show, file('again')]);
  const names = (await readdir(file('export'))).filter((name) => !name.endsWith('.tlog-proof'));
  const [old, anew] = lantern.keys.map(({ index }: { index: number }) => `lantern-${index}`);
  for (const name of [`${old}.enrolment.json`, `${old}.host-key.pem`, 'lantern.receipts.jsonl']) {
    assert.ok(names.includes(name), names.join());
    assert.deepEqual(
      await readFile(join(file('export'), name)),
      await readFile(join(file('again'), name)),
    );
  }
  const exported = (name: string) => join(file('export'), name);
  const statement = await readFile(exported(`${anew}.enrolment.json`), 'utf8');
  const { predicate } = JSON.parse(Buffer.from(parseEnvelope(statement).payload).toString());
  assert.deepEqual(
    [predicate.replaces, predicate.publicKey],
    lantern.keys.map(({ key }: { key: string }) => key),
  );
  const receipts = (await readFile(exported('lantern.receipts.jsonl'), 'utf8'))
    .trimEnd()
    .split('\n');
  const [first = '', last = ''] = [receipts[0], receipts.at(-1)];
  const [oldKey, newKey] = [exported(`${old}.host-key.pem`), exported(`${anew}.host-key.pem`)];
  assert.deepEqual(
    [
      await opensslAccepts(t, first, oldKey),
      await opensslAccepts(t, first, newKey),
      await opensslAccepts(t, last, newKey),
    ],
    [true, false, true],
  );

  // The end.
  const remove = ['host', 'remove', 'lantern', ...on, '--json'];
  assert.match((await fleet(remove)).stderr, /nobody is there to be asked \[E_USAGE\]/);
  const removed = JSON.parse(await fleetOk([...remove, '--yes']));
  assert.deepEqual([removed.published, removed.isNew, removed.sequence], [true, true, 2]);
  const list = await fleetOk(['status', ...on]);
  assert.match(list, /#2 removed .*it has not said yet that it knows/);
  const end = await once('second');
  assert.deepEqual([end.phase, end.error], ['decommissioned', null]);
  assert.equal(
    JSON.parse(await fleetOk(['status', ...on, '--json'])).hosts[0].phase,
    'decommissioned',
  );
  const named = await fleet(['build', 'lantern', ...on, ...flake]);
  assert.match(named.stderr, /lantern was removed from the fleet \[E_DECOMMISSIONED\]/);
  const dry = await fleet(['build', ...on, ...flake, '--dry-run', '--json']);
  assert.match(dry.stderr, /lantern: skipped, it was removed from the fleet/);
  const hosts = JSON.parse(dry.stdout).hosts.map(({ host }: { host: string }) => host);
  assert.ok(hosts.length > 0 && !hosts.includes('lantern'));
  for (const more of [[], ['--replace']]) {
    const refused = await fleet(['host', 'enroll', 'lantern', ...on, '-o', file('none'), ...more]);
    assert.match(refused.stderr, /E_DECOMMISSIONED/);
  }
  assert.deepEqual((await told(2)).irregularities, []);
  await fleetOk([...show, file('ended')]);
  assert.ok((await readdir(file('ended'))).includes('lantern-2.manifest.json'));
});

test('a removal that wants approval waits for it, as a system does, under whatever root', async (t) => {
  const dir = await temporaryDir(t);
  const file = (name: string): string => join(dir, name);
  const now = Math.floor(Date.now() / 1000);
  const made = await makeState(dir, now);
  await publishHost(made, 'a', 'one', now);
  await made[Symbol.asyncDispose]();
  const state = join(dir, 'state');
  const on = ['--state', state];
  const draft = file('2.json');
  await fleetOk(['root', 'rotate', ...on, '--out', draft]);
  const root = JSON.parse(await readFile(draft, 'utf8'));
  const groups = [{ name: 'all', hosts: ['*'], approvals: 1 }];
  await writeFile(draft, JSON.stringify({ ...root, groups }));
  await fleetOk(['root', 'sign', draft, '--key', join(state, 'keys/root.pem')]);
  await fleetOk(['root', 'import', draft, ...on]);

  const remove = ['host', 'remove', 'a', ...on, '--yes', '--json'];
  const waiting = JSON.parse(await fleetOk(remove));
  assert.deepEqual([waiting.published, waiting.isNew], [false, true]);
  // The same again is the same proposal.
  const same = JSON.parse(await fleetOk(remove));
  assert.deepEqual([same.digest, same.isNew], [waiting.digest, false]);
  const early = await fleet(['publish', ...on, '--json']);
  assert.equal(JSON.parse(early.stdout).hosts[0].error.code, 'E_APPROVAL_MISSING');
  // Another root does not turn it into something else.
  const third = file('3.json');
  await fleetOk(['root', 'rotate', ...on, '--out', third]);
  await fleetOk(['root', 'sign', third, '--key', join(state, 'keys/root.pem')]);
  const imported = JSON.parse(await fleetOk(['root', 'import', third, ...on, '--json']));
  assert.deepEqual(imported.waiting, ['a']);

  await fleetOk(['publish', '--proposal', file('p.tar'), ...on]);
  const trusted = ['--root', join(state, 'root/1.root.json')];
  assert.match(
    await fleetOk(['approve', file('p.tar'), ...trusted]),
    /NOTHING: it removes the host/,
  );
  const [seen] = JSON.parse(await fleetOk(['approve', file('p.tar'), ...trusted, '--json'])).hosts;
  assert.deepEqual([seen.intent, seen.toplevel, seen.host], ['decommission', null, 'a']);
  const key = ['--key', join(state, 'keys/release.pem'), '--yes', '--out', file('approval')];
  await fleetOk(['approve', file('p.tar'), ...trusted, ...key]);
  const published = await fleet(['publish', ...on, '--approval', file('approval')]);
  assert.match(published.stdout, /published .*removes the host/, published.stderr);
  assert.equal(JSON.parse(await fleetOk(remove)).isNew, false);
  const audit = await fleet(['audit', ...on, ...trusted]);
  assert.equal(audit.code, 0, audit.stdout);
});
