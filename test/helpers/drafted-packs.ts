// Update packs made by hand, honest or not, of systems whose NARs are in memory; and systems that differ in a way that packs are for.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { narInMemory } from '../../src/delta/old-nar.ts';
import { formatPackIndex, type PackedPath, type PackIndex } from '../../src/delta/pack-index.ts';
import { rewritten } from '../../src/delta/rewrite.ts';
import { packWhole, wholeMemory } from '../../src/delta/whole.ts';
import { formatClosure, type PathInfo, parseClosure } from '../../src/nix/closure.ts';
import { signPath } from '../../src/nix/signature.ts';
import { nameOf, type StorePath } from '../../src/nix/storepath.ts';
import { bytesOf, inChunks } from './nar.ts';
import { patchOf } from './patches.ts';
import { type BuiltSystem, buildTrees, SWITCH } from './systems.ts';
import { sha256, type World } from './world.ts';

/** What a pack is made of; a test may change any of it. */
export type Draft = {
  closure: string;
  base: string | null;
  paths: PackedPath[];
  segments: { bytes: Buffer; memory: number }[];
};

export function closureDigest({ infos }: BuiltSystem): string {
  return sha256(formatClosure(infos));
}

/** A system of several trees; `edit` is in all of them, and `fresh` bytes of its own. */
export async function buildEdited(
  dir: string,
  edit: string,
  { trees = 5, bytes = 200_000, fresh = 0 } = {},
): Promise<BuiltSystem> {
  const files = new Map<string, Map<string, string | Uint8Array>>([
    ['switch', new Map([['bin/switch-to-configuration', SWITCH]])],
    ['version', new Map([['version', `${edit}\n`]])],
  ]);
  for (let i = 0; i < trees; i++) {
    const ballast = noise(`tree ${i}`, bytes);
    ballast.write(`${edit} edit`, Math.floor(bytes / 3));
    const contents = Buffer.concat([ballast, noise(`${edit} ${i}`, fresh)]);
    files.set(`tree-${i}`, new Map([[`tree-${i}`, contents]]));
  }
  return await buildTrees(join(dir, edit), 'edited', files);
}

/** Bytes that do not compress, the same each time. */
export function noise(seed: string, bytes: number): Buffer {
  const blocks: Buffer[] = [];
  for (let i = 0; i * 32 < bytes; i++) {
    blocks.push(createHash('sha256').update(`${seed} ${i}`).digest());
  }
  return Buffer.concat(blocks).subarray(0, bytes);
}

/** An honest pack: what has an old path of the same name is copied or patched, the rest whole, in one group. */
export async function draftPack(
  world: World,
  next: BuiltSystem,
  base: BuiltSystem | null,
  isWhole: (info: PathInfo) => boolean = () => false,
): Promise<Draft> {
  const had = new Set(base?.infos.map(({ path }) => path));
  const news = next.infos.filter(({ path }) => !had.has(path));
  const pairs = new Map(news.map(({ path }) => [path, base?.infos.find(isNamed(path))?.path]));
  const renames = new Map(
    [...pairs].flatMap(([path, old]) => (old === undefined ? [] : [[old, path] as const])),
  );
  const draft: Draft = {
    closure: closureDigest(next),
    base: base === null ? null : closureDigest(base),
    paths: [],
    segments: [],
  };
  const whole = news.filter((info) => pairs.get(info.path) === undefined || isWhole(info));
  let group: number | null = null;
  for (const info of news) {
    const sigs = [signPath(info, world.cacheKey)];
    const nar = narOf(next, info.path);
    const old = pairs.get(info.path);
    if (old === undefined || base === null || isWhole(info)) {
      group ??= draft.segments.push(await wholeOf(next, whole)) - 1;
      draft.paths.push({ kind: 'whole', info, sigs, segment: group });
      continue;
    }
    const source = rewritten(narInMemory(narOf(base, old)), renames);
    const copy = Buffer.alloc(source.size);
    source.read(0, copy);
    if (copy.equals(nar)) draft.paths.push({ kind: 'copy', info, sigs, old, renames });
    else {
      const made = patches.get(`${old} ${info.path}`) ?? segmentOf(copy, nar);
      patches.set(`${old} ${info.path}`, made);
      const segment = draft.segments.push({ ...(await made) }) - 1;
      draft.paths.push({ kind: 'patch', info, sigs, old, renames, segment });
    }
  }
  return draft;
}

/** They take long, and many tests make the same. */
const patches = new Map<string, Promise<Draft['segments'][number]>>();

const isNamed =
  (path: StorePath) =>
  (other: PathInfo): boolean =>
    nameOf(other.path) === nameOf(path);

export function narOf(system: BuiltSystem, path: StorePath): Buffer {
  const nar = system.nars.get(path);
  if (nar === undefined) throw new Error(`no NAR of ${path}`);
  return nar;
}

/** One segment of their NARs. */
export async function wholeOf(
  system: BuiltSystem,
  infos: readonly PathInfo[],
): Promise<Draft['segments'][number]> {
  const nars = Buffer.concat(infos.map(({ path }) => narOf(system, path)));
  const bytes = await bytesOf(packWhole(inChunks(nars), nars.length));
  return { bytes, memory: wholeMemory(nars.length) };
}

async function segmentOf(old: Uint8Array, nar: Uint8Array): Promise<Draft['segments'][number]> {
  const { patch, memory } = await patchOf(old, nar);
  return { bytes: patch, memory };
}

/** The bytes of a pack, as it says, with true digests. */
export function packOf(draft: Draft, next: BuiltSystem): Buffer {
  const closure = parseClosure(formatClosure(next.infos), next.toplevel);
  const segments = draft.segments.map(({ bytes, memory }) => ({
    bytes: bytes.length,
    sha256: sha256(bytes),
    memory,
  }));
  const index: PackIndex = { ...draft, segments };
  return Buffer.concat([
    formatPackIndex(index, closure),
    ...draft.segments.map(({ bytes }) => bytes),
  ]);
}

/** What is asked for to get it. */
export function packPath({ closure, base }: Pick<Draft, 'closure' | 'base'>): string {
  return `/v1/packs/${closure}${base === null ? '' : `?base=${base}`}`;
}

/** Publishes `next`, with a pack from `base`; `change` may spoil the draft. */
export async function publishPacked(
  world: World,
  next: BuiltSystem,
  base: BuiltSystem | null,
  change: (draft: Draft) => void | Promise<void> = () => {},
): Promise<Buffer> {
  const draft = await draftPack(world, next, base);
  const path = packPath(draft);
  await change(draft);
  const pack = packOf(draft, next);
  world.packs.set(path, pack);
  world.publish(next);
  return pack;
}
