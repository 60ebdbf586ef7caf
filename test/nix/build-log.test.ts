// BuildLog against lines as Nix 2.8 wrote them, and the error texts of newer versions.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BuildLog } from '../../src/nix/build-log.ts';

const DEP = '/nix/store/0ccp5ig94r6vlmgqqcvl3hq4kzw3v8ix-dep.drv';
const TOP = '/nix/store/1yhgh9hf5bkr52qvm4q5mm3gpqzm6hmm-top.drv';

const line = (entry: object): string => `@nix ${JSON.stringify(entry)}`;
const start = (id: number, drv: string): string =>
  line({ action: 'start', fields: [drv, '', 1, 1], id, level: 3, text: '', type: 105 });
const logged = (id: number, text: string): string =>
  line({ action: 'result', fields: [text], id, type: 101 });
const stop = (id: number): string => line({ action: 'stop', id });
const error = (msg: string): string => line({ action: 'msg', level: 0, msg });

test('a build becomes events', () => {
  const log = new BuildLog();
  assert.deepEqual(log.push(start(7, TOP)), { type: 'building', drv: TOP });
  assert.deepEqual(log.push(logged(7, '\u001b[1mhello\u001b[0m')), {
    type: 'log',
    drv: TOP,
    line: 'hello',
  });
  assert.deepEqual(log.push(stop(7)), { type: 'built', drv: TOP });
});

test('counts and downloads become events', () => {
  const log = new BuildLog();
  assert.equal(log.push(line({ action: 'start', id: 1, level: 0, text: '', type: 104 })), null);
  assert.deepEqual(log.push(line({ action: 'result', fields: [1, 4, 2, 0], id: 1, type: 105 })), {
    type: 'progress',
    done: 1,
    expected: 4,
    running: 2,
    failed: 0,
  });
  const fetch = {
    action: 'start',
    fields: [TOP, 'http://c'],
    id: 2,
    level: 0,
    text: '',
    type: 108,
  };
  assert.deepEqual(log.push(line(fetch)), { type: 'fetching', path: TOP, from: 'http://c' });
});

const texts = new Map([
  [
    '2.8',
    [
      `\u001b[31;1merror:\u001b[0m builder for '\u001b[35;1m${DEP}\u001b[0m' failed with exit code 3`,
    ],
  ],
  [
    '2.8 with what waited for it',
    [
      `error: builder for '${DEP}' failed with exit code 3;`,
      `error: 1 dependencies of derivation '${TOP}' failed to build`,
    ],
  ],
  [
    '2.36',
    [
      `error: Cannot build '${TOP}'.\n       Reason: 1 dependency failed.\n       Output paths: x`,
      `error: Cannot build '${DEP}'.\n       Reason: builder failed with exit code 3.`,
    ],
  ],
  [
    'a hash mismatch',
    [`error: hash mismatch in fixed-output derivation '${DEP}':\n  specified: x`],
  ],
]);
for (const [name, errors] of texts) {
  test(`the failed derivation is found: ${name}`, () => {
    const log = new BuildLog();
    log.push(start(1, DEP));
    for (let i = 1; i <= 30; i += 1) log.push(logged(1, `line ${i}`));
    log.push(stop(1));
    for (const text of errors) log.push(error(text));
    const { drv, lines } = log.failure();
    assert.equal(drv, DEP);
    assert.equal(lines.length, 20);
    assert.equal(lines[0], 'line 11');
    assert.equal(lines.at(-1), 'line 30');
  });
}

test('without a log, what Nix said is shown', () => {
  const log = new BuildLog();
  log.push(error(`error: a 'riscv64-linux' is required to build '${TOP}'`));
  assert.deepEqual(log.failure(), {
    drv: null,
    lines: [`error: a 'riscv64-linux' is required to build '${TOP}'`],
  });
});

test('a line that is no JSON log is a message, a broken one is nothing', () => {
  const log = new BuildLog();
  assert.deepEqual(log.push('warning: x'), { type: 'message', level: 3, text: 'warning: x' });
  for (const broken of ['@nix {', '@nix null', '@nix []', '@nix {"action":"start"}', '@nix 1']) {
    assert.equal(log.push(broken), null, broken);
  }
});

test('memory does not grow with the number of derivations: only the newest logs are kept', () => {
  const log = new BuildLog();
  const drv = (id: number): string => TOP.replace('.drv', `-${id}.drv`);
  for (let id = 1; id <= 5_000; id += 1) {
    log.push(start(id, drv(id)));
    log.push(logged(id, `log of ${id}`));
    log.push(stop(id));
  }
  log.push(error(`error: builder for '${drv(1)}' failed with exit code 1`));
  const said = [`error: builder for '${drv(1)}' failed with exit code 1`];
  assert.deepEqual(log.failure(), { drv: drv(1), lines: said });
});

test('the log of what failed is kept while others go on', () => {
  const log = new BuildLog();
  log.push(start(1, DEP));
  log.push(logged(1, 'why'));
  log.push(stop(1));
  log.push(error(`error: builder for '${DEP}' failed with exit code 1`));
  for (let id = 2; id <= 5_000; id += 1) {
    log.push(start(id, `${id}.drv`));
    log.push(stop(id));
  }
  assert.deepEqual(log.failure(), { drv: DEP, lines: ['why'] });
});
