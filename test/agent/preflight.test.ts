// Room for an update: in the store (refused at what is too much for any disk; small ones: test/e2e/agent-room.test.ts),
// and in a /boot that is small, mounted where only a process of its own sees it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { statfs } from 'node:fs/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { attemptOf } from '../../src/agent/outcome.ts';
import { placeAt } from '../../src/agent/place.ts';
import { requireStoreRoom } from '../../src/agent/preflight.ts';
import { FleetError } from '../../src/errors.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

test('the store: NARs, a twentieth more and 32 MiB have to be free, and figures say what is', async () => {
  await using dir = await temporaryDirectory();
  // Not there yet: the file system is that of what is.
  const place = placeAt(`${dir.path}/machine`);
  const { bavail, bsize } = await statfs(dir.path);
  const most = Math.floor((bavail * bsize - 32 * 2 ** 20) / 1.05);
  const sizes = (...all: number[]) => all.map((narSize) => ({ narSize }));
  await requireStoreRoom(place, []);
  // Others write to this disk, too.
  const slack = Math.floor(most / 10);
  await requireStoreRoom(place, sizes(most - slack - 5, 5));
  await assert.rejects(requireStoreRoom(place, sizes(most, slack)), (error) => {
    assert.ok(error instanceof FleetError);
    assert.equal(error.code, 'E_PREFLIGHT');
    const figures =
      / has [\d.]+ MiB free, and the update needs [\d.]+ MiB \([\d.]+ MiB of it to spare\)/;
    assert.match(error.message, figures);
    assert.ok(error.message.startsWith(dir.path));
    const manifest = { epoch: 1, sequence: 2, sha256: '0'.repeat(64) };
    assert.equal(attemptOf(error, manifest)?.phase, 'preflight-failed');
    return true;
  });
});

test('/boot: kernel and initrd have to fit where it is a file system of its own, and lacks them', async () => {
  await using dir = await temporaryDirectory();
  const program = fileURLToPath(new URL('../fixtures/boot-room.ts', import.meta.url));
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  const args = ['--mount', ...user, process.execPath, program, dir.path];
  const told = JSON.parse(execFileSync('unshare', args, { encoding: 'utf8' }));
  const lack = (free: string, needed: string): string =>
    `/boot has ${free} MiB free, and kernel and initrd of the new system need ${needed} MiB: remove old generations from it; nothing was changed`;
  assert.deepEqual(told, {
    'no /boot': null,
    'no file system of its own': null,
    room: null,
    'too little': lack('6.0', '7.0'),
    'a container': null,
    'what runs': null,
    'the same kernel runs': null,
    'systemd-boot has the kernel': null,
    'GRUB has both': null,
    'GRUB has the kernel alone': lack('1.0', '4.0'),
  });
});
