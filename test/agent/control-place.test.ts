// Where the control socket is made: with its owner and mode from its first moment on, in the place of what a killed agent
// left, or not at all, with a reason.
import assert from 'node:assert/strict';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { groupId, listenAt, socketPath } from '../../src/agent/control-place.ts';
import { temporaryDir } from '../helpers/temporary.ts';

function server(t: TestContext): Server {
  const made = createServer((socket) => socket.end('here'));
  t.after(() => made.close());
  return made;
}

async function answers(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(path);
    socket.on('data', () => resolve(true)).on('error', () => resolve(false));
  });
}

test('the socket lies in /run, or below a chroot store', () => {
  assert.equal(socketPath(null), '/run/fleet-agent/control.sock');
  assert.equal(socketPath('/mnt/host'), '/mnt/host/run/fleet-agent/control.sock');
});

test('it is for its owner alone where there is no group, and nothing else is left beside it', async (t) => {
  const path = join(await temporaryDir(t), 'run/fleet-agent/control.sock');
  await listenAt(server(t), path, null);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.equal((await stat(join(path, '..'))).mode & 0o777, 0o755);
  assert.deepEqual(await readdir(join(path, '..')), ['control.sock']);
  assert.equal(await answers(path), true);
});

test('what another agent left there is replaced, whatever it is', async (t) => {
  const dir = await temporaryDir(t);
  const path = join(dir, 'control.sock');
  await writeFile(path, 'no socket');
  await listenAt(server(t), path, null);
  assert.equal(await answers(path), true);
  await listenAt(server(t), path, null);
  assert.equal(await answers(path), true);
});

test('a group that does not exist, a path that is too long, a place that cannot be: refused', async (t) => {
  const dir = await temporaryDir(t);
  const refuse = async (path: string, group: string | null, why: RegExp) =>
    await assert.rejects(listenAt(server(t), path, group), {
      code: 'E_LOCAL_SOCKET',
      message: why,
    });
  await refuse(join(dir, 's'), 'no-such-group', /there is no group no-such-group/);
  const long = join(dir, 'x'.repeat(100));
  await refuse(join(long, 's'), null, /too long/);
  assert.deepEqual(await readdir(long), []);
  await writeFile(join(dir, 'file'), '');
  await refuse(join(dir, 'file/s'), null, /ENOTDIR|EEXIST/);
  await mkdir(join(dir, 'taken'));
  await refuse(join(dir, 'taken'), null, /EISDIR|ENOTEMPTY|directory/);
});

test('groups are found by name alone', async () => {
  assert.equal(await groupId('root'), 0);
  for (const name of ['', '0', 'roo', '--help', 'root:x']) assert.equal(await groupId(name), null);
});
