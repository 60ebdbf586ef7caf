// What surrounds a nix program: settings, batches of arguments, lines of output. Without Nix.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { batchesOf } from '../../src/nix/batches.ts';
import { formatSettings, openNixEnvironment } from '../../src/nix/environment.ts';
import { MAX_LINE, readLines, stripAnsi } from '../../src/nix/lines.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';

test('settings are lines; what a line cannot hold is refused', () => {
  const settings = new Map([
    ['substituters', 'http://127.0.0.1:1/ file:///c'],
    ['builders', ''],
  ]);
  assert.equal(
    formatSettings(settings),
    'substituters = http://127.0.0.1:1/ file:///c\nbuilders = \n',
  );
  for (const value of ['a\nsandbox = false', 'a\rb', 'a#b', 'a\0b']) {
    assert.throws(() => formatSettings(new Map([['x', value]])), RangeError);
  }
  for (const key of ['', 'a b', 'a=b', 'a\n', 'A']) {
    assert.throws(() => formatSettings(new Map([[key, 'x']])), RangeError);
  }
});

test('the isolated environment has nothing of the caller but where programs lie', async () => {
  const foreign = ['NIX_CONFIG', 'NIX_REMOTE', 'NIX_PATH', 'http_proxy', 'FLEET_TEST_SECRET'];
  const before = new Map(foreign.map((name) => [name, process.env[name]]));
  try {
    for (const name of foreign) process.env[name] = 'fleet-foreign';
    let scratch = '';
    {
      const settings = new Map([['require-sigs', 'true']]);
      await using environment = await openNixEnvironment({ isolated: true, settings });
      const { variables } = environment;
      assert.ok(![...variables.values()].some((value) => value.includes('fleet-foreign')));
      assert.equal(variables.get('PATH'), process.env['PATH']);
      assert.match(variables.get('NIX_CONFIG') ?? '', /^substituters =\n.*^require-sigs = true$/ms);
      assert.deepEqual(readdirSync(variables.get('NIX_CONF_DIR') ?? ''), []);
      scratch = `${variables.get('HOME')}/..`;
    }
    assert.throws(() => readdirSync(scratch), { code: 'ENOENT' });

    await using inherited = await openNixEnvironment({ settings: new Map([['cores', '1']]) });
    assert.match(inherited.variables.get('NIX_CONFIG') ?? '', /fleet-foreign\n.*^cores = 1$/ms);
    assert.equal(inherited.variables.get('FLEET_TEST_SECRET'), 'fleet-foreign');
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
});

test('a build group that the caller chose is left alone', async () => {
  const env = new Map([['NIX_CONFIG', 'build-users-group = builders']]);
  await using environment = await openNixEnvironment({ env });
  const config = environment.variables.get('NIX_CONFIG') ?? '';
  assert.deepEqual(config.match(/^build-users-group.*$/gm), ['build-users-group = builders']);
});

test('batches keep all paths, in order, below the limit of a command line', () => {
  const name = 'n'.repeat(211);
  const paths = Array.from({ length: 5_000 }, (_, i) =>
    parseStorePath(`/nix/store/${String(i).padStart(32, '0')}-${name}`),
  );
  const batches = [...batchesOf(paths)];
  assert.deepEqual(batches.flat(), paths);
  for (const batch of batches) assert.ok(batch.join(' ').length < 128 * 1024);
  assert.ok(batches.length < 20);
  assert.deepEqual([...batchesOf([])], []);
});

test('lines are found in any chunks; over-long ones are cut, not kept', async () => {
  const text = `a\nb\r\n\n${'x'.repeat(MAX_LINE + 10)}\nzü`;
  const bytes = Buffer.from(text);
  const expected = ['a', 'b', '', 'x'.repeat(MAX_LINE), 'zü'];
  for (const size of [1, 3, 1_000, bytes.length]) {
    const chunks: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
    const lines: string[] = [];
    await readLines(Readable.from(chunks), (line) => lines.push(line));
    assert.deepEqual(lines, expected, `chunks of ${size}`);
  }
});

test('terminal commands are taken out of a log line', () => {
  assert.equal(
    stripAnsi('\u001b[31;1merror:\u001b[0m \u001b]8;;http://x\u0007a\u001b]8;;\u0007'),
    'error: a',
  );
  assert.equal(stripAnsi('a\u0000\u0008\u009b2Jb\tc\u001bc'), 'a2Jb\tcc');
});
