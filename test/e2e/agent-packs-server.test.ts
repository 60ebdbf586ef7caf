// The whole road of an update pack: a flake, the real server that makes the pack, and the agent as a process, with every request counted.
import assert from 'node:assert/strict';
import { cp, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { fleet, fleetOk, serve } from '../helpers/cli.ts';
import { waitFor } from '../helpers/hosts.ts';
import { serveHttp } from '../helpers/http.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('first install and update come as packs of the real server, in at most six requests each', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const on = ['--state', state];
  const demo = join(dir, 'demo');
  await cp(resolve('examples/demo'), demo, { recursive: true });
  await fleetOk(['init', ...on, '--origin', 'packs.test']);
  const build = () => fleetOk(['build', 'lantern', ...on, '--flake', `path:${demo}`]);
  await build();
  const server = await serve(t, state);
  const asked: string[] = [];
  await using between = await serveHttp((from, to) => {
    asked.push(`${from.method} ${from.url}`);
    const { method = 'GET', headers } = from;
    const on = request(new URL(from.url ?? '', server.url), { method, headers }, (answer) => {
      to.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.pipe(to);
    });
    from.pipe(on);
  });
  const file = join(dir, 'lantern.json');
  await fleetOk(['host', 'enroll', 'lantern', ...on, '--server', between.url, '-o', file]);
  const agent = ['agent', '--root', join(dir, 'machine')];
  await fleetOk([...agent, 'enroll', file]);
  const costOf = async () => JSON.parse(await fleetOk(['diff', 'lantern', ...on, '--json']));
  const update = async () => {
    // As a host does that asks a while later: nobody waits here for what is still being made.
    await waitFor(async () => (await costOf()).pack !== null, 60_000);
    asked.length = 0;
    const { phase, fetched } = JSON.parse((await fleet([...agent, 'once', '--json'])).stdout);
    assert.equal(phase, 'in-sync');
    return fetched;
  };
  const cost = await costOf();
  const first = `/v1/packs/${cost.to.closure}`;
  const token = await fleetOk(['token', 'create', 'reader', ...on, '--json']);
  const headers = { authorization: `Bearer ${JSON.parse(token).token}` };
  await fetch(`${server.url}${first}`, { method: 'HEAD', headers });
  const installed = await update();
  assert.deepEqual([installed.packed.paths, installed.fellBack], [cost.nars.paths, 0]);
  assert.ok(asked.length <= 6, asked.join('\n'));

  await writeFile(join(demo, 'release/nixos-version'), '26.11.demo-2 (Yarara)\n');
  await build();
  const step = (await costOf()).nars.paths;
  const updated = await update();
  assert.deepEqual([updated.packed.paths, updated.fellBack], [step, 0]);
  assert.ok(updated.bytes < installed.bytes / 2, `${updated.bytes} of ${installed.bytes}`);
  assert.ok(asked.length <= 6, asked.join('\n'));
});
