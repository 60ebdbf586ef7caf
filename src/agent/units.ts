// What systemd says of this machine's units: which failed, and which of some are not active. Asked by systemctl(1),
// whose words for states are stable. Nobody can be asked in a chroot store, nor where something else is process 1.
import { access } from 'node:fs/promises';
import { type FailedUnits, MAX_UNITS } from '../manifest/receipt.ts';
import { hear } from './hear.ts';
import type { Place } from './place.ts';

export const NO_UNITS: FailedUnits = { added: [], removed: [] };

/** It answers in milliseconds, but may be busy with the very switch. */
const PATIENCE = 20_000;

/** As sd_booted(3) finds out. */
export async function hasSystemd({ root }: Place): Promise<boolean> {
  if (root !== null) return false;
  return await access('/run/systemd/system').then(
    () => true,
    () => false,
  );
}

/** Names of the units that are failed now, sorted. @throws Error that says why nobody knows. */
export async function failedUnits(patience = PATIENCE): Promise<readonly string[]> {
  const args = ['list-units', '--state=failed', '--plain', '--full', '--no-legend', '--no-pager'];
  const { code, stdout, said } = await systemctl(args, patience);
  if (code !== 0) throw new Error(`systemctl list-units: ${said}`);
  const lines = stdout.split('\n').filter((line) => line.trim() !== '');
  // Some versions put a mark before the name.
  return lines.map((line) => /[!-~]+/.exec(line)?.[0] ?? '').sort();
}

/** `NAME is STATE` for each of `units` that is not active. @throws Error that says why nobody knows. */
export async function inactiveUnits(
  units: readonly string[],
  patience = PATIENCE,
): Promise<readonly string[]> {
  // A pattern would ask about others.
  const odd = units.find((name) => !/^[A-Za-z0-9:_.\\@-]+$/.test(name));
  if (odd !== undefined) return [`${odd} is no name of a unit`];
  const { stdout, said } = await systemctl(['is-active', '--', ...units], patience);
  const states = stdout.trimEnd().split('\n');
  if (stdout.trim() === '' || states.length !== units.length) {
    throw new Error(`systemctl is-active: ${said}`);
  }
  const isActive = (state: string | undefined): boolean =>
    ['active', 'reloading', 'refreshing'].includes(state ?? '');
  return units.flatMap((name, i) => (isActive(states[i]) ? [] : [`${name} is ${states[i]}`]));
}

/** What changed from `before` to `after`, as much of it as a receipt holds. */
export function compareUnits(before: readonly string[], after: readonly string[]): FailedUnits {
  const without = (all: readonly string[], others: readonly string[]): string[] =>
    all.filter((name) => !others.includes(name)).slice(0, MAX_UNITS);
  return { added: without(after, before), removed: without(before, after) };
}

const systemctl = (args: readonly string[], patience: number) => hear('systemctl', args, patience);
