// What an agent must refuse, as a test says it: a server that misbehaves in one way, and a host that refuses it
// with one code, stays as it was, and tells the fleet once.
import assert from 'node:assert/strict';
import { readMemory } from '../../src/agent/memory.ts';
import { ERRORS, type ErrorCode } from '../../src/errors.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { manifestDigest } from '../../src/manifest/manifest.ts';
import { type Offer, parseOffer } from '../../src/manifest/offer.ts';
import { all, type Setting, systemsOf } from './hosts.ts';
import type { BuiltSystem } from './systems.ts';
import { HOST, type Misbehaviour, type World } from './world.ts';

/**
 * Two runs that are refused with `code`: nothing changes, and one receipt says so. `change` is what the server
 * changes of its honest offer.
 */
export async function refuses(
  { world, host }: Setting,
  code: ErrorCode,
  change: ((offer: Offer) => Partial<Offer>) | null = null,
  what = '',
): Promise<void> {
  const last = world.reports.at(-1);
  const told = world.reports.length;
  const systems = await systemsOf(host);
  const { floor } = (await readMemory(host.state)).trust;
  const { exit } = ERRORS[code];
  if (change !== null) {
    world.distort = (text) => {
      const offer = parseOffer(text);
      return JSON.stringify({ ...offer, ...change(offer) });
    };
  }
  for (const time of ['first', 'second']) {
    const { error, outcome } = await host.once();
    const got = [error?.code, error?.exitCode, outcome?.phase];
    const phase = exit === 3 ? 'refused' : 'failed';
    assert.deepEqual(got, [code, exit, phase], `${what} ${time}: ${error?.message}`);
  }
  // The same news as before are told no second time.
  if (last?.reason?.code !== code) assert.equal(world.reports.length, told + 1);
  assert.ok(world.reports.length <= told + 1);
  assert.equal(world.reports.at(-1)?.reason?.code, code);
  assert.deepEqual(await systemsOf(host), systems);
  // What is refused before anything is fetched is no manifest that was accepted.
  if (!/^E_(CLOSURE|NAR|NARINFO|STORE)_/.test(code)) {
    assert.deepEqual((await readMemory(host.state)).trust.floor, floor);
  }
  if (change !== null) world.distort = (text) => text;
}

/** One run that ends with `system` on the host. */
export async function takesIt({ host }: Setting, system: BuiltSystem): Promise<void> {
  const { outcome, error } = await host.once();
  assert.equal(outcome?.phase, 'in-sync', `${error}`);
  assert.deepEqual(await systemsOf(host), all(system));
}

/** Logs any envelope as the newest manifest of the host, and offers it. */
export function showEnvelope(world: World, text: string, sequence = 1000): void {
  const sha256 = manifestDigest(parseEnvelope(text).payload);
  world.manifest = text;
  world.log.hosts.set(HOST, { host: HOST, epoch: world.root.epoch, sequence, sha256 });
  world.append([text]);
}

/** What the server does where it is asked for an address that `path` matches. */
export function on(path: RegExp, misbehave: Misbehaviour): Misbehaviour {
  return (asked, response, request) => path.test(asked) && misbehave(asked, response, request);
}

/** Announces an answer, and sends a byte of it now and then. */
export const dribble: Misbehaviour = (_, response) => {
  const timer = setInterval(() => response.write(' '), 200);
  response.on('close', () => clearInterval(timer));
  return true;
};

/** Sends without end. */
export const pour: Misbehaviour = (_, response) => {
  const more = (): boolean => {
    while (response.write(Buffer.alloc(65536, 0x20)));
    return true;
  };
  response.on('drain', more);
  return more();
};
