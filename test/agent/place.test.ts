import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { canSwitchTo, placeAt, readBootId, readSystems } from '../../src/agent/place.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const A = parseStorePath(`/nix/store/${'a'.repeat(32)}-system-1`);
const B = parseStorePath(`/nix/store/${'b'.repeat(32)}-system-2`);

test('the machine itself', () => {
  assert.deepEqual(placeAt(null), {
    root: null,
    profile: '/nix/var/nix/profiles/system',
    run: '/run',
    nix: {},
  });
  assert.deepEqual(placeAt('/there', '/scratch').nix, { root: '/there', scratch: '/scratch' });
});

test('systems are read from links as they are written, without following them', async () => {
  await using dir = await temporaryDirectory();
  const place = placeAt(dir.path);
  assert.deepEqual(await readSystems(place), { booted: null, current: null, profile: null });
  await mkdir(join(dir.path, 'run'));
  await mkdir(join(dir.path, 'nix/var/nix/profiles'), { recursive: true });
  await symlink(A, join(dir.path, 'run/booted-system'));
  await symlink(`${dir.path}${A}`, join(dir.path, 'run/current-system'));
  await symlink('system-7-link', join(dir.path, 'nix/var/nix/profiles/system'));
  await symlink(B, join(dir.path, 'nix/var/nix/profiles/system-7-link'));
  assert.deepEqual(await readSystems(place), { booted: A, current: A, profile: B });
});

test('links that lead nowhere, in circles, or to no store path are no system', async () => {
  await using dir = await temporaryDirectory();
  await mkdir(join(dir.path, 'run'));
  await mkdir(join(dir.path, 'nix/var/nix/profiles'), { recursive: true });
  await symlink('/nix/store/nonsense', join(dir.path, 'run/booted-system'));
  await writeFile(join(dir.path, 'run/current-system'), '');
  await symlink('system', join(dir.path, 'nix/var/nix/profiles/system'));
  assert.deepEqual(await readSystems(placeAt(dir.path)), {
    booted: null,
    current: null,
    profile: null,
  });
});

test('the switch program is found through links that only mean something inside', async () => {
  await using dir = await temporaryDirectory();
  const place = placeAt(dir.path);
  const real = (path: string) => join(dir.path, path);
  assert.equal(await canSwitchTo(place, A), false);
  await mkdir(real(A), { recursive: true });
  await mkdir(real(`${B}/bin`), { recursive: true });
  assert.equal(await canSwitchTo(place, A), false);
  await symlink(`${B}/bin`, real(`${A}/bin`));
  assert.equal(await canSwitchTo(place, A), false);
  await writeFile(real(`${B}/bin/switch`), '');
  await symlink('../bin/switch', real(`${B}/bin/switch-to-configuration`));
  assert.equal(await canSwitchTo(place, A), true);
  assert.equal(await canSwitchTo(place, B), true);
});

test('a link that leads to itself ends', async () => {
  await using dir = await temporaryDirectory();
  await mkdir(join(dir.path, A), { recursive: true });
  await symlink('bin', join(dir.path, A, 'bin'));
  assert.equal(await canSwitchTo(placeAt(dir.path), A), false);
});

test('the boot has a name that stays; in a chroot store there is only one', async () => {
  assert.match(await readBootId(placeAt(null)), /^[0-9a-f-]{36}$/);
  assert.equal(await readBootId(placeAt(null)), await readBootId(placeAt(null)));
  assert.equal(await readBootId(placeAt('/there')), await readBootId(placeAt('/elsewhere')));
});
