// Paths that another cache serves are left to it, where that is configured: stored nowhere here, fetched
// from there by stock Nix and by the agent, and compared with what is signed as always.
import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { fleet, fleetOk, run, serve } from '../helpers/cli.ts';
import { writeFlake } from '../helpers/flakes.ts';
import { temporaryDir } from '../helpers/temporary.ts';

type Context = Parameters<typeof temporaryDir>[0];

/** A directory of files over HTTP, as static caches are; `requests` is what was asked for. */
async function staticCache(t: Context, dir: string) {
  const requests: { line: string; authorization: string | undefined }[] = [];
  const broken = { nars: false, all: false };
  const server = createServer(async (request: IncomingMessage, response) => {
    const path = (request.url ?? '').replace(/^\/cache\//, '');
    requests.push({
      line: `${request.method} ${path}`,
      authorization: request.headers.authorization,
    });
    const found = await stat(join(dir, path)).catch(() => null);
    if (broken.all) return response.writeHead(500).end();
    if (found === null) return response.writeHead(404).end();
    response.writeHead(200, { 'content-length': found.size });
    if (request.method === 'HEAD') return response.end();
    if (broken.nars && path.startsWith('nar/')) {
      // The right length and other bytes: what a mirror that lies would send.
      const bytes = await readFile(join(dir, path));
      return response.end(bytes.fill(0x20, bytes.length / 2));
    }
    return createReadStream(join(dir, path)).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return { url: `http://127.0.0.1:${port}/cache`, requests, broken };
}

test('what an upstream serves is not stored, and reaches clients from there', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  const flake = await writeFlake(join(dir, 'flake'), {
    hosts: new Map([['alpha', 6]]),
    fileBytes: 50_000,
  });
  const nixConfig =
    'experimental-features = nix-command flakes\nbuild-users-group =\nsandbox = false\nsubstituters =\n';
  const nix = (program: string, args: string[], more = '') =>
    run(program, args, { NIX_CONFIG: nixConfig + more, HOME: join(dir, 'home') });

  // The upstream has the host's files, signed by its own key and packed with xz, but not the host's system.
  const first = join(dir, 'first');
  await fleetOk(['init', '--state', first, '--origin', 'first.test']);
  const built = JSON.parse(await fleetOk(['build', '--state', first, '--flake', flake, '--json']));
  const toplevel = parseStorePath(built.hosts[0].toplevel);
  const references = (await nix('nix-store', ['-q', '--references', toplevel])).stdout
    .trim()
    .split('\n');
  assert.equal(references.length, 6);
  const [secret, open] = [join(dir, 'up.sec'), join(dir, 'up.pub')];
  await nix('nix-store', ['--generate-binary-cache-key', 'up-1', secret, open]);
  const upDir = join(dir, 'up');
  await mkdir(upDir);
  // Not all of them: one is signed by nobody that is trusted, and must be stored.
  const to = `file://${upDir}?secret-key=${secret}`;
  const copied = await nix('nix', ['copy', '--to', to, ...references.slice(0, 5)]);
  assert.equal(copied.code, 0, copied.stderr);
  assert.equal(
    (await nix('nix', ['copy', '--to', `file://${upDir}`, references[5] ?? ''])).code,
    0,
  );
  const up = await staticCache(t, upDir);

  await fleetOk(['init', '--state', state, '--origin', 'up.test', '--url', 'http://127.0.0.1:1']);
  const config = JSON.parse(await readFile(join(state, 'fleet.json'), 'utf8'));
  const upstreams = [{ url: up.url, keys: [(await readFile(open, 'utf8')).trim()] }];
  await writeFile(
    join(state, 'fleet.json'),
    JSON.stringify({ ...config, upstreams, public: true }),
  );
  const { stderr } = await fleet(['build', '--state', state, '--flake', flake]);
  assert.match(stderr, /2 new paths, 0 there already, 5 left to upstreams/);
  const info = JSON.parse(await fleetOk(['cache', 'info', '--state', state, '--json']));
  assert.equal(info.paths, 7);
  assert.equal(info.upstreamPaths, 5);
  assert.equal(info.blobs, 2);
  const about = JSON.parse(
    await fleetOk(['cache', 'info', references[0] ?? '', '--state', state, '--json']),
  );
  assert.match(about.upstream.url, /\/cache\/nar\/.*\.nar\.xz$/);
  assert.equal(about.signatures[1]?.verdict, 'valid');
  // A second time nothing is asked, and nothing changes.
  const before = up.requests.length;
  assert.match(
    (await fleet(['build', '--state', state, '--flake', flake])).stderr,
    /7 there already/,
  );
  assert.equal(up.requests.length, before);
  assert.equal((await fleet(['cache', 'verify', '--all', '--state', state])).code, 0);

  // Stock Nix, with our key alone: it follows our narinfos to the upstream.
  const { url } = await serve(t, state);
  const keys = `trusted-public-keys = ${info.keys[0]}\n`;
  const store = join(dir, 'stock');
  const got = await nix('nix', ['copy', '--from', url, '--to', store, toplevel], keys);
  assert.equal(got.code, 0, got.stderr);
  assert.equal(
    (await readdir(join(store, 'nix/store'))).filter((name) => !name.startsWith('.')).length,
    7,
  );
  assert.ok(up.requests.slice(before).some(({ line }) => line.startsWith('GET nar/')));

  // The agent: it is told of the upstream when it enrols, and shows it no token.
  const root = join(dir, 'host');
  const file = join(dir, 'alpha.json');
  await fleetOk(['host', 'enroll', 'alpha', '--state', state, '-o', file, '--server', url]);
  const said = await fleetOk(['agent', 'enroll', file, '--root', root]);
  assert.ok(said.endsWith(`Next:  fleet agent once --root ${root}\n`), said);
  const once = () => fleet(['agent', 'once', '--root', root, '--json']);

  up.broken.nars = true;
  const lied = JSON.parse((await once()).stdout);
  assert.match(JSON.stringify(lied), /E_NAR_REFUSED|E_NAR_BAD|E_FETCH/);
  up.broken.nars = false;
  const at = up.requests.length;
  const told = JSON.parse((await once()).stdout);
  // The flake's system has nothing to switch to: that it is not NixOS is found out once all of it is there.
  assert.match(JSON.stringify(told), /E_NOT_NIXOS/);
  const asked = up.requests.slice(at);
  assert.ok(asked.some(({ line }) => line.startsWith('GET nar/')));
  assert.ok(up.requests.every(({ authorization }) => authorization === undefined));
  assert.equal((await nix('nix-store', ['--store', root, '--check-validity', toplevel])).code, 0);

  // An upstream that its agent.json does not name is not asked, whatever the server says.
  const other = join(dir, 'other-host');
  await fleetOk([
    'host',
    'enroll',
    'alpha',
    '--replace',
    '--state',
    state,
    '-o',
    `${file}.2`,
    '--server',
    url,
  ]);
  await fleetOk(['agent', 'enroll', `${file}.2`, '--root', other]);
  const memory = join(other, 'var/lib/fleet-agent/agent.json');
  const enrolled = JSON.parse(await readFile(memory, 'utf8'));
  assert.deepEqual(enrolled.upstreams, ['https://cache.nixos.org', up.url]);
  await writeFile(memory, JSON.stringify({ ...enrolled, upstreams: [] }));
  const refused = await fleet(['agent', 'once', '--root', other, '--json']);
  assert.match(refused.stdout + refused.stderr, /E_NARINFO_REFUSED/);
});

test('an upstream in trouble stops no build: everything is stored here', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  const flake = await writeFlake(join(dir, 'flake'), {
    hosts: new Map([['alpha', 2]]),
    fileBytes: 1000,
  });
  const up = await staticCache(t, dir);
  up.broken.all = true;
  await fleetOk(['init', '--state', state, '--origin', 'up.test']);
  const config = JSON.parse(await readFile(join(state, 'fleet.json'), 'utf8'));
  const key = `up-1:${Buffer.alloc(32, 1).toString('base64')}`;
  const upstreams = [
    { url: up.url, keys: [key] },
    { url: 'http://127.0.0.1:1', keys: [key] },
  ];
  await writeFile(join(state, 'fleet.json'), JSON.stringify({ ...config, upstreams }));
  const { code, stderr } = await fleet(['build', '--state', state, '--flake', flake]);
  assert.equal(code, 0, stderr);
  assert.equal(stderr.match(/E_UPSTREAM/g)?.length, 2);
  assert.match(stderr, /3 new paths/);
  assert.doesNotMatch(stderr, /left to upstreams/);
});
