// What an audit keeps: the next one goes on from it, reads only what is new, finds what a whole replay would find in
// that, and refuses a file that does not fit together.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { auditLog } from '../../src/audit/audit.ts';
import { formatKept, isKept, type Kept, parseKept } from '../../src/audit/kept.ts';
import { canonicalize } from '../../src/manifest/jcs.ts';
import type { Deployment } from '../../src/manifest/manifest.ts';
import type { Root } from '../../src/manifest/root.ts';
import { FIRST, Fleet, honest, LOG_KEYS, pool } from '../helpers/audited.ts';
import {
  KEYS,
  makeRoot,
  NOW,
  publicKey,
  refuses,
  SECRETS,
  secretKey,
  signRoot,
} from '../helpers/trust.ts';

const ROOT = signRoot(FIRST);

/** Audits what a server shows, and keeps what a file would keep. */
async function follow(fleet: Fleet, kept: Kept | null) {
  const asked: number[] = [];
  const source = fleet.served(asked);
  const report = await auditLog(source, ROOT, pool, kept);
  const text = formatKept(report.kept());
  assert.ok(isKept(text));
  return { report, asked, text, kept: () => parseKept(text, ROOT) };
}

test('the next audit reads only what is new, and says what a whole one says of it', async () => {
  const fleet = honest();
  for (let i = 0; i < 150; i++) fleet.publish(`web-${i % 40}`, {}, secretKey(13));
  let { kept } = await follow(fleet, null);
  // An approval that waits, a rotation, a new host, a host that is silent, a key that is replaced.
  const gate = fleet.manifest('gate-1', {}, secretKey(13));
  const entry = fleet.log.hosts.get('gate-1');
  fleet.log.hosts.set('gate-1', fleet.told('gate-1') ?? assert.fail());
  fleet.approve([fleet.last.get('gate-1')?.sha256 ?? ''], SECRETS.release, secretKey(12));
  ({ kept } = await follow(fleet, kept()));
  if (entry !== undefined) fleet.log.hosts.set('gate-1', entry);
  fleet.append([gate]);
  fleet.enrol('web-1', 33, 31, secretKey(13));
  const size = fleet.log.size;
  ({ kept } = await follow(fleet, kept()));
  fleet.rotate({ maxAge: 1000 });
  fleet.publish('web-90', {}, secretKey(13));
  const { report, asked } = await follow(fleet, kept());
  assert.deepEqual(report.irregularities, []);
  assert.deepEqual([report.log.from, report.log.size], [size, fleet.log.size]);
  assert.deepEqual(asked, [Math.floor(size / 256)]);
  const whole = (await follow(fleet, null)).report;
  assert.equal(report.root.version, whole.root.version);
  for (const [i, { host, told, last, lastKey }] of report.hosts.entries()) {
    const same = whole.hosts[i];
    assert.deepEqual([host, last, lastKey], [same?.host, same?.last, same?.lastKey]);
    assert.deepEqual(
      told,
      same?.told.filter(({ index }) => index >= size),
    );
  }
});

test('nothing new, and only the checkpoint is read', async () => {
  const fleet = honest();
  const { kept } = await follow(fleet, null);
  const { report, asked, text } = await follow(fleet, kept());
  assert.deepEqual([report.irregularities, asked], [[], []]);
  assert.equal(text, formatKept(kept()));
});

test('what is irregular in the new part is found at its entry', async () => {
  const odd: [string, (fleet: Fleet) => void][] = [
    [
      'E_SEQUENCE_CONFLICT',
      (fleet) => fleet.publish('web-1', { sequence: 3, emergency: true, previous: null }),
    ],
    ['E_SEQUENCE_OLDER', (fleet) => fleet.publish('web-1', { sequence: 2, previous: null })],
    ['E_AUDIT_PREVIOUS', (fleet) => fleet.publish('web-1', { previous: null })],
    ['E_APPROVAL_MISSING', (fleet) => fleet.publish('gate-1')],
    ['E_AUDIT_ENROLMENT', (fleet) => fleet.enrol('web-1', 34, 33)],
    ['E_AUDIT_SNAPSHOT', (fleet) => fleet.log.publish([], { version: 2, sha256: '0'.repeat(64) })],
    ['E_AUDIT_SNAPSHOT', (fleet) => fleet.log.leaves.push(Buffer.from(fleet.manifest('web-2')))],
    ['E_ENVELOPE', (fleet) => fleet.append(['what is this?'])],
    [
      'E_AUDIT_REVOKED',
      (fleet) =>
        fleet.rotate({
          roles: { ...FIRST.roles, director: { keys: [publicKey(14)], threshold: 1 } },
          revoked: [{ key: publicKey(3), notAfterIndex: fleet.log.size - 5 }],
        }),
    ],
  ];
  for (const [code, change] of odd) {
    const fleet = new Fleet();
    for (const host of ['web-1', 'web-1', 'web-1', 'web-2']) fleet.publish(host);
    const { kept } = await follow(fleet, null);
    change(fleet);
    const { report } = await follow(fleet, kept());
    const whole = (await follow(fleet, null)).report;
    assert.ok(
      report.irregularities.some((one) => one.code === code),
      `${code}: ${JSON.stringify(report.irregularities)}`,
    );
    // Of what a key signed before, only the last is told.
    const isTold = new Set(report.irregularities.map((one) => JSON.stringify(one)));
    const missed = whole.irregularities.filter((one) => !isTold.has(JSON.stringify(one)));
    assert.ok(
      missed.every((one) => one.code === 'E_AUDIT_REVOKED'),
      `${code}: ${JSON.stringify(missed)}`,
    );
  }
});

test('a log that shrinks, forks, or shows other entries than its own', async () => {
  const fleet = honest();
  const { kept } = await follow(fleet, null);
  const codes = async (shown: Fleet) =>
    (await follow(shown, kept())).report.irregularities.map(({ code }) => code);

  const older = new Fleet();
  older.publish('web-1');
  assert.deepEqual(await codes(older), ['E_FORK']);
  const fork = new Fleet();
  for (let i = 0; i < 20; i++) fork.publish(`web-${i}`);
  assert.ok((await codes(fork)).includes('E_CONSISTENCY'));
  const same = honest();
  same.log.leaves[1] = Buffer.from(same.log.leaves[3] ?? []);
  assert.deepEqual(await codes(same), ['E_FORK']);

  // The tree goes on, and the entries are not its.
  fleet.publish('web-1', {}, secretKey(13));
  const size = fleet.log.size;
  const honestly = fleet.served([]);
  const leaves = [...fleet.log.leaves];
  leaves[size - 2] = Buffer.from('something else');
  const source = { ...fleet.served([], leaves), tile: honestly.tile };
  const report = await auditLog(source, ROOT, pool, kept());
  assert.ok(report.irregularities.some(({ code }) => code === 'E_AUDIT_LOG'));
  assert.ok(!report.irregularities.some(({ code }) => code === 'E_FORK'));
});

/** The fleet's next log, which begins with all roots so far and one that names it. */
function nextLog(
  fleet: Fleet,
  kept: Kept,
  changes: Partial<Root> = {},
  ...keys: Uint8Array[]
): Fleet {
  const next = new Fleet();
  for (const text of kept.roots) {
    next.root = { ...next.root, version: next.root.version + 1 };
    next.envelope = text;
    next.append([text]);
  }
  next.root = fleet.root;
  for (const [host, last] of fleet.last) next.last.set(host, last);
  const number = Number(fleet.root.log.origin.split('/').at(-1)) + 1;
  next.rotate({ ...next.toLog(number), ...changes }, ...keys);
  return next;
}

test('another log that a later root names: replayed whole, from the roots and numbers that were kept', async () => {
  const fleet = honest();
  const first = await follow(fleet, null);
  const seen = { origin: fleet.root.log.origin, size: fleet.log.size };
  // What the old log says after the part that was read is taken from the new one's word.
  fleet.publish('web-2', {}, secretKey(13));
  const next = nextLog(fleet, first.kept());
  for (const host of ['web-1', 'web-2']) next.publish(host, {}, secretKey(13));
  const { report, kept } = await follow(next, first.kept());
  const { origin, from, earlier } = report.log;
  assert.deepEqual([origin, from, earlier], [next.root.log.origin, 0, seen]);
  assert.deepEqual(report.irregularities, []);
  // gate-1 was not told again yet: it goes on from the log before, also two logs and audits later.
  assert.deepEqual(
    kept().before.floors.map(({ host, sequence }) => [host, sequence]),
    [['gate-1', 1]],
  );
  const third = nextLog(next, kept());
  third.publish('web-1', {}, secretKey(13));
  const after = await follow(third, kept());
  assert.deepEqual(after.report.irregularities, []);
  third.publish('gate-1', { sequence: 1, previous: null }, secretKey(13));
  const codes = (await follow(third, after.kept())).report.irregularities.map(({ code }) => code);
  assert.ok(codes.includes('E_SEQUENCE_CONFLICT'), codes.join());
  const back = await follow(fleet, kept());
  assert.deepEqual(
    back.report.irregularities.map(({ code }) => code),
    ['E_FORK'],
  );
});

test('a later log that goes back: of what a host was told, of a host that was ended', async () => {
  const director = secretKey(13);
  const sha256 = 'f'.repeat(64);
  const invented = (sequence: number) => ({ previous: { epoch: 1, sequence, sha256 } });
  const odd: [string | null, Partial<Deployment>, Partial<Root>?][] = [
    [null, {}],
    [null, { sequence: 9, ...invented(8) }],
    [null, { epoch: 2, sequence: 1, ...invented(2) }, { epoch: 2 }],
    [null, { epoch: 2, sequence: 1, previous: null }, { epoch: 2 }],
    ['E_SEQUENCE_OLDER', { sequence: 2, ...invented(1) }],
    ['E_SEQUENCE_CONFLICT', { sequence: 3, ...invented(2) }],
    ['E_AUDIT_PREVIOUS', invented(3)],
    ['E_AUDIT_PREVIOUS', invented(2)],
    ['E_AUDIT_PREVIOUS', { previous: null }],
    ['E_AUDIT_PREVIOUS', { epoch: 2, sequence: 1, ...invented(3) }, { epoch: 2 }],
  ];
  for (const [code, changes, root] of odd) {
    const fleet = honest();
    const { kept } = await follow(fleet, null);
    const next = nextLog(fleet, kept(), root);
    next.publish('web-1', changes, director);
    const codes = (await follow(next, kept())).report.irregularities.map((one) => one.code);
    const says = `${JSON.stringify(changes)}: ${codes.join()}`;
    if (code === null) assert.deepEqual(codes, [], says);
    else assert.ok(codes.includes(code as never), says);
  }

  const fleet = new Fleet();
  fleet.publish('web-1');
  const ended = (await follow(fleet, null)).kept();
  const hosts = ended.before.hosts.map((one) => ({
    ...one,
    last: one.last === null ? null : { ...one.last, intent: 'decommission' as const },
  }));
  const next = nextLog(fleet, ended);
  next.publish('web-1');
  const seen = { ...ended, before: { ...ended.before, hosts } };
  const report = await auditLog(next.served([]), ROOT, pool, seen);
  assert.deepEqual(
    report.irregularities.map(({ code }) => code),
    ['E_DECOMMISSIONED'],
  );
});

test('a later log whose roots are others than those that were kept', async () => {
  const fleet = new Fleet();
  const root = { keys: [publicKey(41)], threshold: 1 };
  fleet.rotate({ roles: { ...FIRST.roles, root } }, secretKey(1), secretKey(41));
  fleet.publish('web-1');
  const { kept } = await follow(fleet, null);
  const codes = async (shown: Fleet) =>
    (await follow(shown, kept())).report.irregularities.map(({ code }) => code);
  // Signed by the root key that was retired since.
  const evil = new Fleet();
  evil.rotate(evil.toLog(2));
  assert.deepEqual(await codes(evil), ['E_ROOT_CONFLICT']);
  assert.deepEqual(await codes(nextLog(fleet, kept(), {}, secretKey(41))), []);
});

test('a checkpoint alone: the log is replayed whole, and must go on from it', async () => {
  const fleet = honest();
  const checkpoint = fleet.log.checkpoint(fleet.root, LOG_KEYS, NOW);
  fleet.append([]);
  const report = await auditLog(fleet.served([]), ROOT, pool, { checkpoint });
  assert.deepEqual([report.log.from, report.irregularities], [0, []]);
});

test('a file that is damaged, or says what its checkpoint does not, is refused', async () => {
  const fleet = honest();
  const { text } = await follow(fleet, null);
  const changed = (change: (fields: Record<string, unknown>) => void): string => {
    const fields = JSON.parse(text.split('\n')[2] ?? '');
    change(fields);
    const body = `${canonicalize(fields)}\n`;
    const hash = createHash('sha256').update(body).digest('hex');
    return `fleet-audit/v1\n${hash}\n${body}`;
  };
  const other = fleet.log.fork();
  other.publish([], { version: 2, sha256: '0'.repeat(64) });
  for (const [bad, pattern] of [
    ['', /damaged/],
    [text.slice(0, -2), /damaged/],
    [text.replace('fleet-audit/v1', 'fleet-audit/v2'), /damaged, or not of this version/],
    [text.replace('"emergency":false', '"emergency":true'), /damaged/],
    [changed((fields) => Object.assign(fields, { extra: 1 })), /extra/],
    [changed((fields) => Object.assign(fields, { roots: [] })), /log names root version 2/],
    [changed((fields) => Object.assign(fields, { roots: [ROOT] })), /signed|does not follow/],
    [
      changed((fields) =>
        Object.assign(fields, { checkpoint: other.checkpoint(fleet.root, LOG_KEYS, NOW) }),
      ),
      /its tree is not that of its checkpoint/,
    ],
    [
      changed((fields) => {
        const note = String(fields['checkpoint']);
        fields['checkpoint'] = note.replace(/\n\d+\n/, '\n7\n');
      }),
      /does not hold/,
    ],
    [changed((fields) => (fields['edge'] as unknown[]).pop()), /its tree is not/],
    [
      changed((fields) => Object.assign(fields['snapshot'] as object, { text: 'x' })),
      /not the last entry/,
    ],
    [changed((fields) => (fields['hosts'] as unknown[]).pop()), /its hosts are not/],
    [
      changed((fields) => {
        const [host] = fields['hosts'] as { last: { sequence: number } }[];
        if (host !== undefined) host.last.sequence += 1;
      }),
      /its hosts are not/,
    ],
  ] as const) {
    refuses('E_AUDIT_STATE', () => parseKept(bad, ROOT), pattern, String(pattern));
  }
  const another = signRoot(makeRoot({ keys: { ...KEYS, release: [publicKey(77)] } }));
  refuses('E_AUDIT_STATE', () => parseKept(text, another), /another root/);
});
