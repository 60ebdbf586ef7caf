// What a push says of a server that is not there.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PushClient } from '../../src/cache/push-client.ts';
import { FleetError } from '../../src/errors.ts';
import { freePort } from '../helpers/cli.ts';

test('a server that is not there: tried again, then told with what to look at', async () => {
  const url = `http://127.0.0.1:${await freePort()}`;
  await using client = new PushClient({ url, token: 'x', pauses: [1, 1] }, 1);
  await assert.rejects(
    client.missing([]).then(() => client.hasNar('x')),
    (error) => {
      assert.ok(error instanceof FleetError);
      assert.equal(error.code, 'E_PUSH');
      assert.match(error.message, /^http:\/\/127\.0\.0\.1:\d+\/nar\/x: connect ECONNREFUSED/);
      assert.match(error.hint, /the URL that of fleet serve, and can it be reached/);
      return true;
    },
  );
});
