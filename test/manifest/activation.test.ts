import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  ActivationSchema,
  DEFAULT_ACTIVATION,
  parseHostSettings,
} from '../../src/manifest/activation.ts';
import { canonicalBytes } from '../../src/manifest/jcs.ts';
import { requireShape } from '../../src/manifest/shape.ts';
import { refuses } from '../helpers/trust.ts';

test('a host that says nothing gets the defaults', () => {
  for (const settings of [null, undefined, {}, { tags: [], activation: {} }]) {
    assert.deepEqual(parseHostSettings(settings), { tags: [], activation: DEFAULT_ACTIVATION });
  }
  assert.ok(requireShape(ActivationSchema, DEFAULT_ACTIVATION, 'E_HOST_SETTINGS', 'defaults'));
});

test('what a host says replaces the default, field by field', () => {
  const { tags, activation } = parseHostSettings({
    tags: ['web', 'eu', 'web'],
    activation: { reboot: 'allowed', deferral: { maxHours: 8 }, health: { units: ['a.service'] } },
  });
  assert.deepEqual(tags, ['eu', 'web']);
  assert.deepEqual(activation, {
    ...DEFAULT_ACTIVATION,
    reboot: 'allowed',
    deferral: { maxHours: 8 },
    health: { units: ['a.service'], commands: [], http: [] },
  });
});

test('tcp and serverLost are there where they are set, and nowhere else', () => {
  const health = { tcp: [{ host: '::1', port: 65_535 }] };
  const { activation } = parseHostSettings({ activation: { serverLost: 'rollback', health } });
  assert.equal(activation.serverLost, 'rollback');
  assert.deepEqual(activation.health, { ...DEFAULT_ACTIVATION.health, ...health });
  assert.deepEqual(requireShape(ActivationSchema, activation, 'E_HOST_SETTINGS', 'x'), activation);
  // A manifest of a host that sets neither has the bytes that it had before they were thought of.
  const before =
    '{"confirmSeconds":120,"deferral":null,"health":{"commands":[],"http":[],"units":[]},' +
    '"mode":"switch","onFailure":"rollback","reboot":"never","windows":[]}';
  for (const settings of [{}, { activation: { health: {} } }]) {
    const bytes = canonicalBytes(parseHostSettings(settings).activation);
    assert.equal(Buffer.from(bytes).toString(), before);
  }
});

test('what came later is there where it is set, and agrees with the schema of manifests', () => {
  const later = {
    ask: true,
    waitWhile: { batteryBelow: 30, metered: true, inhibitors: true, sessions: false },
    drift: 'replace',
    keepGenerations: { count: 3, days: 0 },
    windows: ['Mon..Fri 22:00-05:00 Europe/Berlin', 'daily 02:00-04:00'],
  };
  const { activation } = parseHostSettings({ activation: later });
  assert.deepEqual(activation, { ...DEFAULT_ACTIVATION, ...later });
  assert.deepEqual(requireShape(ActivationSchema, activation, 'E_HOST_SETTINGS', 'x'), activation);
});

test('windows of any text are still a manifest’s: it may be from before they had a form', () => {
  const old = { ...DEFAULT_ACTIVATION, windows: ['Sat *-*-* 03:00'] };
  assert.deepEqual(requireShape(ActivationSchema, old, 'E_MANIFEST_FORM', 'x'), old);
});

test('a misspelt setting is named by its path, with the word that was meant', () => {
  for (const [settings, pattern] of [
    [{ tag: [] }, /unknown field "tag"; did you mean "tags"/],
    [{ activation: { onFailur: 'keep' } }, /"activation.onFailur"; did you mean "onFailure"/],
    [{ activation: { health: { unit: [] } } }, /"activation.health.unit"; did you mean "units"/],
    [
      { activation: { deferral: { maxHour: 1 } } },
      /"activation.deferral.maxHour"; did you mean "maxHours"/,
    ],
    [
      { activation: { waitWhile: { meterd: true } } },
      /"activation.waitWhile.meterd"; did you mean "metered"/,
    ],
    [{ wildlyOther: 1 }, /unknown field "wildlyOther"$/],
  ] as const) {
    refuses('E_HOST_SETTINGS', () => parseHostSettings(settings), pattern);
  }
});

test('a setting of a wrong form is named by its path', () => {
  for (const [settings, pattern] of [
    ['text', /settings: it must be object/],
    [[], /must be object/],
    [{ tags: 'web' }, /tags must be array/],
    [{ tags: ['Web Server'] }, /tags\.0 /],
    [{ activation: { mode: 'test' } }, /activation\.mode must be one of switch, boot/],
    [{ activation: { confirmSeconds: 0 } }, /activation\.confirmSeconds must be >= 1/],
    [{ activation: { confirmSeconds: 1.5 } }, /activation\.confirmSeconds must be integer/],
    [{ activation: { windows: [''] } }, /activation\.windows\.0/],
    [
      { activation: { windows: ['02:00-04:00', 'Mon 2-4'] } },
      /settings: activation\.windows\.1: the window "Mon 2-4" is none such as/,
    ],
    [
      { activation: { windows: ['02:00-04:00 Europe/Atlantis'] } },
      /activation\.windows\.0: .*Atlantis/,
    ],
    [{ activation: { ask: 'yes' } }, /activation\.ask must be boolean/],
    [{ activation: { waitWhile: { batteryBelow: 0 } } }, /waitWhile\.batteryBelow must be >= 1/],
    [{ activation: { waitWhile: { sessions: 1 } } }, /waitWhile\.sessions must be boolean/],
    [{ activation: { drift: 'report' } }, /activation\.drift must be one of keep, replace/],
    [
      { activation: { keepGenerations: { count: 0, days: 1 } } },
      /keepGenerations\.count must be >/,
    ],
    [{ activation: { keepGenerations: { count: 3 } } }, /keepGenerations\.days is missing/],
    [{ activation: { deferral: 4 } }, /activation\.deferral/],
    [{ activation: { health: { commands: ['true'] } } }, /activation\.health\.commands\.0/],
    [
      { activation: { health: { http: [{ url: 'file:///x', status: 200 }] } } },
      /activation\.health\.http\.0\.url/,
    ],
    [{ activation: { serverLost: 'keep' } }, /serverLost must be one of local-checks, rollback/],
    [
      { activation: { health: { tcp: [{ host: 'x', port: 0 }] } } },
      /activation\.health\.tcp\.0\.port/,
    ],
    [
      { activation: { health: { tcp: [{ host: 'a b', port: 1 }] } } },
      /activation\.health\.tcp\.0\.host/,
    ],
    [
      { activation: { health: { http: [{ url: 'http://x' }] } } },
      /activation\.health\.http\.0\.status is missing/,
    ],
  ] as const) {
    refuses('E_HOST_SETTINGS', () => parseHostSettings(settings), pattern);
  }
});

test('the defaults cannot be changed by whoever reads them', () => {
  assert.throws(() => Object.assign(DEFAULT_ACTIVATION, { mode: 'boot' }), TypeError);
  const { units } = parseHostSettings({}).activation.health;
  assert.throws(() => Array.prototype.push.call(units, 'a.service'), TypeError);
});
