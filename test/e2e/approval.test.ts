// A host that wants two approvals, end to end: what is built waits, two people look at it and sign on machines
// of their own (one with openssl alone), and only then the host gets it.
import assert from 'node:assert/strict';
import { cp, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fleet, fleetOk, run, serve } from '../helpers/cli.ts';
import { temporaryDir } from '../helpers/temporary.ts';

/** A demo fleet whose lantern wants `approvals` of three release keys, enrolled. */
const TO_APPROVE =
  /^1 manifest to be approved: fleet publish --state \S+ --proposal FILE, fleet approve$/;

async function world(t: TestContext, approvals: number) {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const demo = join(dir, 'demo');
  const file = (name: string): string => join(dir, name);
  await cp(resolve('examples/demo'), demo, { recursive: true });
  await fleetOk(['init', '--state', state, '--origin', 'demo.test']);
  const keys = ['r1.pem', 'r2.pem', 'r3.pem'].map(file);
  for (const key of keys) await fleetOk(['key', 'generate', 'release', '--out', key]);
  const rotate = async (name: string, change: (draft: Record<string, unknown>) => object) => {
    const named = keys.flatMap((key) => ['--key', `release=${key}.pub`]);
    await fleetOk(['root', 'rotate', '--state', state, '--out', file(name), ...named]);
    const draft = JSON.parse(await readFile(file(name), 'utf8'));
    await writeFile(file(name), JSON.stringify({ ...draft, ...change(draft) }));
    await fleetOk(['root', 'sign', file(name), '--key', join(state, 'keys/root.pem')]);
    return JSON.parse(
      await fleetOk(['root', 'import', file(name), '--state', state, '--json']),
    ) as { reissued: string[]; waiting: string[] };
  };
  await rotate('2.json', () => ({
    groups: [
      { name: 'all', hosts: ['*'], approvals: 0 },
      { name: 'careful', hosts: ['lantern'], approvals },
    ],
  }));
  const build = async (edition: string, ...more: string[]) => {
    await writeFile(join(demo, 'hosts/lantern/tree/edition'), `${edition}\n`);
    const args = [
      'build',
      'archive',
      'lantern',
      '--state',
      state,
      '--flake',
      `path:${demo}`,
      '--json',
      ...more,
    ];
    return JSON.parse(await fleetOk(args)).hosts as {
      host: string;
      published: { sequence: number } | null;
      waiting: { sequence: number; digest: string } | null;
    }[];
  };
  const publish = (...more: string[]) => fleet(['publish', '--state', state, '--json', ...more]);
  const propose = async (name: string) => {
    await fleetOk(['publish', '--proposal', file(name), '--state', state]);
    return file(name);
  };
  const approve = (proposal: string, ...more: string[]) =>
    fleet(['approve', proposal, '--root', join(state, 'root/1.root.json'), '--json', ...more]);
  const { url } = await serve(t, state);
  const agent = ['agent', '--root', file('lantern')];
  const enrol = async () => {
    const invitation = file('lantern.json');
    await fleetOk([
      'host',
      'enroll',
      'lantern',
      '--state',
      state,
      '--server',
      url,
      '-o',
      invitation,
    ]);
    await fleetOk([...agent, 'enroll', invitation]);
  };
  const once = async () => {
    const { stdout } = await fleet([...agent, 'once', '--json']);
    const { phase, manifest, error } = JSON.parse(stdout);
    return { phase, sequence: manifest?.sequence ?? null, error: error?.code ?? null };
  };
  return { dir, state, file, keys, rotate, build, publish, propose, approve, enrol, once };
}

test('two of three release keys: build, propose, approve twice, publish, switch', async (t) => {
  const w = await world(t, 2);
  const [archive, lantern] = await w.build('one');
  assert.equal(archive?.published?.sequence, 1);
  assert.deepEqual([lantern?.published, lantern?.waiting?.sequence], [null, 1]);
  const status = JSON.parse(await fleetOk(['status', '--state', w.state, '--json']));
  const [, waits] = status.hosts;
  assert.equal(status.hosts[0].waiting, null);
  const { waiting: its } = waits;
  assert.deepEqual([waits.host, its.approvals, its.stale], ['lantern', 2, null]);
  assert.equal(its.digest, lantern?.waiting?.digest);
  assert.match(status.warnings[0], TO_APPROVE);
  const told = await fleetOk(['status', '--state', w.state]);
  assert.match(told, /^lantern .*#1 [0-9a-z]{8} nixos-system-lantern.* waits for 2 approvals$/m);
  const ofHost = await fleetOk(['host', 'show', 'lantern', '--state', w.state]);
  assert.match(ofHost, /^waiting +#1 .* waits for 2 approvals$/m);
  await w.enrol();
  assert.deepEqual(await w.once(), { phase: null, sequence: null, error: null });
  // The same again is the same proposal: somebody may be looking at it.
  assert.deepEqual((await w.build('one'))[1]?.waiting, lantern?.waiting);
  const none = await w.publish();
  assert.match(none.stderr, /1 of 1 still wait \[E_SOME_HOSTS\]/);
  assert.equal(JSON.parse(none.stdout).hosts[0].error.code, 'E_APPROVAL_MISSING');

  const proposal = await w.propose('one.tar');
  const seen = await w.approve(proposal);
  const [change] = JSON.parse(seen.stdout).hosts;
  assert.deepEqual([change.host, change.before, change.approvals], ['lantern', null, 2]);
  assert.equal(change.digest, lantern?.waiting?.digest);
  assert.ok(change.packages.length > 0 && change.added.includes(change.toplevel));
  // Nobody is asked where nobody is.
  const unasked = await w.approve(proposal, '--key', w.keys[0] ?? '', '--out', w.file('a.json'));
  assert.match(unasked.stderr, /nobody is there to be asked \[E_USAGE\]/);
  const yes = ['--yes', '--key'];
  const first = await w.approve(proposal, ...yes, w.keys[0] ?? '', '--out', w.file('a.json'));
  assert.deepEqual(JSON.parse(first.stdout).signers.length, 1, first.stderr);
  const early = JSON.parse((await w.publish('--approval', w.file('a.json'))).stdout);
  assert.equal(early.hosts[0].error.code, 'E_APPROVAL_THRESHOLD');

  // The second one has openssl.
  const openssl = w.keys[1] ?? '';
  const [pae, sig] = [w.file('a.pae'), w.file('a.sig')];
  const again = ['--approval', w.file('a.json')];
  assert.equal((await w.approve(proposal, '--yes', ...again, '--pae', pae)).code, 0);
  const made = await run('openssl', [
    ...['pkeyutl', '-sign', '-rawin', '-inkey', openssl, '-in', pae, '-out', sig],
  ]);
  assert.equal(made.code, 0, made.stderr);
  const added = ['--signature', sig, '--public-key', `${openssl}.pub`];
  const second = await w.approve(proposal, '--yes', ...again, ...added);
  assert.deepEqual(JSON.parse(second.stdout).signers.length, 2, second.stderr);
  const published = await w.publish(...again);
  assert.equal(published.code, 0, published.stderr);
  assert.equal(JSON.parse(published.stdout).hosts[0].published, true);
  assert.deepEqual(await w.once(), { phase: 'in-sync', sequence: 1, error: null });
  // An auditor gets the approval as well, and proofs that both are in the log.
  await fleetOk(['host', 'show', 'lantern', '--state', w.state, '--export', w.file('audit')]);
  const files = (await readdir(w.file('audit'))).sort().map((name) => join(w.file('audit'), name));
  const root = join(w.state, 'root/1.root.json');
  const { results } = JSON.parse(await fleetOk(['verify', ...files, '--root', root, '--json']));
  type Result = { readonly kind: string; readonly log?: { readonly isNewest?: boolean } | null };
  const kinds = results.map(({ kind, log }: Result) => [kind, log?.isNewest ?? null]);
  assert.deepEqual(kinds, [
    ...[
      ['root', null],
      ['root', null],
      ['approval', false],
      ['proof', false],
    ],
    ...[
      ['closure', true],
      ['manifest', true],
      ['proof', true],
    ],
    ...[
      ['enrolment', false],
      ['proof', false],
      ['host-key', null],
      ['receipt', null],
    ],
  ]);
  assert.equal(results[5].approvers.length, 2);
  // Nothing waits any more.
  assert.deepEqual(JSON.parse((await w.publish()).stdout).hosts, []);

  // The next one, of which an approval of the first says nothing.
  const [, next] = await w.build('two');
  assert.equal(next?.waiting?.sequence, 2);
  const stale = JSON.parse((await w.publish(...again)).stdout);
  assert.equal(stale.hosts[0].error.code, 'E_APPROVAL_MISSING');
  const two = await w.propose('two.tar');
  assert.match(
    (await w.approve(two, '--yes', ...again, '--key', openssl)).stderr,
    /E_APPROVAL_PROOF/,
  );
  const shown = JSON.parse((await w.approve(two)).stdout).hosts[0];
  assert.equal(shown.before, change.toplevel);
  assert.deepEqual(await w.once(), { phase: 'in-sync', sequence: 1, error: null });

  // A new root wants everything approved anew; hosts keep running what they have meanwhile.
  const { reissued, waiting } = await w.rotate('3.json', () => ({}));
  assert.deepEqual([reissued, waiting], [['archive'], ['lantern']]);
  assert.equal((await w.once()).error, 'E_ROOT_VERSION');
  const three = await w.propose('three.tar');
  for (const [i, key] of w.keys.slice(1).entries()) {
    const out = i === 0 ? ['--out', w.file('b.json')] : ['--approval', w.file('b.json')];
    const done = await w.approve(three, '--yes', '--key', key, ...out);
    assert.equal(done.code, 0, done.stderr);
  }
  assert.equal((await w.publish('--approval', w.file('b.json'))).code, 0);
  assert.deepEqual(await w.once(), { phase: 'in-sync', sequence: 2, error: null });
});

test('--no-publish leaves all waiting; what is overtaken, or no longer wanted, is not published', async (t) => {
  const w = await world(t, 0);
  const waiting = await w.build('one', '--no-publish');
  assert.deepEqual(
    waiting.map(({ host, published }) => [host, published]),
    [
      ['archive', null],
      ['lantern', null],
    ],
  );
  const done = JSON.parse((await w.publish()).stdout).hosts;
  assert.deepEqual(
    done.map(({ host, published }: { host: string; published: boolean }) => [host, published]),
    [
      ['archive', true],
      ['lantern', true],
    ],
  );
  // Back to what is published: what waited is forgotten.
  assert.equal((await w.build('two', '--no-publish'))[1]?.waiting?.sequence, 2);
  const told = await fleetOk(['status', '--state', w.state]);
  assert.match(told, /^lantern .*#2 .* waits to be published$/m);
  assert.match(told, /^! 1 manifest to be published: fleet publish --state \S+$/m);
  await w.build('one');
  assert.deepEqual(JSON.parse((await w.publish()).stdout).hosts, []);
  // Signed under a root that is no longer the newest.
  await w.build('three', '--no-publish');
  const proposal = await w.propose('three.tar');
  await w.rotate('3.json', () => ({ maxAge: 86_400 }));
  assert.match((await w.approve(proposal, '--yes')).stderr, /^$/);
  assert.deepEqual(JSON.parse((await w.publish()).stdout).hosts, []);
});

test('proposals, keys and options that are wrong are told as what they are', async (t) => {
  const w = await world(t, 1);
  const nothing = await fleet(['publish', '--proposal', w.file('x'), '--state', w.state]);
  assert.match(nothing.stderr, /nothing waits to be published \[E_PROPOSAL_FORM\]/);
  await w.build('one');
  const proposal = await w.propose('one.tar');
  const key = w.keys[0] ?? '';
  const out = ['--out', w.file('a.json')];
  for (const [args, pattern] of [
    [['--key', key], /where is the approval to be written\? \[E_USAGE\]/],
    [['--key', key, '--pae', w.file('p'), ...out], /give --key, or --pae/],
    [['--signature', key, ...out], /give --key, or --pae/],
    [['--host', 'archive', '--yes', '--key', key, ...out], /nothing for archive \[E_USAGE\]/],
    [['--yes', '--key', join(w.state, 'keys/director.pem'), ...out], /no release key .*\[E_SIG/],
  ] as const) {
    const { code, stderr } = await w.approve(proposal, ...args);
    assert.notEqual(code, 0, args.join(' '));
    assert.match(stderr, pattern);
    await assert.rejects(stat(w.file('a.json')));
  }
  // A proposal of which one byte differs, one that is none, and an approval that is none.
  const bytes = await readFile(proposal);
  const at = bytes.lastIndexOf('"payload":"') + 200;
  bytes[at] = bytes[at] === 0x41 ? 0x42 : 0x41;
  await writeFile(w.file('bad.tar'), bytes);
  assert.match((await w.approve(w.file('bad.tar'))).stderr, /E_(SIGNATURE|ENVELOPE|PAYLOAD_FORM)/);
  assert.match((await w.approve(key)).stderr, /E_BUNDLE_FORM/);
  await writeFile(w.file('bad.json'), '{"version":1}');
  assert.match((await w.publish('--approval', w.file('bad.json'))).stderr, /E_APPROVAL_FORM/);
  await fleetOk(['publish', '--proposal', w.file('y'), '--state', w.state]);
  const twice = await fleet(['publish', '--proposal', w.file('y'), '--state', w.state]);
  assert.match(twice.stderr, /E_STATE_EXISTS/);
});
