// A stick that a member of the local group brings, over the control socket: applied with every check, told as theirs; and what a
// client that misbehaves can do, which is nothing that lasts.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmod, readdir, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Intake, type IntakeLimits } from '../../src/agent/control-intake.ts';
import { readMemory } from '../../src/agent/memory.ts';
import { headOf } from '../../src/manifest/verify-offer.ts';
import { bundleOf, membersOf } from '../helpers/host-bundle.ts';
import { all, atRealTime, type Setting, systemsOf, waitFor } from '../helpers/hosts.ts';
import { person, startDoor } from '../helpers/local-group.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDir, temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');

/** A file that anybody may read. */
async function stickOf({ world }: Setting, bytes: Buffer): Promise<string> {
  const file = join(world.dir, 'stick.tar');
  await writeFile(file, bytes);
  await chmod(file, 0o644);
  return file;
}

const bundleFor = async ({ world, host }: Setting): Promise<Buffer> => {
  const from = headOf((await readMemory(host.state)).trust.checkpoint ?? '').size;
  return await bundleOf(membersOf(world, two, from), from);
};

const isClean = async ({ host }: Setting) => {
  const names = await readdir(host.state);
  return !names.includes('brought.tar') && !names.includes('bundle');
};

test('a member brings a stick: it is applied, and told as theirs', async (t) => {
  await using s = await atRealTime(one, { clock: 'trusted' });
  const { world, host } = s;
  const { socket } = await startDoor(t, host);
  // What the server shows from now on is for nobody: only the stick has it.
  world.serve(two);
  world.publish(two);
  const stick = await stickOf(s, await bundleFor(s));
  world.misbehave = (path, response) => {
    if (path.endsWith('/reports')) return false;
    response.destroy();
    return true;
  };
  assert.match((await person('outsider', socket, ['apply', stick])).stderr, /E_LOCAL_ACCESS/);
  for (const more of ['--force', '--accept-age']) {
    const { stderr } = await person('member', socket, ['apply', stick, more]);
    assert.match(stderr, /is for root alone \[E_STATE_ACCESS\]/);
  }
  const { code, stdout, stderr } = await person('member', socket, ['apply', stick]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /The agent applies it now/);
  await waitFor(() => world.reports.at(-1)?.manifest?.sha256 === world.digest(), 20_000);
  const { phase, who } = world.reports.at(-1) ?? {};
  assert.deepEqual([phase, who], ['in-sync', 'local group']);
  assert.deepEqual(await systemsOf(host), all(two));
  await waitFor(() => isClean(s));
});

test('what is no bundle is refused by the run, and the next is taken', async (t) => {
  await using s = await atRealTime(one, { clock: 'trusted' });
  const { world, host } = s;
  const { socket } = await startDoor(t, host);
  const bad = await stickOf(s, Buffer.alloc(100_000, 'x'));
  assert.equal((await person('member', socket, ['apply', bad])).code, 0);
  await waitFor(() => world.reports.at(-1)?.reason?.code === 'E_BUNDLE_FORM', 20_000);
  await waitFor(() => isClean(s));
  assert.deepEqual(await systemsOf(host), all(one));
  world.publish(two);
  const good = await stickOf(s, await bundleFor(s));
  assert.equal((await person('member', socket, ['apply', good])).code, 0);
  await waitFor(async () => (await systemsOf(host)).current === two.toplevel, 20_000);
});

type Client = { readonly socket: Socket; readonly taken: Promise<unknown> };

/** A client of an intake, which was told that `bytes` come. */
async function clientOf(t: TestContext, intake: Intake, bytes: number): Promise<Client> {
  const dir = await temporaryDir(t);
  const server = createServer();
  server.listen(join(dir, 's'));
  await once(server, 'listening');
  t.after(() => server.close());
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const socket = connect(join(dir, 's')).on('error', () => {});
  const [peer] = await accepted;
  peer.on('error', () => {});
  peer.on('timeout', () => peer.destroy());
  t.after(() => peer.destroy());
  t.after(() => socket.destroy());
  const taken = intake.take(peer, bytes);
  taken.catch(() => {});
  return { socket, taken };
}

async function intakeOf(t: TestContext, limits: Partial<IntakeLimits> = {}) {
  const dir = await temporaryDir(t);
  const intake = await Intake.open(dir, limits);
  const isEmpty = async () => (await readdir(dir)).length === 0 && intake.file === null;
  return { dir, intake, isEmpty };
}

test('an intake takes one whole bundle at a time', async (t) => {
  const { dir, intake, isEmpty } = await intakeOf(t);
  const first = await clientOf(t, intake, 6);
  const meanwhile = await clientOf(t, intake, 6);
  await assert.rejects(meanwhile.taken, { code: 'E_AGENT_BUSY' });
  first.socket.write('abc');
  await sleep(50);
  assert.equal(intake.file, null);
  first.socket.write('def');
  await first.taken;
  assert.equal(intake.file, join(dir, 'brought.tar'));
  await assert.rejects((await clientOf(t, intake, 1)).taken, { code: 'E_AGENT_BUSY' });
  await intake.done();
  assert.ok(await isEmpty());
  // What an agent left that was killed.
  await writeFile(join(dir, 'brought.tar'), 'left');
  await Intake.open(dir);
  assert.ok(await isEmpty());
});

test('more or fewer bytes than were told, or more than there is room for, leave nothing', async (t) => {
  const { intake, isEmpty } = await intakeOf(t);
  const more = await clientOf(t, intake, 3);
  more.socket.write('abcd');
  await assert.rejects(more.taken, { code: 'E_LOCAL_PROTOCOL' });
  const fewer = await clientOf(t, intake, 3);
  fewer.socket.end('ab');
  await assert.rejects(fewer.taken, { code: 'E_LOCAL_PROTOCOL' });
  const gone = await clientOf(t, intake, 3);
  gone.socket.destroy();
  await assert.rejects(gone.taken);
  const much = await clientOf(t, intake, 2 ** 50);
  await assert.rejects(much.taken, { code: 'E_PREFLIGHT' });
  assert.ok(await isEmpty());
});

test('one that says nothing, and one that drips, are cut off', async (t) => {
  const silent = await intakeOf(t, { standstill: 200 });
  await assert.rejects((await clientOf(t, silent.intake, 3)).taken);
  assert.ok(await silent.isEmpty());
  const dripped = await intakeOf(t, { standstill: 400, leastBytesPerSecond: 2_000_000 });
  const { socket, taken } = await clientOf(t, dripped.intake, 1_000_000);
  const timer = setInterval(() => socket.write('x'), 50);
  t.after(() => clearInterval(timer));
  await assert.rejects(taken);
  clearInterval(timer);
  assert.ok(await dripped.isEmpty());
});
