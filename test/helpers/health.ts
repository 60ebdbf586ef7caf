// Rules of hosts with health checks, and what has to be true after a system failed them.
import assert from 'node:assert/strict';
import type { OnceResult } from '../../src/agent/once-options.ts';
import { type Activation, DEFAULT_ACTIVATION, type Health } from '../../src/manifest/activation.ts';
import { all, logOf, type Setting, systemsOf } from './hosts.ts';
import type { BuiltSystem } from './systems.ts';

/** Rules with these checks, which have so many seconds. */
export function rules(health: Partial<Health>, changes: Partial<Activation> = {}): Activation {
  const checks = { ...DEFAULT_ACTIVATION.health, ...health };
  return { ...DEFAULT_ACTIVATION, confirmSeconds: 3, ...changes, health: checks };
}

export const sh = (script: string): Partial<Health> => ({ commands: [['/bin/sh', '-c', script]] });

export const verdictOf = ({ outcome }: OnceResult) => [outcome?.phase, outcome?.reason?.code];

/**
 * Back on `one` from system two; the boot loader was never touched, and the manifest is not tried again by itself.
 * Returns the reason.
 */
export async function isRefused(
  { world, host }: Setting,
  one: BuiltSystem,
  result: OnceResult,
): Promise<string> {
  assert.deepEqual(verdictOf(result), ['rolled-back', 'E_HEALTH']);
  assert.equal(result.error?.code, 'E_ROLLED_BACK');
  assert.deepEqual(await systemsOf(host), all(one));
  const log = (await logOf(host)).filter((line) => line.includes('system-'));
  assert.deepEqual(log, ['check system-two', 'test system-two', 'test system-one']);
  const { phase, reason } = world.reports.at(-1) ?? {};
  assert.deepEqual([phase, reason?.code], ['rolled-back', 'E_HEALTH']);
  assert.deepEqual(verdictOf(await host.once()), ['rolled-back', 'E_HEALTH']);
  assert.deepEqual(
    (await logOf(host)).filter((line) => line.includes('system-')),
    log,
  );
  return reason?.text ?? '';
}

/** Tells the log that the checks began, and waits there until the file `go` says how to end. */
export const SLOW =
  'echo "verify system-two" >>/run/log; until [ -e /run/go ]; do sleep 0.1; done; exit $(cat /run/go)';
