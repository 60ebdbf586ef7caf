// Each check by itself, with real programs and sockets: what it says, and that it ends in its time whatever it meets.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { checksOf } from '../../src/agent/checks.ts';
import { placeAt } from '../../src/agent/place.ts';
import { DEFAULT_ACTIVATION, type Health } from '../../src/manifest/activation.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const MACHINE = { place: placeAt(null), hasSystemd: false };

/** What the one check of `health` says. */
async function ask(health: Partial<Health>, ms = 20_000): Promise<string | null> {
  const [check, ...others] = checksOf(MACHINE, { ...DEFAULT_ACTIVATION.health, ...health });
  assert.deepEqual(others, []);
  assert.ok(check);
  const began = performance.now();
  const said = await check(ms);
  // Generous, for a machine that is busy; what never ends would take longer.
  assert.ok(performance.now() - began < ms + 10_000);
  return said;
}

const run = (script: string, ms?: number) => ask({ commands: [['/bin/sh', '-c', script]] }, ms);

test('a command says how it ended, and its last line', async () => {
  assert.equal(await run('echo well'), null);
  assert.match((await run('exit 1')) ?? '', /^\/bin\/sh -c exit 1 ended with 1$/);
  assert.match((await run('echo a; echo b >&2; exit 3')) ?? '', /ended with 3: b$/);
  assert.match((await run('kill -KILL $$')) ?? '', /ended with 137|did not end/);
  assert.match((await ask({ commands: [['/none/such']] })) ?? '', /ended with 127: .*such/);
  // However much it says.
  const endless = (await run('yes "$(printf "%0500d" 7)" | head -c 20000000; exit 5')) ?? '';
  assert.match(endless, /ended with 5: 0+7?$/);
  assert.ok(endless.length < 1000);
});

test('a command that hangs is killed with all it started; one that leaves something behind is not waited for', async () => {
  await using dir = await temporaryDirectory();
  const script = `trap "" TERM; (trap "" TERM; sleep 3; touch ${dir.path}/survived) & sleep 600`;
  assert.match((await run(script, 500)) ?? '', /did not end in 0\.5 s$/);
  await sleep(3000);
  await assert.rejects(readFile(join(dir.path, 'survived')), { code: 'ENOENT' });
  // Holds the output; ends by itself.
  const began = performance.now();
  assert.equal(await run('sleep 15 & exit 0'), null);
  assert.ok(performance.now() - began < 12_000);
});

test('arguments are the command’s own: nothing of them is for a shell, or for us', async () => {
  assert.equal(await ask({ commands: [['test', '$(exit 0)', '=', '$(exit 0)']] }), null);
  assert.match((await ask({ commands: [['--version']] })) ?? '', /^--version ended with 12[67]/);
});

async function httpServer(listener: RequestListener) {
  const server = createHttpServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/x`;
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { url, [Symbol.asyncDispose]: close };
}

test('http: the status counts, redirects are not followed, the rest is not read', async () => {
  let sent = 0;
  const asked: unknown[] = [];
  await using server = await httpServer((request, response) => {
    asked.push([request.method, request.url, request.headers.authorization]);
    response.writeHead(302, { location: '/elsewhere' });
    const more = (): void => {
      if (response.destroyed) return;
      sent += 65_536;
      response.write(Buffer.alloc(65_536), more);
    };
    more();
  });
  const { url } = server;
  assert.equal(await ask({ http: [{ url, status: 302 }] }), null);
  assert.equal(await ask({ http: [{ url, status: 200 }] }), `${url} answered 302, not 200`);
  assert.deepEqual(asked, Array(2).fill(['GET', '/x', undefined]));
  await sleep(100);
  const then = sent;
  await sleep(200);
  assert.equal(sent, then, 'it goes on reading');
  // As much as lies in buffers.
  assert.ok(sent < 64 * 1024 * 1024, `${sent}`);
});

test('http: a server that is silent, that never gets to its answer, or is none', async () => {
  await using silent = await httpServer(() => {});
  assert.match(
    (await ask({ http: [{ url: silent.url, status: 200 }] }, 300)) ?? '',
    /no answer in 0\.3 s$/,
  );
  await using endless = await httpServer((_, response) => {
    const timer = setInterval(() => response.writeProcessing(), 20);
    response.on('close', () => clearInterval(timer));
  });
  const never = { url: endless.url, status: 200 };
  assert.match((await ask({ http: [never] }, 500)) ?? '', /no answer in 0\.5 s$/);
  const none = { url: 'http://127.0.0.1:1/', status: 200 };
  assert.match((await ask({ http: [none] })) ?? '', /ECONNREFUSED/);
  const odd = { url: 'http://[/', status: 200 };
  assert.match((await ask({ http: [odd] })) ?? '', /invalid/i);
});

test('http: no proxy of the environment, and no credential of a URL', async () => {
  const seen: unknown[] = [];
  await using server = await httpServer((request, response) => {
    seen.push(request.url);
    response.writeHead(200).end();
  });
  process.env['HTTP_PROXY'] = 'http://127.0.0.1:1';
  try {
    assert.equal(await ask({ http: [{ url: server.url, status: 200 }] }), null);
  } finally {
    delete process.env['HTTP_PROXY'];
  }
  assert.deepEqual(seen, ['/x']);
});

test('tcp: a connection has to be accepted, nothing need be said', async () => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => sockets.add(socket.on('error', () => {})));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  assert.equal(await ask({ tcp: [{ host: '127.0.0.1', port }] }), null);
  assert.equal(await ask({ tcp: [{ host: 'localhost', port }] }), null);
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  const refused = /^(127\.0\.0\.1|localhost) port \d+: .*ECONNREFUSED/;
  assert.match((await ask({ tcp: [{ host: '127.0.0.1', port }] })) ?? '', refused);
  assert.match((await ask({ tcp: [{ host: 'localhost', port }] })) ?? '', refused);
});

test('tcp: nobody that answers (TEST-NET-1), within its time', async () => {
  const said = (await ask({ tcp: [{ host: '192.0.2.1', port: 9 }] }, 300)) ?? '';
  assert.match(said, /^192\.0\.2\.1 port 9: (no connection in 0\.3 s|.*(UNREACH|REFUSED))/);
});

test('units: without systemd nobody can say, so it does not hold', async () => {
  assert.match(
    (await ask({ units: ['a.service', 'b.timer'] })) ?? '',
    /^a\.service, b\.timer: no systemd/,
  );
  assert.deepEqual(checksOf(MACHINE, DEFAULT_ACTIVATION.health), []);
});
