// The real Nix client against a real `fleet serve`: everything that a binary cache is asked for, with the
// server going away in the middle, with the right, wrong and no credentials, and back up again by uploads.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hashPartOf, parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { fleet, fleetOk, freePort, type Running, run, startFleet } from '../helpers/cli.ts';
import { writeFlake } from '../helpers/flakes.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const FEATURES = 'experimental-features = nix-command flakes ca-derivations';

let temporary: Awaited<ReturnType<typeof temporaryDirectory>>;
let dir = '';
let state = '';
let toplevel: StorePath;
let key = '';
let server: Server;
const tokens = new Map<string, string>();

/** A server on a port that stays the same when it is killed and started again. */
class Server {
  readonly url: string;
  readonly #port: number;
  #running: Running | null = null;

  constructor(port: number) {
    this.#port = port;
    this.url = `http://127.0.0.1:${port}`;
  }

  async start(...args: string[]): Promise<void> {
    const listen = `127.0.0.1:${this.#port}`;
    this.#running = startFleet([
      'serve',
      '--state',
      state,
      '--listen',
      listen,
      '--access-log',
      ...args,
    ]);
    while (!(await fetch(`${this.url}/healthz`).catch(() => null))?.ok) await sleep(20);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.#running?.child.kill(signal);
    await this.#running?.done;
  }

  /** What was asked for and answered until now: method and path of each request. */
  async log(): Promise<string[]> {
    // A request is logged when its answer has ended, which its client may see before us.
    const mark = `/mark-${randomBytes(6).toString('hex')}`;
    await fetch(`${this.url}${mark}`);
    for (;;) {
      const lines = (this.#running?.stderr() ?? '').split('\n').slice(0, -1);
      const asked = lines
        .map((line) => JSON.parse(line) as { method: string; path: string })
        .map(({ method, path }) => `${method} ${path}`);
      if (asked.includes(`GET ${mark}`)) return asked;
      await sleep(5);
    }
  }
}

const netrcOf = (name: string): string => join(dir, `netrc-${name}`);

/** Runs a program of Nix with the cache's key trusted and the credentials named. */
async function nix(
  program: string,
  args: readonly string[],
  options: { netrc?: string; keys?: string; lines?: readonly string[] } = {},
) {
  const config = [
    FEATURES,
    'substituters =',
    'build-users-group =',
    'sandbox = false',
    'narinfo-cache-negative-ttl = 0',
    `netrc-file = ${netrcOf(options.netrc ?? 'read')}`,
    `trusted-public-keys = ${options.keys ?? key}`,
    ...(options.lines ?? []),
  ];
  // What Nix remembers of a cache must not leak from one test into another.
  const home = join(dir, 'home', randomBytes(8).toString('hex'));
  return await run(program, args, {
    NIX_CONFIG: config.join('\n'),
    HOME: home,
    XDG_CACHE_HOME: join(home, 'cache'),
  });
}

async function ok(program: string, args: readonly string[], options: object = {}): Promise<string> {
  const { code, stdout, stderr } = await nix(program, args, options);
  assert.equal(code, 0, `${program} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

const inStore = (store: string, path: string): boolean => existsSync(join(dir, store, path));

before(async () => {
  temporary = await temporaryDirectory();
  dir = temporary.path;
  state = join(dir, 'state');
  server = new Server(await freePort());
  await fleetOk(['init', '--state', state, '--origin', 'client.test', '--url', server.url]);
  const flake = await writeFlake(join(dir, 'flake'), {
    hosts: new Map([['alpha', 12]]),
    fileBytes: 40_000,
  });
  const built = await fleetOk(['build', '--state', state, '--flake', flake, '--json']);
  toplevel = parseStorePath(JSON.parse(built).hosts[0].toplevel);
  const root = JSON.parse(await readFile(join(state, 'root', '1.root.json'), 'utf8')) as {
    payload: string;
  };
  key = JSON.parse(Buffer.from(root.payload, 'base64').toString()).cache.keys[0];
  for (const scope of ['read', 'push']) {
    const made = await fleetOk([
      'token',
      'create',
      scope,
      '--scope',
      scope,
      '--state',
      state,
      '--json',
    ]);
    tokens.set(scope, JSON.parse(made).token);
  }
  for (const [name, password] of [...tokens, ['wrong', 'fleet_wrong']] as const) {
    await writeFile(netrcOf(name), `machine 127.0.0.1 login fleet password ${password}\n`);
  }
  await server.start();
});

after(async () => {
  await server.stop();
  await temporary[Symbol.asyncDispose]();
});

describe('substitution', () => {
  test('a closure, cold, and then with parts of it there', async () => {
    await ok('nix', ['copy', '--from', server.url, '--to', join(dir, 'cold'), toplevel]);
    assert.ok(inStore('cold', toplevel));
    const references = (
      await ok('nix-store', ['--store', join(dir, 'cold'), '-q', '--references', toplevel])
    )
      .trim()
      .split('\n');
    assert.equal(references.length, 12);
    const half = references.slice(0, 6);
    await ok('nix', ['copy', '--from', server.url, '--to', join(dir, 'parts'), ...half]);
    const before = (await server.log()).filter((line) => line.startsWith('GET /nar/')).length;
    await ok('nix-store', ['--store', join(dir, 'parts'), '--realise', toplevel], {
      lines: [`substituters = ${server.url}`, 'max-jobs = 0'],
    });
    const fetched =
      (await server.log()).filter((line) => line.startsWith('GET /nar/')).length - before;
    assert.equal(fetched, 7);
    await ok('nix', ['store', 'verify', '--store', join(dir, 'parts'), '--all', '--no-trust']);
    await ok('nix', [
      'store',
      'verify',
      '--store',
      join(dir, 'parts'),
      '--sigs-needed',
      '1',
      '-r',
      toplevel,
    ]);
  });

  test('netrc right, wrong, absent; another key', async () => {
    for (const [name, options] of [
      ['wrong', { netrc: 'wrong' }],
      ['absent', { netrc: 'none' }],
      ['stranger', { keys: `stranger-1:${Buffer.alloc(32, 7).toString('base64')}` }],
    ] as const) {
      const { code } = await nix(
        'nix',
        ['copy', '--from', server.url, '--to', join(dir, name), toplevel],
        options,
      );
      assert.notEqual(code, 0, name);
      assert.ok(!inStore(name, toplevel));
    }
  });

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    test(`the server gets ${signal} in the middle of a NAR, and is started again`, async () => {
      const file = join(dir, `large-${signal}`);
      await writeFile(file, randomBytes(24_000_000));
      const path = parseStorePath((await ok('nix-store', ['--add', file])).trim());
      await fleetOk(['cache', 'push', path, '--state', state]);
      const line = await slowLine(Number(new URL(server.url).port), 6_000_000);
      try {
        const copy = nix(
          'nix',
          ['copy', '--from', line.url, '--to', join(dir, `mid-${signal}`), path],
          {
            lines: ['download-attempts = 10'],
          },
        );
        while (line.bytes() < 3_000_000) await sleep(20);
        await server.stop(signal);
        await server.start();
        const { code, stderr } = await copy;
        assert.equal(code, 0, stderr);
      } finally {
        await line.close();
      }
      await ok('nix', [
        'store',
        'verify',
        '--store',
        join(dir, `mid-${signal}`),
        '--no-trust',
        path,
      ]);
    });
  }
});

describe('questions', () => {
  test('path-info, ls, cat, log', async () => {
    const info = await ok('nix', [
      'path-info',
      '--store',
      server.url,
      '-r',
      '-S',
      '--sigs',
      toplevel,
    ]);
    assert.equal(info.trim().split('\n').length, 13);
    assert.match(info, /client\.test-1/);
    const [first = ''] = info.split(/\s/);
    assert.match(await ok('nix', ['store', 'ls', '--store', server.url, '-l', first]), /\d/);
    assert.match(await ok('nix', ['store', 'cat', '--store', server.url, toplevel]), /nix\/store/);
    const failing = await nix('nix', [
      'path-info',
      '--store',
      server.url,
      `/nix/store/${'0'.repeat(32)}-x`,
    ]);
    assert.notEqual(failing.code, 0);
  });

  test('the log of what fleet build built', async () => {
    const expression = join(dir, 'logged.nix');
    const stamp = randomBytes(6).toString('hex');
    await writeFile(
      expression,
      `derivation { name = "logged-${stamp}"; system = builtins.currentSystem; builder = "/bin/sh";
        args = [ "-c" "echo said ${stamp}; echo x > $out" ]; }`,
    );
    const flakeDir = join(dir, 'logged');
    await mkdir(flakeDir);
    await copyFile(expression, join(flakeDir, 'logged.nix'));
    await writeFile(
      join(flakeDir, 'flake.nix'),
      `{ outputs = { self }: { nixosConfigurations.logged.config.system.build.toplevel =
        derivation { name = "logged-${stamp}"; system = "x86_64-linux"; builder = "/bin/sh";
          args = [ "-c" "echo said ${stamp}; echo x > $out" ]; }; }; }`,
    );
    const built = await fleetOk([
      'build',
      '--state',
      state,
      '--flake',
      `path:${flakeDir}`,
      '--json',
    ]);
    const path = JSON.parse(built).hosts[0].toplevel as string;
    const drv = (await ok('nix-store', ['-q', '--deriver', path])).trim();
    const log = await fetch(`${server.url}/log/${drv.slice('/nix/store/'.length)}`, {
      headers: { authorization: `Bearer ${tokens.get('read')}` },
    });
    assert.match(await log.text(), new RegExp(`said ${stamp}`));
    const said = await nix('nix', ['log', '--store', server.url, path]);
    assert.match(said.stdout + said.stderr, new RegExp(`said ${stamp}`));
  });
});

describe('uploads', () => {
  /** A closure of two, new each time. */
  async function newClosure(name: string): Promise<StorePath> {
    const expression = join(dir, `${name}.nix`);
    const stamp = randomBytes(6).toString('hex');
    await writeFile(
      expression,
      `let make = name: text: derivation { inherit name; system = builtins.currentSystem;
         builder = "/bin/sh"; args = [ "-c" "echo \${text} > $out" ]; };
       in make "${name}" "top \${make "${name}-library" "library ${stamp}"} $out"`,
    );
    return parseStorePath((await ok('nix-build', ['--no-out-link', expression])).trim());
  }

  for (const parameters of [
    '',
    '?compression=zstd',
    '?compression=none',
    '?write-nar-listing=true&index-debug-info=true',
  ]) {
    test(`nix copy --to http://…${parameters}, and back by another store`, async () => {
      const path = await newClosure(`up${parameters.replace(/\W/g, '')}`);
      const to = `${server.url}${parameters}`;
      await ok('nix', ['copy', '--to', to, path], { netrc: 'push' });
      const before = (await server.log()).filter((line) => line.startsWith('PUT')).length;
      await ok('nix', ['copy', '--to', to, path], { netrc: 'push' });
      assert.equal((await server.log()).filter((line) => line.startsWith('PUT')).length, before);
      const store = `back${parameters.replace(/\W/g, '')}`;
      await ok('nix', ['copy', '--from', server.url, '--to', join(dir, store), path]);
      assert.equal(await readFile(join(dir, store, path), 'utf8'), await readFile(path, 'utf8'));
    });
  }

  test('without the right token nothing comes in', async () => {
    const path = await newClosure('refused');
    for (const netrc of ['read', 'wrong', 'none']) {
      const { code, stderr } = await nix('nix', ['copy', '--to', server.url, path], { netrc });
      assert.notEqual(code, 0, netrc);
      assert.match(stderr, netrc === 'read' ? /E_FORBIDDEN|403/ : /E_UNAUTHORIZED|401/);
    }
    const { code } = await nix('nix', ['path-info', '--store', server.url, path]);
    assert.notEqual(code, 0);
  });

  test('what is refused is told in the server’s own words', async () => {
    const path = await newClosure('bad');
    const cache = join(dir, 'bad-cache');
    await ok('nix', ['copy', '--to', `file://${cache}?compression=none`, path]);
    const narinfo = await readFile(join(cache, `${hashPartOf(path)}.narinfo`), 'utf8');
    const url = /^URL: (.+)$/m.exec(narinfo)?.[1] ?? '';
    const send = (to: string, body: Uint8Array | string) =>
      fetch(`${server.url}/${to}`, {
        method: 'PUT',
        body: body as string,
        headers: { authorization: `Bearer ${tokens.get('push')}` },
      });
    assert.equal((await send(url, await readFile(join(cache, url)))).status, 201);
    const answer = await send(`${hashPartOf(path)}.narinfo`, narinfo);
    assert.equal(answer.status, 422);
    assert.match(await answer.text(), /E_UPLOAD_REFERENCES_MISSING.*library/);
  });

  test('a push that is killed goes on where it was', async () => {
    const file = join(dir, 'pushed');
    await writeFile(file, randomBytes(20_000_000));
    const path = (await ok('nix-store', ['--add', file])).trim();
    const line = await slowLine(Number(new URL(server.url).port), 6_000_000);
    const args = ['cache', 'push', path, '--token-file', netrcOf('push'), '--to'];
    const pushing = startFleet([...args, line.url]);
    while (line.bytes() < 3_000_000) await sleep(20);
    pushing.child.kill('SIGKILL');
    await pushing.done;
    await line.close();
    const again = await fleet([...args, server.url, '--json']);
    assert.equal(again.code, 0, again.stderr);
    assert.equal(JSON.parse(again.stdout).pushed, 1);
    assert.equal(JSON.parse(await fleetOk([...args, server.url, '--json'])).pushed, 0);
    const { code, stderr } = await fleet([...args.slice(0, 3), '--to', server.url]);
    assert.equal(code, 2, 'a token is asked for');
    assert.match(stderr, /E_USAGE/);
    // Of a netrc with several machines, only the server's own password is sent to it.
    const others = 'machine a.test login x password fleet_a\n';
    const netrc = async (text: string) => {
      await writeFile(join(dir, 'several'), text);
      return fleet([
        'cache',
        'push',
        path,
        '--token-file',
        join(dir, 'several'),
        '--to',
        server.url,
      ]);
    };
    const own = await readFile(netrcOf('push'), 'utf8');
    assert.equal((await netrc(`${others}${own}`)).code, 0);
    assert.equal((await netrc(`${others}default login x password ${tokens.get('push')}`)).code, 0);
    for (const text of [`${others}machine b.test password fleet_b`, 'two words', '']) {
      assert.match((await netrc(text)).stderr, /there is no token for 127\.0\.0\.1 in .*E_USAGE/s);
    }
    // Without --to it would go into a state of this machine.
    const local = await fleet(['cache', 'push', path, '--token-file', netrcOf('push')]);
    assert.match(local.stderr, /there is no --to \[E_USAGE\]/);
    await ok('nix', ['copy', '--from', server.url, '--to', join(dir, 'pushed-back'), path]);
  });

  test('realisations of content-addressed derivations, there and back', async () => {
    const expression = join(dir, 'ca.nix');
    await writeFile(
      expression,
      `derivation { name = "ca"; system = builtins.currentSystem; builder = "/bin/sh"; __contentAddressed = true;
        outputHashMode = "recursive"; outputHashAlgo = "sha256";
        args = [ "-c" "echo ${randomBytes(6).toString('hex')} > $out" ]; }`,
    );
    await ok('nix', ['build', '--no-link', '-f', expression]);
    await ok('nix', ['copy', '--to', server.url, '-f', expression], { netrc: 'push' });
    assert.ok((await server.log()).some((line) => line.startsWith('PUT /realisations/')));
    await ok('nix', ['build', '--no-link', '--store', join(dir, 'ca-back'), '-f', expression], {
      // This realisation is nobody's word: it was built here without a key to sign with.
      lines: [`substituters = ${server.url}`, 'max-jobs = 0', 'require-sigs = false'],
    });
    assert.ok((await server.log()).some((line) => line.startsWith('GET /realisations/')));
  });
});

test('several keys: a client that knows only the new one is served, and so is one that knows the old', async () => {
  const [secret, open] = [join(dir, 'new.sec'), join(dir, 'new.pub')];
  await ok('nix-store', ['--generate-binary-cache-key', 'client.test-2', secret, open]);
  await copyFile(secret, join(state, 'keys', 'cache-2.sec'));
  await server.stop();
  await server.start();
  const keys = await readFile(open, 'utf8');
  await ok('nix', ['copy', '--from', server.url, '--to', join(dir, 'rotated'), toplevel], { keys });
  await ok('nix', ['copy', '--from', server.url, '--to', join(dir, 'as-before'), toplevel]);
  // Two keys of one name could not be told apart.
  await copyFile(join(state, 'keys', 'cache.sec'), join(state, 'keys', 'cache-3.sec'));
  const { code, stderr } = await fleet(['cache', 'info', '--state', state]);
  assert.equal(code, 1);
  assert.match(stderr, /E_STATE_DAMAGED/);
  await rm(join(state, 'keys', 'cache-3.sec'));
  // The root names the first one: agents would believe nothing without it.
  const first = join(state, 'keys', 'cache.sec');
  const kept = await readFile(first);
  await copyFile(secret, first);
  await rm(join(state, 'keys', 'cache-2.sec'));
  const foreign = await fleet(['cache', 'info', '--state', state]);
  assert.match(foreign.stderr, /E_STATE_INCOMPLETE/);
  await writeFile(first, kept, { mode: 0o600 });
});

test('fleet cache: what it says, keeps, removes and heals', async () => {
  const file = join(dir, 'kept');
  await writeFile(file, randomBytes(5_000));
  const path = (await ok('nix-store', ['--add', file])).trim();
  const cache = (...args: string[]) => fleet(['cache', ...args, '--state', state]);
  const json = async (...args: string[]) =>
    JSON.parse(await fleetOk(['cache', ...args, '--state', state, '--json']));
  assert.equal((await json('push', path)).pushed, 1);
  assert.deepEqual(await json('push', path), { version: 1, pushed: 0, there: 1, narBytes: 0 });
  const unknown = await cache('info', `/nix/store/${'0'.repeat(32)}-x`);
  assert.match(unknown.stderr, /E_PATH_UNKNOWN/);
  assert.match(
    (await cache('pin', 'p', `/nix/store/${'0'.repeat(32)}-x`)).stderr,
    /E_PATH_UNKNOWN/,
  );
  assert.equal((await cache('pin', 'p', path)).code, 0);
  assert.match((await cache('pin', 'p', toplevel)).stderr, /keeps another path/);
  const about = await json('info', path);
  assert.deepEqual(about.keptBy, [{ path, reason: 'pinned as p' }]);
  assert.deepEqual(
    about.signatures.map((one: { verdict: string }) => one.verdict),
    ['valid'],
  );
  const ofHost = await json('info', toplevel);
  assert.match(ofHost.keptBy[0].reason, /^manifest 1\.1 of alpha$/);

  const config = JSON.parse(await readFile(join(state, 'fleet.json'), 'utf8'));
  await writeFile(
    join(state, 'fleet.json'),
    JSON.stringify({ ...config, keepUnusedDays: 0, keepNarDays: 0 }),
  );
  await sleep(1_100);
  const dry = await json('gc', '--dry-run');
  assert.ok(dry.paths > 0 && dry.removed.length === dry.paths);
  const told = await cache('gc', '--dry-run', '--quiet');
  assert.match(told.stdout, /kept, .*\n(.*\n)* {2}.*: pinned as p\n/, 'what is kept is a result');
  const done = await json('gc');
  assert.equal(done.paths, dry.paths);
  assert.ok(done.blobs > 0);
  // What would be freed is what is freed.
  assert.deepEqual([dry.blobs, dry.blobBytes], [done.blobs, done.blobBytes]);
  for (const kept of [path, toplevel]) await json('info', kept);
  assert.equal((await json('gc')).paths, 0);

  const { blob } = about as { blob: string };
  const damaged = join(state, 'blobs', blob.slice(0, 2), blob.slice(2));
  const bytes = await readFile(damaged);
  bytes[bytes.length - 5] = (bytes[bytes.length - 5] ?? 0) ^ 1;
  await writeFile(damaged, bytes);
  const healed = await json('verify', '--all');
  assert.deepEqual(
    healed.faults.map((fault: { name: string; healed: boolean }) => [fault.name, fault.healed]),
    [[path, true]],
  );
  assert.equal((await json('verify', '--all')).faults.length, 0);
  assert.ok(existsSync(join(state, 'blobs', 'quarantine', blob)));
  // The local store no longer has it: it is not served, and said so.
  await writeFile(damaged, bytes);
  await ok('nix-store', ['--delete', path]);
  const lost = await cache('verify', '--all');
  assert.equal(lost.code, 1);
  assert.match(lost.stderr, /E_CACHE_DAMAGED/);
  const headers = { authorization: `Bearer ${tokens.get('read')}` };
  assert.equal(
    (await fetch(`${server.url}/${hashPartOf(parseStorePath(path))}.narinfo`, { headers })).status,
    404,
  );
  for (const args of [
    ['verify', '--sample', '0'],
    ['verify', '--all', '--sample', '5'],
    ['pin', '/', path],
    ['unpin', 'none'],
  ]) {
    assert.equal((await cache(...args)).code, 2, args.join(' '));
  }
});

/** A proxy that lets so many bytes a second through, both ways together. */
async function slowLine(port: number, bytesPerSecond: number) {
  let passed = 0;
  const sockets = new Set<Socket>();
  const slowly = (from: Socket, to: Socket): void => {
    from.on('data', (chunk) => {
      passed += chunk.length;
      from.pause();
      to.write(chunk);
      setTimeout(() => from.resume(), (chunk.length / bytesPerSecond) * 1000);
    });
    from.on('error', () => to.destroy());
    from.on('close', () => to.destroy());
  };
  const proxy = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    for (const socket of [client, upstream]) sockets.add(socket);
    slowly(client, upstream);
    slowly(upstream, client);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const address = proxy.address();
  const at = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${at}`,
    bytes: () => passed,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => proxy.close(resolve));
    },
  };
}
