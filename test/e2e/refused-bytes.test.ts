// Bytes that an agent must refuse: closure files, narinfos and NARs that are not what is signed, that never end or
// never come, and paths of the host's own store that are others than the signed ones.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { inspect } from 'node:util';
import { constants, zstdCompressSync } from 'node:zlib';
import type { ErrorCode } from '../../src/errors.ts';
import type { Deployment } from '../../src/manifest/manifest.ts';
import { formatClosure, type PathInfo } from '../../src/nix/closure.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { generateNixKey, signPath } from '../../src/nix/signature.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { type Setting, setting, type TestHost } from '../helpers/hosts.ts';
import { dribble, on, pour, refuses } from '../helpers/refusals.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { type Misbehaviour, sha256, type World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

/** A host that runs system one; two can be fetched, but is not published. */
async function begin(): Promise<Setting> {
  const s = await setting(one);
  s.world.serve(two);
  return s;
}

// One world for all that leaves the store as it was.
const shared = await begin();
after(() => shared[Symbol.asyncDispose]());

const STRANGER: PathInfo = {
  path: parseStorePath(`/nix/store/${'s'.repeat(32)}-stranger`),
  narHash: formatNarHash(Buffer.alloc(32, 7)),
  narSize: 120,
  references: [],
};

/** A manifest whose closure file is `bytes`, properly signed. */
function showClosure(
  world: World,
  bytes: Buffer,
  changes: Partial<Deployment['closure']> = {},
): void {
  world.closures.set(sha256(bytes), bytes);
  const manifest = world.manifestOf(two);
  const signed = { ...manifest.closure, sha256: sha256(bytes), bytes: bytes.length, ...changes };
  world.show({ ...manifest, closure: signed });
}

test('closure files: a path too many, one missing, one unreachable, other counts', async () => {
  const { world } = shared;
  const closure = formatClosure(two.infos);
  const withStranger = formatClosure([...two.infos, STRANGER]);
  showClosure(world, withStranger);
  await refuses(shared, 'E_CLOSURE_UNREACHABLE');
  showClosure(world, formatClosure(two.infos.filter(({ path }) => path === two.toplevel)));
  await refuses(shared, 'E_CLOSURE_MISSING');
  showClosure(world, closure, { paths: two.infos.length + 1 });
  await refuses(shared, 'E_CLOSURE_MISMATCH');
  showClosure(world, Buffer.concat([closure, Buffer.from('\n')]));
  await refuses(shared, 'E_CLOSURE_FORM');
});

test('closure files: other bytes than the signed ones, fewer, one more, no end', async () => {
  const { world } = shared;
  const closure = formatClosure(two.infos);
  world.show(world.manifestOf(two));
  const answer = (bytes: Buffer): Misbehaviour => {
    return (path, response) => path.startsWith('/v1/closures/') && Boolean(response.end(bytes));
  };
  const flipped = Buffer.from(closure);
  flipped.writeUInt8(flipped.readUInt8(60) ^ 1, 60);
  world.misbehave = answer(flipped);
  await refuses(shared, 'E_CLOSURE_HASH');
  world.misbehave = answer(closure.subarray(0, -1));
  await refuses(shared, 'E_CLOSURE_SIZE');
  world.show(world.manifestOf(two));
  world.misbehave = answer(Buffer.concat([closure, Buffer.from('\n')]));
  await refuses(shared, 'E_CLOSURE_SIZE');
  world.misbehave = () => false;
});

test('the closure of A with the manifest of B, by a mirror that mixes them and by a director that does', async () => {
  const { world } = shared;
  // As long as that of two, so that the hash alone tells.
  const other = await buildSystem(systems.path, 'mixed1');
  const closures = [formatClosure(two.infos), formatClosure(other.infos)] as const;
  assert.equal(closures[0].length, closures[1].length);
  world.show(world.manifestOf(two));
  world.misbehave = on(/^\/v1\/closures\//, (_, response) => Boolean(response.end(closures[1])));
  await refuses(shared, 'E_CLOSURE_HASH');
  world.misbehave = () => false;
  showClosure(world, closures[1], { narBytes: world.manifestOf(other).closure.narBytes });
  await refuses(shared, 'E_CLOSURE_MISSING');
});

test('closure files and NARs that never end, or come a byte at a time', async () => {
  const { world, host } = shared;
  world.show(world.manifestOf(two));
  world.misbehave = on(/^\/v1\/closures\//, pour);
  await refuses(shared, 'E_CLOSURE_SIZE');
  world.show(world.manifestOf(two));
  world.misbehave = on(/^\/nar\//, pour);
  await refuses(shared, 'E_NAR_REFUSED');
  const slowly: Misbehaviour = (path, response) => {
    const bytes = world.nars.get(path) ?? Buffer.alloc(0);
    let at = 0;
    const timer = setInterval(() => response.write(bytes.subarray(at, ++at)), 200);
    response.on('close', () => clearInterval(timer));
    return true;
  };
  for (const misbehave of [
    on(/^\/v1\/closures\//, dribble),
    on(/\.narinfo$/, dribble),
    on(/^\/nar\//, slowly),
  ]) {
    world.show(world.manifestOf(two));
    world.misbehave = misbehave;
    const { error, outcome } = await host.once();
    assert.deepEqual([error?.code, outcome?.phase], ['E_SERVER_SLOW', 'failed'], `${error}`);
  }
  world.misbehave = () => false;
});

test('narinfos that say something else than closure.fp, or that nobody signed', async () => {
  const { world } = shared;
  const [info] = two.infos;
  assert.ok(info);
  const bytes = zstdCompressSync(two.nars.get(info.path) ?? Buffer.alloc(0));
  const other = two.infos.find(({ path }) => path !== info.path)?.path;
  assert.ok(other);
  const lies: [object, ErrorCode][] = [
    [{ narHash: STRANGER.narHash }, 'E_NARINFO_MISMATCH'],
    [{ narSize: info.narSize + 1 }, 'E_NARINFO_MISMATCH'],
    [{ references: info.references.length === 0 ? [other] : [] }, 'E_NARINFO_MISMATCH'],
    [{ sigs: [] }, 'E_NARINFO_UNSIGNED'],
    [{ sigs: [signPath(info, generateNixKey('other-1'))] }, 'E_NARINFO_UNSIGNED'],
    [{ sigs: [signPath(info, generateNixKey('world.test-1'))] }, 'E_NARINFO_UNSIGNED'],
    [{ compression: 'bzip2' }, 'E_NARINFO_REFUSED'],
    [{ url: 'https://elsewhere.test/nar/x.nar.zst' }, 'E_NARINFO_REFUSED'],
    [{ path: other }, 'E_NARINFO_REFUSED'],
  ];
  for (const [changes, code] of lies) {
    world.show(world.manifestOf(two));
    world.serveNar(info, bytes, changes);
    if ('path' in changes) {
      const text = world.narinfos.get(`/${other.slice(11, 43)}.narinfo`) ?? '';
      world.narinfos.set(`/${info.path.slice(11, 43)}.narinfo`, text);
    }
    await refuses(shared, code);
    world.serve(two);
  }
});

test('NARs with other bytes than the signed ones', async () => {
  const { world } = shared;
  const [info] = two.infos;
  assert.ok(info);
  const nar = two.nars.get(info.path) ?? Buffer.alloc(0);
  const flipped = Buffer.from(nar);
  const at = nar.length - 200;
  flipped.writeUInt8(flipped.readUInt8(at) ^ 1, at);
  const bombs = zstdCompressSync(Buffer.alloc(300_000_000), {
    params: { [constants.ZSTD_c_compressionLevel]: 1 },
  });
  const compressed = zstdCompressSync(nar);
  const bad: [string, Buffer][] = [
    ['a flipped bit', zstdCompressSync(flipped)],
    ['cut short', zstdCompressSync(nar.subarray(0, -8))],
    ['one byte more', zstdCompressSync(Buffer.concat([nar, Buffer.alloc(1)]))],
    ['a bomb', bombs],
    ['a cut frame', compressed.subarray(0, -3)],
    ['two frames', Buffer.concat([compressed, compressed])],
    ['no zstd', Buffer.from('this is not what it seems')],
    ['nothing', Buffer.alloc(0)],
    ['random data without end', Buffer.alloc(nar.length * 3, 'x')],
  ];
  for (const [name, bytes] of bad) {
    // Each is a manifest of its own, so that each is told.
    world.show(world.manifestOf(two));
    world.serveNar(info, bytes);
    const start = performance.now();
    await refuses(shared, 'E_NAR_REFUSED', null, name);
    assert.ok(performance.now() - start < 20_000, name);
  }
  world.serve(two);
  world.show(world.manifestOf(two));
  const { outcome } = await shared.host.once();
  assert.equal(outcome?.phase, 'in-sync');
});

test('the loopback address is told to nobody', async () => {
  await using s = await begin();
  const { world, host } = s;
  const [info] = two.infos;
  assert.ok(info);
  world.publish(two);
  const sigs = [signPath(info, generateNixKey('world.test-1'))];
  world.serveNar(info, zstdCompressSync(two.nars.get(info.path) ?? Buffer.alloc(0)), { sigs });
  const { error } = await host.once();
  assert.equal(error?.code, 'E_NARINFO_UNSIGNED');
  assert.doesNotMatch(inspect(error, { depth: 9 }), /127\.0\.0\.1:\d+\/[0-9a-f]/);
});

test('a line that breaks in the middle of a NAR is mended by asking again', async () => {
  await using s = await begin();
  const { world, host } = s;
  world.publish(two);
  let broken = 0;
  world.misbehave = (path, response) => {
    if (!path.startsWith('/nar/') || broken > 0) return false;
    broken++;
    const bytes = world.nars.get(path) ?? Buffer.alloc(0);
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, 20));
    setTimeout(() => response.destroy(), 50);
    return true;
  };
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal(broken, 1);
});

/** Makes `info` valid in the host's store with other contents, as a build of its own would. */
async function plant(host: TestHost, info: PathInfo): Promise<void> {
  const real = join(host.root, info.path);
  await mkdir(join(host.root, 'nix/store'), { recursive: true });
  await writeFile(real, 'made here');
  const hash = execFileSync('nix-hash', ['--type', 'sha256', real]).toString().trim();
  const size = execFileSync('nix-store', ['--dump', real]).length;
  const entry = `${info.path}\n${hash}\n${size}\n\n0\n`;
  execFileSync('nix-store', ['--store', host.root, '--load-db'], {
    input: entry,
    env: { ...process.env, NIX_CONFIG: 'build-users-group =' },
  });
}

test("a path of the host's own make: replaced where nothing needs it", async () => {
  await using s = await begin();
  const { world, host } = s;
  const leaf = two.infos.find(({ references }) => references.length === 0);
  assert.ok(leaf);
  await plant(host, leaf);
  world.publish(two);
  const { outcome, fetched } = await host.once();
  assert.equal(outcome?.phase, 'in-sync');
  assert.equal(fetched?.paths, 2);
});

test("a path of the host's own make that is in use: refused, and repaired where allowed", async () => {
  await using s = await begin();
  const { world, host } = s;
  const leaf = two.infos.find(({ references }) => references.length === 0);
  assert.ok(leaf);
  await plant(host, leaf);
  await symlink(leaf.path, join(host.root, 'nix/var/nix/gcroots/keep'));
  world.publish(two);
  await refuses(s, 'E_STORE_DIVERGES');
  const file = join(host.state, 'agent.json');
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, repair: true }));
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal(await readFile(join(host.root, leaf.path, 'version'), 'utf8'), 'second\n');
});
