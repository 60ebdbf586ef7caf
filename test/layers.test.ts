// Who may import whom (docs/ARCHITECTURE.md, "Layers"), npm packages included. The last tests show
// that the check itself fails when a forbidden import is added, in every spelling of an import.
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { posix } from 'node:path';
import { test } from 'node:test';
import {
  findViolations,
  importsOf,
  layerOf,
  loadedBy,
  RULES,
  reachable,
} from './helpers/layers.ts';

const files = new Map(
  globSync(['src/**/*.ts', 'cli/**/*.ts']).map((file) => [file, readFileSync(file, 'utf8')]),
);

const NETWORK = ['net', 'http', 'https', 'http2', 'tls', 'dgram', 'dns'].map(
  (name) => `node:${name}`,
);

test('every source file belongs to a layer and keeps to its imports', () => {
  assert.ok(files.size > 20, `only ${files.size} source files found`);
  assert.deepEqual(findViolations(files), []);
});

test('every rule is about a layer that exists', () => {
  const layers = new Set([...files.keys()].map(layerOf));
  for (const layer of RULES.keys()) assert.ok(layers.has(layer), `no file in layer ${layer}`);
});

test('the agent reaches no native addon and no HTTP framework, however indirectly', () => {
  const agent = [...files.keys()].filter((file) => layerOf(file) === 'agent');
  assert.ok(agent.length > 3);
  const packages = reachable(agent, files).packages;
  for (const name of ['better-sqlite3', 'fastify']) assert.ok(!packages.has(name), name);
});

test('the command line loads the server only for verbs that need it', () => {
  const { packages, files: loaded } = reachable(['cli/fleet.ts'], files, loadedBy);
  assert.ok(loaded.has('cli/agent.ts') && loaded.has('cli/serve.ts'));
  for (const name of ['better-sqlite3', 'fastify', 'undici', ...NETWORK]) {
    assert.ok(!packages.has(name), name);
  }
});

test('the agent that waits all day loads no library', () => {
  const { packages } = reachable(['src/agent/run.ts'], files, loadedBy);
  assert.deepEqual(
    [...packages].filter((name) => !name.startsWith('node:')),
    [],
  );
});

test('the verifier reaches neither the network nor the clock, however indirectly', () => {
  const found = reachable(
    [
      'src/manifest/verify.ts',
      'src/manifest/nonce-proof.ts',
      ...['audit', 'bundle-check', 'files', 'kept', 'source'].map((name) => `src/audit/${name}.ts`),
    ],
    files,
  );
  for (const name of ['undici', 'fastify', 'better-sqlite3']) assert.ok(!found.packages.has(name));
  for (const name of [...NETWORK, 'node:child_process']) assert.ok(!found.packages.has(name), name);
  for (const file of found.files) {
    const text = files.get(file) ?? '';
    assert.doesNotMatch(text, /\bDate\.now\b|\bnew Date\(\)|\bperformance\.now\b|\bfetch\(/, file);
  }
});

test('a forbidden import is found in every spelling', () => {
  const spellings = [
    "import { x } from '../storage/sqlite.ts';",
    "import type { X } from '../storage/sqlite.ts';",
    "import '../storage/sqlite.ts';",
    "export { x } from '../storage/sqlite.ts';",
    "export * from '../storage/sqlite.ts';",
    "const x = await import('../storage/sqlite.ts');",
    "import {\n  x,\n  y,\n} from '../storage/sqlite.ts';",
    "new Worker(new URL('../storage/sqlite.ts', import.meta.url));",
    "type X = import('../storage/sqlite.ts').X;",
    "const require = createRequire(import.meta.url); require('../storage/sqlite.ts');",
    "const { Database } = process.getBuiltinModule('../storage/sqlite.ts');",
  ];
  for (const line of spellings) {
    const changed = new Map(files).set('src/agent/extra.ts', `${line}\n`);
    const found = findViolations(changed);
    assert.equal(found.length, 1, `not found: ${line}`);
    assert.match(found[0] ?? '', /src\/agent\/extra\.ts/);
  }
});

test('forbidden packages, upward imports and unknown layers are found', () => {
  const cases: [string, string][] = [
    ['src/agent/extra.ts', "import Fastify from 'fastify';"],
    ['src/agent/extra.ts', "import Database from 'better-sqlite3';"],
    ['src/agent/extra.ts', "import { publish } from '../manifest/publish.ts';"],
    ['src/cache/extra.ts', "import Database from 'better-sqlite3';"],
    ['src/cache/extra.ts', "import { x } from '../storage/sqlite.ts';"],
    ['src/nix/extra.ts', "import { x } from '../storage/state.ts';"],
    ['src/manifest/extra.ts', "import { x } from '../cache/ingest.ts';"],
    ['src/server/extra.ts', "import { x } from '../../cli/fleet.ts';"],
    ['src/server/extra.ts', "import { x } from '../agent/once.ts';"],
    ['src/durable.ts', "import { x } from './nix/base32.ts';"],
    ['src/errors.ts', "import { Type } from 'typebox';"],
    ['src/nix/extra.ts', "import _ from 'lodash';"],
    ['src/extra.ts', 'export {};'],
    ['src/telemetry/extra.ts', 'export {};'],
  ];
  for (const [file, line] of cases) {
    const found = findViolations(new Map(files).set(file, `${line}\n`));
    assert.equal(found.length, 1, `not found: ${file}: ${line}`);
  }
});

test('only packages that package.json declares for running are imported', () => {
  const declared = Object.keys(JSON.parse(readFileSync('package.json', 'utf8')).dependencies);
  for (const [file, text] of files) {
    for (const name of importsOf(text)) {
      if (name.startsWith('.') || isBuiltin(name)) continue;
      const bare = name.split('/', name.startsWith('@') ? 2 : 1).join('/');
      assert.ok(declared.includes(bare), `${file} imports ${name}`);
    }
  }
});

test('imports resolve to files that exist', () => {
  for (const [file, text] of files) {
    for (const name of importsOf(text)) {
      if (!name.startsWith('.') || !name.endsWith('.ts')) continue;
      const target = posix.join(posix.dirname(file), name);
      assert.ok(files.has(target), `${file} imports ${name}`);
    }
  }
});
