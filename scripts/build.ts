// The published JavaScript: `node scripts/build.ts [DIR]` → DIR (default: dist). Each verb is a file of its own with what
// it shares in chunks, libraries included but those that only the server loads: an agent that found and linked its
// modules one by one would spend half of a run on that.
import { rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { build } from 'esbuild';

const outdir = resolve(process.argv[2] ?? 'dist');
rmSync(outdir, { recursive: true, force: true });
await build({
  // All in one directory: threads are started by name, from whichever file has the code that does.
  entryPoints: [
    { in: 'cli/fleet.ts', out: 'cli/fleet' },
    ...['storage/sqlite-worker', 'audit/facts-worker', 'cache/dump-worker'].map((name) => ({
      in: `src/${name}.ts`,
      out: `cli/${name.replace(/.*\//, '')}`,
    })),
  ],
  outdir,
  chunkNames: 'cli/[name]-[hash]',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node24',
  // Native, or with files of their own beside their code.
  external: ['better-sqlite3', 'fastify', 'prom-client'],
  // For the libraries that are CommonJS.
  banner: {
    js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
  },
  legalComments: 'linked',
  logLevel: 'warning',
});
