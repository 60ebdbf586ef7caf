// fleet agent notify, as a member of the local group, with a notify-send that chooses, one that fails, and none.
import assert from 'node:assert/strict';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readLocal } from '../../src/agent/local.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { all, atRealTime, plan, systemsOf, waitFor } from '../helpers/hosts.ts';
import { onceAlone, person, startDoor } from '../helpers/local-group.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');

/** A notify-send in `dir` that notes how it was called, and does `what`. */
async function notifier(dir: string, what: string): Promise<Record<string, string>> {
  await writeFile(join(dir, 'notify-send'), `#!/bin/sh\nprintf '%s\\n' "$@" >>"$0.log"\n${what}\n`);
  await writeFile(join(dir, 'notify-send.log'), '');
  await chmod(join(dir, 'notify-send'), 0o755);
  await chmod(join(dir, 'notify-send.log'), 0o666);
  return { PATH: `${dir}:${process.env['PATH']}` };
}

test('what is ready is shown with choices, which are acted upon; and as text where nothing can be shown', async (t) => {
  await using s = await atRealTime(one, { clock: 'trusted' });
  const { world, host } = s;
  const bin = await temporaryDirectory();
  t.after(() => bin[Symbol.asyncDispose]());
  await chmod(bin.path, 0o755);
  const { socket } = await startDoor(t, host);
  const notify = async (env = {}) => await person('member', socket, ['notify', '--once'], env);
  const quiet = await notify(await notifier(bin.path, 'echo apply'));
  assert.deepEqual([quiet.code, quiet.stdout], [0, '']);
  assert.equal(await readFile(join(bin.path, 'notify-send.log'), 'utf8'), '');

  await plan(host, 'exit-check-system-two', 11);
  world.publish(two, { activation: { ...DEFAULT_ACTIVATION, deferral: { maxHours: 2 } } });
  assert.equal((await onceAlone(host)).outcome?.phase, 'awaiting-lock');

  for (const env of [{}, await notifier(bin.path, 'exit 1')]) {
    const text = await notify(env);
    assert.equal(text.code, 0);
    assert.match(text.stdout, /^An update of this machine is ready \(\d.* in all\), and may wait/);
    assert.match(
      text.stdout,
      /Apply now: fleet agent apply now\n {2}Later: fleet agent defer 11\d{0,1}m/,
    );
  }
  // Looked at, and nothing chosen.
  assert.equal((await notify(await notifier(bin.path, 'echo something'))).stdout, '');
  assert.equal((await readLocal(host.state)).deferred, null);

  assert.equal((await notify(await notifier(bin.path, 'echo later'))).code, 0);
  const called = await readFile(join(bin.path, 'notify-send.log'), 'utf8');
  assert.match(called, /--action=apply=Apply now\n--action=later=Later\n--\nfleet\nAn update/);
  const { deferred, coming } = await readLocal(host.state);
  // Four hours are more than this host allows.
  assert.ok((deferred?.until ?? 0) <= (coming?.since ?? 0) + 7200);
  assert.ok((deferred?.until ?? 0) > (coming?.since ?? 0) + 6900);
  // It is not shown while it is put off.
  await notifier(bin.path, 'echo apply');
  assert.equal((await notify(await notifier(bin.path, 'echo apply'))).code, 0);
  assert.equal(await readFile(join(bin.path, 'notify-send.log'), 'utf8'), '');
});

test('"Apply now" has it applied; outsiders are told why they see nothing', async (t) => {
  await using s = await atRealTime(one, { clock: 'trusted' });
  const { world, host } = s;
  const bin = await temporaryDirectory();
  t.after(() => bin[Symbol.asyncDispose]());
  await chmod(bin.path, 0o755);
  const { socket } = await startDoor(t, host);
  await plan(host, 'exit-check-system-two', 11);
  world.publish(two);
  assert.equal((await onceAlone(host)).outcome?.phase, 'awaiting-lock');
  await plan(host, 'exit-check-system-two', 0);
  const env = await notifier(bin.path, 'echo apply');
  assert.equal((await person('member', socket, ['notify', '--once'], env)).code, 0);
  await waitFor(async () => (await systemsOf(host)).boot === two.toplevel);
  await waitFor(() => world.reports.at(-1)?.phase === 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  // Without a time to put it off there is only one choice.
  assert.doesNotMatch(await readFile(join(bin.path, 'notify-send.log'), 'utf8'), /later/);
  const outsider = await person('outsider', socket, ['notify', '--once'], env);
  assert.match(outsider.stderr, /E_LOCAL_ACCESS/);
});
