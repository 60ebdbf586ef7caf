// A system and the machine that is to run it → whether a switch can bring all of it, or only a boot can (ARCHITECTURE, "The
// agent"). Recent systems say so themselves: `switch-inhibitors`, compared with the current system's, forbid to switch in place;
// `reboot-triggers`, compared with the booted one's, say what a switch leaves as it was. Of others the kernel, its modules and
// the initial RAM disk are compared. Reads only; and boots the machine where it is told to.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { StorePath } from '../nix/storepath.ts';
import { cleanEnvironment } from './inside.ts';
import { type Place, realPathOf, resolveInside, type Systems } from './place.ts';

export type RebootNeed = {
  /** A switch in place is forbidden; otherwise it is possible, and leaves something as it was. */
  readonly isInhibited: boolean;
  /** What differs, for people. */
  readonly text: string;
};

/** What older systems have to compare. */
const PARTS = ['kernel', 'initrd', 'kernel-modules'] as const;
/** Longer files are not read: nobody writes such. */
const MOST_BYTES = 1024 * 1024;

/** Null: a switch brings all of `target`. */
export async function whyReboot(
  place: Place,
  target: StorePath,
  { current, booted }: Pick<Systems, 'current' | 'booted'>,
): Promise<RebootNeed | null> {
  const inhibitors = await differing(place, 'switch-inhibitors', target, current);
  if (inhibitors.length > 0) {
    return { isInhibited: true, text: `it forbids to switch in place: ${inhibitors.join(', ')}` };
  }
  const changed = await changedSinceBoot(place, target, booted);
  if (changed.length === 0) return null;
  return { isInhibited: false, text: `not before the next boot: ${changed.join(', ')}` };
}

/** Asks systemd to boot the machine anew. @throws Error that says why it does not. */
export async function bootMachine(): Promise<void> {
  const limits = { timeout: 60_000, killSignal: 'SIGKILL' } as const;
  await promisify(execFile)('systemctl', ['reboot'], { ...limits, env: cleanEnvironment() });
}

async function changedSinceBoot(
  place: Place,
  target: StorePath,
  booted: StorePath | null,
): Promise<readonly string[]> {
  if (booted === null || booted === target) return [];
  const isSaid = await Promise.all(
    [target, booted].map(async (one) => (await valuesOf(place, 'reboot-triggers', one)) !== null),
  );
  if (!isSaid.includes(false)) return await differing(place, 'reboot-triggers', target, booted);
  const changed: string[] = [];
  for (const part of PARTS) {
    const now = await resolveInside(place, `${booted}/${part}`);
    const then = await resolveInside(place, `${target}/${part}`);
    // A container has none of them.
    if (now !== then) changed.push(part);
  }
  return changed;
}

/** Keys that both systems have, with other values. */
async function differing(
  place: Place,
  file: string,
  target: StorePath,
  other: StorePath | null,
): Promise<readonly string[]> {
  if (other === null || other === target) return [];
  const after = await valuesOf(place, file, target);
  const before = await valuesOf(place, file, other);
  if (after === null || before === null) return [];
  return [...after].flatMap(([key, value]) =>
    before.has(key) && before.get(key) !== value ? [key] : [],
  );
}

/** A JSON object in a system; null where there is none that could be read. */
async function valuesOf(
  place: Place,
  file: string,
  system: StorePath,
): Promise<ReadonlyMap<string, string> | null> {
  const at = await resolveInside(place, `${system}/${file}`);
  if (at === null) return null;
  try {
    const text = await readFile(realPathOf(place, at), 'utf8');
    if (text.length > MOST_BYTES) return null;
    const json: unknown = JSON.parse(text);
    if (typeof json !== 'object' || json === null || Array.isArray(json)) return null;
    return new Map(Object.entries(json).map(([key, value]) => [key, JSON.stringify(value)]));
  } catch {
    return null;
  }
}
