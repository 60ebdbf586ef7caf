import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Pace } from '../../src/agent/pace.ts';

async function* chunks(count: number, bytes: number) {
  for (let i = 0; i < count; i++) yield Buffer.alloc(bytes);
}

test('all downloads together keep to the rate', async () => {
  const pace = new Pace(100_000);
  const start = performance.now();
  const all = await Promise.all([1, 2].map(() => Array.fromAsync(pace.keep(chunks(10, 5000)))));
  assert.equal(all.flat().length, 20);
  const seconds = (performance.now() - start) / 1000;
  // 100,000 bytes at 100,000 a second, less what may come at once.
  assert.ok(seconds > 0.85, `${seconds}`);
});

test('what waits ends with its signal', async () => {
  const pace = new Pace(1);
  const signal = AbortSignal.timeout(50);
  await assert.rejects(Array.fromAsync(pace.keep(chunks(2, 1000), signal)), { name: 'AbortError' });
});
