// A path is not replaced in the cache under hosts that were told its old bytes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isFleetError } from '../../src/errors.ts';
import { requireUntold } from '../../src/server/rebuilt.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

test('another build of a shared path is refused, unless all who were told of it are built again', async (t) => {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(async () => {
    await dir[Symbol.asyncDispose]();
  });
  const { closure, toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  await publishHost(dir, 'gateway', 'one', NOW);
  const library = closure.find(({ path }) => path !== toplevel);
  const system = closure.find(({ path }) => path === toplevel);
  assert.ok(library !== undefined && system !== undefined);
  const check = (info: typeof library, ...hosts: string[]) =>
    requireUntold(dir, [info], new Set(hosts));
  const refused = (error: unknown) =>
    isFleetError(error, 'E_REBUILT') && error.message.includes('gateway');

  await check(library, 'lantern');
  const otherBytes = { ...library, narHash: system.narHash };
  // The cache keeps what was published first, so nobody is harmed.
  await check(otherBytes, 'lantern');
  const otherReferences = { ...otherBytes, references: [library.path] };
  await assert.rejects(check(otherReferences, 'lantern'), refused);
  await check(otherReferences, 'lantern', 'gateway');
  // A path of lantern's own concerns nobody else.
  await check({ ...system, narHash: library.narHash, references: [] }, 'lantern');

  const row = (await dir.state.cachedPaths([library.path]))[0];
  assert.ok(row?.blob != null);
  await dir.blobs.delete(row.blob);
  await check(library, 'lantern');
  await assert.rejects(check(otherBytes, 'lantern'), refused);
});
