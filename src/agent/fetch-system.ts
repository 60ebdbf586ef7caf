// A verified manifest → its system in the local store, whole and right, and something that can be switched to; and the
// closure that says what whole and right is. Says what is fetched; asks for nothing that is not signed.
import type { Deployment } from '../manifest/manifest.ts';
import type { Root } from '../manifest/root.ts';
import { verifyClosure } from '../manifest/verify.ts';
import type { Closure } from '../nix/closure.ts';
import { parseNixPublicKey } from '../nix/signature.ts';
import { requireSwitchable } from './activate.ts';
import { getClosure } from './ask.ts';
import { noteBase, readBase } from './bases.ts';
import type { Fetched, FetchOptions } from './fetch-missing.ts';
import type { Host } from './host.ts';
import { memoryFiles } from './memory.ts';
import { atLowPriority } from './priority.ts';
import type { Source } from './source.ts';
import { fetchClosure } from './store.ts';

/** @throws FleetError E_CLOSURE…, E_PREFLIGHT, E_NOT_NIXOS, and what fetchClosure throws */
export async function fetchSystem(
  source: Source,
  { memory, place }: Pick<Host, 'memory' | 'place'>,
  {
    manifest,
    root,
    tell,
  }: {
    readonly manifest: Deployment;
    readonly root: Pick<Root, 'cache'>;
    readonly tell: FetchOptions['tell'];
  },
  say: (line: string) => void,
): Promise<{ readonly closure: Closure; readonly fetched: Fetched }> {
  const { toplevel, emergency } = manifest;
  const closure = verifyClosure(manifest, await getClosure(source, manifest));
  const paths = `paths in all: ${closure.paths.size}`;
  say(`fetching ${toplevel} (${paths}${emergency ? '; an emergency' : ''})`);
  const { config, dir } = memory;
  const base = await readBase(dir);
  await noteBase(dir, { toplevel, closure: manifest.closure.sha256 });
  const packs = {
    dir: memoryFiles(dir).pack,
    closure: manifest.closure.sha256,
    base: config.privacy ? null : base,
    waitSeconds: config.packWaitSeconds,
    memory: config.memoryMiB * 2 ** 20,
  };
  const fetch = async (through: readonly string[]): Promise<Fetched> =>
    await fetchClosure({
      source,
      place,
      closure,
      keys: root.cache.keys.map(parseNixPublicKey),
      roots: memoryFiles(dir).roots,
      repair: config.repair,
      packs: config.deltas ? packs : null,
      through,
      state: dir,
      tell,
    });
  const fetched = await (config.lowPriority ? atLowPriority(fetch) : fetch([]));
  await requireSwitchable(place, toplevel);
  return { closure, fetched };
}
