// Audits of logs that are as they should be, and of logs with one thing wrong: each is found, at its entry, with its
// code, and nothing else is.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { auditLog } from '../../src/audit/audit.ts';
import { openFactsPool } from '../../src/audit/facts-pool.ts';
import { AUDIT_LIMITS, MOST_BATCHES, openBundleSource } from '../../src/audit/source.ts';
import { signEnvelope } from '../../src/manifest/dsse.ts';
import type { Receipt } from '../../src/manifest/receipt.ts';
import { signTokenRequest } from '../../src/manifest/token-request.ts';
import { formatBundle } from '../../src/tlog/tile.ts';
import { FIRST, Fleet, honest, LOG_KEYS, pool } from '../helpers/audited.ts';
import {
  makeRoot,
  NOW,
  publicKey,
  SECRETS,
  secretKey,
  signRoot,
  storePath,
} from '../helpers/trust.ts';

test('an honest log: what each host was told, approved by whom, and what it ran', async () => {
  const fleet = honest();
  const { hosts, irregularities, log, root } = await fleet.audit();
  assert.deepEqual(irregularities, []);
  assert.deepEqual([log.size, log.freshAt, root.version], [fleet.log.size, NOW, 2]);
  assert.deepEqual(
    hosts.map(({ host, told, receipts, keys }) => [
      host,
      told.map((one) => one.sequence),
      receipts,
      keys.length,
    ]),
    [
      ['gate-1', [1], 0, 0],
      ['web-1', [1, 2, 3], 3, 1],
      ['web-2', [1, 2], 0, 0],
    ],
  );
  assert.equal(hosts[0]?.told[0]?.approvals, 2);
  const times = { from: NOW + 10, to: NOW + 10 };
  assert.deepEqual(hosts[1]?.ran, [
    { toplevel: storePath('c', 'host'), ...times },
    { toplevel: storePath('d', 'next'), ...times },
  ]);
});

test('threads say the same as this one', async () => {
  const fleet = honest();
  await using threads = openFactsPool(2);
  const report = await auditLog(fleet.source(), signRoot(FIRST), threads);
  assert.deepEqual(JSON.stringify(report), JSON.stringify(await fleet.audit()));
});

test('each thing that is wrong with a manifest is told at its entry, and nothing else', async () => {
  const cases: [string, (fleet: Fleet) => string][] = [
    [
      'E_SIGNATURE_THRESHOLD',
      (fleet) => {
        const before = [...fleet.log.hosts];
        const text = fleet.manifest('web-1', {}, secretKey(99));
        // It counts for nothing, and so not for the snapshot.
        for (const [host, entry] of before) fleet.log.hosts.set(host, entry);
        return text;
      },
    ],
    [
      'E_FLEET_MISMATCH',
      (fleet) => fleet.manifest('web-1', { fleet: { name: 'other.example.org', rootVersion: 1 } }),
    ],
    [
      'E_ROOT_VERSION',
      (fleet) => fleet.manifest('web-1', { fleet: { name: FIRST.fleet, rootVersion: 2 } }),
    ],
    ['E_EPOCH', (fleet) => fleet.manifest('web-1', { epoch: 2 })],
    ['E_SEQUENCE_OLDER', (fleet) => fleet.manifest('web-1', { sequence: 1, previous: null })],
    [
      'E_SEQUENCE_CONFLICT',
      (fleet) => fleet.manifest('web-1', { sequence: 2, emergency: true, previous: null }),
    ],
    [
      'E_AUDIT_PREVIOUS',
      (fleet) =>
        fleet.manifest('web-1', {
          sequence: 9,
          previous: { epoch: 1, sequence: 8, sha256: 'ab'.repeat(32) },
        }),
    ],
    ['E_APPROVAL_MISSING', (fleet) => fleet.manifest('gate-1')],
  ];
  for (const [code, make] of cases) {
    const fleet = new Fleet();
    fleet.publish('web-1');
    fleet.publish('web-1');
    const entry = make(fleet);
    fleet.append([entry]);
    const found = await fleet.irregular();
    assert.ok(
      found.some(([one]) => one === code),
      `${code}: ${JSON.stringify(found)}`,
    );
    assert.ok(
      found.every(([, index]) => index === fleet.log.size - 2),
      `${code}: ${JSON.stringify(found)}`,
    );
    // What follows is judged as if nothing had been.
    const more = found.map(([one]) => one).filter((one) => one !== code);
    assert.deepEqual(
      more.filter((one) => one !== 'E_AUDIT_PREVIOUS'),
      [],
      code,
    );
  }
});

test('approvals: too few keys, another batch, none at hand, over, of another epoch', async () => {
  const approved = async (change: (fleet: Fleet, digest: string) => void) => {
    const fleet = new Fleet();
    const gate = fleet.manifest('gate-1');
    const entry = fleet.log.hosts.get('gate-1');
    fleet.log.hosts.delete('gate-1');
    change(fleet, fleet.last.get('gate-1')?.sha256 ?? '');
    if (entry !== undefined) fleet.log.hosts.set('gate-1', entry);
    fleet.append([gate]);
    return (await fleet.irregular()).map(([code]) => code);
  };
  const both = [SECRETS.release, secretKey(12)];
  assert.deepEqual(await approved((fleet, digest) => fleet.approve([digest], ...both)), []);
  assert.deepEqual(await approved((fleet, digest) => fleet.approve([digest], SECRETS.release)), [
    'E_APPROVAL_MISSING',
  ]);
  assert.deepEqual(await approved((fleet, digest) => fleet.approve([digest], SECRETS.director)), [
    'E_APPROVAL_SIGNATURE',
    'E_APPROVAL_MISSING',
  ]);
  assert.deepEqual(await approved((fleet) => fleet.approve(['ab'.repeat(32)], ...both)), [
    'E_APPROVAL_MISSING',
  ]);
  assert.deepEqual(
    await approved((fleet, digest) => {
      fleet.approve(['ab'.repeat(32)], ...both);
      fleet.batches.set(fleet.log.size - 2, [digest]);
    }),
    ['E_APPROVAL_FORM', 'E_APPROVAL_MISSING'],
  );
  assert.deepEqual(
    await approved((fleet, digest) => {
      fleet.approve([digest], ...both);
      fleet.batches.clear();
    }),
    ['E_APPROVAL_FORM', 'E_APPROVAL_MISSING'],
  );
});

test('snapshots: hosts left out, of another root, miscounted, missing at the end', async () => {
  const hidden = new Fleet();
  hidden.publish('web-1');
  const before = hidden.log.hosts.get('web-1');
  const second = hidden.manifest('web-1');
  if (before !== undefined) hidden.log.hosts.set('web-1', before);
  hidden.append([second]);
  assert.deepEqual(await hidden.irregular(), [['E_AUDIT_SNAPSHOT', hidden.log.size - 1]]);

  const mixed = new Fleet();
  mixed.log.publish([mixed.manifest('web-1')], { version: 2, sha256: 'ab'.repeat(32) });
  assert.deepEqual(await mixed.irregular(), [['E_AUDIT_SNAPSHOT', mixed.log.size - 1]]);

  const skipping = new Fleet();
  skipping.log.snapshot({ version: 1, sha256: 'ab'.repeat(32) });
  skipping.publish('web-1');
  assert.deepEqual(await skipping.irregular(), [['E_AUDIT_SNAPSHOT', skipping.log.size - 1]]);

  const open = new Fleet();
  open.log.leaves.push(Buffer.from(open.manifest('web-1')));
  assert.deepEqual(await open.irregular(), [['E_AUDIT_SNAPSHOT', open.log.size - 1]]);
});

test('roots: a log that begins with another, one that skips a version, keys that were revoked', async () => {
  const fleet = honest();
  const other = makeRoot({ maxAge: 60 });
  await assert.rejects(auditLog(fleet.source(), signRoot(other), pool), { code: 'E_ROOT_CHAIN' });

  const skipping = new Fleet();
  skipping.rotate({ version: 3 });
  const found = await skipping.irregular();
  assert.deepEqual(found[0], ['E_ROOT_CHAIN', 2]);

  const revoking = new Fleet();
  revoking.publish('web-1');
  const stolen = revoking.publish('web-2');
  revoking.rotate({
    roles: { ...FIRST.roles, director: { keys: [publicKey(13)], threshold: 1 } },
    revoked: [{ key: publicKey(3), notAfterIndex: stolen - 1 }],
  });
  assert.deepEqual(await revoking.irregular(), [['E_AUDIT_REVOKED', stolen]]);
});

test('entries that are nothing, and a checkpoint of another tree', async () => {
  const fleet = new Fleet();
  fleet.append([
    'what is this?',
    signEnvelope('text/plain', Buffer.from('{}'), [SECRETS.director]),
  ]);
  const codes = (await fleet.irregular()).map(([code, index]) => [code, index]);
  assert.deepEqual(codes, [
    ['E_ENVELOPE', 2],
    ['E_MANIFEST_FORM', 3],
  ]);
  const lying = honest();
  const source = lying.source();
  const leaves = [...lying.log.leaves];
  leaves[3] = Buffer.from(leaves[5] ?? []);
  const changed = { ...source, bundle: async () => formatBundle(leaves) };
  const { irregularities } = await auditLog(changed, signRoot(FIRST), pool);
  assert.ok(irregularities.some(({ code }) => code === 'E_AUDIT_LOG'));
  await assert.rejects(auditLog({ ...source, bundle: async () => null }, signRoot(FIRST), pool), {
    code: 'E_AUDIT_LOG',
  });
  const unsigned = { ...source, checkpoint: source.checkpoint.replace(/— [^ ]+ [^ ]{10}/, '$&A') };
  await assert.rejects(auditLog(unsigned, signRoot(FIRST), pool), /./);
});

test('a log that does not go on from what was verified before', async () => {
  const fleet = honest();
  const seen = fleet.log.checkpoint(fleet.root, LOG_KEYS, NOW);
  fleet.append([]);
  assert.deepEqual((await fleet.audit(seen)).irregularities, []);
  const fork = new Fleet();
  for (let i = 0; i < 12; i++) fork.publish(`web-${i}`);
  const [first] = (await fork.audit(seen)).irregularities;
  assert.equal(first?.code, 'E_FORK');
});

test('a log as a server shows it now is as fresh as hosts want it; a copy may be old', async () => {
  const fleet = honest();
  const codes = async (now: number | null, time: number | null = NOW) => {
    const checkpoint = fleet.log.checkpoint(fleet.root, LOG_KEYS, time);
    const source = { ...fleet.served([]), checkpoint };
    const { irregularities } = await auditLog(source, signRoot(FIRST), pool, null, now);
    return irregularities.map(({ code }) => code);
  };
  const { maxAge } = fleet.root;
  assert.deepEqual(await codes(NOW + maxAge), []);
  assert.deepEqual(await codes(NOW + maxAge + 1), ['E_STALE']);
  assert.deepEqual(await codes(NOW - 301), ['E_FRESHNESS_FUTURE']);
  assert.deepEqual(await codes(NOW, null), ['E_FRESHNESS_MISSING']);
  assert.deepEqual(await codes(null, null), []);
});

test('receipts: of an unknown key, of a clone, with a gap, of what nobody published, of a fork', async () => {
  const reported = async (change: (fleet: Fleet) => void) => {
    const fleet = new Fleet();
    fleet.enrol('web-1', 31);
    fleet.publish('web-1');
    fleet.report('web-1', 31);
    change(fleet);
    const { irregularities } = await fleet.audit();
    return irregularities.map(({ code, host }) => [code, host]);
  };
  assert.deepEqual(await reported((fleet) => fleet.report('web-1', 31)), []);
  assert.deepEqual(await reported((fleet) => fleet.report('web-1', 32)), [
    ['E_SIGNATURE_UNKNOWN_KEY', 'web-1'],
  ]);
  assert.deepEqual(await reported((fleet) => fleet.report('web-9', 32)), [
    ['E_AUDIT_RECEIPT', 'web-9'],
  ]);
  // A clone goes its own way from the first receipt on.
  const clone = (fleet: Fleet) => {
    const chain = fleet.chain.get('web-1');
    fleet.report('web-1', 31);
    if (chain !== undefined) fleet.chain.set('web-1', chain);
    fleet.report('web-1', 31, { exitCode: 1 });
  };
  assert.deepEqual(await reported(clone), [['E_RECEIPT_CHAIN', 'web-1']]);
  const gap = (fleet: Fleet) =>
    fleet.report('web-1', 31, { counter: 3, previous: 'ab'.repeat(32) });
  assert.deepEqual(await reported(gap), [['E_RECEIPT_CHAIN', 'web-1']]);
  const unheard = { epoch: 1, sequence: 9, sha256: 'ab'.repeat(32) };
  assert.deepEqual(await reported((fleet) => fleet.report('web-1', 31, { manifest: unheard })), [
    ['E_AUDIT_RECEIPT', 'web-1'],
  ]);
  const fork = new Fleet();
  fork.publish('web-7');
  const checkpoint = fork.log.checkpoint(fork.root, LOG_KEYS, NOW);
  for (const seen of [{ checkpoint }, { conflict: checkpoint }]) {
    assert.deepEqual(await reported((fleet) => fleet.report('web-1', 31, seen)), [
      ['E_FORK', 'web-1'],
    ]);
  }
  // What no key of the log signed proves nothing against it: the host has made it up.
  const forged = fork.log.checkpoint(fork.root, { ...LOG_KEYS, log: secretKey(40) }, NOW);
  for (const seen of [{ checkpoint: forged }, { conflict: forged }]) {
    assert.deepEqual(await reported((fleet) => fleet.report('web-1', 31, seen)), [
      ['E_AUDIT_RECEIPT', 'web-1'],
    ]);
  }
  // Two that the host could not bring together, of which one goes on after this copy; and an old one of this log.
  for (let i = 0; i < 12; i++) fork.publish(`web-${i}`);
  const longer = fork.log.checkpoint(fork.root, LOG_KEYS, NOW);
  const refused = (conflict: string) => (fleet: Fleet) =>
    fleet.report('web-1', 31, {
      phase: 'refused',
      reason: { code: 'E_FORK', text: 'x' },
      conflict,
    });
  assert.deepEqual(await reported(refused(longer)), [['E_CONSISTENCY', 'web-1']]);
  const older = new Fleet().log.checkpoint(FIRST, LOG_KEYS, NOW);
  assert.deepEqual(await reported(refused(older)), []);
  // A host that was enrolled anew begins a new chain under its new key.
  const anew = (fleet: Fleet) => {
    fleet.enrol('web-1', 33, 31);
    fleet.chain.delete('web-1');
    fleet.report('web-1', 33);
  };
  assert.deepEqual(await reported(anew), []);
  const wrongly = (fleet: Fleet) => fleet.enrol('web-1', 33, 32);
  assert.deepEqual(await reported(wrongly), [['E_AUDIT_ENROLMENT', 'web-1']]);
});

test('receipts of an earlier log are counted, and not judged by this one; later ones are', async () => {
  const before = new Fleet();
  before.enrol('web-1', 30);
  before.publish('web-1');
  before.report('web-1', 30, { checkpoint: null, manifest: null });
  before.report('web-1', 30);
  before.chain.delete('web-1');
  before.enrol('web-1', 31, 30);
  before.report('web-1', 31);
  const old = before.last.get('web-1') ?? null;
  const moved = async (change: (fleet: Fleet) => void = () => {}) => {
    const fleet = new Fleet();
    fleet.rotate(fleet.toLog(2));
    fleet.enrol('web-1', 31);
    for (const [host, last] of before.last) fleet.last.set(host, last);
    fleet.receipts.set('web-1', before.receipts.get('web-1') ?? []);
    for (const [host, last] of before.chain) fleet.chain.set(host, last);
    fleet.report('web-1', 31, { manifest: old });
    fleet.publish('web-1');
    fleet.report('web-1', 31);
    change(fleet);
    const { hosts, irregularities } = await fleet.audit();
    const host = hosts.find((one) => one.host === 'web-1');
    return [host?.receipts, host?.earlier, irregularities.map(({ code }) => code)];
  };
  assert.deepEqual(await moved(), [5, 3, []]);
  // An old manifest that no receipt of the log before named; an old checkpoint after a newer one; another key.
  const unheard = { epoch: 1, sequence: 1, sha256: 'ab'.repeat(32) };
  const checkpoint = before.log.checkpoint(FIRST, LOG_KEYS, NOW);
  assert.deepEqual(await moved((fleet) => fleet.report('web-1', 31, { manifest: unheard })), [
    ...[6, 3, ['E_AUDIT_RECEIPT']],
  ]);
  assert.deepEqual(
    await moved((fleet) => fleet.report('web-1', 31, { manifest: unheard, checkpoint })),
    [6, 3, ['E_AUDIT_RECEIPT']],
  );
  assert.deepEqual(await moved((fleet) => fleet.report('web-1', 30, { checkpoint })), [
    ...[6, 3, ['E_SIGNATURE_UNKNOWN_KEY']],
  ]);
  // A checkpoint that no log key signed makes no earlier log, and in the first log there is none.
  const forged = before.log.checkpoint(FIRST, { ...LOG_KEYS, log: secretKey(40) }, NOW);
  const first = (changes: Partial<Receipt>, to: number) => {
    const fleet = new Fleet();
    if (to > 1) fleet.rotate(fleet.toLog(to));
    fleet.enrol('web-1', 31);
    fleet.report('web-1', 31, { manifest: unheard, ...changes });
    return fleet.irregular();
  };
  const irregular = [['E_AUDIT_RECEIPT', null]];
  assert.deepEqual(await first({ checkpoint: forged }, 2), irregular);
  assert.deepEqual(await first({ checkpoint: null }, 1), irregular);
  assert.deepEqual(await first({ checkpoint: null }, 2), []);
});

test('what a server refused: a receipt, a request for a second successor, and what no key of the host signed', async () => {
  const fleet = new Fleet();
  fleet.enrol('web-1', 31);
  fleet.publish('web-1');
  fleet.report('web-1', 31);
  const request = { fleet: FIRST.fleet, replaces: '1'.repeat(64), token: '2'.repeat(64) };
  const ask = (host: string, key: number, changes = {}) =>
    signTokenRequest({ ...request, host, ...changes }, secretKey(key));
  const codes = async (...refused: string[]) => {
    fleet.conflicts.set('web-1', refused);
    return (await fleet.irregular()).map(([code]) => code);
  };
  assert.deepEqual(await codes(...(fleet.receipts.get('web-1') ?? [])), ['E_RECEIPT_CHAIN']);
  assert.deepEqual(await codes(ask('web-1', 31)), ['E_TOKEN_SUCCESSOR']);
  assert.deepEqual(await codes(ask('web-1', 32)), ['E_SIGNATURE_UNKNOWN_KEY']);
  assert.deepEqual(await codes(ask('web-2', 31)), ['E_HOST_MISMATCH']);
  assert.deepEqual(await codes(ask('web-1', 31, { fleet: 'other.example.org' })), [
    'E_FLEET_MISMATCH',
  ]);
});

test('what a clone left behind is history once its key was replaced, or the host removed', async () => {
  const cloned = () => {
    const fleet = new Fleet();
    fleet.enrol('web-1', 31);
    fleet.publish('web-1');
    fleet.report('web-1', 31);
    const request = { fleet: FIRST.fleet, replaces: '1'.repeat(64), token: '2'.repeat(64) };
    const asked = signTokenRequest({ ...request, host: 'web-1' }, secretKey(31));
    fleet.conflicts.set('web-1', [...(fleet.receipts.get('web-1') ?? []), asked]);
    return fleet;
  };
  const both = ['E_RECEIPT_CHAIN', 'E_TOKEN_SUCCESSOR'];
  const said = async (fleet: Fleet) => {
    const { irregularities, settled } = await fleet.audit();
    const history = settled.map(({ host, code, saidAt, endedBy }) => [host, code, saidAt, endedBy]);
    return [irregularities.map(({ code }) => code), history];
  };
  assert.deepEqual(await said(cloned()), [both, []]);

  const replaced = cloned();
  replaced.enrol('web-1', 33, 31);
  const by = replaced.log.size - 2;
  const history = [
    ['web-1', 'E_RECEIPT_CHAIN', NOW + 10, by],
    ['web-1', 'E_TOKEN_SUCCESSOR', null, by],
  ];
  assert.deepEqual(await said(replaced), [[], history]);
  // The old key once more; and what the new one signs.
  replaced.enrol('web-1', 31, 33);
  assert.deepEqual(await said(replaced), [both, []]);
  const again = cloned();
  again.enrol('web-1', 33, 31);
  again.chain.delete('web-1');
  again.report('web-1', 33);
  again.conflicts.set('web-1', (again.receipts.get('web-1') ?? []).slice(1));
  assert.deepEqual(await said(again), [['E_RECEIPT_CHAIN'], []]);

  // What it shows against the log is held against that, whoever signed it.
  const fork = new Fleet();
  fork.publish('web-7');
  const forked = cloned();
  forked.report('web-1', 31, { conflict: fork.log.checkpoint(fork.root, LOG_KEYS, NOW) });
  const [first = '', second = ''] = forked.receipts.get('web-1') ?? [];
  forked.receipts.set('web-1', [first]);
  forked.conflicts.set('web-1', [second]);
  forked.enrol('web-1', 33, 31);
  assert.deepEqual((await said(forked))[0], ['E_FORK']);

  const removed = cloned();
  const ended = removed.remove('web-1');
  const past = history.map(([host, code, saidAt]) => [host, code, saidAt, ended]);
  assert.deepEqual(await said(removed), [[], past]);

  // A log that was begun since tells the key that is in use, and not those before it.
  const moved = cloned();
  const conflicts = moved.conflicts.get('web-1') ?? [];
  const later = new Fleet();
  later.rotate(later.toLog(2));
  later.enrol('web-1', 33);
  later.conflicts.set('web-1', conflicts);
  assert.deepEqual(await said(later), [
    [],
    [
      ['web-1', 'E_RECEIPT_CHAIN', NOW + 10, null],
      ['web-1', 'E_TOKEN_SUCCESSOR', null, null],
    ],
  ]);
  const first1 = new Fleet();
  first1.enrol('web-1', 33);
  first1.conflicts.set('web-1', conflicts);
  const unknown = ['E_SIGNATURE_UNKNOWN_KEY', 'E_SIGNATURE_UNKNOWN_KEY'];
  assert.deepEqual(await said(first1), [unknown, []]);
});

test('a long log, in many bundles, whose hosts change one by one', async () => {
  const fleet = new Fleet();
  for (let i = 0; i < 200; i++) fleet.publish(`web-${(i * 7) % 23}`);
  const { hosts, irregularities, log } = await fleet.audit();
  assert.deepEqual(irregularities, []);
  assert.equal(log.size, 402);
  assert.equal(
    hosts.reduce((sum, { told }) => sum + told.length, 0),
    200,
  );
});

test('files of a bundle in another order, or that do not belong there, are refused', async () => {
  const fleet = honest();
  const { checkpoint } = fleet.source();
  const file = (name: string, text: string) => ({ name, data: Buffer.from(text) });
  const open = (...files: { name: string; data: Uint8Array }[]) =>
    openBundleSource(
      (async function* () {
        yield* files;
      })(),
    );
  for (const files of [
    [],
    [file('VERIFY.txt', '')],
    [file('log/tile/entries/000', '')],
    [file('etc/passwd', '')],
    [file('batch/01.txt', ''), file('log/checkpoint', checkpoint)],
    [file('receipts/web-1/0.jsonl', ''), file('log/checkpoint', checkpoint)],
    // A closure file that is another than it is named as.
    [file(`closure/${'ab'.repeat(32)}.fp`, 'x'), file('log/checkpoint', checkpoint)],
  ]) {
    await assert.rejects(open(...files), { code: 'E_BUNDLE_FORM' });
  }
  const source = await open(file('log/checkpoint', checkpoint), file('log/tile/entries/001', ''));
  await assert.rejects(source.bundle(0, 256), { code: 'E_BUNDLE_FORM' });
  for (const names of [['WEB/0'], ['web-1/1'], ['web-1/0', 'web-1/2'], ['web-1/0', 'x']]) {
    const receipts = names.map((name) => file(`receipts/${name}.jsonl`, ''));
    const after = await open(file('log/checkpoint', checkpoint), ...receipts);
    const reading = async () => {
      for await (const { envelopes } of after.receipts()) for await (const _ of envelopes);
    };
    await assert.rejects(reading, { code: 'E_BUNDLE_FORM' }, names.join());
  }
});

test('batches are held until their approvals come: only so large a one, and so many together', async () => {
  const { checkpoint } = honest().source();
  let given = 0;
  const bundle = async function* (batches: number, bytes: number) {
    const data = new Uint8Array(bytes);
    for (given = 0; given < batches; given++) yield { name: `batch/${given}.txt`, data };
    yield { name: 'log/checkpoint', data: Buffer.from(checkpoint) };
  };
  const most = 100_000 * 65;
  await openBundleSource(bundle(20, most));
  await assert.rejects(openBundleSource(bundle(1, most + 1)), /more than 6500000 bytes/);
  for (const [batches, bytes] of [
    [1000, most],
    [1_000_000, 0],
  ] as const) {
    await assert.rejects(openBundleSource(bundle(batches, bytes)), { code: 'E_BUNDLE_FORM' });
    assert.ok(given * (bytes + 512) <= MOST_BATCHES, `it went on to ${given}`);
  }
  // The tar file is not even read so far.
  assert.equal((AUDIT_LIMITS.fileBytes as (name: string) => number)('batch/7.txt'), most);
});

test('receipts come in files of a part each, and one host after another', async () => {
  const { checkpoint } = honest().source();
  const files = [
    { name: 'log/checkpoint', data: Buffer.from(checkpoint) },
    { name: 'receipts/a/0.jsonl', data: Buffer.from('1\n2\n') },
    { name: 'receipts/a/1.jsonl', data: Buffer.from('3\n') },
    { name: 'receipts/b/0.jsonl', data: Buffer.from('4\n') },
  ];
  for (const isRead of [true, false]) {
    const source = await openBundleSource(
      (async function* () {
        yield* files;
      })(),
    );
    const found: string[] = [];
    for await (const { host, envelopes } of source.receipts()) {
      found.push(host);
      if (isRead) for await (const one of envelopes) found.push(one);
    }
    assert.deepEqual(found, isRead ? ['a', '1', '2', '3', 'b', '4'] : ['a', 'b']);
  }
});

test('a log of nothing but rubbish: so much is listed, the rest is counted', async () => {
  const fleet = new Fleet();
  fleet.append(Array.from({ length: 10_100 }, () => '?'));
  const { irregularities, moreIrregularities } = await fleet.audit();
  assert.deepEqual([irregularities.length, moreIrregularities], [10_000, 100]);
});
