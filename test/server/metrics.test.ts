// /metrics: who may see it, what it counts, and that docs/OPERATIONS.md lists just that.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { buildApp } from '../../src/server/app.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

test('metrics are for admins, count by route, and are those that are documented', async (t) => {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  await publishHost(dir, 'lantern', 'one', NOW);
  const app = buildApp(dir, { now: () => NOW, version: '1.2.3' });
  t.after(() => app.close());
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const tokens = new Map<string, string>();
  for (const scope of ['read', 'push', 'admin'] as const) {
    const token = generateToken();
    tokens.set(scope, token);
    const at = { createdAt: NOW, expiresAt: null };
    await dir.state.addCredential({
      tokenHash: hashToken(token),
      name: scope,
      scope,
      host: null,
      ...at,
    });
  }
  const get = (path: string, token?: string) =>
    fetch(url + path, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });

  assert.equal((await get('/metrics')).status, 401);
  assert.equal((await get('/metrics', tokens.get('read'))).status, 403);
  assert.equal((await get('/metrics', tokens.get('push'))).status, 403);
  assert.equal((await get('/metrics', 'wrong')).status, 401);
  for (let i = 0; i < 3; i++) await get(`/${'0'.repeat(32)}.narinfo`, tokens.get('read'));
  await get('/never/heard/of');

  const text = await (await get('/metrics', tokens.get('admin'))).text();
  const value = (line: string): number =>
    Number(
      text
        .split('\n')
        .find((one) => one.startsWith(`${line} `))
        ?.slice(line.length),
    );
  const narinfo = 'method="GET",route="/:hash.narinfo"';
  assert.equal(value(`fleet_http_requests_total{${narinfo},status="404"}`), 3);
  assert.equal(value(`fleet_http_request_duration_seconds_count{${narinfo}}`), 3);
  assert.equal(value(`fleet_http_request_duration_seconds_bucket{${narinfo},le="+Inf"}`), 3);
  assert.equal(value('fleet_http_requests_total{method="GET",route="none",status="404"}'), 1);
  assert.equal(value('fleet_auth_failures_total'), 1);
  assert.equal(value('fleet_cache_paths'), 2);
  assert.ok(value('fleet_disk_free_bytes') > 0);
  assert.ok(value(`fleet_http_response_bytes_total{${narinfo}}`) > 3 * 100);
  assert.match(text, /^fleet_build_info\{version="1\.2\.3",node="[\d.]+"\} 1$/m);
  assert.doesNotMatch(text, /never.heard/);
  for (const token of tokens.values()) assert.ok(!text.includes(token));

  const has = [...text.matchAll(/^# TYPE (fleet_\w+) /gm)].map(([, name]) => name);
  const page = readFileSync('docs/OPERATIONS.md', 'utf8');
  const documented = [...page.matchAll(/^\| `(fleet_\w+)` \|/gm)].map(([, name]) => name);
  assert.deepEqual(documented.sort(), has.sort());
});
