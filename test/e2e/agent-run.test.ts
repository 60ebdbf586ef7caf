// `fleet agent run` as a process: what makes it ask, on lines of every kind, and how it ends.
import assert from 'node:assert/strict';
import { readFile, rm, symlink, writeFile } from 'node:fs/promises';
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { runAgent } from '../../src/agent/run.ts';
import { fleet, startFleet } from '../helpers/cli.ts';
import { atRealTime, waitFor } from '../helpers/hosts.ts';
import { type Live, type LiveAgent, live } from '../helpers/live.ts';
import { publishHost } from '../helpers/state.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { HOST } from '../helpers/world.ts';

/** Starts `fleet agent run`; it is stopped at the end of the test. */
function startRun(
  t: TestContext,
  state: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
) {
  const running = startFleet(['agent', 'run', '--state', state, ...args], { env });
  t.after(async () => {
    running.child.kill('SIGTERM');
    await running.done;
  });
  return running;
}

/** Changes agent.json. */
async function configure({ state }: { readonly state: string }, changes: object): Promise<void> {
  const file = join(state, 'agent.json');
  const config: object = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, ...changes }));
}

/** Waits until the host told of the manifest with this sequence. */
async function toldOf({ dir }: Live, host: string, sequence: number): Promise<void> {
  await waitFor(async () => {
    const report = await dir.state.lastReport(host);
    return report?.envelope !== undefined && sequenceOf(report.envelope) === sequence;
  });
}

function sequenceOf(envelope: string): number | null {
  const { payload } = JSON.parse(envelope) as { payload: string };
  const receipt = JSON.parse(Buffer.from(payload, 'base64').toString());
  return receipt.manifest?.sequence ?? null;
}

/** Asks the server for `path` what `request` asks, and answers with what it says. */
function forward(
  w: Live,
  path: string | undefined,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const { method = '', headers } = request;
  const onward = httpRequest(`${w.url}${path}`, { method, headers }, (answer) => {
    response.writeHead(answer.statusCode ?? 500, answer.headers);
    answer.pipe(response);
  });
  onward.on('error', () => response.destroy());
  request.pipe(onward);
}

/** A proxy in front of the server, which forwards what `answers` does not take; returns its URL. */
async function forwarding(
  t: TestContext,
  w: Live,
  answers: (request: IncomingMessage, response: ServerResponse) => boolean,
): Promise<string> {
  const server = createServer((request, response) => {
    if (!answers(request, response)) forward(w, request.url, request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const HINTED = ['--poll', '3600'];

async function agentOf(w: Live, host = 'a'): Promise<LiveAgent> {
  const agent = await w.agent(host);
  // Signed times are those of the server's clock, which is the real one here.
  await configure(agent, { clock: 'trusted' });
  return agent;
}

test('what is published is asked for because of a hint, and once more after the server was away', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const run = startRun(t, agent.state, HINTED);
  await waitFor(async () => run.stderr().includes('listening for hints'));
  await publishHost(w.dir, 'a', 'one', w.now);
  await toldOf(w, 'a', 1);
  await w.without(async () => {});
  await publishHost(w.dir, 'a', 'two', w.now);
  await toldOf(w, 'a', 2);
});

test('where hints are blocked, the host asks from time to time', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const url = await forwarding(t, w, (request, response) => {
    if (request.url?.endsWith('/events') !== true) return false;
    response.writeHead(403).end();
    return true;
  });
  await configure(agent, { server: url });
  const run = startRun(t, agent.state, ['--poll', '1']);
  await waitFor(async () => run.stderr().includes('no hints for now: the server answered 403'));
  await publishHost(w.dir, 'a', 'one', w.now);
  await toldOf(w, 'a', 1);
});

test('an HTTP proxy that the environment names is used for hints and questions', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const asked = new Set<string>();
  const proxy = createServer((request, response) => {
    const url = new URL(request.url ?? '');
    asked.add(url.pathname);
    forward(w, `${url.pathname}${url.search}`, request, response);
  });
  proxy.on('connect', (request, socket) => {
    asked.add(`CONNECT ${request.url}`);
    const onward = connect(Number(new URL(w.url).port), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      onward.pipe(socket);
      socket.pipe(onward);
    });
    onward.on('error', () => socket.destroy());
    socket.on('error', () => onward.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  // A name that only the proxy knows.
  await configure(agent, { server: 'http://fleet.invalid' });
  const { port } = proxy.address() as AddressInfo;
  const run = startRun(t, agent.state, HINTED, { http_proxy: `http://127.0.0.1:${port}` });
  await waitFor(async () => run.stderr().includes('listening for hints'));
  await publishHost(w.dir, 'a', 'one', w.now);
  await toldOf(w, 'a', 1);
  assert.ok(
    [...asked].some((path) => path.endsWith('/events')),
    [...asked].join(),
  );
});

test('on IPv6 alone, all is the same', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const forward = createTcpServer((socket) => {
    const onward = connect(Number(new URL(w.url).port), '127.0.0.1');
    socket.pipe(onward).pipe(socket);
    socket.on('error', () => onward.destroy());
    onward.on('error', () => socket.destroy());
  });
  await new Promise<void>((resolve) => forward.listen(0, '::1', resolve));
  t.after(() => forward.close());
  const { port } = forward.address() as AddressInfo;
  await configure(agent, { server: `http://[::1]:${port}` });
  const run = startRun(t, agent.state, HINTED);
  await waitFor(async () => run.stderr().includes('listening for hints'));
  await publishHost(w.dir, 'a', 'one', w.now);
  await toldOf(w, 'a', 1);
});

test('a private host listens to nothing, and tells phase and manifest alone', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const paths: string[] = [];
  const url = await forwarding(t, w, (request) => {
    paths.push(request.url ?? '');
    return false;
  });
  await configure(agent, { server: url, privacy: true });
  await publishHost(w.dir, 'a', 'one', w.now);
  startRun(t, agent.state, ['--poll', '1']);
  await toldOf(w, 'a', 1);
  await waitFor(async () => paths.filter((path) => path.includes('/offer')).length >= 3);
  assert.ok(!paths.some((path) => path.includes('/events')), paths.join());
  const report = await w.dir.state.lastReport('a');
  const { payload } = JSON.parse(report?.envelope ?? '') as { payload: string };
  const { booted, current, profile, exitCode, reason } = JSON.parse(
    Buffer.from(payload, 'base64').toString(),
  );
  assert.deepEqual([booted, current, profile, exitCode], [null, null, null, null]);
  assert.equal(reason.text, '');
  assert.match(reason.code, /^E_/);
});

test('told to end while it asks, it ends, and the run goes on to its end', async (t) => {
  await using systems = await temporaryDirectory();
  const [one, two] = [
    await buildSystem(systems.path, 'one'),
    await buildSystem(systems.path, 'two'),
  ];
  await using s = await atRealTime(one, { clock: 'trusted' });
  s.world.publish(two);
  let release = (): void => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  let isAsked = false;
  s.world.misbehave = (path, response) => {
    if (!path.startsWith('/v1/closures/') || isAsked) return false;
    isAsked = true;
    const bytes = s.world.closures.get(path.replace('/v1/closures/', ''));
    void held.then(() => response.end(bytes));
    return true;
  };
  await configure({ state: s.host.state }, { patienceSeconds: 60 });
  const run = startRun(t, s.host.state, ['--root', s.host.root, ...HINTED]);
  await waitFor(async () => isAsked);
  run.child.kill('SIGTERM');
  const { code } = await new Promise<{ code: number | null }>((resolve) =>
    run.child.once('exit', (code) => resolve({ code })),
  );
  assert.equal(code, 0);
  assert.equal(s.world.reports.length, 1);
  release();
  await waitFor(async () => s.world.reports.at(-1)?.manifest?.sequence === 2);
  assert.equal(s.world.reports.at(-1)?.phase, 'in-sync');
});

test('it ends by itself once its unit is another one', async (t) => {
  await using systems = await temporaryDirectory();
  await using s = await atRealTime(await buildSystem(systems.path, 'one'), { clock: 'trusted' });
  const unit = join(s.world.dir, 'fleet-agent.service');
  await symlink('/nix/store/one', unit);
  const run = startRun(t, s.host.state, ['--poll', '1', '--unit', unit]);
  const asked = () => s.world.requests.filter((line) => line.includes(`/${HOST}/offer`)).length;
  const before = asked();
  await waitFor(async () => asked() >= before + 2);
  assert.equal(run.child.exitCode, null);
  await rm(unit);
  await symlink('/nix/store/two', unit);
  const { code, stderr } = await run.done;
  assert.equal(code, 0, stderr);
  assert.match(stderr, /another one now/);
});

test('a run that cannot be started is a run that failed, and the agent goes on', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const says: string[] = [];
  const stop = new AbortController();
  const running = runAgent({
    dir: agent.state,
    command: [join(w.top, 'no-such-program')],
    say: (line) => says.push(line),
    signal: stop.signal,
    pollSeconds: 1,
  });
  await waitFor(() => says.some((line) => line.includes('could not be started')));
  await writeFile(join(w.top, 'no-such-program'), '#!/bin/sh\necho \'{"phase":"in-sync"}\'\n', {
    mode: 0o755,
  });
  await waitFor(() => says.includes('in-sync'));
  stop.abort();
  await running;
});

test('a run whose child keeps its output open does not hold the next one up', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const script = join(w.top, 'script');
  const runs = join(w.top, 'runs');
  await writeFile(script, `#!/bin/sh\necho x >>${runs}\nsleep 20 &\n`, { mode: 0o755 });
  const stop = new AbortController();
  const running = runAgent({
    ...{ dir: agent.state, command: [script], say: () => {}, signal: stop.signal, pollSeconds: 1 },
  });
  await waitFor(async () => (await readFile(runs, 'utf8').catch(() => '')).length >= 4);
  stop.abort();
  await running;
});

test('agent.json is read again: a host that becomes private stops listening', async (t) => {
  const w = await live(t);
  const agent = await agentOf(w);
  const says: string[] = [];
  const stop = new AbortController();
  const script = join(w.top, 'script');
  await writeFile(script, '#!/bin/sh\n', { mode: 0o755 });
  const running = runAgent({
    ...{ dir: agent.state, command: [script], signal: stop.signal, pollSeconds: 1 },
    say: (line) => says.push(line),
  });
  const connections = () =>
    new Promise<number>((resolve) => w.server().getConnections((_, count) => resolve(count)));
  await waitFor(() => says.includes('listening for hints'));
  assert.equal(await connections(), 1);
  await configure(agent, { privacy: true });
  await waitFor(async () => (await connections()) === 0);
  stop.abort();
  await running;
});

test('what cannot begin says so: no agent, a damaged one, a pace that is none', async (t) => {
  const w = await live(t);
  const nobody = await fleet(['agent', 'run', '--state', join(w.top, 'nobody')]);
  assert.match(nobody.stderr, /E_AGENT_NOT_ENROLLED/);
  const agent = await agentOf(w);
  for (const poll of ['0', '604801', 'x']) {
    const bad = await fleet(['agent', 'run', '--state', agent.state, '--poll', poll]);
    assert.match(bad.stderr, /--poll \w+ .*\[E_USAGE\]/s);
  }
  for (const verb of ['run', 'once']) {
    const env = { HTTPS_PROXY: 'user:secret@proxy:3128' };
    const proxy = await fleet(['agent', verb, '--state', agent.state], { env });
    assert.match(proxy.stderr, /HTTPS_PROXY .*\[E_PROXY\]/s);
    assert.doesNotMatch(proxy.stderr, /secret/);
  }
  for (const wrong of [{ server: 7 }, { pollSeconds: 9 }, { privacy: 'yes' }]) {
    const was = await readFile(join(agent.state, 'agent.json'));
    await configure(agent, wrong);
    const damaged = await fleet(['agent', 'run', '--state', agent.state]);
    assert.match(damaged.stderr, /agent.json is damaged: .*E_AGENT_STATE_CORRUPT/s);
    await writeFile(join(agent.state, 'agent.json'), was);
  }
});
