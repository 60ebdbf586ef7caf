// Which generations go, and that what is needed never does; with the real Nix, in a chroot store.
import assert from 'node:assert/strict';
import { lutimes, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { type Generation, prune, unwanted } from '../../src/agent/generations.ts';
import { placeAt } from '../../src/agent/place.ts';
import { runNix } from '../../src/nix/command.ts';
import { invalidPaths } from '../../src/nix/query.ts';
import { addRoot, setProfile } from '../../src/nix/realise.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;
const path = (name: string) => `/nix/store/${name.repeat(32)}-system` as StorePath;
const all = (...days: number[]): Generation[] =>
  days.map((old, i) => ({ number: i + 1, path: path(String(i)), at: NOW - old * 86_400 }));
const numbers = (given: readonly Generation[]) => given.map(({ number }) => number);

test('the newest stay, and the young, and what is held; the rest goes, oldest first', () => {
  const five = all(50, 40, 30, 20, 10);
  const keep = (count: number, days: number, ...held: StorePath[]) =>
    numbers(unwanted(five, { count, days }, new Set(held), NOW));
  assert.deepEqual(keep(2, 0), [1, 2, 3]);
  assert.deepEqual(keep(1, 35), [1, 2]);
  assert.deepEqual(keep(1, 30), [1, 2]);
  assert.deepEqual(keep(1, 0, path('1')), [1, 3, 4]);
  assert.deepEqual(keep(9, 0), []);
  assert.deepEqual(numbers(unwanted([], { count: 1, days: 0 }, new Set(), NOW)), []);
});

/** A path in the chroot store. */
async function addTo(root: string, name: string): Promise<StorePath> {
  const file = join(root, name);
  await writeFile(file, name);
  const { stdout } = await runNix('nix-store', ['--add', file], { root, isolated: true });
  return parseStorePath(stdout.trim());
}

test('generations go, and what only they kept; the profile’s own, and a root’s, stay', async () => {
  await using dir = await temporaryDirectory();
  const place = placeAt(dir.path);
  const [a, b, c, d] = (await Promise.all(
    ['a', 'b', 'c', 'd'].map((name) => addTo(dir.path, name)),
  )) as [StorePath, StorePath, StorePath, StorePath];
  for (const one of [a, b, c, d]) await setProfile(place.profile, one, place.nix);
  await addRoot(b, join(dir.path, 'kept'), place.nix);
  const links = dirname(place.profile);
  for (const number of [1, 2, 3, 4]) await lutimes(join(links, `system-${number}-link`), 0, 0);
  // c is to be gone back to.
  await prune(place, { count: 1, days: 1 }, [c], NOW);
  const left = (await readdir(links)).filter((name) => name.endsWith('-link')).sort();
  assert.deepEqual(left, ['system-3-link', 'system-4-link']);
  const gone = await invalidPaths([a, b, c, d], { ...place.nix, isolated: true });
  assert.deepEqual(gone, [a]);
  await prune(place, { count: 1, days: 1 }, [c], NOW);
});
