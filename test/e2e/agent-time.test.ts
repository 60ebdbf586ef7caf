// What time it is (SPEC §5.3): clocks that are wrong, proofs of time that lie in every way, and the floor below
// which no clock takes a host. Each refusal has its code and leaves the system as it was.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readMemory, type Trust, writeTrust } from '../../src/agent/memory.ts';
import type { OnceOptions } from '../../src/agent/once-options.ts';
import { readChain, writeChain } from '../../src/agent/receipts.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { type Offer, parseOffer } from '../../src/manifest/offer.ts';
import { rootDigest } from '../../src/manifest/snapshot.ts';
import { parseNote } from '../../src/tlog/note.ts';
import { all, type Setting, setting, systemsOf, type TestHost } from '../helpers/hosts.ts';
import { TestLog } from '../helpers/log.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { HOST, type World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

const YEAR = 365 * 86_400;

/** What an agent is like whose clock nobody keeps, and which is off by so many seconds. */
const adrift = (world: World, seconds = -YEAR): Partial<OnceOptions> => ({
  clock: () => world.now + seconds,
  isSynchronised: async () => false,
});

/** A host that runs system one; the newest manifest says two, and nobody asked for anything yet. */
async function behind(limits: object = {}): Promise<Setting> {
  const s = await setting(one, limits);
  s.world.publish(two);
  s.world.requests.length = 0;
  return s;
}

const trustOf = async (host: TestHost): Promise<Trust> => (await readMemory(host.state)).trust;

const floorsOf = ({ floor, time, root }: Trust) => ({ floor, time, root });

/** A run that is refused with `code`, told to the fleet, and changes neither system nor floors. */
async function refuses(
  { world, host }: Setting,
  code: ErrorCode,
  options: Partial<OnceOptions> = adrift(world),
): Promise<void> {
  const before = await trustOf(host);
  const { error, outcome } = await host.once(options);
  assert.deepEqual([error?.code, outcome?.phase], [code, 'refused'], `${error}`);
  assert.equal(error?.exitCode, 3);
  assert.equal(world.reports.at(-1)?.reason?.code, code);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.deepEqual(floorsOf(await trustOf(host)), floorsOf(before));
}

async function takesIt({ host }: Setting, options?: Partial<OnceOptions>): Promise<void> {
  const { outcome, error } = await host.once(options);
  assert.equal(outcome?.phase, 'in-sync', `${error}`);
  assert.deepEqual(await systemsOf(host), all(two));
}

const fresh = (world: World): string[] => world.requests.filter((line) => line.includes('/fresh'));

for (const [name, off] of [
  ['behind', -YEAR],
  ['ahead', YEAR],
] as const) {
  test(`a clock that nobody keeps, a year ${name}: with a proof all is well, without one nothing is`, async () => {
    await using s = await behind();
    const { world, host } = s;
    world.now += 5000;
    const { prove } = world;
    world.prove = () => null;
    await refuses(s, 'E_NONCE_MISSING', adrift(world, off));
    world.prove = prove;
    await takesIt(s, adrift(world, off));
    assert.equal((await trustOf(host)).time, world.now);
    // Receipts bear the time that was proved.
    assert.deepEqual(world.reports.at(-1)?.times, { started: world.now, finished: world.now });
    // Each question has a nonce of its own; the last one was asked from the new system.
    const asked = fresh(world);
    assert.equal(new Set(asked).size, 3);
    for (const line of asked) {
      assert.match(line, new RegExp(`^GET /v1/hosts/${HOST}/fresh\\?nonce=[0-9a-f]{64}$`));
    }
  });
}

test('a clock that is kept needs no proof, and none helps it', async () => {
  await using s = await behind();
  const { world, host } = s;
  await refuses(s, 'E_STALE', { clock: () => world.now + 100 * 86_400 });
  await refuses(s, 'E_ROOT_EXPIRED', { clock: () => world.now + 2 * YEAR });
  // At first contact nothing says better than a clock that is behind.
  await using other = await setting(null);
  other.world.publish(two);
  const { error } = await other.host.once({ clock: () => other.world.now - YEAR });
  assert.equal(error?.code, 'E_FRESHNESS_FUTURE');
  assert.equal((await trustOf(other.host)).time, null);
  // Later it does: the floor.
  await takesIt(s, { clock: () => world.now - YEAR });
  // But for the question from the new system.
  assert.deepEqual([fresh(world).length, fresh(other.world).length], [1, 0]);
  assert.equal((await trustOf(host)).time, world.now);
});

test('agent.json says whether the clock is believed', async () => {
  await using s = await behind({ clock: 'trusted' });
  const { world, host } = s;
  const mustNotAsk = async (): Promise<never> => assert.fail('asked though it is said');
  const { outcome } = await host.once({ isSynchronised: mustNotAsk });
  assert.equal(outcome?.phase, 'in-sync');
  // From the new system.
  assert.equal(fresh(world).length, 1);
  const file = join(host.state, 'agent.json');
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, clock: 'untrusted' }));
  assert.equal((await host.once({ isSynchronised: mustNotAsk })).outcome?.phase, 'in-sync');
  assert.equal(fresh(world).length, 2);
  for (const clock of ['never', '', null, true]) {
    await writeFile(file, JSON.stringify({ ...config, clock }));
    await assert.rejects(host.once(), { code: 'E_AGENT_STATE_CORRUPT', message: /"clock"/ });
  }
});

test('proofs that lie: another question, an old answer, another checkpoint, another time', async () => {
  await using s = await behind();
  const { world } = s;
  const honest = world.prove;
  let last = '';
  world.prove = (nonce) => {
    last = world.proofOf({ nonce });
    return world.proofOf({ nonce: nonce.replace(/^../, (two) => (two === '00' ? '01' : '00')) });
  };
  await refuses(s, 'E_NONCE_OTHER');
  // The right answer to the question before, again.
  world.prove = () => last;
  await refuses(s, 'E_NONCE_OTHER');
  const earlier = world.log.checkpoint(world.root, world.logKeys, null, 4);
  for (const checkpoint of [earlier, earlier.replace('\n4\n', '\n7\n')]) {
    const { text } = parseNote(checkpoint);
    world.prove = (nonce) => world.proofOf({ nonce, checkpoint: text });
    await refuses(s, 'E_NONCE_CHECKPOINT');
  }
  world.prove = (nonce) => world.proofOf({ nonce, time: world.now - 301 });
  await refuses(s, 'E_NONCE_OLD');
  world.prove = honest;
  await takesIt(s, adrift(world));
});

test('a forked log, shown to a host whose clock nobody keeps: both checkpoints are kept and told', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const seen = (await trustOf(host)).checkpoint ?? '';
  const honest = world.log;
  // One server shows another history; another one, that knows nothing of it, proves the time.
  const other = new TestLog();
  const known = { version: 1, sha256: rootDigest(parseEnvelope(world.roots[0] ?? '').payload) };
  for (const text of ['{}', '[]', '{"a":1}']) other.publish([text], known);
  const shown = (log: TestLog) => log.checkpoint(world.root, world.logKeys, world.now);
  const proved = parseNote(shown(honest)).text;
  world.prove = (nonce) => world.proofOf({ nonce, checkpoint: proved });
  world.distort = (text) => JSON.stringify({ ...parseOffer(text), checkpoint: shown(other) });
  // The server has something new: what was stored is not enough.
  world.publish(two);
  await refuses(s, 'E_NONCE_CHECKPOINT');
  const told = world.reports.at(-1);
  assert.equal(told?.checkpoint, seen);
  assert.equal(told?.conflict, shown(other));
  assert.equal((await trustOf(host)).checkpoint, seen);
  other.publish(['4'], known);
  const third = shown(other);
  // What its log did not sign is no evidence, nor is what was accepted before.
  const forged = honest.checkpoint(
    world.root,
    { ...world.logKeys, log: generateSecretKey() },
    world.now,
  );
  for (const checkpoint of [forged, seen]) {
    world.distort = (text) => JSON.stringify({ ...parseOffer(text), checkpoint });
    world.prove = (nonce) => world.proofOf({ nonce, checkpoint: parseNote(third).text });
    // As if nothing had been told.
    await writeChain(host.state, { ...(await readChain(host.state)), told: null });
    await refuses(s, 'E_NONCE_CHECKPOINT');
    assert.equal(world.reports.at(-1)?.conflict, null);
  }
});

test('proofs that nobody signed whom the root names, or badly', async () => {
  await using s = await behind();
  const { world } = s;
  const { log, freshness } = world.logKeys;
  for (const secret of [generateSecretKey(), log, freshness, world.directorKey]) {
    world.prove = (nonce) => world.proofOf({ nonce }, secret);
    await refuses(s, 'E_SIGNATURE_UNKNOWN_KEY');
  }
  world.prove = (nonce) =>
    world.proofOf({ nonce }).replace(`\\n${world.now}\\n`, `\\n${world.now + 1}\\n`);
  await refuses(s, 'E_SIGNATURE');
  for (const bad of ['', '{}', 'fleet-fresh/v1']) {
    world.prove = () => bad;
    await refuses(s, 'E_NONCE_FORM');
  }
  world.prove = () => 'x'.repeat(4096);
  await refuses(s, 'E_BODY_LIMIT');
});

test('a proof that took too long says little', async () => {
  await using s = await behind();
  const { world } = s;
  const { prove } = world;
  for (const [seconds, code] of [
    [121, 'E_NONCE_SLOW'],
    [120, null],
  ] as const) {
    world.prove = (nonce) => {
      world.uptime += seconds;
      return prove(nonce);
    };
    if (code !== null) await refuses(s, code);
    else await takesIt(s, adrift(world));
  }
});

test('a publication between the two questions: both are asked again', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { prove } = world;
  world.prove = (nonce) => {
    if (fresh(world).length === 1) world.publish(two);
    return prove(nonce);
  };
  world.requests.length = 0;
  await takesIt(s, adrift(world));
  assert.equal(fresh(world).length, 3);
  assert.equal((await trustOf(host)).floor?.sequence, 2);
});

test('what is stored is looked at by the proved time: too old, it is asked for anew', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { maxAge } = world.root;
  world.publish(one, { expiresAt: world.now + 2 * maxAge });
  await host.once();
  const conditional: boolean[] = [];
  world.misbehave = (path, _response, request) => {
    if (path.endsWith('/offer')) conditional.push(request.headers['if-none-match'] !== undefined);
    return false;
  };
  await host.once(adrift(world));
  assert.deepEqual(conditional.splice(0), [true]);
  world.now += maxAge;
  const { outcome } = await host.once(adrift(world));
  assert.equal(outcome?.phase, 'in-sync');
  assert.deepEqual(conditional, [true, false]);
  assert.equal((await trustOf(host)).time, world.now);
});

test('a proof goes on with the clock that nobody sets: a download that takes a week', async () => {
  await using s = await behind();
  const { world, host } = s;
  world.misbehave = (path) => {
    if (path.startsWith('/nar/')) world.uptime += world.root.maxAge + 1;
    return false;
  };
  const { error, outcome } = await host.once(adrift(world));
  assert.deepEqual([error?.code, outcome?.phase], ['E_STALE', 'refused']);
  assert.deepEqual(await systemsOf(host), all(one));
  world.misbehave = () => false;
  world.now += 2 * world.root.maxAge;
  world.publish(two);
  await takesIt(s, adrift(world));
});

test('a new root names another nonce key: followed at once, and the old one counts no more', async () => {
  await using s = await behind();
  const { world } = s;
  const other = generateSecretKey();
  world.rotate({ nonce: { keys: [publicKeyOfSecret(other)] } });
  world.publish(two);
  const { error, outcome } = await s.host.once(adrift(world));
  assert.deepEqual([error?.code, outcome?.phase], ['E_SIGNATURE_UNKNOWN_KEY', 'refused']);
  world.prove = (nonce) => world.proofOf({ nonce }, other);
  await takesIt(s, adrift(world));
});

test('the floor: raised by freshness and proofs, by nothing else', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const timeOf = async () => (await trustOf(host)).time;
  const start = world.now;
  assert.equal(await timeOf(), start);
  // Not by a clock that is ahead, nor by what a manifest says of itself.
  world.freshAt = start;
  world.publish(one, { issuedAt: start + 5000 });
  await host.once({ clock: () => start + 4000 });
  assert.equal(await timeOf(), start);
  // Not by what is refused afterwards.
  world.freshAt = start + 100;
  world.distort = (text) => JSON.stringify({ ...parseOffer(text), growth: [] } satisfies Offer);
  world.publish(one);
  assert.equal((await host.once()).error?.code, 'E_CONSISTENCY');
  assert.equal(await timeOf(), start);
  world.distort = (text) => text;
  await host.once();
  assert.equal(await timeOf(), start + 100);
  // A proof is later than the freshness, and counts.
  world.now = start + 600;
  await host.once(adrift(world));
  assert.equal(await timeOf(), start + 600);
  // Nothing takes it back.
  world.freshAt = start + 300;
  await host.once();
  assert.equal(await timeOf(), start + 600);
});

test('the floor is never later than the newest root, and another epoch resets it', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const timeOf = async () => (await trustOf(host)).time;
  const { expiresAt } = world.root;
  const now = world.now;
  // A stolen nonce key says that it is the year 2100.
  world.prove = (nonce) => world.proofOf({ nonce, time: 4_102_444_800 });
  const { error } = await host.once(adrift(world));
  assert.equal(error?.code, 'E_ROOT_EXPIRED');
  assert.equal(await timeOf(), now);
  // A stolen freshness key, and a clock that agrees: for one second before the root ends.
  world.freshAt = expiresAt + 200;
  world.publish(one, { expiresAt: expiresAt + YEAR });
  await host.once({ clock: () => expiresAt - 1 });
  assert.equal(await timeOf(), expiresAt);
  world.freshAt = null;
  assert.equal((await host.once()).error?.code, 'E_ROOT_EXPIRED');
  // A root that lasts longer does not help alone: the host takes now for then.
  world.rotate({ expiresAt: expiresAt + YEAR });
  world.publish(two, { expiresAt: expiresAt + YEAR });
  assert.equal((await host.once()).error?.code, 'E_STALE');
  assert.equal(await timeOf(), expiresAt);
  world.rotate({ expiresAt: expiresAt + 2 * YEAR, epoch: world.root.epoch + 1 });
  world.publish(two);
  await takesIt(s);
  assert.equal(await timeOf(), now);
});

test('a server that only ever says 304: stale in the end, told, and the host keeps running', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const from = world.now;
  world.publish(one, { expiresAt: from + 2 * world.root.maxAge });
  await host.once();
  world.misbehave = (path, response) => {
    if (!path.endsWith('/offer')) return false;
    response.writeHead(304).end();
    return true;
  };
  world.now = from + world.root.maxAge;
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  world.now += 1;
  await refuses(s, 'E_STALE', {});
  // Without a stored offer there is nothing that a 304 could mean.
  await writeFile(join(host.state, 'offer.json'), 'damaged');
  assert.equal((await host.once()).error?.code, 'E_SERVER_ANSWER');
});

test('--accept-age: an old checkpoint for one run, signed all the same, and the receipt says so', async () => {
  await using s = await behind();
  const { world, host } = s;
  world.freshAt = world.now - world.root.maxAge - 1000;
  await refuses(s, 'E_STALE', {});
  // Everything else is still checked.
  const acceptAge = true;
  world.distort = (text) => {
    const checkpoint = world.log.checkpoint(world.root, world.logKeys, null);
    return JSON.stringify({ ...parseOffer(text), checkpoint });
  };
  await refuses(s, 'E_FRESHNESS_MISSING', { acceptAge });
  world.distort = (text) => text;
  await refuses(s, 'E_MANIFEST_EXPIRED', { acceptAge, clock: () => world.now + 86_400 });
  assert.deepEqual(world.reports.at(-1)?.exceptions, ['age-accepted']);
  await refuses(s, 'E_NONCE_MISSING', { acceptAge, ...adriftWithoutProof(world) });
  await takesIt(s, { acceptAge });
  assert.deepEqual(world.reports.at(-1)?.exceptions, ['age-accepted']);
  // What is old stays refused, and what is young needs no exception.
  assert.equal((await host.once()).error?.code, 'E_STALE');
  assert.equal(world.reports.at(-1)?.exceptions, undefined);
  world.freshAt = null;
  assert.equal((await host.once({ acceptAge })).outcome?.phase, 'in-sync');
  assert.equal(world.reports.at(-1)?.exceptions, undefined);
});

test('--accept-age is on record before anything is fetched, and stays until a receipt says so', async () => {
  await using s = await behind();
  const { world, host } = s;
  world.freshAt = world.now - world.root.maxAge - 1000;
  const file = join(host.state, 'receipts.json');
  const atFetch: unknown[] = [];
  world.misbehave = (path, response) => {
    if (path.startsWith('/v1/closures/')) {
      atFetch.push(JSON.parse(readFileSync(file, 'utf8')).untold);
    }
    if (!path.endsWith('/reports')) return false;
    response.writeHead(503).end();
    return true;
  };
  // Nothing can be told: as much waits as may.
  const chain = await readChain(host.state);
  await writeChain(host.state, { ...chain, queue: Array<string>(256).fill('waits') });
  await takesIt(s, { acceptAge: true });
  assert.deepEqual(atFetch, [['age-accepted']]);
  const { untold, counter, queue } = await readChain(host.state);
  assert.deepEqual([untold, counter, queue.length], [['age-accepted'], chain.counter, 256]);
  // The queue has drained.
  await writeChain(host.state, { ...chain, untold });
  world.misbehave = () => false;
  world.freshAt = null;
  await takesIt(s);
  assert.deepEqual(world.reports.at(-1)?.exceptions, ['age-accepted']);
  assert.deepEqual((await readChain(host.state)).untold, []);
});

function adriftWithoutProof(world: World): Partial<OnceOptions> {
  world.prove = () => null;
  return adrift(world);
}

test('a checkpoint in trust.json that is none is the host’s own trouble, not the server’s', async () => {
  await using s = await behind();
  const { host } = s;
  const trust = await trustOf(host);
  await writeTrust(host.state, { ...trust, checkpoint: 'none' });
  await assert.rejects(host.once(), { code: 'E_AGENT_STATE_CORRUPT', message: /"checkpoint"/ });
});
