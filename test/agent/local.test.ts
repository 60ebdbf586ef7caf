// local.json: what people at a machine asked for is read back as it was written, or refused; writers do not lose each
// other's changes.
import assert from 'node:assert/strict';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import {
  changeLocal,
  type Local,
  localFile,
  mendLocal,
  NO_LOCAL,
  readLocal,
} from '../../src/agent/local.ts';
import { plead } from '../../src/agent/wishes.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const sha256 = 'a'.repeat(64);
const toplevel = parseStorePath(`/nix/store/${'0'.repeat(32)}-system`);
const FULL: Local = {
  coming: { sha256, epoch: 1, sequence: 2, toplevel, narBytes: 3, since: 4, deferHours: 5 },
  deferred: { sha256, until: 6, who: 'local group' },
  now: { sha256, who: 'root' },
  back: { reason: 'r', who: 'root', at: 7, begun: { to: toplevel, manifest: sha256 } },
  held: { sha256, reason: 'h', who: 'local group', at: 8 },
  requests: [{ id: '0'.repeat(16), text: 't', who: 'root', at: 9 }],
};

test('it is read back as it was written, for its owner alone; nothing is written where nothing changes', async (t) => {
  const dir = await temporaryDir(t);
  assert.deepEqual(await readLocal(dir), NO_LOCAL);
  await changeLocal(dir, (local) => local);
  assert.deepEqual(await readdir(dir), ['local.lock']);
  await changeLocal(dir, () => FULL);
  assert.deepEqual(await readLocal(dir), FULL);
  assert.equal((await stat(localFile(dir))).mode & 0o777, 0o600);
});

test('what is not as it was written is refused, and mended by keeping what can be read', async (t) => {
  const dir = await temporaryDir(t);
  const file = localFile(dir);
  await changeLocal(dir, () => FULL);
  const text = await readFile(file, 'utf8');
  assert.equal(await mendLocal(dir, 100), null);
  for (const damaged of [
    text.slice(0, -20),
    text.replace('"who": "root"', '"who": "admin"'),
    text.replace('"until": 6', '"until": "6"'),
    text.replace('/nix/store/', '/etc/'),
  ]) {
    await writeFile(file, damaged);
    const change = () => changeLocal(dir, () => NO_LOCAL);
    await assert.rejects(change, { code: 'E_AGENT_STATE_CORRUPT' }, damaged);
    assert.equal(await readFile(file, 'utf8'), damaged);
  }
  await writeFile(file, text.replace('"until": 6', '"until": "6"'));
  const kept = await mendLocal(dir, 100);
  assert.equal(kept, `${file}.damaged-100`);
  assert.match(await readFile(kept ?? '', 'utf8'), /"until": "6"/);
  assert.deepEqual(await readLocal(dir), { ...FULL, deferred: null });
});

test('several writers at a time lose nothing', async (t) => {
  const dir = await temporaryDir(t);
  const ids = Array.from({ length: 12 }, (_, n) => n.toString(16).padStart(16, '0'));
  const write = (id: string) =>
    changeLocal(dir, (local) => plead(local, { id, text: id, who: 'root' }, 1));
  await Promise.all(ids.map(write));
  const { requests } = await readLocal(dir);
  assert.deepEqual(requests.map(({ id }) => id).sort(), ids);
});
