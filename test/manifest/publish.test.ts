// Publication: what counts as a change, what is never published, and what makes it atomic.
import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { generateSecretKey } from '../../src/ed25519.ts';
import { isFleetError } from '../../src/errors.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { formatManifest, parseManifest } from '../../src/manifest/manifest.ts';
import {
  type BuiltHost,
  changeOf,
  isEmergency,
  type Rules,
  requireWithinLimits,
  signManifest,
  storeClosure,
} from '../../src/manifest/publish.ts';
import { Servable } from '../../src/manifest/servable.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { parseBlobId } from '../../src/storage/blobs.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

type Context = Parameters<typeof temporaryDir>[0];
const NOW = 1_800_000_000;
const DAY = 86_400;

async function world(t: Context) {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(async () => {
    await dir[Symbol.asyncDispose]();
  });
  const { toplevel, closure } = await publishHost(dir, 'lantern', 'one', NOW);
  const current = await dir.state.currentManifest('lantern');
  assert.ok(current !== null);
  const manifest = parseManifest(parseEnvelope(current.envelope).payload);
  assert.ok(manifest.intent === 'deploy');
  const built: BuiltHost = {
    host: 'lantern',
    system: 'x86_64-linux',
    toplevel,
    activation: DEFAULT_ACTIVATION,
    provenance: manifest.provenance,
  };
  const rules = { root: dir.root, now: NOW, validSeconds: 90 * DAY };
  return { dir, built, closure, current, rules };
}

test('a change is a first manifest, another system, other settings, other bytes, or time running out', async (t) => {
  const { built, current, rules } = await world(t);
  const other = parseStorePath(`/nix/store/${'1'.repeat(32)}-other`);
  const zeros = parseBlobId('0'.repeat(64));
  assert.equal(changeOf(built, current.closure, null, rules), 'new');
  assert.equal(changeOf(built, current.closure, current, rules), 'none');
  assert.equal(changeOf(built, null, current, rules), 'none');
  assert.equal(changeOf({ ...built, toplevel: other }, null, current, rules), 'system');
  assert.equal(changeOf({ ...built, system: 'aarch64-linux' }, null, current, rules), 'system');
  const boot = { ...DEFAULT_ACTIVATION, mode: 'boot' } as const;
  assert.equal(changeOf({ ...built, activation: boot }, null, current, rules), 'settings');
  assert.equal(changeOf(built, zeros, current, rules), 'closure');
  assert.equal(changeOf(built, null, current, { ...rules, now: NOW + 59 * DAY }), 'none');
  assert.equal(changeOf(built, null, current, { ...rules, now: NOW + 61 * DAY }), 'renewal');
  const root = { ...rules.root, version: 2 };
  assert.equal(changeOf(built, null, current, { ...rules, root }), 'renewal');
  // Where the system came from is no reason to switch.
  const provenance = { ...built.provenance, flakeRef: 'path:/elsewhere' };
  assert.equal(changeOf({ ...built, provenance }, null, current, rules), 'none');
});

test('a minimum is a change by itself, and stays for what follows, but for another epoch', async (t) => {
  const { dir, built, closure, current, rules } = await world(t);
  const stored = await storeClosure(built, closure, dir.blobs, dir.root.limits);
  const director = generateSecretKey();
  const sign = (before: typeof current | null, given: Rules = rules) =>
    signManifest(built, stored, before, director, given);
  const minOf = ({ envelope }: Pick<typeof current, 'envelope'>) => {
    const { sequence, minSequence } = parseManifest(parseEnvelope(envelope).payload);
    return [sequence, minSequence];
  };
  const first = sign(null);
  assert.deepEqual(minOf(first), [1, 0]);
  const strict = { ...rules, minimum: true };
  assert.equal(changeOf(built, null, first, rules), 'none');
  assert.equal(changeOf(built, null, first, strict), 'minimum');
  const second = sign(first, strict);
  assert.deepEqual(minOf(second), [2, 2]);
  assert.equal(changeOf(built, null, second, strict), 'none');
  const third = sign(second);
  assert.deepEqual(minOf(third), [3, 2]);
  assert.equal(changeOf(built, null, third, strict), 'minimum');
  const root = { ...rules.root, epoch: rules.root.epoch + 1 };
  assert.deepEqual(minOf(sign(third, { ...rules, root })), [1, 0]);
});

test('an emergency is a change by itself, and stays while the system does', async (t) => {
  const { dir, built, closure, current, rules } = await world(t);
  const stored = await storeClosure(built, closure, dir.blobs, dir.root.limits);
  const sign = (one: typeof built, before: typeof current | null, given: typeof rules) =>
    signManifest(one, stored, before, generateSecretKey(), given);
  const urgent = { ...rules, emergency: true };
  assert.equal(isEmergency(current), false);
  assert.equal(changeOf(built, null, current, urgent), 'emergency');
  const raised = sign(built, current, urgent);
  assert.equal(isEmergency(raised), true);
  for (const given of [rules, urgent]) assert.equal(changeOf(built, null, raised, given), 'none');
  // Renewed, or under other rules, it is still one; another system is one only where that is said.
  const later = { ...rules, now: NOW + 61 * DAY };
  assert.equal(changeOf(built, null, raised, later), 'renewal');
  assert.equal(isEmergency(sign(built, raised, later)), true);
  const other = { ...built, toplevel: parseStorePath(`/nix/store/${'1'.repeat(32)}-other`) };
  assert.equal(isEmergency(sign(other, raised, rules)), false);
  assert.equal(isEmergency(sign(built, null, rules)), false);
  assert.equal(isEmergency(sign(built, null, urgent)), true);
});

test('a decommissioned host is not published again', async (t) => {
  const { built, current, rules } = await world(t);
  const { provenance, activation, closure, toplevel, toplevelNarHash, ...rest } = parseManifest(
    parseEnvelope(current.envelope).payload,
  ) as Extract<ReturnType<typeof parseManifest>, { intent: 'deploy' | 'rollback' }>;
  const payload = formatManifest({
    ...rest,
    intent: 'decommission',
    sequence: 2,
    previous: { epoch: 1, sequence: 1, sha256: current.digest },
  });
  const envelope = signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, [generateSecretKey()]);
  assert.throws(
    () => changeOf(built, null, { ...current, envelope }, rules),
    (error) => isFleetError(error, 'E_DECOMMISSIONED'),
  );
});

test('the next manifest names the one before, and a new epoch starts its own sequence', async (t) => {
  const { dir, built, closure, current, rules } = await world(t);
  const stored = await storeClosure(built, closure, dir.blobs, dir.root.limits);
  const open = ({ envelope }: { envelope: string }) =>
    parseManifest(parseEnvelope(envelope).payload);
  const next = open(signManifest(built, stored, current, generateSecretKey(), rules));
  assert.equal(next.sequence, 2);
  assert.deepEqual(next.previous, { epoch: 1, sequence: 1, sha256: current.digest });
  const root = { ...rules.root, epoch: 2 };
  const reset = open(signManifest(built, stored, current, generateSecretKey(), { ...rules, root }));
  assert.deepEqual([reset.epoch, reset.sequence], [2, 1]);
});

test('a closure that no agent would take is not stored', async (t) => {
  const { dir, built, closure } = await world(t);
  const limits = { ...dir.root.limits, closurePaths: 1 };
  await assert.rejects(storeClosure(built, closure, dir.blobs, limits), (error) =>
    isFleetError(error, 'E_CLOSURE_LIMIT'),
  );
  const part = closure.filter(({ path }) => path === built.toplevel);
  await assert.rejects(storeClosure(built, part, dir.blobs, dir.root.limits), (error) =>
    isFleetError(error, 'E_CLOSURE_MISSING'),
  );
});

test('nor published under a root that came since, and allows less', async (t) => {
  const { dir, built, closure } = await world(t);
  const stored = await storeClosure(built, closure, dir.blobs, dir.root.limits);
  requireWithinLimits('lantern', stored, dir.root.limits);
  for (const less of [
    { closurePaths: stored.paths - 1 },
    { closureBytes: stored.blob.size - 1 },
    { narBytes: stored.narBytes - 1 },
  ]) {
    const limits = { ...dir.root.limits, ...less };
    assert.throws(
      () => requireWithinLimits('lantern', stored, limits),
      (error) => isFleetError(error, 'E_CLOSURE_LIMIT'),
    );
  }
});

test('a closure of which a byte cannot be served is found out', async (t) => {
  const { dir, built, closure } = await world(t);
  const { blob } = await storeClosure(built, closure, dir.blobs, dir.root.limits);
  const require = () => new Servable(dir).require('lantern', blob);
  await require();
  const row = (await dir.state.cachedPaths([built.toplevel]))[0];
  assert.ok(row?.blob != null);
  const lacks = (error: unknown) =>
    isFleetError(error, 'E_CACHE_INCOMPLETE') && error.message.includes(built.toplevel);
  const other = closure.find(({ path }) => path !== built.toplevel);
  await dir.state.addCachedPaths([{ ...row, narHash: other?.narHash ?? row.narHash }], NOW);
  await assert.rejects(require(), lacks);
  await dir.state.addCachedPaths([row], NOW);
  await require();
  await dir.blobs.delete(row.blob);
  await assert.rejects(require(), lacks);
  await dir.blobs.put([Buffer.from('other bytes')]);
  const upstream = { url: 'https://cache.test/nar/x', fileHash: null, fileSize: null };
  await dir.state.addCachedPaths([{ ...row, blob: null, blobSize: null, upstream }], NOW);
  await require();
});

test('nor is one whose closure file is lost, or another', async (t) => {
  const { dir, built, closure } = await world(t);
  const { blob } = await storeClosure(built, closure, dir.blobs, dir.root.limits);
  const file = join(dir.layout.blobs, blob.id.slice(0, 2), blob.id.slice(2));
  const bytes = await readFile(file);
  const lacks = (error: unknown) =>
    isFleetError(error, 'E_CACHE_INCOMPLETE') && error.message.includes(blob.id);
  const require = () => new Servable(dir).require('lantern', blob);
  await require();
  await writeFile(file, bytes.subarray(1));
  await assert.rejects(require(), lacks);
  await writeFile(file, Buffer.from(bytes).reverse());
  await assert.rejects(require(), lacks);
  await rm(file);
  await assert.rejects(require(), lacks);
});

test('what was found for one host is not looked up for the next, and what is its own is', async (t) => {
  const { dir, closure } = await world(t);
  const other = await publishHost(dir, 'gateway', 'two', NOW);
  const asked: string[][] = [];
  const state = {
    cachedPaths: async (paths: Parameters<typeof dir.state.cachedPaths>[0]) => {
      asked.push([...paths]);
      return await dir.state.cachedPaths(paths);
    },
    droppedPaths: () => dir.state.droppedPaths(),
  };
  const servable = new Servable({ state, blobs: dir.blobs });
  for (const [host, infos] of [
    ['lantern', closure],
    ['gateway', other.closure],
  ] as const) {
    const toplevel = infos.at(-1)?.path;
    assert.ok(toplevel !== undefined);
    const stored = await storeClosure({ host, toplevel }, infos, dir.blobs, dir.root.limits);
    await servable.require(host, stored.blob);
  }
  assert.deepEqual(
    asked.map((paths) => paths.length),
    [2, 1],
  );
  assert.deepEqual(asked[1], [other.toplevel]);
});

test('a manifest from the future, by a clock that was ahead, is renewed', async (t) => {
  const { built, current, rules } = await world(t);
  const past = { ...rules, now: NOW - 3600 };
  assert.equal(changeOf(built, null, current, past), 'renewal');
});
