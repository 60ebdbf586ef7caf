// Rounds of checks, and which of them decides. The server is one that the test makes heard.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Listen } from '../../src/agent/fresh.ts';
import { proveHealthy } from '../../src/agent/health.ts';
import type { Host } from '../../src/agent/host.ts';
import { placeAt } from '../../src/agent/place.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

// No more of a host is looked at.
const HOST = { place: placeAt(null), hasSystemd: false } as Host;

/** A server that is heard when `heard` resolves. */
const server =
  (heard: Promise<void>, ended: () => void = () => {}): Listen =>
  () => {
    let isHeard = false;
    const noted = heard.then(() => {
      isHeard = true;
    });
    return {
      heard: noted,
      isHeard: () => isHeard,
      problem: () => 'silence',
      [Symbol.asyncDispose]: async () => ended(),
    };
  };

const NEVER = new Promise<void>(() => {});

async function prove(scripts: readonly string[], confirmSeconds: number, listen: Listen | null) {
  const commands = scripts.map((script) => ['/bin/sh', '-c', script]);
  const health = { ...DEFAULT_ACTIVATION.health, commands };
  const began = performance.now();
  const { why } = await proveHealthy(HOST, { health, confirmSeconds, failedBefore: [], listen });
  return { code: why?.code, text: why?.text ?? '', ms: performance.now() - began };
}

test('nothing to check, and a server that is heard, or that decides nothing', async () => {
  assert.equal((await prove([], 60, null)).code, undefined);
  let ended = 0;
  const heard = server(Promise.resolve(), () => ended++);
  assert.equal((await prove(['exit 0'], 60, heard)).code, undefined);
  assert.equal(ended, 1, 'nobody listens any more');
});

test('the server alone is missing: that is told, and not before the time is over', async () => {
  const { code, text, ms } = await prove(['exit 0'], 1, server(NEVER));
  assert.equal(code, 'E_SERVER_LOST');
  assert.match(text, /^no word of the server in the 1 s after the switch: silence$/);
  assert.ok(ms >= 1000, `${ms}`);
});

test('what is not healthy counts for more than who is not heard', async () => {
  const { code, text } = await prove(['exit 0', 'exit 7', 'echo no; exit 8'], 1, server(NEVER));
  assert.equal(code, 'E_HEALTH');
  assert.match(text, /: \/bin\/sh -c exit 7 ended with 7; .* ended with 8: no$/);
});

test('what failed last is the reason', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'n');
  const script = `echo x >>${file}; test "$(wc -l <${file})" -ge 2 && exit 2; exit 1`;
  const { text } = await prove([script], 3, null);
  assert.match(text, /ended with 2$/);
});

test('a round that the end of the time cuts short says less than the one before it', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'n');
  const hangs = (first: string): string =>
    `echo x >>${file}; test "$(wc -l <${file})" = 1 && ${first}; sleep 600`;
  const failed = await prove([hangs('exit 5')], 3, null);
  assert.match(failed.text, /ended with 5$/);
  // It was well, and only the server was missing.
  await using other = await temporaryDirectory();
  const well = hangs('exit 0').replaceAll(dir.path, other.path);
  assert.equal((await prove([well], 3, server(NEVER))).code, 'E_SERVER_LOST');
  assert.match(await readFile(join(other.path, 'n'), 'utf8'), /^x\nx/);
  // With nothing before it, it is all that is known.
  const hanging = await prove(['sleep 600'], 1, server(Promise.resolve()));
  assert.equal(hanging.code, 'E_HEALTH');
  assert.match(hanging.text, /did not end in 1 s/);
});

test('a system that hangs after the server was heard has not passed', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'n');
  // Heard once the first round is over: that one does not count, the next one hangs.
  const heard = Promise.withResolvers<void>();
  const timer = setInterval(() => {
    readFile(file).then(
      () => setTimeout(() => heard.resolve(), 300),
      () => {},
    );
  }, 20);
  const script = `[ ! -e ${file} ] || sleep 600; sleep 0.1; touch ${file}`;
  const { code, text } = await prove([script], 4, server(heard.promise));
  clearInterval(timer);
  assert.equal(code, 'E_HEALTH');
  assert.match(text, /did not end in/);
});
