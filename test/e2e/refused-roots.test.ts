// Roots that an agent must refuse: signed by too few, out of turn, or not what a root may be; and what a server tries
// with a host that was away while the roots changed.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { readMemory } from '../../src/agent/memory.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { formatRoot, ROOT_PAYLOAD_TYPE, type Root } from '../../src/manifest/root.ts';
import { formatVerifierKey, parseVerifierKey } from '../../src/tlog/vkey.ts';
import { type Setting, setting } from '../helpers/hosts.ts';
import { refuses, takesIt } from '../helpers/refusals.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import type { World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

type Keys = readonly Uint8Array[];

const threeKeys = () => [generateSecretKey(), generateSecretKey(), generateSecretKey()] as const;

/** The next root, which differs in `changes`. */
const next = (root: Root, changes: Partial<Root> = {}): Root => ({
  ...root,
  version: root.version + 1,
  ...changes,
});

/** A root whose root keys are these. */
const heldBy = (root: Root, keys: Keys, threshold: number): Pick<Root, 'roles'> => ({
  roles: { ...root.roles, root: { keys: keys.map(publicKeyOfSecret), threshold } },
});

/** Puts a root in force, and logs it. */
function put(world: World, root: Root, keys: Keys): void {
  world.root = root;
  world.roots.push(world.signRoot(root, keys));
  world.append([world.roots.at(-1) ?? '']);
}

/** The version of the root that the host trusts. */
async function versionOf({ host }: Setting): Promise<number> {
  const { payload } = parseEnvelope((await readMemory(host.state)).trust.root);
  return JSON.parse(Buffer.from(payload).toString()).version;
}

/** Offers `text` as the next root. */
const offering = (text: string) => () => ({ roots: [text] });

test('root N+1 by the old keys only, by the new only, by one too few of either; N+2; the same again', async () => {
  await using s = await setting(one);
  const { world } = s;
  const { root, rootKey } = world;
  const [a, b, c] = threeKeys();
  const second = next(root, heldBy(root, [a, b, c], 2));
  const tries: [ErrorCode, Root, Keys][] = [
    ['E_ROOT_OWN_SIGNATURE', second, [rootKey]],
    ['E_ROOT_SIGNATURE', second, [a, b, c]],
    ['E_ROOT_OWN_SIGNATURE', second, [rootKey, a]],
    ['E_ROOT_OWN_SIGNATURE', second, [rootKey, a, a]],
    ['E_ROOT_SIGNATURE', second, [world.directorKey, ...world.releaseKeys]],
    ['E_ROOT_SIGNATURE', second, []],
    ['E_ROOT_CHAIN', { ...second, version: 3 }, [rootKey, a, b]],
    ['E_ROOT_CHAIN', root, [rootKey]],
  ];
  world.show(world.manifestOf(two));
  for (const [code, offered, keys] of tries) {
    await refuses(s, code, offering(world.signRoot(offered, keys)), `by ${keys.length} keys`);
    assert.equal(await versionOf(s), 1);
  }
  put(world, second, [rootKey, a, b]);
  world.publish(two);
  await takesIt(s, two);
  // From now on two of the three must sign, and theirs alone count.
  const third = next(second);
  for (const keys of [[rootKey], [a], [a, rootKey], [c, c]] as const) {
    await refuses(s, 'E_ROOT_SIGNATURE', (offer) => ({
      ...{ roots: [world.signRoot(third, keys)], logged: { ...offer.logged, index: 0 } },
    }));
  }
  assert.equal(await versionOf(s), 2);
});

test('one flipped bit anywhere in a root', async () => {
  await using s = await setting(one);
  const { world } = s;
  const text = world.signRoot(next(world.root));
  world.show(world.manifestOf(two));
  for (const field of ['payload', 'sig']) {
    const start = text.indexOf(`"${field}":"`) + field.length + 4;
    const length = text.indexOf('"', start) - start;
    for (let at = start; at < start + length - 2; at += Math.ceil(length / 8)) {
      const letter = text[at] === 'A' ? 'B' : 'A';
      const changed = text.slice(0, at) + letter + text.slice(at + 1);
      await refuses(s, 'E_ROOT_SIGNATURE', offering(changed), `${field} at ${at}`);
    }
  }
  assert.equal(await versionOf(s), 1);
});

test('what no root may be, although its keys signed it', async () => {
  await using s = await setting(one);
  const { world } = s;
  const good = Buffer.from(formatRoot(next(world.root))).toString();
  const [release] = world.root.roles.release.keys;
  const [director] = world.root.roles.director.keys;
  const identity = Buffer.from([1, ...Array(31).fill(0)]).toString('base64');
  const changes: [string, ErrorCode, (payload: string) => string][] = [
    ['one key in two roles', 'E_KEY_ROLE', (text) => text.replace(`${director}`, `${release}`)],
    ['a witness', 'E_ROOT_FORM', (text) => text.replace('"witnesses":[]', '"witnesses":["x"]')],
    ['a weak key', 'E_ROOT_FORM', (text) => text.replace(`${director}`, identity)],
    [
      'one key twice',
      'E_ROOT_FORM',
      (text) => text.replace(`"${director}"`, `"${director}","${director}"`),
    ],
    ['threshold 0', 'E_ROOT_FORM', (text) => text.replace('"threshold":1', '"threshold":0')],
    [
      'more than there are',
      'E_ROOT_FORM',
      (text) => text.replace('"threshold":1', '"threshold":9'),
    ],
    [
      'an unknown field',
      'E_ROOT_FORM',
      (text) => text.replace('"witnesses"', '"witness":[],"witnesses"'),
    ],
    [
      'a date that is none',
      'E_ROOT_FORM',
      (text) => text.replace(/"expiresAt":"[^"]*"/, '"expiresAt":"never"'),
    ],
    [
      'another fleet’s log',
      'E_ROOT_FORM',
      (text) => text.replace(/world\.test\/log/g, 'other.test/log'),
    ],
    [
      'a key twice in the JSON',
      'E_PAYLOAD_FORM',
      (text) => text.replace('"epoch":1', '"epoch":1,"epoch":2'),
    ],
    ['a float', 'E_PAYLOAD_FORM', (text) => text.replace('"epoch":1', '"epoch":1.5')],
    ['epoch 3 after 1', 'E_ROOT_EPOCH', (text) => text.replace('"epoch":1', '"epoch":3')],
  ];
  world.show(world.manifestOf(two));
  const signed = (payload: string, type = ROOT_PAYLOAD_TYPE) =>
    offering(signEnvelope(type, Buffer.from(payload), [world.rootKey]));
  for (const [what, code, change] of changes) {
    assert.notEqual(change(good), good, what);
    await refuses(s, code, signed(change(good)), what);
  }
  await refuses(s, 'E_ROOT_FORM', signed(good, 'application/json'), 'another payload type');
  const other = { ...world.root, fleet: 'other.test', version: 2 };
  const [origin, freshness] = ['other.test/log/1', 'other.test/freshness'];
  const renamed = (vkey: string, type: 1 | 4, name: string) =>
    formatVerifierKey({ ...parseVerifierKey(vkey, type), name });
  const foreign = {
    ...other,
    log: { ...other.log, origin, vkey: renamed(other.log.vkey, 1, origin) },
    freshness: { keys: other.freshness.keys.map((vkey) => renamed(vkey, 4, freshness)) },
  };
  await refuses(s, 'E_FLEET_MISMATCH', offering(world.signRoot(foreign)));
  assert.equal(await versionOf(s), 1);
  // An epoch that fell.
  put(world, next(world.root, { epoch: 2 }), [world.rootKey]);
  world.publish(two);
  await takesIt(s, two);
  await refuses(s, 'E_ROOT_EPOCH', () => ({
    roots: [world.signRoot(next(world.root, { epoch: 1 }))],
    logged: { index: 0, proof: [] },
  }));
});

test('expiry counts for the newest root alone: an expired one still leads on', async () => {
  await using s = await setting(one);
  const { world } = s;
  const soon = world.now + 100;
  put(world, next(world.root, { expiresAt: soon }), [world.rootKey]);
  world.now = soon;
  world.show(world.manifestOf(two));
  await refuses(s, 'E_ROOT_EXPIRED');
  assert.equal(await versionOf(s), 2);
  put(world, next(world.root, { expiresAt: soon + 1000 }), [world.rootKey]);
  world.publish(two);
  await takesIt(s, two);
});

test('away for three rotations: the host follows all of them, and nothing that skips one fools it', async () => {
  await using s = await setting(one);
  const { world } = s;
  const first = world.root;
  const oldDirector = world.directorKey;
  const oldManifest = world.manifest ?? '';
  const before = world.log.fork();
  const [a, b, c] = threeKeys();
  const [d, e, f] = threeKeys();
  const director = generateSecretKey();
  put(world, next(first, heldBy(first, [a, b, c], 2)), [world.rootKey, a, b]);
  const second = world.root;
  // The first director is revoked.
  const roles = {
    ...second.roles,
    director: { keys: [publicKeyOfSecret(director)], threshold: 1 },
  };
  const revoked = [{ key: publicKeyOfSecret(oldDirector), notAfterIndex: world.log.size }];
  put(world, next(second, { roles, revoked }), [b, c]);
  const third = world.root;
  put(world, next(third, heldBy(third, [d, e, f], 2)), [a, c, d, e]);
  world.show(world.manifestOf(two), [director]);

  // Skipping: the newest alone, or any gap on the way to it.
  const [, r2 = '', r3 = '', r4 = ''] = world.roots;
  await refuses(s, 'E_ROOT_SIGNATURE', () => ({ roots: [r4] }));
  await refuses(s, 'E_ROOT_SIGNATURE', () => ({ roots: [r3, r4] }));
  // One of the old director's, under the root that the host has, as if nothing had changed: the log names
  // the newer root.
  const old = { ...world.manifestOf(two), fleet: { name: first.fleet, rootVersion: 1 } };
  world.show(old, [oldDirector]);
  await refuses(s, 'E_ROOT_WITHHELD', () => ({ roots: [] }));
  // The log as it was, before the rotations: nothing new can be said by it, and it grows old.
  const then = world.now;
  world.now += first.maxAge + 1;
  await refuses(s, 'E_STALE', () => ({
    roots: [],
    checkpoint: before.checkpoint(first, world.logKeys, then),
    manifest: oldManifest,
  }));
  world.now = then;
  assert.equal(await versionOf(s), 1);
  // Part of the way: what the host learned stays learned, and the rest is asked for.
  await refuses(s, 'E_ROOT_WITHHELD', ({ roots }) => ({
    roots: roots.filter((text) => text === r2),
  }));
  assert.equal(await versionOf(s), 2);
  // The keys that were replaced are worth nothing: a third root of theirs, and a manifest of the old director.
  const takeover = next(second, { issuedAt: second.issuedAt + 1 });
  await refuses(s, 'E_ROOT_SIGNATURE', offering(world.signRoot(takeover, [world.rootKey, a])));
  world.show({ ...world.manifestOf(two), fleet: { name: first.fleet, rootVersion: 4 } }, [
    oldDirector,
  ]);
  await refuses(s, 'E_SIGNATURE_UNKNOWN_KEY');
  assert.equal(await versionOf(s), 4);
  for (const keys of [[a, b, c], [d], [d, a]] as const) {
    await refuses(s, 'E_ROOT_SIGNATURE', (offer) => ({
      ...{ roots: [world.signRoot(next(world.root), keys)] },
      logged: { ...offer.logged, proof: [] },
    }));
  }
  world.serve(two);
  world.show(world.manifestOf(two), [director]);
  await takesIt(s, two);
});
