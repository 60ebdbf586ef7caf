// What the agent makes of /sys and of the bus's words. busctl here is a script that answers as the real one does
// (test/systemd/situation.test.ts asks that): it shows how words are read, and what is not taken for an answer.
import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Question, Situation } from '../../src/agent/policy.ts';
import { readSituation } from '../../src/agent/situation.ts';
import { withPrograms } from '../helpers/programs-on-path.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOWHERE = { supplies: '/nonexistent', patience: 20_000 };

/** What one question is answered where busctl is this script. */
async function ask<Q extends Question>(
  question: Q,
  script: string,
  patience = 20_000,
): Promise<Situation[Q]> {
  const places = { ...NOWHERE, patience };
  return (await withPrograms({ busctl: script }, () => readSituation([question], places)))[
    question
  ];
}

const unknownOf = (answer: unknown): string =>
  (answer as { unknown?: string } | undefined)?.unknown ?? `known: ${JSON.stringify(answer)}`;

const AC = { type: 'Mains', online: '1' };
const UNPLUGGED = { type: 'Mains', online: '0' };
const battery = (capacity: string, status = 'Discharging') => ({
  type: 'Battery',
  present: '1',
  capacity,
  status,
});

test('batteries: their mean while nothing else brings power, and only the machine’s own', async (t) => {
  const top = await temporaryDir(t);
  let number = 0;
  const read = async (...supplies: Record<string, string>[]) => {
    const dir = join(top, String(number++));
    await mkdir(dir);
    for (const [i, files] of supplies.entries()) {
      await mkdir(join(dir, `supply-${i}`));
      for (const [name, text] of Object.entries(files)) {
        await writeFile(join(dir, `supply-${i}`, name), `${text}\n`);
      }
    }
    return (await readSituation(['battery'], { ...NOWHERE, supplies: dir })).battery;
  };
  const usb = (online: string) => ({ type: 'USB', online });
  const mouse = { ...battery('5'), scope: 'Device' };
  assert.equal(await read(), null);
  assert.equal(await read(AC), null);
  assert.equal(await read(UNPLUGGED, battery('37')), 37);
  assert.equal(await read(battery('37')), 37);
  assert.equal(await read(UNPLUGGED, battery('90'), battery('20')), 55);
  // Slowly, on a weak charger: the machine is fed.
  assert.equal(await read(AC, battery('37')), null);
  assert.equal(await read(UNPLUGGED, usb('1'), battery('37')), null);
  assert.equal(await read(UNPLUGGED, usb('0'), battery('37', 'Unknown')), 37);
  for (const status of ['Charging', 'Full', 'Not charging']) {
    assert.equal(await read(battery('37', status)), null);
  }
  assert.equal(await read(battery('37', 'Full'), battery('11')), 24);
  assert.equal(await read(mouse), null);
  assert.equal(await read(UNPLUGGED, mouse, battery('80')), 80);
  assert.equal(await read({ ...battery('0'), present: '0' }), null);
  assert.equal(await read({ ...battery('12'), type: 'UPS' }), 12);
  assert.equal((await readSituation(['battery'], NOWHERE)).battery, null);
  // What is no answer.
  assert.match(unknownOf(await read(battery('37', 'Unknown'))), /the battery is Unknown/);
  for (const odd of ['', '-5', '1000', '37.5', 'full']) {
    assert.match(unknownOf(await read(battery(odd))), /says no capacity/, odd);
  }
  const { capacity: _none, ...without } = battery('1');
  assert.match(unknownOf(await read(without)), /says no capacity/);
  const file = { ...NOWHERE, supplies: join(top, '0/file') };
  await writeFile(file.supplies, '');
  assert.match(unknownOf((await readSituation(['battery'], file)).battery), /ENOTDIR/);
});

const HAS = (has: boolean, word: number): string =>
  `case "$*" in
  *NameHasOwner*) echo '{"type":"b","data":[${has}]}';;
  *NetworkManager*Metered) echo '{"type":"u","data":${word}}';;
  *) exit 9;; esac`;

test('metered: NetworkManager’s word, also where it guessed; no NetworkManager, no metered line', async () => {
  assert.equal(await ask('metered', HAS(false, 1)), false);
  const said: unknown[] = [];
  for (const word of [1, 2, 3, 4]) said.push(await ask('metered', HAS(true, word)));
  assert.deepEqual(said, [true, false, true, false]);
  assert.match(unknownOf(await ask('metered', HAS(true, 0))), /NetworkManager does not know/);
  assert.match(unknownOf(await ask('metered', HAS(true, 7))), /NetworkManager does not know/);
});

const quoted = (value: unknown): string => `'${JSON.stringify(value)}'`;
const inhibitors = (...rows: unknown[][]): string =>
  `echo ${quoted({ type: 'a(ssssuu)', data: [rows] })}`;

test('inhibitors: what blocks shutdown or sleep; what delays, or blocks other things, does not', async () => {
  assert.deepEqual(await ask('inhibitors', inhibitors()), []);
  const found = await ask(
    'inhibitors',
    inhibitors(
      ['sleep', 'ModemManager', 'x', 'delay', 0, 1],
      ['handle-lid-switch:idle', 'gnome', 'x', 'block', 1000, 2],
      ['shutdown:sleep', 'a backup', 'x', 'block', 0, 3],
      ['sleep', 'a film', 'x', 'block', 1000, 4],
      ['idle:shutdown', 'a backup', 'x', 'block-weak', 0, 5],
      ['shutdown', '', 'x', 'block', 0, 6],
    ),
  );
  assert.deepEqual(found, ['a backup', 'a film', 'a program']);
});

const SESSION = '/org/freedesktop/login1/session';

/** Sessions of logind: id → user, class, state. */
function sessions(all: Record<string, readonly [string, string, string]>): string {
  const ids = Object.entries(all);
  const rows = ids.map(([id, [user]]) => [id, 1000, user, 'seat0', `${SESSION}/${id}`]);
  const cases = ids.map(
    ([id, [, kind, state]]) =>
      `*${SESSION}/${id}\\ *Class\\ State) echo ${quoted({ type: 's', data: kind })}; echo ${quoted({ type: 's', data: state })};;`,
  );
  const list = `*ListSessions) echo ${quoted({ type: 'a(susso)', data: [rows] })};;`;
  return `case "$*" in\n${list}\n${cases.join('\n')}\n*) exit 9;; esac`;
}

test('sessions: people who are logged in, each once; no login screen, nothing in the background', async () => {
  assert.deepEqual(await ask('sessions', sessions({})), []);
  const found = await ask(
    'sessions',
    sessions({
      c1: ['gdm', 'greeter', 'active'],
      c2: ['bob', 'user', 'online'],
      c3: ['alice', 'user', 'active'],
      c4: ['alice', 'user-early', 'online'],
      c5: ['carol', 'background', 'active'],
      c6: ['dave', 'manager', 'active'],
      c7: ['erin', 'user', 'closing'],
    }),
  );
  assert.deepEqual(found, ['alice', 'bob']);
});

test('what is no answer is unknown, with why', async () => {
  for (const [script, pattern] of [
    [
      'echo "Failed to connect to bus: No such file" >&2; exit 1',
      /busctl: Failed to connect to bus/,
    ],
    ['exit 0', /busctl answers 0 times/],
    ['echo yes', /JSON/],
    ['echo null', /answers undefined, not/],
    [`echo ${quoted({ type: 'as', data: [] })}`, /answers as, not a\(s/],
    [`echo ${quoted({ type: 'a(ssssuu)', data: [[['a']]] })}`, /other rows|not a\(susso\)/],
    [`echo ${quoted({ type: 'a(susso)', data: {} })}`, /no list|not a\(ssssuu\)/],
    [
      `echo ${quoted({ type: 'a(susso)', data: [[['1', 0, 'a', '', '/etc']]] })}`,
      /no session|not a/,
    ],
    [`${inhibitors()}; ${inhibitors()}`, /answers 2 times|not a\(susso\)/],
  ] as const) {
    for (const question of ['inhibitors', 'sessions'] as const) {
      assert.match(unknownOf(await ask(question, script)), pattern, `${question}: ${script}`);
    }
    assert.match(unknownOf(await ask('metered', script)), /busctl|JSON/);
  }
  const one = sessions({ c1: ['a', 'user', 'active'] });
  const gone = one.replace(/\*\/org.*Class.*;;/, '*Class*) echo "Unknown object" >&2; exit 1;;');
  assert.match(unknownOf(await ask('sessions', gone)), /Unknown object/);
  // It hangs; it floods.
  assert.match(unknownOf(await ask('sessions', 'exec sleep 60', 300)), /does not answer/);
  assert.match(unknownOf(await ask('metered', 'exec yes')), /busctl: /);
  const none = () => readSituation(['sessions'], NOWHERE);
  assert.match(unknownOf((await withPrograms({}, none, true)).sessions), /ENOENT/);
});

test('nothing is asked that nobody wants to know, and nobody’s secret is handed on', async (t) => {
  const log = join(await temporaryDir(t), 'log');
  const script = `echo called >>${log}; env >>${log}`;
  assert.deepEqual(await withPrograms({ busctl: script }, () => readSituation([], NOWHERE)), {});
  await assert.rejects(readFile(log), { code: 'ENOENT' });
  process.env['FLEET_TOKEN'] = 'secret';
  try {
    await withPrograms({ busctl: script }, () => readSituation(['sessions'], NOWHERE));
  } finally {
    delete process.env['FLEET_TOKEN'];
  }
  const text = await readFile(log, 'utf8');
  assert.match(text, /called/);
  assert.doesNotMatch(text, /FLEET_TOKEN/);
});
