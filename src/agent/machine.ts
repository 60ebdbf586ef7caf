// What an activation is at, and what happened → what it is at then, and what is done about it: the whole of it as one
// table, pure. `drive.ts` does what it says; docs/AGENT.md has its diagram, made from here. An event that a step does
// not know is a fault of the program, never ignored.
import type { ReportedPhase } from '../manifest/receipt.ts';

/** `idle` is no transaction at all; every other step is in the journal before anything of it is done. */
export const STEPS = [
  'idle',
  'checking',
  'activating',
  'verifying',
  'committing',
  'setting',
  'awaiting-boot',
  'confirming',
  'undoing',
] as const;
export type Step = (typeof STEPS)[number];

export const EVENTS = [
  /** A verified system lies in the store, and nothing forbids to switch to it. */
  'deploy',
  /** Nothing speaks against switching to it in place. */
  'passed',
  /** It can, or is to, begin with a boot only. */
  'boot-only',
  /** The machine is not fit for it, or the system itself says so. */
  'unfit',
  /** Another switch of this machine is going on. */
  'locked',
  /** The same, and something of an earlier run is still there. */
  'still-locked',
  /** It is the current system. */
  'activated',
  /** It did not come up, or could not be made what boots. */
  'broken',
  /** It failed, and the host wants it left as it is. */
  'kept',
  'healthy',
  'unhealthy',
  /** It runs, and has another agent than this one, which is to find out whether it stays. */
  'handed-over',
  /** Profile and boot loader name it. */
  'committed',
  /** Nothing forbids to boot the machine now. */
  'may-boot',
  /** Systemd took it. */
  'booting',
  /** It is not to be booted now, or not by us; or systemd does not do it. */
  'may-not-boot',
  /** It runs after a boot, or because somebody switched to it. */
  'arrived',
  /** The machine booted, but not into it. */
  'missed',
  /** A run found this step in the journal: the one that wrote it ended. */
  'resumed',
  /** It was only activated, and a boot took that back. */
  'forgotten',
  /** Its run broke off and nobody goes on with it, or its time is over. */
  'abandoned',
  'undone',
  /** The journal knows that it is. */
  'closed',
  /** Something of it could not be undone. */
  'left',
  /** The rest is undone by a boot. */
  'undone-by-boot',
] as const;
export type Event = (typeof EVENTS)[number];

export const EFFECTS = [
  /** Writes the step to the journal, durably; nothing more is done where that fails. */
  'write',
  /** The same, as far as the disk allows: what undoes goes on without it. */
  'note',
  /** Writes that nothing is under way any more. */
  'close',
  /** Pre-switch checks, which units are failed already, what would be done. */
  'check',
  /** A watchdog that undoes all this, run from the program of now, if nobody confirms. */
  'arm',
  'disarm',
  /** `switch-to-configuration test`. */
  'test',
  /** Health, and a word of the server. */
  'prove',
  /** Profile, old generations, boot loader. */
  'commit',
  /** Asks policy, and boots the machine where it agrees. */
  'ask-boot',
  'boot',
  /** The agent that came with the system, once this one ended. */
  'call',
  'undo',
] as const;
export type Effect = (typeof EFFECTS)[number];

export type Row = {
  readonly to: Step;
  /**
   * In this order. One that finds something out (`check`, `test`, `prove`, …) comes last and gives the next event; an `arm` that
   * fails may, too, and ends the row.
   */
  readonly effects: readonly Effect[];
  /** What the run ends with, where no event follows. */
  readonly tells: readonly ReportedPhase[];
};

const go = (to: Step, ...effects: Effect[]): Row => ({ to, effects, tells: [] });
const end = (to: Step, effects: Effect[], ...tells: ReportedPhase[]): Row => ({
  to,
  effects,
  tells,
});

const BACK = go('undoing', 'note', 'undo');
const CHECK = go('checking', 'write', 'check');
const LEFT_RUNNING = end('idle', ['write', 'disarm'], 'failed');

export const TABLE: { readonly [S in Step]: { readonly [E in Event]?: Row } } = {
  idle: {
    deploy: CHECK,
  },
  checking: {
    passed: go('activating', 'write', 'arm', 'test'),
    'boot-only': go('setting', 'write', 'arm', 'commit'),
    unfit: end('idle', ['write'], 'preflight-failed'),
    locked: end('idle', ['write'], 'awaiting-lock'),
    'still-locked': end('activating', ['write'], 'awaiting-lock'),
    deploy: CHECK,
    abandoned: BACK,
    forgotten: end('idle', ['write']),
  },
  activating: {
    activated: go('verifying', 'write', 'prove'),
    broken: BACK,
    kept: LEFT_RUNNING,
    'boot-only': go('setting', 'write', 'arm', 'commit'),
    locked: end('idle', ['write', 'disarm'], 'awaiting-lock'),
    'still-locked': end('activating', [], 'awaiting-lock'),
    deploy: CHECK,
    abandoned: BACK,
    forgotten: end('idle', ['write', 'disarm']),
  },
  verifying: {
    healthy: go('committing', 'write', 'commit'),
    unhealthy: BACK,
    kept: LEFT_RUNNING,
    'handed-over': end('verifying', ['write', 'arm', 'call'], 'verifying'),
    resumed: go('verifying', 'prove'),
    deploy: CHECK,
    abandoned: BACK,
    forgotten: end('idle', ['write', 'disarm']),
  },
  committing: {
    committed: end('idle', ['write', 'disarm'], 'in-sync', 'in-sync-degraded', 'reboot-pending'),
    locked: end('committing', [], 'awaiting-lock'),
    broken: BACK,
    resumed: go('committing', 'commit'),
    missed: BACK,
  },
  setting: {
    committed: go('awaiting-boot', 'write', 'ask-boot'),
    arrived: go('confirming', 'write', 'arm', 'prove'),
    locked: end('setting', [], 'awaiting-lock'),
    broken: BACK,
    resumed: go('setting', 'arm', 'commit'),
    missed: BACK,
    abandoned: BACK,
  },
  'awaiting-boot': {
    'may-boot': go('awaiting-boot', 'boot'),
    booting: end('awaiting-boot', [], 'rebooting'),
    'may-not-boot': end('awaiting-boot', [], 'reboot-pending'),
    resumed: go('awaiting-boot', 'ask-boot'),
    arrived: go('confirming', 'write', 'arm', 'prove'),
    missed: BACK,
    deploy: CHECK,
    abandoned: BACK,
  },
  confirming: {
    healthy: end('idle', ['write', 'disarm'], 'in-sync', 'in-sync-degraded'),
    unhealthy: BACK,
    kept: LEFT_RUNNING,
    resumed: go('confirming', 'prove'),
    missed: BACK,
    abandoned: BACK,
  },
  undoing: {
    undone: go('undoing', 'close'),
    closed: end('idle', ['disarm'], 'rolled-back'),
    left: end('undoing', ['note'], 'failed'),
    'undone-by-boot': go('undoing', 'note', 'ask-boot'),
    'may-boot': go('undoing', 'boot'),
    booting: end('undoing', [], 'rebooting'),
    'may-not-boot': end('undoing', [], 'failed'),
    deploy: CHECK,
    resumed: go('undoing', 'undo'),
  },
};

/** What follows. @throws Error for an event that cannot happen there. */
export function transition(step: Step, event: Event): Row {
  const row = TABLE[step][event];
  if (row === undefined) throw new Error(`${event} cannot happen while ${step}`);
  return row;
}
