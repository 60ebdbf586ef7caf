// What the agent makes of systemctl's words. The program here is a script, as no systemd runs where these tests do:
// it shows how words are read, not that systemd says them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { placeAt } from '../../src/agent/place.ts';
import { compareUnits, failedUnits, hasSystemd, inactiveUnits } from '../../src/agent/units.ts';
import { withPrograms } from '../helpers/programs-on-path.ts';

/** Does `work` where systemctl is this script (null: there is none). */
const withSystemctl = <T>(script: string | null, work: () => Promise<T>): Promise<T> =>
  script === null ? withPrograms({}, work, true) : withPrograms({ systemctl: script }, work);

test('failed units are the first words of the lines, with or without a mark before them', async () => {
  const list = `cat <<'X'
b.service                loaded failed failed The second one
● a@x\\x2dy.service loaded failed failed The first one

X`;
  const found = await withSystemctl(list, () => failedUnits());
  assert.deepEqual(found, ['a@x\\x2dy.service', 'b.service'].sort());
  assert.deepEqual(await withSystemctl('exit 0', () => failedUnits()), []);
});

test('what is asked, and with which environment', async () => {
  process.env['FLEET_TOKEN'] = 'secret';
  try {
    const script = 'echo "$*" | tr " " "_"; env | grep -c FLEET_TOKEN; echo "$LC_ALL"';
    const said = await withSystemctl(script, () => failedUnits());
    const asked = 'list-units_--state=failed_--plain_--full_--no-legend_--no-pager';
    assert.deepEqual(said, [asked, '0', 'C'].sort());
  } finally {
    delete process.env['FLEET_TOKEN'];
  }
});

test('units that are not active, in the order they are asked for', async () => {
  const states =
    'shift 2; for unit; do case $unit in a*) echo active;; r*) echo reloading;; *) echo $unit;; esac; done; exit 3';
  const ask = (...units: string[]) => withSystemctl(states, () => inactiveUnits(units));
  assert.deepEqual(await ask('a.service', 'r.service'), []);
  assert.deepEqual(await ask('failed', 'a.service', 'inactive', '-.mount'), [
    'failed is failed',
    'inactive is inactive',
    '-.mount is -.mount',
  ]);
  // A pattern would ask about others.
  assert.deepEqual(await ask('a*.service'), ['a*.service is no name of a unit']);
});

test('a systemctl that fails, is silent, hangs or is not there says nothing', async () => {
  for (const [script, pattern] of [
    ['echo "Failed to connect to bus: no" >&2; exit 1', /Failed to connect to bus: no$/],
    ['sleep 600', /does not answer/],
    [null, /ENOENT/],
  ] as const) {
    const patience = script === 'sleep 600' ? 200 : 20_000;
    const failing = withSystemctl(script, () => failedUnits(patience));
    await assert.rejects(failing, { message: pattern });
    const active = withSystemctl(script, () => inactiveUnits(['a.service'], patience));
    await assert.rejects(active, { message: pattern });
  }
  // Fewer words than were asked for.
  const few = withSystemctl('echo active', () => inactiveUnits(['a.service', 'b.service']));
  await assert.rejects(few, /systemctl is-active/);
});

test('before and after are compared both ways, as much of it as a receipt holds', () => {
  assert.deepEqual(compareUnits(['a', 'b'], ['b', 'c']), { added: ['c'], removed: ['a'] });
  const many = Array.from({ length: 100 }, (_, i) => `u${i}.service`);
  const { added, removed } = compareUnits(many, []);
  assert.deepEqual([added.length, removed.length], [0, 64]);
});

test('there is nobody to ask about a chroot store', async () => {
  assert.equal(await hasSystemd(placeAt('/somewhere')), false);
});
