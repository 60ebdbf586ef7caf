// Runs the tests: `unit` (no Nix needed, quick) or all of them, those with systemd included.
// `node --test` without explicit files would also run helpers and fixtures.
import { spawnSync } from 'node:child_process';
import { globSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const unitOnly = process.argv[2] === 'unit';
const files = globSync('test/**/*.test.ts')
  .filter((f) => !unitOnly || !/^test\/(?:e2e|systemd)\//.test(f))
  .sort();
if (files.length === 0) throw new Error('no test files found');
// Hundreds of processes start here: each would strip the types of all sources again.
const cache = mkdtempSync(join(tmpdir(), 'fleet-compile-cache-'));
/** In minutes; no test takes two by itself. One that hangs has a name then. */
const EACH = 10;
/** In minutes, of a suite that takes twenty: whatever still runs then is told, and fails. */
const ALL = 75;
// Three, on two cores as well: much of the time goes into waiting for disks, timers and children.
const flags = ['--test', '--test-concurrency=3', `--test-timeout=${EACH * 60_000}`];
const run = spawnSync(process.execPath, [...flags, ...files], {
  stdio: 'inherit',
  timeout: ALL * 60_000,
  env: { ...process.env, NODE_COMPILE_CACHE: cache },
});
rmSync(cache, { recursive: true, force: true });
process.exit(run.status ?? 1);
