// The published JavaScript: `node scripts/build.ts [DIR]` → DIR (default: dist). Each verb is a file of its own with what
// it shares in chunks, libraries included but those that only the server loads: an agent that found and linked its
// modules one by one would spend half of a run on that.
import { rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { type BuildOptions, build, type Plugin } from 'esbuild';

// Of undici, the dispatchers alone, without what a browser has as well (fetch, WebSocket, caches): a megabyte less to
// compile in each run of an agent. A name that is imported and not here ends the build.
const undici: Plugin = {
  name: 'undici',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^undici$/ }, () => ({ path: 'dispatchers', namespace: 'undici' }));
    onLoad({ filter: /^dispatchers$/, namespace: 'undici' }, () => ({
      resolveDir: import.meta.dirname,
      contents: `
        import api from 'undici/lib/api/index.js';
        import Dispatcher from 'undici/lib/dispatcher/dispatcher.js';
        // As undici/index.js does it.
        Object.assign(Dispatcher.prototype, api);
        export { default as Agent } from 'undici/lib/dispatcher/agent.js';
        export { default as EnvHttpProxyAgent } from 'undici/lib/dispatcher/env-http-proxy-agent.js';
        export { default as errors } from 'undici/lib/core/errors.js';
      `,
    }));
  },
};

const outdir = resolve(process.argv[2] ?? 'dist');
rmSync(outdir, { recursive: true, force: true });
const options: BuildOptions = {
  outdir,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node24',
  // Native, or with files of their own beside their code.
  external: ['better-sqlite3', 'fastify', 'prom-client'],
  // For the libraries that are CommonJS.
  banner: {
    js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
  },
  plugins: [undici],
  legalComments: 'linked',
  logLevel: 'warning',
};
await build({
  ...options,
  entryPoints: [{ in: 'cli/fleet.ts', out: 'cli/fleet' }],
  chunkNames: 'cli/[name]-[hash]',
  splitting: true,
});
// Threads are started by name, from whichever file has the code that does: all in one directory. They share no chunk with
// what starts them, which would have to hold what any of them needs.
await build({
  ...options,
  entryPoints: [
    'storage/sqlite-worker',
    'audit/facts-worker',
    'cache/dump-worker',
    'cache/pack-worker',
  ].map((name) => ({
    in: `src/${name}.ts`,
    out: `cli/${name.replace(/.*\//, '')}`,
  })),
});
