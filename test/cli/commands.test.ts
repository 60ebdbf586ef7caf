// How the command line speaks: exit codes, one JSON document, advice for every wrong turn.
import assert from 'node:assert/strict';
import {
  chmod,
  cp,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { counted, paint, placedText, printable, table, tellError } from '../../cli/output.ts';
import { ago } from '../../cli/status.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { formatManifest, parseManifest } from '../../src/manifest/manifest.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { openStateDir, readServerKey } from '../../src/server/statedir.ts';
import { fleet, fleetOk, run, startFleet } from '../helpers/cli.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = Math.floor(Date.now() / 1000);

async function refused(args: string[], exit: number, code: string): Promise<string> {
  const { code: status, stdout, stderr } = await fleet([...args, '--json']);
  assert.equal(status, exit, stderr);
  const { error } = JSON.parse(stdout) as {
    error: { code: string; message: string; hint: string };
  };
  assert.equal(error.code, code, stderr);
  const lines = stderr.trimEnd().split('\n').slice(-2);
  assert.equal(lines[0], `fleet: ${printable(error.message)} [${code}]`);
  assert.equal(lines[1], `  → ${printable(error.hint)}`);
  return error.message;
}

test('no command, an unknown one and an unknown option are usage errors; help is not', async () => {
  assert.equal((await fleet([])).code, 2);
  const unknown = await fleet(['buld']);
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /Did you mean build/);
  await refused(['buld'], 2, 'E_USAGE');
  await refused(['build', '--dryrun'], 2, 'E_USAGE');
  await refused(['host', 'enroll'], 2, 'E_USAGE');
  for (const args of [['--help'], ['help'], ['build', '--help'], ['--version']]) {
    assert.equal((await fleet(args)).code, 0, args.join(' '));
  }
});

test('init creates, says what to do next, and never overwrites', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  const text = await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  assert.match(text, /fleet build --state/);
  const keys = await readdir(join(state, 'keys'));
  assert.deepEqual(keys.sort(), [
    'cache.sec',
    'director.pem',
    'freshness.pem',
    'log.pem',
    'nonce.pem',
    'release.pem',
    'root.pem',
  ]);
  assert.equal((await stat(join(state, 'keys'))).mode & 0o777, 0o700);
  for (const key of keys)
    assert.equal((await stat(join(state, 'keys', key))).mode & 0o777, 0o600, key);
  const before = await readFile(join(state, 'root/1.root.json'), 'utf8');
  await refused(['init', '--state', state, '--origin', 'a.test'], 1, 'E_STATE_EXISTS');
  assert.equal(await readFile(join(state, 'root/1.root.json'), 'utf8'), before);
  await refused(['init', '--state', join(dir, 'b'), '--origin', 'Not A Name'], 2, 'E_USAGE');
  await refused(
    ['init', '--state', join(dir, 'b'), '--origin', 'b.test', '--url', 'nope'],
    2,
    'E_USAGE',
  );
  assert.deepEqual(await readdir(dir), ['state']);
});

test('a state that is missing, or lacks a part, is an error; nothing is made up', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await refused(['status', '--state', state], 1, 'E_STATE_MISSING');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  for (const part of ['fleet.db', 'blobs', 'keys/cache.sec', 'root/1.root.json', 'root']) {
    const copy = join(dir, 'copy');
    await rm(copy, { recursive: true, force: true });
    await cp(state, copy, { recursive: true });
    await rm(join(copy, part), { recursive: true });
    const message = await refused(['status', '--state', copy], 1, 'E_STATE_INCOMPLETE');
    assert.ok(message.includes(part), message);
    await assert.rejects(stat(join(copy, part)), part);
  }
  // The root key may leave the server: that is what is wanted of it.
  await rm(join(state, 'keys/root.pem'));
  const status = JSON.parse(await fleetOk(['status', '--state', state, '--json']));
  assert.deepEqual(status.warnings.length, 1);
  await writeFile(join(state, 'fleet.json'), '{"version":1,"fleet":"a.test","lisen":"x"}');
  const message = await refused(['status', '--state', state], 2, 'E_CONFIG');
  assert.match(message, /did you mean "listen"/);
});

test('keys that the root does not name are not used', async (t) => {
  const dir = await temporaryDir(t);
  const [ours, theirs] = [join(dir, 'ours'), join(dir, 'theirs')];
  for (const state of [ours, theirs])
    await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  await cp(join(theirs, 'keys/cache.sec'), join(ours, 'keys/cache.sec'));
  const message = await refused(['status', '--state', ours], 1, 'E_STATE_INCOMPLETE');
  assert.match(
    message,
    /no file in .*keys is the cache key that root version 1 of fleet a\.test names \(a\.test-1\): other keys are in cache\.sec$/,
  );
  await cp(join(ours, 'keys/director.pem'), join(theirs, 'keys/director.pem'));
  await using open = await openStateDir(theirs, { writer: 'inline' });
  await assert.rejects(readServerKey(open, 'director'), {
    code: 'E_STATE_INCOMPLETE',
    message: /is the director key .* \([0-9a-f]{16}\): other keys are in director\.pem$/,
  });
});

test('a director key that was lost is named, and another takes its place as the advice says', async (t) => {
  const dir = await temporaryDir(t);
  const made = await makeState(dir, NOW);
  await publishHost(made, 'lantern', 'one', NOW);
  await made[Symbol.asyncDispose]();
  const state = join(dir, 'state');
  const keys = JSON.parse(await fleetOk(['key', 'list', '--state', state, '--json'])).keys;
  const { keyId } = keys.find(({ role }: { role: string }) => role === 'director');
  await rm(join(state, 'keys/director.pem'));
  const { code, stderr } = await fleet(['publish', '--state', state]);
  assert.equal(code, 1);
  assert.match(
    stderr,
    new RegExp(`is the director key .* \\(${keyId}\\) \\[E_STATE_INCOMPLETE\\]`),
  );
  assert.match(
    stderr,
    /→ restore it .*; if it is lost for good, .*: fleet key generate --state \S+ director$/m,
  );
  const next = await fleetOk(['key', 'generate', 'director', '--state', state]);
  const named = /fleet root rotate --state \S+ --key (\S+)/.exec(next)?.[1] ?? '';
  const draft = join(dir, 'draft');
  await fleetOk(['root', 'rotate', '--key', named, '--out', draft, '--state', state]);
  await fleetOk(['root', 'sign', draft, '--key', join(state, 'keys/root.pem')]);
  await fleetOk(['root', 'import', draft, '--state', state]);
  await fleetOk(['publish', '--state', state]);
});

test('a key or a root that cannot be read is told with the name of its file', async (t) => {
  const state = join(await temporaryDir(t), 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  await writeFile(join(state, 'keys/cache-2.sec'), 'x');
  assert.match(await refused(['status', '--state', state], 1, 'E_NIX_KEY'), /cache-2\.sec: not a/);
  await rm(join(state, 'keys/cache-2.sec'));
  await writeFile(join(state, 'keys/director.pem'), 'x');
  await using open = await openStateDir(state, { writer: 'inline' });
  await assert.rejects(readServerKey(open, 'director'), {
    code: 'E_KEY_FILE',
    message: /director\.pem: not /,
  });
  await writeFile(join(state, 'root/1.root.json'), 'x');
  const message = await refused(['status', '--state', state], 3, 'E_ENVELOPE');
  assert.match(message, /root\/1\.root\.json: the envelope/);
});

test('init by root, in a directory of another user, leaves it theirs and closed', async (t) => {
  if (process.geteuid?.() !== 0) return t.skip('needs root');
  const dir = await temporaryDir(t);
  await chmod(dir, 0o755);
  const [open, state] = [join(dir, 'open'), join(dir, 'state')];
  await mkdir(state, { mode: 0o755 });
  // A user that no passwd file knows, as in containers.
  assert.equal((await run('chown', ['61234:61234', state])).code, 0);
  const script = 'mkdir -p "$2" && mount --bind "$1" "$2" && shift 2 && exec "$@"';
  const fleetThere = (...args: string[]) =>
    run('unshare', [
      ...['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', process.cwd(), open],
      ...[join(open, 'node_modules/.bin/node'), join(open, 'cli/fleet.ts'), ...args],
    ]);
  const init = await fleetThere('init', '--state', state, '--origin', 'a.test');
  assert.equal(init.code, 0, init.stderr);
  const status = await fleetThere('status', '--state', state);
  assert.equal(status.code, 0, status.stderr);
  assert.equal((await stat(state)).mode & 0o777, 0o750);
  for (const name of await readdir(state, { recursive: true })) {
    assert.equal((await stat(join(state, name))).uid, 61234, name);
  }
  assert.equal((await stat(join(state, 'publish.lock'))).mode & 0o777, 0o600);
});

test('an enrolment file is made once, for a name that can be a host’s, and never over another', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  const file = join(dir, 'a.json');
  const enroll = (...args: string[]) => ['host', 'enroll', ...args, '--state', state, '-o', file];
  await refused(enroll('a'), 2, 'E_USAGE');
  await refused(enroll('A_b', '--server', 'http://x'), 2, 'E_USAGE');
  await refused(enroll('a', '--server', 'x'), 2, 'E_USAGE');
  await refused(enroll('a', '--server', 'http://x', '--hours', '0'), 2, 'E_USAGE');
  await fleetOk(enroll('a', '--server', 'http://x'));
  await refused(enroll('a', '--server', 'http://x'), 2, 'E_USAGE');
  await refused(['host', 'show', 'b', '--state', state], 1, 'E_HOST_UNKNOWN');
  const secret = JSON.parse(await readFile(file, 'utf8')).secret as string;
  assert.ok(!(await readFile(join(state, 'fleet.db'))).includes(secret), 'the secret is stored');
});

test('tokens: made once by a name, listed without the secret, revoked by the name', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  const token = (...args: string[]) => ['token', ...args, '--state', state];
  const { token: secret } = JSON.parse(await fleetOk([...token('create', 'laptop'), '--json']));
  await refused(token('create', 'laptop'), 2, 'E_USAGE');
  await refused(token('create', 'a b'), 2, 'E_USAGE');
  await refused(token('create', 'b', '--days', 'x'), 2, 'E_USAGE');
  const list = await fleetOk(token('list'));
  assert.match(list, /laptop/);
  assert.ok(!list.includes(secret));
  for (const name of await readdir(state)) {
    if (!name.startsWith('fleet.db')) continue;
    assert.ok(!(await readFile(join(state, name))).includes(secret), `${name} has the token`);
  }
  await fleetOk(token('revoke', 'laptop'));
  await refused(token('revoke', 'laptop'), 2, 'E_USAGE');
  assert.match(await fleetOk(token('list')), /no tokens/);
});

test('an address that is taken, and half of TLS, are refused', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  const taken = createServer();
  await new Promise<void>((settle) => taken.listen(0, '127.0.0.1', settle));
  const { port } = taken.address() as { port: number };
  await refused(['serve', '--state', state, '--listen', `127.0.0.1:${port}`], 1, 'E_LISTEN');
  taken.close();
  await refused(['serve', '--state', state, '--listen', 'nowhere'], 2, 'E_USAGE');
  await refused(['serve', '--state', state, '--tls-cert', 'x'], 2, 'E_USAGE');
  await refused(
    ['serve', '--state', state, '--tls-cert', '/no/c', '--tls-key', '/no/k'],
    2,
    'E_USAGE',
  );
  const text = join(state, 'fleet.json');
  await refused(['serve', '--state', state, '--tls-cert', text, '--tls-key', text], 2, 'E_USAGE');
});

test('verify: authentic, refused with exit 3, and one document for all files', async (t) => {
  const dir = await temporaryDir(t);
  const made = await makeState(dir, NOW);
  await publishHost(made, 'lantern', 'one', NOW);
  const manifest = await made.state.currentManifest('lantern');
  assert.ok(manifest?.closure != null);
  const closure = await made.blobs.get(manifest.closure);
  assert.ok(closure !== null);
  const bytes = Buffer.concat(await closure.toArray());
  await made[Symbol.asyncDispose]();
  const root = join(dir, 'state/root/1.root.json');
  const file = join(dir, 'm.json');
  const closureFile = join(dir, 'closure.fp');
  const broken = join(dir, 'broken.json');
  await writeFile(file, manifest.envelope);
  await writeFile(closureFile, bytes);
  await writeFile(broken, manifest.envelope.replace(/"payload":"(.{40})./, '"payload":"$1A'));
  const verify = async (...args: string[]) => {
    const { code, stdout } = await fleet(['verify', ...args, '--root', root, '--json']);
    const { results } = JSON.parse(stdout) as { results: { verdict: string; code?: string }[] };
    return [code, ...results.map((one) => one.code ?? one.verdict)];
  };
  assert.deepEqual(await verify(file), [0, 'authentic']);
  assert.deepEqual(await verify(file, closureFile), [0, 'authentic', 'authentic']);
  assert.deepEqual(await verify(closureFile), [3, 'E_CLOSURE_HASH']);
  assert.deepEqual(await verify(broken, file), [3, 'E_SIGNATURE', 'authentic']);
  assert.deepEqual(await verify(file, '--host', 'gateway'), [3, 'E_HOST_MISMATCH']);
  assert.deepEqual(await verify(file, '--at', '2000-01-01T00:00:00Z'), [3, 'E_MANIFEST_NOT_YET']);
  await writeFile(broken, bytes.subarray(0, -2));
  assert.deepEqual(await verify(file, broken), [3, 'authentic', 'E_CLOSURE_HASH']);
  await writeFile(broken, 'nothing of ours');
  assert.deepEqual(await verify(broken), [3, 'E_ENVELOPE']);
  const text = await fleet(['verify', broken, '--root', root]);
  assert.match(text.stderr, /1 of 1 refused \[E_VERIFY\]/);
  await refused(['verify', join(dir, 'none'), '--root', root], 2, 'E_USAGE');
  await refused(['verify', file, '--root', file], 3, 'E_ROOT_FORM');
  await refused(['verify', file, '--root', root, '--at', 'soon'], 2, 'E_USAGE');
});

test('verify: hostile file names and files that are none', async (t) => {
  const dir = await temporaryDir(t);
  const made = await makeState(dir, NOW);
  await publishHost(made, 'lantern', 'one', NOW);
  await made[Symbol.asyncDispose]();
  const root = join(dir, 'state/root/1.root.json');
  const forged = join(dir, 'x\u001b[2K\nauthentic payroll.json: manifest alpha #9');
  await writeFile(forged, 'nothing');
  const { code, stdout, stderr } = await fleet(['verify', forged, '--root', root]);
  assert.equal(code, 3);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
  assert.doesNotMatch(stdout + stderr, /\u001b|^authentic/m);
  assert.equal((await run('mkfifo', [join(dir, 'pipe')])).code, 0);
  for (const file of [join(dir, 'pipe'), dir, '/dev/zero']) {
    const message = await refused(['verify', file, '--root', root], 2, 'E_USAGE');
    assert.match(message, /is not a file/);
  }
  // What was given by mistake is not shown.
  await writeFile(join(dir, 'netrc'), 'hunter2 is the password');
  const shown = await fleet(['verify', join(dir, 'netrc'), '--root', root, '-v']);
  assert.equal(shown.code, 3);
  assert.doesNotMatch(shown.stdout + shown.stderr, /hunter2/);
});

test('verify: two manifests of one number, both signed, are found out', async (t) => {
  const dir = await temporaryDir(t);
  const made = await makeState(dir, NOW);
  await publishHost(made, 'lantern', 'one', NOW);
  const first = await made.state.currentManifest('lantern');
  await publishHost(made, 'lantern', 'two', NOW);
  const second = await made.state.currentManifest('lantern');
  assert.ok(first !== null && second !== null);
  const manifest = parseManifest(parseEnvelope(second.envelope).payload);
  const forged = formatManifest({ ...manifest, sequence: 1, previous: null });
  const { secret: director } = await readServerKey(made, 'director');
  await made[Symbol.asyncDispose]();
  await writeFile(join(dir, 'a'), first.envelope);
  await writeFile(join(dir, 'b'), signEnvelope(STATEMENT_PAYLOAD_TYPE, forged, [director]));
  const root = join(dir, 'state/root/1.root.json');
  const args = ['verify', join(dir, 'a'), join(dir, 'b'), join(dir, 'a'), '--root', root, '--json'];
  const { code, stdout } = await fleet(args);
  const { results } = JSON.parse(stdout) as { results: { verdict: string; code?: string }[] };
  assert.equal(code, 3);
  assert.deepEqual(
    results.map((one) => one.code ?? one.verdict),
    ['authentic', 'E_SEQUENCE_CONFLICT', 'authentic'],
  );
});

test('an auditor gets all that verify needs from one command', async (t) => {
  const dir = await temporaryDir(t);
  const made = await makeState(dir, NOW);
  await publishHost(made, 'lantern', 'one', NOW);
  await made[Symbol.asyncDispose]();
  const state = join(dir, 'state');
  const to = join(dir, 'audit');
  await fleetOk(['host', 'show', 'lantern', '--state', state, '--export', to]);
  const manifest = 'lantern-1.manifest.json';
  const names = ['1.root.json', 'lantern-1.closure.fp', manifest, `${manifest}.tlog-proof`];
  assert.deepEqual((await readdir(to)).sort(), names);
  const [root = '', ...files] = names.map((name) => join(to, name));
  const said = await fleetOk(['verify', ...files, '--root', root]);
  assert.equal(said.match(/^authentic /gm)?.length, 3);
  assert.match(
    said,
    /authentic and logged, entry \d+ of \d+ in state.test\/log\/1, newest as of 20/,
  );
});

test('a reader of progress that goes away ends neither a build nor a server', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  const serving = startFleet([
    'serve',
    '--state',
    state,
    '--json',
    '--access-log',
    '--listen',
    '127.0.0.1:0',
  ]);
  let text = '';
  const url = await new Promise<string>((settle) => {
    serving.child.stdout?.on('data', (chunk: string) => {
      text += chunk;
      const found = /"url": "([^"]+)"/.exec(text)?.[1];
      if (found !== undefined) settle(found);
    });
  });
  serving.child.stderr?.destroy();
  for (let i = 0; i < 3; i++) assert.equal((await fetch(`${url}/healthz`)).status, 200);
  serving.child.kill('SIGTERM');
  assert.equal((await serving.done).code, 0);
});

test('a state that cannot be there, or that is named by nothing, is no fault of fleet', async (t) => {
  const dir = await temporaryDir(t);
  await symlink(join(dir, 'not-mounted'), join(dir, 'link'));
  await writeFile(join(dir, 'file'), '');
  for (const place of ['link', 'link/below', 'file', 'file/below']) {
    const args = ['init', '--origin', 'a.test', '--state', join(dir, place)];
    const { code, stderr } = await fleet(args);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /cannot be a directory .*\[E_STATE_ACCESS\]\n {2}→ .*another --state/,
      place,
    );
  }
  await refused(['init', '--origin', 'a.test', '--state', ''], 2, 'E_USAGE');
  await refused(['agent', 'status', '--state', ''], 2, 'E_USAGE');
  await refused(['agent', 'status', '--root', ''], 2, 'E_USAGE');
});

test('a directory that this user may not write is told as that', async (t) => {
  if (process.geteuid?.() !== 0) return t.skip('needs root, to be someone else');
  const dir = await temporaryDir(t);
  await chmod(dir, 0o755);
  const open = join(dir, 'open');
  const script =
    'mkdir -p "$1" && mount --bind "$2" "$1" && shift 2 && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"';
  const node = join(open, 'node_modules/.bin/node');
  const init = [
    node,
    join(open, 'cli/fleet.ts'),
    'init',
    '--state',
    join(dir, 'state'),
    '--origin',
    'a.test',
  ];
  const said = await run('unshare', [
    ...['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh'],
    ...[open, process.cwd(), ...init],
  ]);
  assert.equal(said.code, 1);
  assert.match(said.stderr, /this user may not write .* \[E_STATE_ACCESS\]/);
});

test('color where it is wanted, and columns as wide as what is seen', () => {
  const globals = { state: undefined, stateOption: '', json: false, quiet: false, verbose: false };
  const red = paint({ ...globals, color: true }, 'bad', 'no');
  assert.equal(red, '\u001b[31mno\u001b[0m');
  assert.equal(paint({ ...globals, color: false }, 'bad', 'no'), 'no');
  assert.equal(
    table([
      [red, 'x'],
      ['abc', 'y'],
    ]),
    `${red}   x\nabc  y`,
  );
});

test('root becomes the owner of the state, and leaves no file that locks them out', async (t) => {
  if (process.geteuid?.() !== 0) return t.skip('needs root');
  const dir = await temporaryDir(t);
  await chmod(dir, 0o755);
  const state = join(dir, 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  assert.equal((await run('chown', ['-R', '65534:65534', state])).code, 0);
  // Wherever this checkout lies, it is also where every user can read it, in a namespace of its own.
  const create = (parent: string, name: string) => {
    const node = join(parent, 'fleet/node_modules/.bin/node');
    const command = [node, join(parent, 'fleet/cli/fleet.ts'), 'token', 'create', name];
    const script = 'mkdir -p "$2" && mount --bind "$1" "$2" && shift 2 && exec "$@"';
    return run('unshare', [
      ...['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh'],
      ...[process.cwd(), join(parent, 'fleet'), ...command, '--state', state],
    ]);
  };
  const open = join(dir, 'open');
  const made = await create(open, 'x');
  assert.equal(made.code, 0, made.stderr);
  for (const name of await readdir(state, { recursive: true })) {
    assert.equal((await stat(join(state, name))).uid, 65534, name);
  }
  const closed = join(dir, 'closed');
  await mkdir(closed, { mode: 0o700 });
  const refusal = await create(closed, 'y');
  assert.equal(refusal.code, 1);
  assert.match(
    refusal.stderr,
    /user 65534, who owns .* cannot read fleet itself \[E_STATE_ACCESS\]/,
  );
});

test('serve ends cleanly when told to, and says where it listened', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  const serving = startFleet(['serve', '--state', state, '--listen', '[::1]:0']);
  await new Promise<void>((settle) => serving.child.stdout?.once('data', () => settle()));
  serving.child.kill('SIGTERM');
  const { code, stdout } = await serving.done;
  assert.equal(code, 0);
  assert.match(stdout, /serving fleet a\.test at http:\/\/\[::1\]:\d+/);
});

test('what others say cannot drive a terminal, and tables line up', () => {
  assert.equal(printable('a\u001b[31mb\nc\td\u009b'), 'a?[31mb c?d?');
  assert.equal(
    table([
      ['a', 'bb'],
      ['ccc', 'd'],
    ]),
    'a    bb\nccc  d',
  );
  assert.deepEqual([5, 90, 7200, 200_000].map(ago), ['5 s', '1 min', '2 h', '2 days']);
});

test('what is not foreseen is E_INTERNAL, told without a stack', (t) => {
  const lines: string[] = [];
  t.mock.method(process.stderr, 'write', (line: string) => lines.push(line));
  assert.equal(tellError(new TypeError('boom'), { json: false, verbose: false }), 1);
  assert.match(lines.join(''), /^fleet: boom \[E_INTERNAL\]\n {2}→ .*-v/);
});

test('advice for what people do wrong with keys and files', async (t) => {
  const dir = await temporaryDir(t);
  const file = (name: string): string => join(dir, name);
  const made = await makeState(dir, NOW);
  await publishHost(made, 'lantern', 'one', NOW);
  await made[Symbol.asyncDispose]();
  const state = file('state');
  const at = ['--state', state];
  await fleetOk(['host', 'show', 'lantern', ...at, '--export', file('x')]);
  await fleetOk(['audit', 'export', ...at, '--out', file('log.tar')]);
  await fleetOk(['key', 'export', 'root', '--move', '--out', file('root.pem'), ...at]);
  const root = file('x/1.root.json');
  await writeFile(file('cut.json'), (await readFile(root)).subarray(0, 900));
  const changed = (await readFile(root, 'utf8')).replace(/"sig":"./, '"sig":"/');
  await writeFile(file('changed.json'), changed);
  const { keys } = JSON.parse(await fleetOk(['key', 'list', ...at, '--json']));
  const idOf = (role: string) =>
    keys.find((key: { role: string; keyId: string }) => key.role === role).keyId;
  const own = /give the first root of the fleet, 1\.root\.json, as it came to you/;
  const damaged = /it was damaged or changed; give the first root/;
  const taken = /nothing is overwritten: choose another name, or move that file away/;
  const place = /choose another place, in a directory that is there/;
  const out = ['--out', file('draft')];
  const cases: [string[], number, RegExp, RegExp][] = [
    [
      ['key', 'revoke', idOf('director'), ...out, ...at],
      2,
      /is the only director key.*E_USAGE/,
      /generate director, and add --successor FILE/,
    ],
    [
      ['key', 'revoke', idOf('release'), ...out, ...at],
      2,
      /is the only release key.*E_USAGE/,
      /generate release --out FILE, and add --succ/,
    ],
    [
      ['key', 'export', 'root', '--out', file('again.pem'), ...at],
      2,
      /the root key is not on this server.*E_USAGE/,
      /where it was moved to/,
    ],
    [
      ['key', 'export', 'release', '--out', file('root.pem'), ...at],
      1,
      /root\.pem exists already \[E_STATE_EXISTS\]/,
      taken,
    ],
    [
      ['key', 'generate', 'root', '--out', file('none/root.pem')],
      2,
      /cannot write .*: ENOENT \[E_USAGE\]/,
      place,
    ],
    [
      ['audit', 'export', '--out', file('none/x'), ...at],
      2,
      /there is no directory .*none \[E_USAGE\]/,
      /make it first/,
    ],
    [
      ['audit', '--bundle', file('none.tar'), '--root', root],
      2,
      /cannot read .*none\.tar: ENOENT \[E_USAGE\]/,
      /that fleet audit export wrote/,
    ],
  ];
  for (const verb of [
    ['verify', root],
    ['audit', ...at],
    ['approve', file('log.tar')],
  ]) {
    for (const [name, message, advice] of [
      ['x/lantern-1.manifest.json', /--root .* is a manifest, and no root \[E_ROOT_FORM\]/, own],
      ['x/lantern-1.closure.fp', /is a closure file, and no root \[E_ROOT_FORM\]/, own],
      ['log.tar', /is a bundle of a log, and no root \[E_ROOT_FORM\]/, own],
      ['cut.json', /--root .*cut\.json: .*\[E_ENVELOPE\]/, damaged],
      ['changed.json', /--root .*changed\.json: .*\[E_ROOT_OWN_SIGNATURE\]/, damaged],
    ] as const) {
      cases.push([[...verb, '--root', file(name)], 3, message, advice]);
    }
  }
  for (const verb of [
    ['root', 'show'],
    ['root', 'sign', '--key', file('root.pem')],
  ]) {
    const args = [...verb, file('cut.json')];
    cases.push([args, 3, /cut\.json: .*\[E_ROOT_FORM\]/, /give what fleet root rotate wrote/]);
  }
  for (const [args, code, message, advice] of cases) {
    const said = await fleet(args);
    assert.equal(said.code, code, `${args.join(' ')}: ${said.stderr}`);
    const [first = '', second = ''] = said.stderr.split('\n');
    assert.match(first, message);
    assert.match(second, advice, args.join(' '));
  }
});

test('advice repeats the --state that was given, and only of commands that look into it', async (t) => {
  const state = join(await temporaryDir(t), 'state');
  await fleetOk(['init', '--state', state, '--origin', 'a.test']);
  const said = await fleetOk(['status', '--state', state]);
  assert.ok(said.includes(`fleet build --state ${state} --flake REF`), said);
  assert.ok(said.includes(`: fleet key export --state ${state} root --move --out `), said);
  const { stderr } = await fleet(['host', 'show', 'x', '--state', state]);
  assert.ok(stderr.includes(`fleet host list --state ${state}`), stderr);
  assert.equal(
    placedText(
      { stateOption: ' --state D' },
      'fleet approve F; fleet agent once; fleet host show H',
    ),
    'fleet approve F; fleet agent once; fleet host show --state D H',
  );
});

test('one of a thing is one', () => {
  assert.deepEqual(
    [0, 1, 2].map((count) => counted(count, 'receipt')),
    ['0 receipts', '1 receipt', '2 receipts'],
  );
});
