// Runs the tests: `unit` (no Nix needed, quick) or all of them.
// `node --test` without explicit files would also run helpers and fixtures.
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';

const unitOnly = process.argv[2] === 'unit';
const files = globSync('test/**/*.test.ts')
  .filter((f) => !unitOnly || !f.startsWith('test/e2e/'))
  .sort();
if (files.length === 0) throw new Error('no test files found');
const run = spawnSync(process.execPath, ['--test', '--test-concurrency=2', ...files], {
  stdio: 'inherit',
});
process.exit(run.status ?? 1);
