// Random trees, random edits, random damage to the pack or to what the host has: it ends on the right system, every byte of it, in
// one run and without help. FLEET_PACK_ROUNDS of them (8), from FLEET_PACK_SEED (another each time, told).
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { chmod, lstat, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { nameOf, type StorePath } from '../../src/nix/storepath.ts';
import { type Draft, draftPack, narOf, noise, packOf, packPath } from '../helpers/drafted-packs.ts';
import { all, setting, systemsOf } from '../helpers/hosts.ts';
import { buildTrees, SWITCH } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const ROUNDS = Number(process.env['FLEET_PACK_ROUNDS'] ?? 8);
const SEED = Number(process.env['FLEET_PACK_SEED'] ?? randomInt(2 ** 30));

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());

type Trees = Map<string, Map<string, string | Uint8Array>>;

class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** From 0 to below `end`. */
  below(end: number): number {
    // xorshift32
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % Math.max(1, end);
  }

  one<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error('nothing to choose from');
    return item;
  }
}

function bytesFor(dice: Dice): Buffer {
  const size = dice.one([0, 1, 100, 5000, 60_000, 1_300_000]);
  const seed = `${dice.below(50)}`;
  return dice.below(2) === 0 ? noise(seed, size) : Buffer.alloc(size, `some text ${seed}, again\n`);
}

function treesFor(dice: Dice): Trees {
  const trees: Trees = new Map([['switch', new Map([['bin/switch-to-configuration', SWITCH]])]]);
  for (let i = 0; i < 6; i++) {
    const files = new Map<string, Uint8Array>();
    for (let j = dice.below(5); j >= 0; j--) {
      files.set(`${dice.one(['bin', 'lib', 'share/deep/er'])}/${i}-${j}`, bytesFor(dice));
    }
    trees.set(`tree-${i}`, files);
  }
  return trees;
}

function edited(trees: Trees, dice: Dice): Trees {
  const next: Trees = new Map([...trees].map(([name, files]) => [name, new Map(files)]));
  for (const [name, files] of next) {
    if (name === 'switch') continue;
    for (let edits = dice.below(4); edits > 0; edits--) {
      const file = dice.one([...files.keys()]);
      const bytes = Buffer.from(files.get(file) ?? '');
      const at = dice.below(bytes.length);
      const how = dice.below(5);
      if (how === 0) files.set(`lib/new-${edits}-${name}`, bytesFor(dice));
      else if (how === 1 && files.size > 1) files.delete(file);
      else if (how === 2) {
        files.set(file, Buffer.concat([bytes.subarray(0, at), noise('x', 50), bytes.subarray(at)]));
      } else if (how === 3) files.set(file, bytes.fill('?', at, Math.min(at + 20, bytes.length)));
      else {
        files.delete(file);
        files.set(`lib/moved-${edits}-${name}`, bytes);
      }
    }
  }
  next.set('fresh', new Map([['lib/fresh', noise(`${dice.below(1000)}`, 3000)]]));
  return next;
}

/** Of what the server sends. */
function spoiledDraft(draft: Draft, dice: Dice): string {
  const { segments } = draft;
  const [a, b] = [dice.below(segments.length), dice.below(segments.length)];
  const [one, other] = [segments[a], segments[b]];
  if (one === undefined || other === undefined) return 'nothing to spoil';
  switch (dice.below(4)) {
    case 0:
      segments[a] = other;
      segments[b] = one;
      return `segments ${a} and ${b} in each other's place`;
    case 1:
      one.memory = dice.one([0, 1, 2 ** 40]);
      return `segment ${a} takes ${one.memory} bytes of memory`;
    case 2:
      one.bytes = one.bytes.subarray(0, 1 + dice.below(one.bytes.length));
      return `segment ${a} has ${one.bytes.length} bytes`;
    default:
      one.bytes = flipped(one.bytes, dice);
      return `bytes of segment ${a} are others, with their digest`;
  }
}

function flipped(bytes: Uint8Array, dice: Dice): Buffer {
  const damaged = Buffer.from(bytes);
  for (let count = 1 + dice.below(3); count > 0; count--) {
    const at = dice.below(damaged.length);
    damaged[at] = (damaged[at] ?? 0) ^ (1 + dice.below(255));
  }
  return damaged;
}

/** Of what the host has. */
async function spoiledHost(root: string, paths: readonly StorePath[], dice: Dice): Promise<string> {
  const dir = join(root, dice.one(paths));
  const names = await readdir(dir, { recursive: true });
  const files: string[] = [];
  for (const name of names)
    if ((await lstat(join(dir, name))).isFile()) files.push(join(dir, name));
  if (files.length === 0) return 'nothing to spoil';
  const file = dice.one(files);
  await chmod(join(file, '..'), 0o755);
  const bytes = await readFile(file);
  switch (dice.below(4)) {
    case 0:
      await rm(file);
      return `${file} is gone`;
    case 1:
      await rm(file);
      await symlink('/etc/hostname', file);
      return `${file} is a link`;
    case 2:
      await writeFile(file, bytes.subarray(0, dice.below(bytes.length)));
      return `${file} is shorter`;
    default:
      await writeFile(file, flipped(bytes, dice));
      return `bytes of ${file} are others`;
  }
}

async function build(before: Trees, next: Trees, round: number) {
  const one = await buildTrees(systems.path, `random-${round}-old`, before);
  const two = await buildTrees(systems.path, `random-${round}-new`, next);
  return { one, two };
}

for (let round = 0; round < ROUNDS; round++) {
  test(`round ${round} of FLEET_PACK_SEED=${SEED}`, async (t) => {
    const dice = new Dice(SEED + round * 7919 + 1);
    for (let i = 0; i < 10; i++) dice.below(2);
    const trees = treesFor(dice);
    const { one, two } = await build(trees, edited(trees, dice), round);
    await using s = await setting(one, round % 4 === 3 ? { deltas: false } : {});
    const draft = await draftPack(s.world, two, one);
    const path = packPath(draft);
    const damage = ['pack', 'bytes', 'cut', 'host', 'none'][dice.below(5)];
    let what = damage === 'pack' ? spoiledDraft(draft, dice) : `${damage}`;
    let pack = packOf(draft, two);
    if (damage === 'bytes') pack = flipped(pack, dice);
    if (damage === 'cut') pack = pack.subarray(0, dice.below(pack.length));
    if (damage === 'host') {
      // Not what both systems switch with: a valid path is left as it is, and neither could be switched to.
      const paths = one.infos.map((info) => info.path).filter((one) => nameOf(one) !== 'switch');
      what = await spoiledHost(s.host.root, paths, dice);
    }
    s.world.packs.set(path, pack);
    s.world.publish(two);
    const { error, fetched } = await s.host.once();
    const { fellBack, packed } = fetched ?? {};
    t.diagnostic(`${what}: ${packed?.paths} by pack, ${fellBack} fell back`);
    assert.equal(error, null, what);
    assert.deepEqual(await systemsOf(s.host), all(two), what);
    const had = new Set(one.infos.map((info) => info.path));
    for (const info of two.infos) {
      // What the host had was left alone, damaged or not.
      if (had.has(info.path)) continue;
      const nar = execFileSync('nix-store', ['--dump', join(s.host.root, info.path)], {
        maxBuffer: 2 ** 27,
      });
      assert.ok(nar.equals(narOf(two, info.path)), `${what}: ${info.path}`);
    }
  });
}
