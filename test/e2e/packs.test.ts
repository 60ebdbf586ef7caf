// Update packs of systems that the real Nix built, made by a real server: every NAR comes out as the store has it; across a
// restart, through kills while one is made, and until nobody needs it any more.
import assert from 'node:assert/strict';
import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PackIndex } from '../../src/delta/pack-index.ts';
import { parseClosure } from '../../src/nix/closure.ts';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import { openStateDir } from '../../src/server/statedir.ts';
import type { StepCost } from '../../src/server/step-cost.ts';
import { fleet, fleetOk, serve, startFleet } from '../helpers/cli.ts';
import { writeFlake } from '../helpers/flakes.ts';
import { waitFor } from '../helpers/hosts.ts';
import { bytesOf } from '../helpers/nar.ts';
import { unpack } from '../helpers/packs.ts';
import { reportRunning } from '../helpers/reports.ts';
import { type Access, get } from '../helpers/served.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const narOf = (path: StorePath): Promise<Buffer> => bytesOf(dumpNar(path));

async function costOf(state: string, host: string): Promise<StepCost> {
  return JSON.parse(await fleetOk(['diff', host, '--state', state, '--json']));
}

async function tokenOf(state: string): Promise<string> {
  const made = await fleetOk(['token', 'create', 'reader', '--state', state, '--json']);
  return JSON.parse(made).token;
}

/** The step's pack, once it is there, with every NAR compared with the store. */
async function readPack(access: Access, { from, to }: StepCost): Promise<PackIndex> {
  const infosOf = async (system: NonNullable<StepCost['from']>) => {
    const file = await get(access, `/v1/closures/${system.closure}`);
    const bytes = new Uint8Array(await file.arrayBuffer());
    return [...parseClosure(bytes, system.toplevel).paths.values()];
  };
  const address = `/v1/packs/${to.closure}${from === null ? '' : `?base=${from.closure}`}`;
  await waitFor(async () => (await get(access, address)).status === 200, 60_000);
  const pack = Buffer.from(await (await get(access, address)).arrayBuffer());
  const base = from === null ? null : await infosOf(from);
  const { index, nars } = await unpack(pack, await infosOf(to), base, narOf);
  for (const [path, nar] of nars) assert.deepEqual(nar, await narOf(path), path);
  return index;
}

test('a host’s next step is a pack that gives what Nix built, until nobody needs it', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const on = ['--state', state];
  const demo = join(dir, 'demo');
  const machine = join(dir, 'machine');
  await cp(resolve('examples/demo'), demo, { recursive: true });
  await fleetOk(['init', ...on, '--origin', 'packs.test']);
  const build = () => fleetOk(['build', 'lantern', ...on, '--flake', `path:${demo}`]);
  await build();
  let server = await serve(t, state);
  const token = await tokenOf(state);
  const access = () => ({ url: server.url, token });
  const first = await costOf(state, 'lantern');
  assert.equal(first.from, null);
  const whole = await readPack(access(), first);
  assert.equal(whole.paths.length, first.nars.paths);

  const file = join(dir, 'lantern.json');
  await fleetOk(['host', 'enroll', 'lantern', ...on, '--server', server.url, '-o', file]);
  await fleetOk(['agent', '--root', machine, 'enroll', file]);
  const once = async () =>
    JSON.parse((await fleet(['agent', '--root', machine, 'once', '--json'])).stdout).phase;
  assert.equal(await once(), 'in-sync');
  assert.match(await fleetOk(['diff', 'lantern', ...on]), /nothing to fetch/);
  await writeFile(join(demo, 'release/nixos-version'), '26.11.demo-2 (Yarara)\n');
  await build();
  // Nobody asks for it: it is made for what the host reported.
  await waitFor(async () => (await costOf(state, 'lantern')).pack !== null);
  const step = await costOf(state, 'lantern');
  assert.deepEqual(
    [step.from?.toplevel, step.to.sequence, step.to.published],
    [first.to.toplevel, 2, true],
  );
  const index = await readPack(access(), step);
  assert.equal(index.paths.length, step.nars.paths);
  assert.ok(index.paths.some(({ kind }) => kind !== 'whole'));
  const address = `/v1/packs/${step.to.closure}?base=${step.from?.closure}`;
  const etag = (await get(access(), address)).headers.get('etag');

  // Restarted, it is there at once and the same.
  assert.equal((await server.stop()).code, 0);
  server = await serve(t, state);
  const again = await get(access(), address);
  assert.deepEqual([again.status, again.headers.get('etag')], [200, etag]);
  assert.equal((await fetch(`${server.url}${address}`)).status, 401);
  await server.stop();

  // Once the host has made the step, and only its newest manifest counts, nothing keeps the pack.
  const config = JSON.parse(await readFile(join(state, 'fleet.json'), 'utf8'));
  await writeFile(join(state, 'fleet.json'), JSON.stringify({ ...config, keepManifests: 1 }));
  const { closure, base } = { closure: step.to.closure, base: step.from?.closure ?? null };
  const isKept = async (): Promise<boolean> => {
    await using opened = await openStateDir(state, { writer: 'inline' });
    return (await opened.state.pack({ closure, base })) !== null;
  };
  await fleetOk(['cache', 'gc', ...on]);
  assert.equal(await isKept(), true);
  await using opened = await openStateDir(state, { writer: 'inline' });
  const now = Math.floor(Date.now() / 1000);
  await reportRunning(opened, 'lantern', step.to.toplevel, now);
  await fleetOk(['cache', 'gc', ...on]);
  assert.equal(await isKept(), false);
});

test('a server that is killed while it makes packs leaves nothing wrong behind', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const on = ['--state', state];
  await fleetOk(['init', ...on, '--origin', 'packs.test', '--url', 'http://127.0.0.1:1']);
  const build = async (files: number) => {
    const spec = { hosts: new Map([['alpha', files]]), fileBytes: 1_000_000 };
    const flake = await writeFlake(join(dir, 'flake'), spec);
    await fleetOk(['build', ...on, '--flake', flake]);
  };
  await build(4);
  const first = await costOf(state, 'alpha');
  const opened = await openStateDir(state, { writer: 'inline' });
  await reportRunning(opened, 'alpha', first.to.toplevel, Math.floor(Date.now() / 1000));
  await opened[Symbol.asyncDispose]();
  await build(5);
  const step = await costOf(state, 'alpha');
  assert.equal(step.from?.toplevel, first.to.toplevel);

  let unfinished = 0;
  for (let ms = 100; ms <= 1300; ms += 300) {
    const running = startFleet(['serve', ...on, '--json', '--listen', '127.0.0.1:0']);
    await new Promise((resolve) => running.child.stdout?.once('data', resolve));
    await sleep(ms);
    running.child.kill('SIGKILL');
    await running.done;
    if ((await costOf(state, 'alpha')).pack === null) unfinished += 1;
  }
  t.diagnostic(`${unfinished} of 5 kills came before the pack`);
  assert.ok(unfinished > 0);
  const server = await serve(t, state);
  const access = { url: server.url, token: await tokenOf(state) };
  const index = await readPack(access, step);
  assert.equal(index.paths.length, 6);
  // What is as long as it was and has nothing in common comes as it is stored.
  const sizes = index.segments.map(({ bytes }) => bytes);
  assert.ok(sizes.reduce((sum, bytes) => sum + bytes, 0) < 5_100_000);
  const { code, stderr } = await server.stop();
  assert.deepEqual([code, stderr], [0, 'stopping\n']);
  assert.deepEqual(await readdir(join(state, 'blobs/tmp')), []);
  assert.match(await fleetOk(['cache', 'verify', '--all', ...on]), /./);
});

test('a server that is told to stop while it makes packs does so at once, without a word of it', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const on = ['--state', state];
  await fleetOk(['init', ...on, '--origin', 'packs.test', '--url', 'http://127.0.0.1:1']);
  const spec = { hosts: new Map([['alpha', 4]]), fileBytes: 60_000_000 };
  await fleetOk(['build', ...on, '--flake', await writeFlake(join(dir, 'flake'), spec)]);
  const server = await serve(t, state);
  await sleep(700);
  const began = performance.now();
  const { code, stderr } = await server.stop();
  assert.deepEqual([code, stderr], [0, 'stopping\n']);
  assert.ok(performance.now() - began < 5000);
  assert.equal((await costOf(state, 'alpha')).pack, null);
});
