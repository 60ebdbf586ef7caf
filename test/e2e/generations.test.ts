// Generations that go, and what only they kept, with the real Nix in a chroot store.
import assert from 'node:assert/strict';
import { lutimes, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { prune } from '../../src/agent/generations.ts';
import { placeAt } from '../../src/agent/place.ts';
import { runNix } from '../../src/nix/command.ts';
import { invalidPaths } from '../../src/nix/query.ts';
import { addRoot, setProfile } from '../../src/nix/realise.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

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
  const made: StorePath[] = [];
  for (const name of ['a', 'b', 'c', 'd']) made.push(await addTo(dir.path, name));
  const [a, b, c, d] = made as [StorePath, StorePath, StorePath, StorePath];
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
