// The published package runs JavaScript that scripts/build.ts makes: its verbs find their chunks there, its threads
// their files, and its errors keep their codes.
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, globSync, readFileSync } from 'node:fs';
import { symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { atRealTime } from '../helpers/hosts.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

const top = await temporaryDirectory();
test.after(() => top[Symbol.asyncDispose]());
const dist = join(top.path, 'package/dist');
execFileSync(process.execPath, [join(PROJECT, 'scripts/build.ts'), dist], { cwd: PROJECT });
for (const name of ['bin', 'package.json']) {
  cpSync(join(PROJECT, name), join(top.path, 'package', name), { recursive: true });
}
await symlink(join(PROJECT, 'node_modules'), join(top.path, 'package/node_modules'));
const FLEET = join(top.path, 'package/bin/fleet');

const run = promisify(execFile);

function fleet(...args: string[]) {
  return spawnSync(FLEET, args, { encoding: 'utf8' });
}

test('every thread that is started by name has its file beside the chunk that starts it', () => {
  const started = globSync(join(dist, '**/*.js')).flatMap((file) =>
    [...readFileSync(file, 'utf8').matchAll(/\.\/(\w+-worker)\$\{/g)].map((found) => ({
      from: basename(file),
      file: join(dirname(file), `${found[1]}.js`),
    })),
  );
  const names = new Set(started.map(({ file }) => basename(file)));
  assert.deepEqual([...names].sort(), [
    'dump-worker.js',
    'facts-worker.js',
    'pack-worker.js',
    'sqlite-worker.js',
  ]);
  for (const { from, file } of started) assert.ok(existsSync(file), `${from}: ${file}`);
});

test('the launcher starts it, and it knows its version', () => {
  const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8'));
  assert.equal(fleet('--version').stdout.trim(), version);
});

test('a state is made, served by the thread that writes, and audited by those that verify', async () => {
  const state = join(top.path, 'state');
  const now = Math.floor(Date.now() / 1000);
  {
    await using dir = await makeState(top.path, now);
    await publishHost(dir, 'alpha', 'one', now);
  }
  const server = spawn(FLEET, ['serve', '--state', state, '--listen', '127.0.0.1:0', '--json']);
  try {
    let said = '';
    for await (const chunk of server.stdout) {
      said += chunk;
      if (said.includes('"pid"')) break;
    }
    const { url } = JSON.parse(said.slice(0, said.indexOf('}') + 1)) as { url: string };
    assert.equal((await fetch(`${url}/readyz`)).status, 200);
  } finally {
    server.kill('SIGTERM');
  }
  const audit = fleet(
    'audit',
    '--state',
    state,
    '--root',
    join(state, 'root/1.root.json'),
    '--json',
  );
  assert.equal(audit.status, 0, audit.stderr);
  assert.deepEqual(JSON.parse(audit.stdout).irregularities, []);
});

test('errors keep their codes', () => {
  const missing = fleet('status', '--state', join(top.path, 'nowhere'));
  assert.match(missing.stderr, /E_STATE_MISSING/);
  const agent = fleet('agent', 'run', '--state', join(top.path, 'nowhere'));
  assert.match(agent.stderr, /E_AGENT_NOT_ENROLLED/);
});

test('an agent asks, fetches and switches with what the package holds: of undici no browser, of TypeBox no more than is named', async () => {
  const [one, two] = [await buildSystem(top.path, 'one'), await buildSystem(top.path, 'two')];
  await using s = await atRealTime(one, { clock: 'trusted' });
  s.world.publish(two);
  const once = ['agent', 'once', '--json', '--root', s.host.root, '--state', s.host.state];
  // Its server is this process, which must not wait for it as `fleet` does.
  const { stdout } = await run(FLEET, once);
  const { phase, systems } = JSON.parse(stdout);
  assert.deepEqual([phase, systems.current], ['in-sync', two.toplevel]);
  // The threads of audits are files of their own, and compile schemas.
  const chunks = globSync(join(dist, '**/*.js'))
    .filter((file) => !file.endsWith('-worker.js'))
    .map((file) => readFileSync(file, 'utf8'));
  // esbuild names each module of a chunk by its path.
  const holds = (path: string): boolean =>
    chunks.some((text) => text.includes(`// node_modules/${path}`));
  for (const path of ['undici/lib/dispatcher/agent.js', 'typebox/build/schema/check.mjs']) {
    assert.ok(holds(path), path);
  }
  for (const path of ['index.js', 'lib/web/fetch/index.js', 'lib/web/websocket/']) {
    assert.ok(!holds(`undici/${path}`), path);
  }
  for (const path of ['value/', 'type/script/script.mjs', 'compile/']) {
    assert.ok(!holds(`typebox/build/${path}`), path);
  }
});
