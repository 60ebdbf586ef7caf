// What the cache must keep, and why: the systems that hosts were told to run lately, what they say they
// run and would boot, and pins. All that these refer to is kept with them (cache/gc.ts). A host's word
// counts here without being verified again: it was when it came, and keeping too much harms nobody. Nothing is
// kept for a host that was removed.
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseReceipt } from '../manifest/receipt.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import type { BlobId } from '../storage/blobs.ts';
import type { State } from '../storage/state.ts';
import { runningSystem } from './pack-steps.ts';

/** A path that is kept, and for whom. */
export type RetentionRoot = { readonly path: StorePath; readonly reason: string };

/** `keepManifests`: of the newest so many manifests of each host. */
export async function retentionRoots(
  state: Pick<State, 'recentManifests' | 'pendingManifests' | 'status' | 'pins'>,
  keepManifests: number,
): Promise<RetentionRoot[]> {
  const roots: RetentionRoot[] = [];
  const hosts = await state.status();
  const removed = new Set(
    hosts.flatMap(({ record, manifest }) => (manifest?.toplevel === null ? [record.host] : [])),
  );
  // Before those that were published: what is published meanwhile is in one of the two at least.
  const pending = await state.pendingManifests();
  for (const { host, epoch, sequence, toplevel } of await state.recentManifests(keepManifests)) {
    if (toplevel === null || removed.has(host)) continue;
    roots.push({ path: toplevel, reason: `manifest ${epoch}.${sequence} of ${host}` });
  }
  for (const { host, toplevel } of pending) {
    if (toplevel === null) continue;
    roots.push({ path: toplevel, reason: `waits to be published for ${host}` });
  }
  for (const { record, report } of hosts) {
    if (report === null || removed.has(record.host)) continue;
    for (const [verb, path] of systemsOf(report.envelope)) {
      roots.push({ path, reason: `${record.host} ${verb} it, by its last report` });
    }
  }
  for (const { name, path } of await state.pins()) {
    roots.push({ path, reason: `pinned as ${name}` });
  }
  return roots;
}

/**
 * The steps that packs are kept for: to a closure of the newest `keepManifests` manifests of a host; from one of those, or
 * from what a host says it runs.
 */
export async function keptPacks(
  state: Pick<State, 'recentManifests' | 'status' | 'closuresOf'>,
  keepManifests: number,
): Promise<{ readonly closures: readonly BlobId[]; readonly bases: readonly BlobId[] }> {
  const hosts = await state.status();
  const removed = new Set(
    hosts.flatMap(({ record, manifest }) => (manifest?.toplevel === null ? [record.host] : [])),
  );
  const closures = new Set<BlobId>();
  for (const { host, closure } of await state.recentManifests(keepManifests)) {
    if (closure !== null && !removed.has(host)) closures.add(closure);
  }
  const running = new Set<StorePath>();
  for (const { record, report } of hosts) {
    const path = removed.has(record.host) ? null : runningSystem(report);
    if (path !== null) running.add(path);
  }
  const bases = new Set(closures);
  for (const path of running) {
    for (const closure of await state.closuresOf(path)) bases.add(closure);
  }
  return { closures: [...closures], bases: [...bases] };
}

/** What a stored receipt says of a host's systems; nothing where an older fleet wrote another form. */
function systemsOf(envelope: string): [verb: string, path: StorePath][] {
  try {
    const { current, booted, profile } = parseReceipt(parseEnvelope(envelope).payload);
    const said = [
      ['runs', current],
      ['booted', booted],
      ['boots', profile],
    ] as const;
    return said.flatMap(([verb, path]) => (path === null ? [] : [[verb, parseStorePath(path)]]));
  } catch {
    return [];
  }
}
