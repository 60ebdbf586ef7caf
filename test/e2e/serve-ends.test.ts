// A server that is told to stop while clients still write to it ends, and tells of no faults.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fleetOk, serve } from '../helpers/cli.ts';
import { file, nar } from '../helpers/nar.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const ROUNDS = 6;
const AT_ONCE = 24;

test('a server that is told to stop while it is written to ends', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'state');
  await fleetOk(['init', '--state', state, '--origin', 'stop.test']);
  const making = ['token', 'create', 'writer', '--scope', 'push', '--state', state, '--json'];
  const { token } = JSON.parse(await fleetOk(making)) as { token: string };
  const headers = { authorization: `Bearer ${token}` };
  for (let round = 0; round < ROUNDS; round++) {
    const server = await serve(t, state);
    let taken = 0;
    // Each becomes a file and then, a moment later, a row: also when its connection is gone by then.
    const upload = async (): Promise<never> => {
      for (;;) {
        const name = randomBytes(16).toString('hex');
        const url = `${server.url}/nar/${name}.nar`;
        const answer = await fetch(url, { method: 'PUT', headers, body: nar(file(name)) });
        assert.ok(answer.ok, await answer.text());
        taken += 1;
      }
    };
    let failed: unknown = null;
    const uploads = Array.from({ length: AT_ONCE }, () =>
      upload().catch((error: unknown) => {
        failed ??= error;
        return error;
      }),
    );
    while (taken < AT_ONCE && failed === null) await sleep(2);
    assert.equal(failed, null);
    const { code, stderr } = await server.stop();
    assert.equal(code, 0);
    assert.equal(stderr, 'stopping\n', 'no fault is told that is none');
    // Cut off, and not told something that is not so.
    for (const error of await Promise.all(uploads))
      assert.ok(error instanceof TypeError, String(error));
  }
});
