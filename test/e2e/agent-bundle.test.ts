// Updates from a stick: the same checks as from the network, on a host that hears nobody; and what is no bundle, not this host's,
// old, cut short, or was changed, is refused with its own code, changes nothing, and leaves nothing behind.
import assert from 'node:assert/strict';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readMemory } from '../../src/agent/memory.ts';
import type { OnceOptions } from '../../src/agent/once-options.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { headOf } from '../../src/manifest/verify-offer.ts';
import { bundleOf, headerOf, type Member, membersOf } from '../helpers/host-bundle.ts';
import { all, type Setting, setting, systemsOf, type TestHost } from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');

/** In pieces, as a file comes. */
async function* inPieces(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}

const apply = (host: TestHost, bytes: Buffer, options: Partial<OnceOptions> = {}) =>
  host.once({ bundle: { chunks: inPieces(bytes), who: 'root' }, ...options });

const isUnpacked = (host: TestHost) =>
  stat(join(host.state, 'bundle')).then(
    () => true,
    () => false,
  );

/** How far the host has come. */
const sizeSeen = async ({ state }: TestHost) =>
  headOf((await readMemory(state)).trust.checkpoint ?? '').size;

test('a host whose server is gone applies it, and tells of it later', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  // Windows and questions are for what comes by itself.
  const activation = { ...DEFAULT_ACTIVATION, ask: true, windows: ['Sun 03:00-03:01 UTC'] };
  world.publish(two, { activation });
  const from = await sizeSeen(host);
  const members = membersOf(world, two, from);
  const narBytes = members.filter(({ name }) => name.startsWith('nar/')).map((m) => m.data.length);
  const bytes = await bundleOf(members, from);
  await world.stop();
  const { outcome, error, fetched, receipts } = await apply(host, bytes);
  assert.deepEqual([outcome?.phase, outcome?.who, error], ['in-sync', 'root', null]);
  assert.deepEqual(await systemsOf(host), all(two));
  const sum = narBytes.reduce((a, b) => a + b);
  assert.deepEqual(fetched, { paths: 2, bytes: sum, packed: { paths: 0, bytes: 0 }, fellBack: 0 });
  assert.deepEqual([receipts.sent, receipts.queued], [0, 1]);
  assert.equal(receipts.problem?.code, 'E_SERVER_UNREACHABLE');
  assert.equal(await sizeSeen(host), world.log.size);
  assert.equal(await isUnpacked(host), false);
  // Once more, it is there.
  assert.equal((await apply(host, bytes)).outcome?.phase, 'in-sync');
});

test('what the host has is not in it; where it is missing after all, that is said', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two);
  const from = await sizeSeen(host);
  const members = membersOf(world, two, from).filter(({ name }) => !name.startsWith('nar'));
  await world.stop();
  const { error } = await apply(host, await bundleOf(members, from));
  assert.equal(error?.code, 'E_FETCH');
  assert.match(
    `${error?.message} ${error?.hint}`,
    /the bundle does not have .*narinfo.*--all --out/,
  );
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal(await isUnpacked(host), false);
});

test('the next root is in it', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const from = await sizeSeen(host);
  world.rotate({ maxAge: 1000 });
  world.rotate({ maxAge: 2000 });
  world.publish(two);
  const bytes = await bundleOf(membersOf(world, two, from), from);
  await world.stop();
  assert.equal((await apply(host, bytes)).error, null);
  assert.deepEqual(await systemsOf(host), all(two));
});

test('one that leads on from elsewhere says from where, and which one would do', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two);
  const at = await sizeSeen(host);
  const { error, outcome } = await apply(host, await bundleOf(membersOf(world, two, 1), 1));
  assert.equal(error?.code, 'E_BUNDLE_FROM');
  assert.match(
    error.message,
    new RegExp(`from entry 1 of the log to ${world.log.size}.* to ${at}$`),
  );
  assert.match(error.hint, new RegExp(`--from ${at} --out`));
  assert.equal(outcome, null);
  assert.equal(world.reports.at(-1)?.conflict ?? null, null);
  assert.deepEqual(await systemsOf(host), all(one));
});

test('an old one: E_STALE, which root may pass over, and tells; one of an older log never', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const old = await bundleOf(membersOf(world, one, 0), 0);
  world.publish(two, { expiresAt: world.now + 2 * world.root.maxAge });
  const from = await sizeSeen(host);
  const bytes = await bundleOf(membersOf(world, two, from), from);
  world.now += world.root.maxAge + 10;
  const { error, outcome } = await apply(host, bytes);
  assert.deepEqual([error?.code, outcome?.phase], ['E_STALE', 'refused']);
  assert.match(error?.hint ?? '', /fleet agent apply FILE --accept-age/);
  assert.deepEqual(await systemsOf(host), all(one));
  world.freshAt = world.now;
  const taken = await apply(host, bytes, { acceptAge: true });
  assert.equal(taken.outcome?.phase, 'in-sync', `${taken.error}`);
  assert.deepEqual(world.reports.at(-1)?.exceptions, ['age-accepted']);
  const older = await apply(host, old, { acceptAge: true });
  assert.deepEqual([older.error?.code, older.outcome?.phase], ['E_CHECKPOINT_OLDER', 'refused']);
  // A stick from a drawer is no crime of the server's.
  assert.equal(world.reports.at(-1)?.reason?.code, 'E_CHECKPOINT_OLDER');
  assert.equal(world.reports.at(-1)?.conflict, null);
  assert.deepEqual(await systemsOf(host), all(two));
});

test('where nobody keeps the clock, root has to vouch for the time', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two);
  const from = await sizeSeen(host);
  const bytes = await bundleOf(membersOf(world, two, from), from);
  await world.stop();
  const isSynchronised = async () => false;
  const { error } = await apply(host, bytes, { isSynchronised });
  assert.equal(error?.code, 'E_NONCE_MISSING');
  assert.match(error.hint, /--accept-age/);
  assert.deepEqual(await systemsOf(host), all(one));
  const taken = await apply(host, bytes, { isSynchronised, acceptAge: true });
  assert.equal(taken.outcome?.phase, 'in-sync', `${taken.error}`);
});

test('the end of a host comes by stick, too', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const from = await sizeSeen(host);
  const { floor } = (await readMemory(host.state)).trust;
  assert.ok(floor !== null);
  const { epoch, sequence, digest } = floor;
  world.decommission({ epoch, sequence, sha256: digest });
  const members = membersOf(world, one, from, one).filter(({ name }) => name !== 'closure.fp');
  await world.stop();
  const { outcome } = await apply(host, await bundleOf(members, from));
  assert.equal(outcome?.phase, 'decommissioned');
  assert.deepEqual(await systemsOf(host), all(one));
});

test('a growth proof that proves nothing', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two);
  const from = await sizeSeen(host);
  const members = membersOf(world, two, from).map((member) => {
    if (member.name !== 'offer.json') return member;
    const offer = JSON.parse(member.data.toString());
    return { ...member, data: Buffer.from(JSON.stringify({ ...offer, growth: [] })) };
  });
  const { error, outcome } = await apply(host, await bundleOf(members, from));
  assert.deepEqual([error?.code, outcome?.phase], ['E_CONSISTENCY', 'refused']);
  assert.equal(await sizeSeen(host), from);
  assert.deepEqual(await systemsOf(host), all(one));
});

// One host for all that changes nothing.
const shared: Setting = await setting(one);
after(() => shared[Symbol.asyncDispose]());
shared.world.publish(two);
const FROM = await sizeSeen(shared.host);
const GOOD = membersOf(shared.world, two, FROM);
const placeOf = (start: string) => GOOD.findIndex(({ name }) => name.startsWith(start));
const replaced = (start: string, change: (member: Member) => Member): Member[] =>
  GOOD.map((member, i) => (i === placeOf(start) ? change(member) : member));
const OTHER = { name: `nar/${'f'.repeat(64)}.nar.zst`, data: Buffer.from('x') };
const first = (start: string): Member => GOOD[placeOf(start)] ?? OTHER;

/** The file comes last. */
const misplaced = (start: string): Member[] => {
  const others = GOOD.filter(({ name }) => !name.startsWith(start));
  return [...others, first(start)];
};

async function refuses(bytes: Buffer, code: ErrorCode, message = /./): Promise<void> {
  const { host } = shared;
  const { error, outcome } = await apply(host, bytes);
  assert.equal(error?.code, code, `${error}`);
  assert.match(error.message, message);
  assert.notEqual(outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal(await isUnpacked(host), false);
}

const forms: [string, ErrorCode, RegExp, () => Promise<Buffer>][] = [
  [
    'another host’s',
    'E_HOST_MISMATCH',
    /for beta; this is alpha/,
    () => bundleOf(GOOD, FROM, { host: 'beta' }),
  ],
  [
    'another fleet’s',
    'E_FLEET_MISMATCH',
    /of fleet other/,
    () => bundleOf(GOOD, FROM, { fleet: 'other.test' }),
  ],
  [
    'of a later form',
    'E_OFFER_VERSION',
    /too new/,
    () => bundleOf(GOOD, FROM, { bundleVersion: 2 }),
  ],
  ['with a field too many', 'E_BUNDLE_FORM', /unknown field/, () => bundleOf(GOOD, FROM, { x: 1 })],
  [
    'with a file too many',
    'E_BUNDLE_FORM',
    /more than it announced/,
    () => bundleOf([...GOOD, OTHER], FROM, { files: GOOD.length }),
  ],
  [
    'with a byte too many',
    'E_BUNDLE_FORM',
    /more than it announced/,
    () => bundleOf(GOOD, FROM, { bytes: 1000 }),
  ],
  [
    'with a file too few',
    'E_BUNDLE_FORM',
    /cut short/,
    () => bundleOf(GOOD.slice(0, -1), FROM, { files: GOOD.length }),
  ],
  [
    'with a byte too few',
    'E_BUNDLE_FORM',
    /cut short/,
    () => bundleOf(GOOD, FROM, { bytes: 10_000_000 }),
  ],
  [
    'that announces more than there is room for',
    'E_PREFLIGHT',
    /MiB free, and the bundle needs/,
    () => bundleOf(GOOD, FROM, { bytes: 2 ** 50 }),
  ],
  [
    'without an offer',
    'E_BUNDLE_FORM',
    /no offer\.json/,
    () =>
      bundleOf(
        GOOD.filter(({ name }) => name !== 'offer.json'),
        FROM,
      ),
  ],
  [
    'without a root',
    'E_BUNDLE_FORM',
    /no root/,
    () =>
      bundleOf(
        GOOD.filter(({ name }) => !name.startsWith('root')),
        FROM,
      ),
  ],
  [
    'with another file',
    'E_BUNDLE_FORM',
    /"README" is no file of it/,
    () => bundleOf([...GOOD, { name: 'README', data: Buffer.from('x') }], FROM),
  ],
  [
    'in another order',
    'E_BUNDLE_FORM',
    /out of order/,
    () => bundleOf(misplaced('closure.fp'), FROM),
  ],
  [
    'whose NARs are in another order',
    'E_BUNDLE_FORM',
    /out of order/,
    () =>
      bundleOf([...GOOD.slice(0, placeOf('nar/')), ...GOOD.slice(placeOf('nar/')).reverse()], FROM),
  ],
  [
    'with a file twice',
    'E_BUNDLE_FORM',
    /comes twice/,
    () => bundleOf([...GOOD, GOOD.at(-1) ?? OTHER], FROM),
  ],
  [
    'with a second header',
    'E_BUNDLE_FORM',
    /comes twice/,
    () => bundleOf([...GOOD, { name: 'bundle.json', data: Buffer.from('{}') }], FROM),
  ],
  [
    'with a way up',
    'E_BUNDLE_FORM',
    /no name/,
    () => bundleOf([...GOOD, { ...OTHER, name: 'nar/../../trust.json' }], FROM),
  ],
  [
    'with an absolute name',
    'E_BUNDLE_FORM',
    /no name/,
    () => bundleOf([...GOOD, { ...OTHER, name: '/etc/passwd' }], FROM),
  ],
  [
    'with a symlink',
    'E_BUNDLE_FORM',
    /is a symlink/,
    () =>
      bundleOf([...GOOD, { ...OTHER, header: { type: 'symlink', linkname: '/etc/passwd' } }], FROM),
  ],
  [
    'with a hard link',
    'E_BUNDLE_FORM',
    /is a link/,
    () => bundleOf([...GOOD, { ...OTHER, header: { type: 'link', linkname: 'offer.json' } }], FROM),
  ],
  [
    'with a directory',
    'E_BUNDLE_FORM',
    /is a directory/,
    () => bundleOf([...GOOD, { ...OTHER, header: { type: 'directory' } }], FROM),
  ],
  ['that is no tar file', 'E_BUNDLE_FORM', /no tar file/, async () => Buffer.alloc(4096, 'x')],
  ['of nothing', 'E_BUNDLE_FORM', /no root|cut short|no tar file/, async () => Buffer.of()],
  [
    'that goes on after its end',
    'E_BUNDLE_FORM',
    /goes on after its end/,
    async () => Buffer.concat([await bundleOf(GOOD, FROM), Buffer.alloc(2 ** 20)]),
  ],
];

for (const [what, code, message, make] of forms) {
  test(`a bundle ${what}`, async () => await refuses(await make(), code, message));
}

test('one that is cut off, wherever it is', async () => {
  const bytes = await bundleOf(GOOD, FROM);
  for (let at = 512; at < bytes.length - 1024; at += Math.ceil(bytes.length / 25)) {
    await refuses(bytes.subarray(0, at), 'E_BUNDLE_FORM');
  }
  // At the ends of files, too.
  await refuses(bytes.subarray(0, 1024), 'E_BUNDLE_FORM');
});

test('a file that is announced with more bytes than any disk has', async () => {
  const bytes = await bundleOf(GOOD, FROM, { files: GOOD.length + 1 });
  for (const size of [2 ** 33, 2 ** 52]) {
    const header = await headerOf(OTHER.name, size);
    const bad = Buffer.concat([bytes.subarray(0, bytes.length - 1024), header, Buffer.alloc(4096)]);
    await refuses(bad, 'E_BUNDLE_FORM', /more than it announced/);
  }
  const offer = await headerOf('offer.json', 2 ** 33);
  const start = (await bundleOf([], FROM, { files: 9, bytes: 9 })).subarray(0, 1024);
  await refuses(Buffer.concat([start, offer]), 'E_BUNDLE_FORM', /offer\.json has more than/);
});

test('a NAR that differs, and a narinfo that lies', async () => {
  const nar = first('nar/');
  const flipped = Buffer.from(nar.data);
  flipped.writeUInt8(flipped.readUInt8(flipped.length - 6) ^ 1, flipped.length - 6);
  await refuses(
    await bundleOf(
      replaced('nar/', (m) => ({ ...m, data: flipped })),
      FROM,
    ),
    'E_NAR_REFUSED',
  );
  const lie = (from: RegExp, to: string) =>
    bundleOf(
      replaced('narinfo/', (m) => ({
        ...m,
        data: Buffer.from(m.data.toString().replace(from, to)),
      })),
      FROM,
    );
  await refuses(await lie(/^NarSize: .*$/m, 'NarSize: 1'), 'E_NARINFO_MISMATCH');
  await refuses(await lie(/^URL: .*$/m, 'URL: ../trust.json'), 'E_NARINFO_REFUSED');
  await refuses(await lie(/^URL: .*$/m, 'URL: trust.json'), 'E_FETCH');
  await refuses(await lie(/^Sig: .*$/m, 'Sig: other-1:AAAA'), 'E_NARINFO_REFUSED');
});

test('closure file, offer and root of another', async () => {
  const other = replaced('closure.fp', (m) => ({
    ...m,
    data: Buffer.from(m.data).fill(0x30, m.data.length - 3, m.data.length - 2),
  }));
  await refuses(await bundleOf(other, FROM), 'E_CLOSURE_HASH');
  const offer = JSON.parse(first('offer.json').data.toString());
  const withOffer = (change: object) =>
    bundleOf(
      replaced('offer.json', (m) => ({
        ...m,
        data: Buffer.from(JSON.stringify({ ...offer, ...change })),
      })),
      FROM,
    );
  await refuses(await withOffer({ entry: { ...offer.entry, sequence: 77 } }), 'E_SNAPSHOT_ENTRY');
  await refuses(await withOffer({ more: 1 }), 'E_OFFER_FORM');
});

test('one flipped bit, wherever it is, is refused or changes nothing that counts', async () => {
  const members = GOOD.filter(({ name }) => !name.startsWith('nar'));
  const bytes = await bundleOf(members, FROM);
  for (let at = 0; at < bytes.length; at += Math.ceil(bytes.length / 60)) {
    const bad = Buffer.from(bytes);
    bad.writeUInt8(bad.readUInt8(at) ^ (1 << (at % 8)), at);
    const { error } = await apply(shared.host, bad);
    assert.notEqual(error, null, `bit at ${at}`);
    assert.deepEqual(await systemsOf(shared.host), all(one));
    assert.equal(await isUnpacked(shared.host), false);
  }
});

test('what a run left that was killed is gone after the next', async () => {
  const { host } = shared;
  const left = join(host.state, 'bundle/nar');
  await mkdir(left, { recursive: true });
  await writeFile(join(left, 'half'), 'half');
  await refuses(Buffer.alloc(4096, 'x'), 'E_BUNDLE_FORM');
  await mkdir(left, { recursive: true });
  await writeFile(join(left, 'half'), 'half');
  await host.once();
  assert.ok(!(await readdir(host.state)).includes('bundle'));
});
