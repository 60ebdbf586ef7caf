// What counts as the server's word from a new system, and when it is not asked for.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { generateSecretKey } from '../../src/ed25519.ts';
import { parseNote } from '../../src/tlog/note.ts';
import { all, setting, systemsOf } from '../helpers/hosts.ts';
import { LOST, rules, verdictOf, WELL } from '../helpers/server-lost.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

test('answers that prove nothing are silence: old, foreign, of another time, or none', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const honest = world.prove;
  let first = '';
  const lies: [RegExp, (nonce: string) => string | null][] = [
    [/answers another question/, () => first],
    [/names no nonce key/, (nonce) => world.proofOf({ nonce }, generateSecretKey())],
    [/names no nonce key/, (nonce) => world.proofOf({ nonce }, world.logKeys.freshness)],
    [/signed before/, (nonce) => world.proofOf({ nonce, time: world.now - 301 })],
    [/proof of time: it is not JSON/, () => 'well'],
    [/it gives no proof/, () => null],
  ];
  first = world.proofOf({ nonce: '07'.repeat(32) });
  for (const [pattern, prove] of lies) {
    world.prove = prove;
    world.publish(two, { activation: rules() });
    const result = await host.once();
    assert.deepEqual(verdictOf(result), LOST);
    assert.match(result.outcome?.reason?.text ?? '', pattern);
    assert.deepEqual(await systemsOf(host), all(one));
  }
  world.prove = honest;
  world.publish(two, { activation: rules({ confirmSeconds: 60 }) });
  assert.deepEqual(verdictOf(await host.once()), WELL);
});

test('what was published meanwhile does not matter: the answer may be of a newer log', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.prove = (nonce) => {
    const { text } = parseNote(world.log.checkpoint(world.root, world.logKeys, null));
    world.prove = (again) => world.proofOf({ nonce: again });
    world.publish(three, { activation: rules({ confirmSeconds: 60 }) });
    const proof = world.proofOf({ nonce });
    assert.ok(!proof.includes(JSON.stringify(text).slice(1, -1)));
    return proof;
  };
  world.publish(two, { activation: rules({ confirmSeconds: 60 }) });
  assert.deepEqual(verdictOf(await host.once()), WELL);
  assert.deepEqual(await systemsOf(host), all(two));
});

test('root’s word for an old log is word enough for the server as well', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.prove = () => null;
  world.publish(two, { activation: rules() });
  assert.deepEqual(verdictOf(await host.once({ acceptAge: true })), WELL);
});

test('where there is no system to go back to, the server decides nothing', async () => {
  await using s = await setting(null);
  const { world, host } = s;
  world.prove = () => null;
  world.publish(one, { activation: rules() });
  assert.deepEqual(verdictOf(await host.once()), WELL);
  assert.deepEqual(await systemsOf(host), all(one));
});
