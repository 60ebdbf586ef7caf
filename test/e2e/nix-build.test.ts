// Builds with the real Nix, in the machine's own store: roots, events, failures, aborts.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chmod, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { FleetError } from '../../src/errors.ts';
import { buildDerivation } from '../../src/nix/build.ts';
import type { BuildEvent } from '../../src/nix/build-log.ts';
import { currentSystem, runNix } from '../../src/nix/command.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { nix, openScratch, refused } from '../helpers/nix-scratch.ts';

const scratch = await openScratch();
after(() => scratch[Symbol.asyncDispose]());

const { directory } = scratch;

const unsandboxed = new Map([
  ['sandbox', 'false'],
  ['substituters', ''],
]);

async function instantiate(expression: string): Promise<StorePath> {
  return parseStorePath((await nix(['nix-instantiate', '--expr', expression])).trim());
}
const shell = (name: string, script: string, more = ''): string =>
  `derivation { name = "${name}"; system = "${currentSystem()}"; builder = "/bin/sh";
     args = [ "-c" ${JSON.stringify(script)} ]; salt = "${process.pid}-${Date.now()}"; ${more} }`;

test('the output is rooted, and what happened was told', async () => {
  const drv = await instantiate(shell('good', 'echo working; echo result > $out'));
  const outLink = join(await directory(), 'result');
  const events: BuildEvent[] = [];
  const settings = unsandboxed;
  const built = await buildDerivation(drv, { outLink, settings, onEvent: (e) => events.push(e) });
  assert.equal(await readlink(outLink), built);
  assert.equal(await readFile(built, 'utf8'), 'result\n');
  assert.match(await nix(['nix-store', '--query', '--roots', built]), /result/);
  const about = events.filter((event) => 'drv' in event);
  assert.deepEqual(about, [
    { type: 'building', drv },
    { type: 'log', drv, line: 'working' },
    { type: 'built', drv },
  ]);
  // A second time there is nothing to do, and the link may be there already.
  assert.equal(await buildDerivation(drv, { outLink, settings }), built);
});

test('a failure names the derivation that failed and ends its log', async () => {
  const failing = shell('culprit', 'for i in 1 2 3 4 5 6 7; do echo "$i: a b c"; done; exit 3');
  const drv = await instantiate(shell('asked', 'exit 0', `needs = ${failing};`));
  const outLink = join(await directory(), 'result');
  await assert.rejects(buildDerivation(drv, { outLink, settings: unsandboxed }), (error) => {
    assert.ok(
      refused('E_BUILD', /-culprit\.drv failed to build, which .*-asked\.drv needs/)(error),
    );
    const { details, hint } = error as FleetError;
    assert.deepEqual(
      details.filter((line) => line !== ''),
      ['1', '2', '3', '4', '5', '6', '7'].map((i) => `${i}: a b c`),
    );
    assert.match(hint, /nix log \/nix\/store\/.*-culprit\.drv/);
    return true;
  });
  assert.equal(existsSync(outLink), false);
});

test('an abort ends the build and what it started', async () => {
  const marker = join(scratch.dir, 'pid');
  // Where Nix has build users, the builder is one of them.
  await chmod(scratch.dir, 0o777);
  const drv = await instantiate(
    shell('slow', `echo $$ > '${marker}'; echo up; while :; do read x; done < /dev/zero`),
  );
  const controller = new AbortController();
  const reason = new Error('stopped by the test');
  const building = buildDerivation(drv, {
    outLink: join(await directory(), 'result'),
    settings: unsandboxed,
    signal: controller.signal,
    onEvent: (event) => {
      // Not at any line: Nix may have something to say before the builder runs.
      if (event.type === 'log' && event.line.endsWith('up')) controller.abort(reason);
    },
  });
  await assert.rejects(building, (error) => error === reason);
  const pid = Number(await readFile(marker, 'utf8'));
  for (let i = 0; i < 100 && existsSync(`/proc/${pid}`); i += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.equal(existsSync(`/proc/${pid}`), false, 'the builder is still running');
  await assert.rejects(runNix('nix', ['--version'], { signal: controller.signal }), reason);
});
