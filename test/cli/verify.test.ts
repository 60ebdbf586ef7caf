// What an auditor is handed, checked where there is no network at all: what fleet host show --export writes, a bundle, and
// the bundle's own VERIFY.txt, whose commands are run as they stand there.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type TestContext, test } from 'node:test';
import { formatTime } from '../../src/manifest/time.ts';
import { fleetOk, run } from '../helpers/cli.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';
import { makeRoot, signRoot } from '../helpers/trust.ts';

const NOW = Math.floor(Date.now() / 1000);
/** Ends the process where our code loads network code. */
const WATCHED = { NODE_OPTIONS: `--import=${resolve('test/fixtures/no-network.ts')}` };

/** Runs fleet in a network namespace that has not even a loopback device that is up. */
const alone = (args: readonly string[]) =>
  run('unshare', ['--net', process.execPath, resolve('cli/fleet.ts'), ...args], WATCHED);

async function world(t: TestContext) {
  const dir = await temporaryDir(t);
  const made = await makeState(dir, NOW);
  await publishHost(made, 'lantern', 'one', NOW);
  await publishHost(made, 'gateway', 'two', NOW);
  await made[Symbol.asyncDispose]();
  const state = join(dir, 'state');
  const root = join(dir, '1.root.json');
  await writeFile(root, await readFile(join(state, 'root/1.root.json')));
  const bundle = join(dir, 'log.tar');
  await fleetOk(['audit', 'export', '--state', state, '--closures', '--out', bundle]);
  return { dir, state, root, bundle };
}

test('without a network: a manifest with its proof, a checkpoint, a bundle, and an audit of it', async (t) => {
  const w = await world(t);
  const to = join(w.dir, 'export');
  await fleetOk(['host', 'show', 'lantern', '--state', w.state, '--export', to]);
  const files = (await readdir(to)).sort().map((name) => join(to, name));
  const checkpoint = join(w.dir, 'checkpoint');
  await writeFile(checkpoint, await readFile(join(w.state, 'log/1/checkpoint')));
  const verify = ['verify', '--root', w.root, ...files, checkpoint, w.bundle];
  const { code, stdout, stderr } = await alone(verify);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.match(/^authentic /gm)?.length, files.length + 2);
  // Both hosts' entries and snapshots, and the root's.
  const place = `entry 2 of 6 in state.test/log/1, newest as of ${formatTime(NOW)}`;
  assert.ok(stdout.includes(`authentic and logged, ${place}`), stdout);
  assert.match(stdout, /signed by 1 of 1 director keys, 1 must, under root version 1/);
  assert.match(stdout, /signed by 1 of 1 root keys, 1 must/);
  // Never "newest" without as of when.
  const unqualified = stdout.replaceAll(/newest as of|not shown to be the newest/g, '');
  assert.doesNotMatch(unqualified, /newest/);
  const document = JSON.parse((await alone([...verify, '--json'])).stdout);
  const kinds = document.results.map(({ kind }: { kind: string }) => kind);
  assert.deepEqual(kinds, ['root', 'closure', 'manifest', 'proof', 'checkpoint', 'bundle']);
  assert.equal(document.results[2].log.isNewest, true);
  const audit = await alone(['audit', '--bundle', w.bundle, '--root', w.root]);
  assert.equal(audit.code, 0, audit.stderr);
  assert.match(audit.stdout, /nothing irregular/);
});

test('the watch on network code does see it', async (t) => {
  const dir = await temporaryDir(t);
  const audit = ['audit', '--url', 'http://127.0.0.1:1', '--root', join(dir, 'r')];
  await writeFile(join(dir, 'r'), signRoot(makeRoot()));
  const { code, stderr } = await alone(audit);
  assert.equal(code, 70, stderr);
  assert.match(stderr, /network code is loaded: undici by \S+src\/audit\/remote\.ts/);
});

test('the commands of VERIFY.txt, as they stand there', async (t) => {
  const w = await world(t);
  const { stdout: text } = await run('tar', ['-xOf', w.bundle, 'VERIFY.txt']);
  const commands = [...text.matchAll(/^ {4}(.*)$/gm)].map(([, line]) => line);
  assert.ok(commands.length > 15);
  const bin = join(w.dir, 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'fleet'), `#!/bin/sh\nexec '${resolve('bin/fleet')}' "$@"\n`, {
    mode: 0o755,
  });
  const unpacked = join(w.dir, 'unpacked');
  await mkdir(unpacked);
  const env = { PATH: `${bin}:${process.env['PATH']}`, BUNDLE: w.bundle, ROOT: w.root };
  const script = ['set -eu', `cd '${unpacked}'`, ...commands].join('\n');
  const { code, stdout, stderr } = await run('sh', ['-c', script], env);
  assert.equal(code, 0, `${stdout}${stderr}`);
  assert.equal(stdout.match(/^Signature Verified Successfully$/gm)?.length, 3, stdout);
  assert.equal(stdout.match(/\.fp: OK$/gm)?.length, 2, stdout);
  assert.match(stdout, /nothing irregular/);
  // Of another root, the same commands say so.
  const other = join(w.dir, 'other');
  await fleetOk(['init', '--state', other, '--origin', 'state.test']);
  const wrong = { ...env, ROOT: join(other, 'root/1.root.json') };
  const byHand = script.replace(/^fleet audit.*$/m, '').replace(/set -eu/, 'set -u');
  const said = await run('sh', ['-c', byHand], wrong);
  assert.equal(said.stdout.match(/^Signature Verified Successfully$/gm)?.length, 2, said.stdout);
  assert.match(said.stdout + said.stderr, /Signature Verification Failure/);
});

test('a bundle that was changed, of another root, or cut short is refused', async (t) => {
  const w = await world(t);
  const bytes = await readFile(w.bundle);
  // VERIFY.txt names these files as well; in the archive itself they come last.
  const entries = bytes.lastIndexOf('log/tile/entries/000');
  const at = bytes.indexOf('"sig":"', entries) + 20;
  bytes[at] = bytes[at] === 0x41 ? 0x42 : 0x41;
  const changed = join(w.dir, 'changed.tar');
  const short = join(w.dir, 'short.tar');
  await writeFile(changed, bytes);
  await writeFile(short, bytes.subarray(0, entries));
  const other = join(w.dir, 'other');
  await fleetOk(['init', '--state', other, '--origin', 'state.test']);
  for (const [file, root, code] of [
    [changed, w.root, /^E_(SIGNATURE|AUDIT_LOG)/],
    [short, w.root, /^E_(AUDIT_LOG|BUNDLE_FORM)$/],
    [w.bundle, join(other, 'root/1.root.json'), /^E_ROOT_CHAIN$/],
  ] as const) {
    const said = await alone(['verify', file, '--root', root, '--json']);
    assert.equal(said.code, 3, said.stderr);
    assert.match(JSON.parse(said.stdout).results[0].code, code);
  }
});
