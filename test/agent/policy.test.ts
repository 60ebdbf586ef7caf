// When an update may begin: every combination of rules, wishes and situation, held against the causes as SPEC §5.6
// lists them.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import {
  type Action,
  NO_WISHES,
  type Plea,
  questionsOf,
  type Situation,
  WAITS,
  waitByClock,
  waitBySituation,
} from '../../src/agent/policy.ts';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { refuses } from '../helpers/trust.ts';

const HOUR = 3600;
/** A Monday, 2026-03-02T12:00:00Z. */
const NOW = Date.parse('2026-03-02T12:00:00Z') / 1000;
const OPEN = 'Mon 11:00-13:00 UTC';
const CLOSED = 'Mon 13:00-14:00 UTC';
const UNKNOWN = { unknown: 'nobody answers' };
const ACTIONS = ['fetch', 'switch', 'reboot'] as const;
const BOTH = [false, true] as const;
const WELL: Situation = { battery: null, metered: false, inhibitors: [], sessions: [] };

function plea(changes: Partial<Omit<Plea, 'rules'>>, rules: Partial<Activation> = {}): Plea {
  const given = { ...DEFAULT_ACTIVATION, reboot: 'allowed' as const, ...rules };
  const rest = { action: 'switch' as const, wishes: NO_WISHES, emergency: false, readySince: NOW };
  return { ...rest, now: NOW, ...changes, rules: given };
}

const decide = (one: Plea, situation: Situation) =>
  waitByClock(one) ?? waitBySituation(one, situation);

const codeOf = (one: Plea, situation: Situation = WELL) =>
  decide(one, situation)?.attempt.reason?.code ?? 'go';

function* product<T extends Record<string, readonly unknown[]>>(
  axes: T,
): Generator<{ [K in keyof T]: T[K][number] }> {
  const [first, ...rest] = Object.entries(axes);
  if (first === undefined) return yield {} as { [K in keyof T]: T[K][number] };
  for (const value of first[1]) {
    for (const more of product(Object.fromEntries(rest))) {
      yield { [first[0]]: value, ...more } as { [K in keyof T]: T[K][number] };
    }
  }
}

/** The first cause that holds, or go. */
const first = (causes: Readonly<Record<string, boolean>>): string =>
  Object.entries(causes).find(([, holds]) => holds)?.[0] ?? 'go';

test('rules, wishes and the time: every combination', () => {
  let count = 0;
  for (const c of product({
    action: ACTIONS,
    emergency: BOTH,
    applyNow: BOTH,
    ask: [undefined, ...BOTH],
    maxHours: [null, 2, 48],
    deferredUntil: [null, NOW - 1, NOW, NOW + 60, NOW + 1000 * HOUR],
    readySince: [NOW, NOW - 2 * HOUR + 1, NOW - 2 * HOUR, NOW - 24 * HOUR + 1, NOW - 48 * HOUR],
    windows: [[], [OPEN], [CLOSED, OPEN], [CLOSED]],
    mode: ['switch', 'boot'] as const,
    reboot: ['never', 'allowed', 'required'] as const,
  })) {
    const { action, emergency, applyNow, ask, maxHours, deferredUntil, readySince } = c;
    const { windows, mode, reboot } = c;
    const wishes = { deferredUntil, applyNow };
    const deferral = maxHours === null ? null : { maxHours };
    const rules = { windows, mode, reboot, deferral, ...(ask === undefined ? {} : { ask }) };
    const isFree = action === 'fetch' || emergency || applyNow;
    const deadline = readySince + (maxHours ?? 24) * HOUR;
    const isBefore = (time: number | null): boolean => time !== null && NOW < time;
    const expected = first({
      'reboot-never': action === 'reboot' && reboot === 'never',
      deferred: !isFree && maxHours !== null && isBefore(deferredUntil) && isBefore(deadline),
      asked: !isFree && ask === true && isBefore(deadline),
      'window-closed': !isFree && windows.join() === CLOSED,
    });
    const one = plea({ action, emergency, wishes, readySince }, rules);
    assert.equal(codeOf(one), expected, JSON.stringify(c));
    count++;
  }
  assert.equal(count, 3 * 2 * 2 * 3 * 3 * 5 * 5 * 4 * 2 * 3);
});

test('the situation: every combination', () => {
  const batteries = [undefined, null, 29, 30, UNKNOWN];
  const names = [undefined, [], ['alice'], UNKNOWN];
  for (const c of product({
    action: ACTIONS,
    emergency: BOTH,
    applyNow: BOTH,
    mode: ['switch', 'boot'] as const,
    reboot: ['allowed', 'required'] as const,
    batteryBelow: [undefined, 30],
    meteredCounts: [undefined, true],
    inhibitorsCount: BOTH,
    sessionsCount: [undefined, true],
    battery: batteries,
    metered: [undefined, ...BOTH, UNKNOWN],
    inhibitors: names,
    sessions: names,
  })) {
    const { action, emergency, applyNow, mode, reboot, batteryBelow } = c;
    const { battery, metered, inhibitors, sessions } = c;
    const waitWhile = {
      ...(batteryBelow === undefined ? {} : { batteryBelow }),
      ...(c.meteredCounts === undefined ? {} : { metered: c.meteredCounts }),
      inhibitors: c.inhibitorsCount,
      ...(c.sessionsCount === undefined ? {} : { sessions: c.sessionsCount }),
    };
    const isSwitch = action === 'switch';
    const isReboot = action === 'reboot';
    const changesWhatRuns = isSwitch && mode === 'switch' && reboot !== 'required';
    const matters = {
      battery: batteryBelow !== undefined && (isSwitch || isReboot),
      metered: c.meteredCounts === true && action === 'fetch' && !applyNow,
      inhibitors: isReboot || (changesWhatRuns && c.inhibitorsCount === true),
      sessions: isReboot || (changesWhatRuns && c.sessionsCount === true && !applyNow),
    };
    const isOff = (fact: unknown): boolean => fact === undefined || fact === UNKNOWN;
    const expected = emergency
      ? 'go'
      : first({
          'metered-unknown': matters.metered && isOff(metered),
          metered: matters.metered && metered === true,
          'battery-unknown': matters.battery && isOff(battery),
          'battery-low': matters.battery && battery === 29,
          'inhibitors-unknown': matters.inhibitors && isOff(inhibitors),
          inhibited: matters.inhibitors && Array.isArray(inhibitors) && inhibitors.length > 0,
          'sessions-unknown': matters.sessions && isOff(sessions),
          'logged-in': matters.sessions && Array.isArray(sessions) && sessions.length > 0,
        });
    const wishes = { deferredUntil: null, applyNow };
    const one = plea({ action, emergency, wishes }, { mode, reboot, waitWhile });
    const situation = {
      ...(battery === undefined ? {} : { battery }),
      ...(metered === undefined ? {} : { metered }),
      ...(inhibitors === undefined ? {} : { inhibitors }),
      ...(sessions === undefined ? {} : { sessions }),
    };
    if (codeOf(one, situation) !== expected) {
      assert.equal(codeOf(one, situation), expected, JSON.stringify(c));
    }
    const asked = emergency
      ? []
      : Object.keys(matters).filter((name) => matters[name as 'battery']);
    if (questionsOf(one).sort().join() !== asked.sort().join()) {
      assert.deepEqual(questionsOf(one), asked, JSON.stringify(c));
    }
  }
});

test('a host that says nothing goes at once and asks nothing, but never reboots', () => {
  for (const action of ['fetch', 'switch'] as const) {
    const one: Plea = { ...plea({ action }), rules: DEFAULT_ACTIVATION };
    assert.deepEqual([decide(one, {}), questionsOf(one)], [null, []]);
  }
  const one: Plea = { ...plea({ action: 'reboot', emergency: true }), rules: DEFAULT_ACTIVATION };
  assert.equal(codeOf(one), 'reboot-never');
});

/** One that waits for each cause. */
const CAUSES: readonly [code: keyof typeof WAITS, one: Plea, situation?: Situation][] = [
  ['asked', plea({}, { ask: true })],
  [
    'deferred',
    plea({ wishes: { deferredUntil: NOW + 60, applyNow: false } }, { deferral: { maxHours: 8 } }),
  ],
  ['window-closed', plea({}, { windows: [CLOSED] })],
  ['battery-low', plea({}, { waitWhile: { batteryBelow: 30 } }), { battery: 29 }],
  ['battery-unknown', plea({}, { waitWhile: { batteryBelow: 30 } }), { battery: UNKNOWN }],
  ['inhibited', plea({}, { waitWhile: { inhibitors: true } }), { inhibitors: ['a backup'] }],
  ['inhibitors-unknown', plea({}, { waitWhile: { inhibitors: true } }), { inhibitors: UNKNOWN }],
  ['logged-in', plea({}, { waitWhile: { sessions: true } }), { sessions: ['alice', 'bob'] }],
  ['sessions-unknown', plea({}, { waitWhile: { sessions: true } }), { sessions: UNKNOWN }],
  ['metered', plea({ action: 'fetch' }, { waitWhile: { metered: true } }), { metered: true }],
  [
    'metered-unknown',
    plea({ action: 'fetch' }, { waitWhile: { metered: true } }),
    { metered: UNKNOWN },
  ],
  ['reboot-never', plea({ action: 'reboot' }, { reboot: 'never' })],
];

test('each cause has its phase, says why, and until when where that is known', () => {
  assert.deepEqual(CAUSES.map(([code]) => code).sort(), Object.keys(WAITS).sort());
  const told = CAUSES.map(([code, one, situation = {}]) => {
    const wait = decide(one, situation);
    const { phase, reason } = wait?.attempt ?? {};
    assert.deepEqual([reason?.code, phase], [code, WAITS[code]]);
    // A reboot that waits for the same has its own phase.
    const after = { ...one, action: 'reboot' as const };
    if (one.action === 'switch') {
      const attempt = decide(after, { ...WELL, ...situation })?.attempt;
      assert.deepEqual([attempt?.reason?.code, attempt?.phase], [code, 'reboot-pending']);
    }
    return [reason?.text, wait?.next];
  });
  assert.deepEqual(told, [
    ['somebody at the machine is asked, until 2026-03-03T12:00:00Z at most', NOW + 24 * HOUR],
    ['put off at the machine until 2026-03-02T12:01:00Z', NOW + 60],
    ['no window is open, until 2026-03-02T13:00:00Z', NOW + HOUR],
    ['on battery, which is below 30 %', null],
    ['how full the battery is is not known: nobody answers', null],
    ['shutdown or sleep is blocked by a backup', null],
    ['whether somebody blocks shutdown or sleep is not known: nobody answers', null],
    ['somebody is logged in', null],
    ['whether somebody is logged in is not known: nobody answers', null],
    ['the line is metered', null],
    ['whether the line is metered is not known: nobody answers', null],
    ['somebody at the machine has to reboot it', null],
  ]);
});

test('SPEC §5.6 has every code, with its phase', () => {
  const clause =
    readFileSync('docs/SPEC.md', 'utf8').split('\n### 5.6 ')[1]?.split('\n## ')[0] ?? '';
  const rows = [...clause.matchAll(/^\| `([a-z-]+)` \|.*\| `([a-z-]+)` \|$/gm)];
  const table = Object.fromEntries(rows.map(([, code, phase]) => [code, phase]));
  const isUnknown = ([code]: [string, string]): boolean => code.endsWith('-unknown');
  const known = Object.entries(WAITS).filter((entry) => !isUnknown(entry));
  assert.deepEqual(table, Object.fromEntries(known));
  for (const [code] of Object.entries(WAITS)) assert.ok(clause.includes(`\`${code}\``), code);
});

test('nobody puts it off beyond the deadline, nor where the rules do not let them', () => {
  const wishes = { deferredUntil: NOW + 1000 * HOUR, applyNow: false };
  const deferral = { maxHours: 8 };
  for (const ask of BOTH) {
    for (const [readySince, next] of [
      [NOW, NOW + 8 * HOUR],
      [NOW - 8 * HOUR + 1, NOW + 1],
      [NOW - 8 * HOUR, undefined],
    ] as const) {
      assert.equal(decide(plea({ wishes, readySince }, { ask, deferral }), {})?.next, next);
    }
  }
  assert.equal(codeOf(plea({ wishes })), 'go');
  assert.equal(codeOf(plea({ wishes }, { ask: true })), 'asked');
  // After it, the other rules are as they are.
  const late = { wishes, readySince: NOW - 9 * HOUR };
  assert.equal(codeOf(plea(late, { deferral, windows: [CLOSED] })), 'window-closed');
});

test('windows of no form that is known: refused before anything is fetched, but in an emergency', () => {
  const rules = { windows: [OPEN, 'Sat *-*-* 03:00'] };
  for (const action of ACTIONS) {
    refuses('E_WINDOW', () => decide(plea({ action }, rules), WELL), /Sat \*-\*-\* 03:00/);
    assert.equal(codeOf(plea({ action, emergency: true }, rules)), 'go');
  }
});

test('apply now is no word about a reboot while somebody is there, or about an empty battery', () => {
  const wishes = { deferredUntil: NOW + HOUR, applyNow: true };
  const rules: Partial<Activation> = {
    ask: true,
    deferral: { maxHours: 8 },
    windows: [CLOSED],
    waitWhile: { batteryBelow: 30, metered: true, sessions: true },
  };
  const at = (action: Action, situation: Situation) =>
    codeOf(plea({ action, wishes }, rules), { ...WELL, ...situation });
  assert.equal(at('fetch', { metered: true }), 'go');
  assert.equal(at('switch', { sessions: ['alice'] }), 'go');
  assert.equal(at('switch', { battery: 3 }), 'battery-low');
  assert.equal(at('reboot', { sessions: ['alice'] }), 'logged-in');
  assert.equal(at('reboot', { sessions: UNKNOWN }), 'sessions-unknown');
  assert.equal(at('reboot', {}), 'go');
});
