// How a host is to be switched, as its own configuration says it (SPEC §4.4): the settings of
// `config.services.fleet.agent.settings`, read at evaluation, checked here, carried by the manifest.
// Refuses unknown fields, naming the word that was meant, values outside what SPEC §4.4 lists, and (in settings) windows
// that no agent could read.

import type { Static } from 'typebox';
import * as Type from 'typebox';
import { FleetError, messageOf } from '../errors.ts';
import { Exact, Nullable } from './fields.ts';
import { type Frozen, requireShape } from './shape.ts';
import { parseWindow } from './windows.ts';

const Text = (maxLength: number) => Type.String({ pattern: `^\\P{Cc}{1,${maxLength}}$` });

const HealthSchema = Exact({
  /** systemd units that must be active. */
  units: Type.Array(Text(255), { maxItems: 64 }),
  /** Commands, each as its argument vector, that must exit with 0. */
  commands: Type.Array(Type.Array(Text(1024), { minItems: 1, maxItems: 64 }), { maxItems: 32 }),
  /** URLs that must answer with that status. */
  http: Type.Array(
    Exact({
      url: Type.String({ pattern: '^https?://[!-~]{1,1024}$' }),
      status: Type.Integer({ minimum: 100, maximum: 599 }),
    }),
    { maxItems: 32 },
  ),
  /** Where a connection must be accepted. Manifests from before it was thought of, and those that need none, lack it. */
  tcp: Type.Optional(
    Type.Array(
      Exact({
        host: Type.String({ pattern: '^[A-Za-z0-9._:%-]{1,253}$' }),
        port: Type.Integer({ minimum: 1, maximum: 65_535 }),
      }),
      { maxItems: 32 },
    ),
  ),
});

const FIELDS = {
  /** `switch`: now; `boot`: at the next boot. */
  mode: Type.Enum(['switch', 'boot']),
  reboot: Type.Enum(['never', 'allowed', 'required']),
  /** How long the new system has to prove itself before it is rolled back. */
  confirmSeconds: Type.Integer({ minimum: 1, maximum: 86_400 }),
  onFailure: Type.Enum(['rollback', 'keep']),
  /** When switching is allowed (windows.ts); empty: always. Manifests from before that had a form hold any text. */
  windows: Type.Array(Text(128), { maxItems: 32 }),
  /** How long a user may put an update off; null: not at all. */
  deferral: Nullable(Exact({ maxHours: Type.Integer({ minimum: 1, maximum: 8_760 }) })),
  health: HealthSchema,
  /**
   * What decides once the server was silent after several switches to this system; lacking: `local-checks`.
   * Manifests from before it was thought of lack it, too.
   */
  serverLost: Type.Optional(Type.Enum(['local-checks', 'rollback'])),
  // These came later, too: a manifest has them where they are set.
  /** Whether a person at the machine is asked before the switch. */
  ask: Type.Optional(Type.Boolean()),
  /** What an update waits for the end of (agent/policy.ts). */
  waitWhile: Type.Optional(
    Exact({
      /** On battery, and with less than so many percent in it. */
      batteryBelow: Type.Optional(Type.Integer({ minimum: 1, maximum: 100 })),
      /** On a line that is paid for by the byte. */
      metered: Type.Optional(Type.Boolean()),
      /** While a program blocks shutdown or sleep. */
      inhibitors: Type.Optional(Type.Boolean()),
      /** While somebody is logged in. */
      sessions: Type.Optional(Type.Boolean()),
    }),
  ),
  /** What becomes of a system that somebody else switched to; lacking: `keep`. */
  drift: Type.Optional(Type.Enum(['keep', 'replace'])),
  /** The system profile's generations: the newest `count`, and those that are younger than `days`. */
  keepGenerations: Type.Optional(
    Exact({
      count: Type.Integer({ minimum: 1, maximum: 1000 }),
      days: Type.Integer({ minimum: 0, maximum: 3650 }),
    }),
  ),
};

export const ActivationSchema = Exact(FIELDS);
export type Activation = Frozen<Static<typeof ActivationSchema>>;
export type Health = Activation['health'];

/** Rules that were kept apart from their manifest. @throws FleetError E_MANIFEST_FORM */
export function parseActivation(value: unknown): Activation {
  return requireShape(ActivationSchema, value, 'E_MANIFEST_FORM', 'activation');
}

/** What applies where a host's configuration says nothing. */
export const DEFAULT_ACTIVATION: Activation = Object.freeze({
  mode: 'switch',
  reboot: 'never',
  confirmSeconds: 120,
  onFailure: 'rollback',
  windows: Object.freeze([]),
  deferral: null,
  health: Object.freeze({
    units: Object.freeze([]),
    commands: Object.freeze([]),
    http: Object.freeze([]),
  }),
});

const CLOSED = { additionalProperties: false };
const SettingsSchema = Exact({
  tags: Type.Optional(
    Type.Array(Type.String({ pattern: '^[a-z0-9][a-z0-9_.-]{0,62}$' }), { maxItems: 64 }),
  ),
  activation: Type.Optional(
    // Partial does not hand on what Exact says.
    Type.Partial(Exact({ ...FIELDS, health: Type.Partial(HealthSchema, CLOSED) }), CLOSED),
  ),
});

export type HostSettings = {
  /** Sorted, each once. */
  readonly tags: readonly string[];
  readonly activation: Activation;
};

/**
 * Settings of one host as Nix evaluated them; `null` or `undefined` where the option does not exist.
 * @throws FleetError E_HOST_SETTINGS naming the path of the field and the word that was meant.
 */
export function parseHostSettings(settings: unknown): HostSettings {
  const what = 'services.fleet.agent.settings';
  const { tags, activation } = requireShape(
    SettingsSchema,
    settings ?? {},
    'E_HOST_SETTINGS',
    what,
  );
  const health = { ...DEFAULT_ACTIVATION.health, ...activation?.health };
  requireWindows(activation?.windows ?? [], what);
  return {
    tags: [...new Set(tags)].sort(),
    activation: { ...DEFAULT_ACTIVATION, ...activation, health },
  };
}

function requireWindows(windows: readonly string[], what: string): void {
  for (const [i, text] of windows.entries()) {
    try {
      parseWindow(text);
    } catch (cause) {
      const message = `${what}: activation.windows.${i}: ${messageOf(cause)}`;
      throw new FleetError('E_HOST_SETTINGS', message, { cause });
    }
  }
}
