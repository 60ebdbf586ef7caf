// What an agent must refuse, from a server that lies in every way. Each
// has its code, leaves the system as it was, and is told to the fleet once.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, readFile, readlink, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { inspect } from 'node:util';
import { constants, zstdCompressSync } from 'node:zlib';
import { readMemory } from '../../src/agent/memory.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { type Deployment, manifestDigest } from '../../src/manifest/manifest.ts';
import { formatClosure, type PathInfo } from '../../src/nix/closure.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { generateNixKey, signPath } from '../../src/nix/signature.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { makeHost, type TestHost } from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { type Misbehaviour, sha256, World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

type Setting = AsyncDisposable & { readonly world: World; readonly host: TestHost };

/** A world whose host runs system one; two can be fetched, but is not published. */
async function setting(): Promise<Setting> {
  const stack = new AsyncDisposableStack();
  const dir = stack.use(await temporaryDirectory());
  const world = stack.use(await World.open(dir.path));
  const host = await makeHost(world, 'machine');
  world.publish(one);
  const { error } = await host.once();
  if (error !== null) throw error;
  world.serve(two);
  return { world, host, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** One run that is refused with `code`: nothing changes, and one receipt says so, once. */
async function refuses(
  { world, host }: Setting,
  code: ErrorCode,
  exit: number,
  what = '',
): Promise<void> {
  const before = world.reports.length;
  for (const time of ['first', 'second']) {
    const { error, outcome } = await host.once();
    assert.equal(error?.code, code, `${what} ${time}: ${error?.message}`);
    assert.equal(error.exitCode, exit);
    assert.equal(outcome?.phase, exit === 3 ? 'refused' : 'failed');
  }
  assert.equal(world.reports.length, before + 1);
  assert.equal(world.reports.at(-1)?.reason?.code, code);
  assert.equal(await readlink(join(host.root, 'run/current-system')), one.toplevel);
  assert.match(await readFile(join(host.root, 'run/boot-entry'), 'utf8'), /-system-first\n/);
}

// One world for all that is refused before anything is fetched.
const shared = await setting();
after(() => shared[Symbol.asyncDispose]());

const manifests: [
  string,
  ErrorCode,
  (manifest: Deployment, world: World) => Partial<Deployment>,
][] = [
  ['another host', 'E_HOST_MISMATCH', (m) => ({ host: { ...m.host, id: 'beta' } })],
  [
    'another system',
    'E_SYSTEM_MISMATCH',
    (m) => ({ host: { ...m.host, system: 'riscv64-linux' } }),
  ],
  ['another fleet', 'E_FLEET_MISMATCH', (m) => ({ fleet: { ...m.fleet, name: 'other.test' } })],
  ['another root', 'E_ROOT_VERSION', (m) => ({ fleet: { ...m.fleet, rootVersion: 2 } })],
  ['another epoch', 'E_EPOCH', () => ({ epoch: 2 })],
  ['the same sequence', 'E_SEQUENCE_CONFLICT', () => ({ sequence: 1 })],
  ['expired', 'E_MANIFEST_EXPIRED', (m, { now }) => ({ ...m, expiresAt: now })],
  ['not yet valid', 'E_MANIFEST_NOT_YET', (m, { now }) => ({ ...m, notBefore: now + 1 })],
  [
    'more than the root allows',
    'E_CLOSURE_SIZE',
    (m) => ({ closure: { ...m.closure, narBytes: 2 ** 41 } }),
  ],
];

for (const [name, code, change] of manifests) {
  test(`a manifest of ${name}`, async () => {
    const { world } = shared;
    const manifest = world.manifestOf(two);
    world.show({ ...manifest, ...change(manifest, world) });
    await refuses(shared, code, 3);
  });
}

test('a manifest by an unknown key, and by too few', async () => {
  const { world } = shared;
  world.show(world.manifestOf(two), [generateSecretKey()]);
  await refuses(shared, 'E_SIGNATURE_UNKNOWN_KEY', 3);
  world.show(world.manifestOf(two), []);
  await refuses(shared, 'E_SIGNATURE_THRESHOLD', 3);
});

test('one flipped bit, wherever it is', async () => {
  const { world, host } = shared;
  world.show(world.manifestOf(two));
  const good = Buffer.from(world.manifest ?? '');
  for (let at = 0; at < good.length; at += Math.ceil(good.length / 60)) {
    const bad = Buffer.from(good);
    bad.writeUInt8(bad.readUInt8(at) ^ (1 << (at % 6)), at);
    world.manifest = bad.toString('latin1');
    const { error, outcome } = await host.once();
    // What is not signed may change: a keyid, which is a hint.
    if (sameSignedBytes(world.manifest, good.toString())) continue;
    assert.equal(outcome?.phase, 'refused', `bit at ${at}: ${error}`);
    assert.equal(error?.exitCode, 3);
  }
  assert.equal(await readlink(join(host.root, 'run/current-system')), one.toplevel);
});

function sameSignedBytes(a: string, b: string): boolean {
  try {
    const [x, y] = [parseEnvelope(a), parseEnvelope(b)];
    const signed = ({ payload, signatures }: typeof x) =>
      `${Buffer.from(payload).toString('hex')} ${signatures.map(({ sig }) => Buffer.from(sig).toString('hex'))}`;
    return x.payloadType === y.payloadType && signed(x) === signed(y);
  } catch {
    return false;
  }
}

test('an older manifest, also after a failed fetch of the newer one', async () => {
  await using s = await setting();
  const { world, host } = s;
  const old = world.manifestOf(two);
  world.publish(two, { sequence: 9 });
  world.nars.clear();
  const { error } = await host.once();
  assert.equal(error?.code, 'E_FETCH');
  // Persisted before the fetch.
  assert.equal((await readMemory(host.state)).trust.floor?.sequence, 9);
  world.show(old);
  await refuses(s, 'E_SEQUENCE_OLDER', 3);
});

test('a 304 proves nothing: the stored offer grows old', async () => {
  await using s = await setting();
  const { world, host } = s;
  world.requests.length = 0;
  assert.equal((await host.once()).error, null);
  world.now += 86_400;
  await refuses(s, 'E_MANIFEST_EXPIRED', 3);
  assert.equal(world.requests.filter((line) => line.includes('offer')).length, 3);
});

test('an offer that is refused is not stored: the honest one, under the same ETag, is heard', async () => {
  await using s = await setting();
  const { world, host } = s;
  world.publish(two);
  world.distort = (offer) => {
    const { manifest, ...rest } = JSON.parse(offer);
    const envelope = JSON.parse(manifest);
    envelope.signatures[0].sig = `${'A'.repeat(86)}==`;
    return JSON.stringify({ ...rest, manifest: JSON.stringify(envelope) });
  };
  assert.equal((await host.once()).error?.exitCode, 3);
  world.distort = (offer) => offer;
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal(await readlink(join(host.root, 'run/current-system')), two.toplevel);
});

test('a damaged stored offer is asked for again', async () => {
  await using s = await setting();
  await truncate(join(s.host.state, 'offer.json'), 20);
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
});

test('a manifest that expires while it is fetched is not activated', async () => {
  await using s = await setting();
  const { world, host } = s;
  world.publish(two);
  let later = 0;
  world.misbehave = (path) => {
    if (path.startsWith('/nar/')) later = 90_000;
    return false;
  };
  const { error } = await host.once({ clock: () => world.now + later });
  assert.equal(error?.code, 'E_MANIFEST_EXPIRED');
  assert.equal(await readlink(join(host.root, 'run/current-system')), one.toplevel);
});

test('roots: followed step by step, each kept; every break refused', async () => {
  await using s = await setting();
  const { world, host } = s;
  const next = { ...world.root, version: 2 };
  // N+1 signed by others only.
  world.roots.push(world.signRoot(next, [generateSecretKey()]));
  await refuses(s, 'E_SIGNATURE_UNKNOWN_KEY', 3);
  // N+2 without N+1.
  world.roots[1] = world.signRoot({ ...next, version: 3 });
  await refuses(s, 'E_ROOT_CHAIN', 3);
  world.roots.pop();
  // Another director, in two steps.
  const director = generateSecretKey();
  world.rotate({});
  world.rotate({
    roles: {
      ...world.root.roles,
      director: { keys: [publicKeyOfSecret(director)], threshold: 1 },
    },
  });
  world.show(world.manifestOf(two));
  await refuses(s, 'E_SIGNATURE_UNKNOWN_KEY', 3);
  const kept = parseEnvelope((await readMemory(host.state)).trust.root);
  assert.equal(JSON.parse(Buffer.from(kept.payload).toString()).version, 3);
  world.show(world.manifestOf(two), [director]);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  // And past the root's own end.
  world.now = world.root.expiresAt;
  world.show(world.manifestOf(one), [director]);
  const { error } = await host.once();
  assert.equal(error?.code, 'E_ROOT_EXPIRED');
  assert.equal(await readlink(join(host.root, 'run/current-system')), two.toplevel);
});

test('offers that are none', async () => {
  const { world } = shared;
  const answers: [string, ErrorCode][] = [
    // Never the same code twice in a row: that is told once.
    ['{}', 'E_OFFER_FORM'],
    ['{"offerVersion":3}', 'E_OFFER_VERSION'],
    ['', 'E_OFFER_FORM'],
    ['{"offerVersion":2,"minAgent":99}', 'E_OFFER_VERSION'],
    ['<html>', 'E_OFFER_FORM'],
  ];
  for (const [text, code] of answers) {
    world.misbehave = onOffer((_, response) => Boolean(response.end(text)));
    await refuses(shared, code, 3);
  }
  world.misbehave = () => false;
});

test('an endless offer', async () => {
  const { world } = shared;
  world.misbehave = onOffer((_, response) => {
    const more = (): boolean => {
      while (response.write(Buffer.alloc(65536, 0x20)));
      return true;
    };
    response.on('drain', more);
    return more();
  });
  await refuses(shared, 'E_BODY_LIMIT', 3);
  world.misbehave = () => false;
});

test('a server that sends a byte now and then', async () => {
  const { world, host } = shared;
  world.misbehave = onOffer((_, response) => {
    const timer = setInterval(() => response.write(' '), 200);
    response.on('close', () => clearInterval(timer));
    return true;
  });
  const reports = world.reports.length;
  const { error, outcome } = await host.once();
  assert.deepEqual([error?.code, error?.exitCode, outcome], ['E_SERVER_SLOW', 1, null]);
  assert.equal(world.reports.length, reports);
  world.misbehave = () => false;
});

test('a host that had a manifest does not believe that there is none', async () => {
  const { world, host } = shared;
  const { manifest } = world;
  world.manifest = null;
  assert.equal((await host.once()).error?.code, 'E_SERVER_ANSWER');
  world.manifest = manifest;
});

function onOffer(misbehave: Misbehaviour): Misbehaviour {
  return (path, response, request) => path.endsWith('/offer') && misbehave(path, response, request);
}

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
  await refuses(shared, 'E_CLOSURE_UNREACHABLE', 3);
  showClosure(world, formatClosure(two.infos.filter(({ path }) => path === two.toplevel)));
  await refuses(shared, 'E_CLOSURE_MISSING', 3);
  showClosure(world, closure, { paths: two.infos.length + 1 });
  await refuses(shared, 'E_CLOSURE_MISMATCH', 3);
  showClosure(world, Buffer.concat([closure, Buffer.from('\n')]));
  await refuses(shared, 'E_CLOSURE_FORM', 3);
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
  await refuses(shared, 'E_CLOSURE_HASH', 3);
  world.misbehave = answer(closure.subarray(0, -1));
  await refuses(shared, 'E_CLOSURE_SIZE', 3);
  world.show(world.manifestOf(two));
  world.misbehave = answer(Buffer.concat([closure, Buffer.from('\n')]));
  await refuses(shared, 'E_CLOSURE_SIZE', 3);
  world.misbehave = () => false;
});

test('narinfos that say something else than closure.fp, or that nobody signed', async () => {
  const { world } = shared;
  const [info] = two.infos;
  assert.ok(info);
  const bytes = zstdCompressSync(two.nars.get(info.path) ?? Buffer.alloc(0));
  const other = two.infos.find(({ path }) => path !== info.path)?.path;
  assert.ok(other);
  const lies: [object, ErrorCode, number][] = [
    [{ narHash: STRANGER.narHash }, 'E_NARINFO_MISMATCH', 3],
    [{ narSize: info.narSize + 1 }, 'E_NARINFO_MISMATCH', 3],
    [{ references: info.references.length === 0 ? [other] : [] }, 'E_NARINFO_MISMATCH', 3],
    [{ sigs: [] }, 'E_NARINFO_UNSIGNED', 3],
    [{ sigs: [signPath(info, generateNixKey('other-1'))] }, 'E_NARINFO_UNSIGNED', 3],
    [{ sigs: [signPath(info, generateNixKey('world.test-1'))] }, 'E_NARINFO_UNSIGNED', 3],
    [{ compression: 'bzip2' }, 'E_NARINFO_REFUSED', 3],
    [{ url: 'https://elsewhere.test/nar/x.nar.zst' }, 'E_NARINFO_REFUSED', 3],
    [{ path: other }, 'E_NARINFO_REFUSED', 3],
  ];
  for (const [changes, code, exit] of lies) {
    world.show(world.manifestOf(two));
    world.serveNar(info, bytes, changes);
    if ('path' in changes) {
      const text = world.narinfos.get(`/${other.slice(11, 43)}.narinfo`) ?? '';
      world.narinfos.set(`/${info.path.slice(11, 43)}.narinfo`, text);
    }
    await refuses(shared, code, exit);
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
    await refuses(shared, 'E_NAR_REFUSED', 3, name);
    assert.ok(performance.now() - start < 20_000, name);
  }
  world.serve(two);
  world.show(world.manifestOf(two));
  const { outcome } = await shared.host.once();
  assert.equal(outcome?.phase, 'in-sync');
});

test('the loopback address is told to nobody', async () => {
  await using s = await setting();
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
  await using s = await setting();
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
  await using s = await setting();
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
  await using s = await setting();
  const { world, host } = s;
  const leaf = two.infos.find(({ references }) => references.length === 0);
  assert.ok(leaf);
  await plant(host, leaf);
  await symlink(leaf.path, join(host.root, 'nix/var/nix/gcroots/keep'));
  world.publish(two);
  await refuses(s, 'E_STORE_DIVERGES', 3);
  const file = join(host.state, 'agent.json');
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, repair: true }));
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal(await readFile(join(host.root, leaf.path, 'version'), 'utf8'), 'second\n');
});

test('damaged state is refused by name, and never taken for lost', async () => {
  await using s = await setting();
  const { host, world } = s;
  world.publish(two);
  for (const name of [
    'trust.json',
    'journal.json',
    'receipts.json',
    'host-key.pem',
    'token',
    'agent.json',
  ]) {
    const file = join(host.state, name);
    const kept = await readFile(file);
    const damages =
      name === 'token' ? [''] : ['', kept.subarray(0, kept.length / 2), '{"version":1}'];
    for (const damage of damages) {
      await writeFile(file, damage);
      await assert.rejects(host.once(), {
        code: 'E_AGENT_STATE_CORRUPT',
        message: new RegExp(name),
      });
    }
    await writeFile(file, kept);
  }
  assert.equal(await readlink(join(host.root, 'run/current-system')), one.toplevel);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
});

test('the digest that is told is that of the payload', async () => {
  const { world } = shared;
  const payload = parseEnvelope(world.manifest ?? '').payload;
  assert.equal(world.reports.at(-1)?.manifest?.sha256, manifestDigest(payload));
});
