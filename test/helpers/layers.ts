// The layers of docs/ARCHITECTURE.md as data, and a reader of import statements. It reads text, not a
// syntax tree: a mention in a comment would count too, which is on the safe side.
import { isBuiltin } from 'node:module';
import { posix } from 'node:path';

type Rule = {
  /** Layers, or single files, that may be imported; a layer may always import itself. */
  readonly may: readonly string[];
  /** npm packages that may be imported. */
  readonly packages: readonly string[];
};

const FOUNDATION = [
  ...['errors', 'durable', 'config', 'edwards', 'ed25519', 'base64', 'keyfile', 'thread-error'],
  'temporary-names',
];
const STORAGE_INTERFACES = ['state', 'host-life', 'packs', 'blobs', 'log'].map(
  (name) => `src/storage/${name}.ts`,
);

/** Layer → what it may import. A layer is a folder of src/, a file directly in src/, or `cli`. */
export const RULES: ReadonlyMap<string, Rule> = new Map([
  ['errors', { may: [], packages: [] }],
  ['durable', { may: ['errors'], packages: [] }],
  ['config', { may: ['errors'], packages: ['typebox'] }],
  ['edwards', { may: [], packages: [] }],
  ['ed25519', { may: ['errors', 'edwards'], packages: ['@noble/ed25519'] }],
  ['base64', { may: [], packages: [] }],
  ['keyfile', { may: ['errors', 'ed25519', 'base64'], packages: [] }],
  ['thread-error', { may: ['errors'], packages: [] }],
  ['temporary-names', { may: [], packages: [] }],
  ['tlog', { may: FOUNDATION, packages: [] }],
  ['bundle', { may: ['errors'], packages: ['tar-stream'] }],
  ['nix', { may: FOUNDATION, packages: ['xz-decompress'] }],
  ['delta', { may: [...FOUNDATION, 'nix'], packages: [] }],
  ['storage', { may: [...FOUNDATION, 'nix', 'tlog'], packages: ['better-sqlite3'] }],
  [
    'cache',
    {
      may: [...FOUNDATION, 'nix', 'delta', ...STORAGE_INTERFACES],
      packages: ['fastify', 'undici'],
    },
  ],
  [
    'manifest',
    { may: [...FOUNDATION, 'nix', 'tlog', 'bundle', ...STORAGE_INTERFACES], packages: ['typebox'] },
  ],
  [
    'audit',
    { may: [...FOUNDATION, 'tlog', 'bundle', 'nix', 'manifest'], packages: ['typebox', 'undici'] },
  ],
  [
    'agent',
    {
      may: [
        ...FOUNDATION,
        'nix',
        'delta',
        'tlog',
        'bundle',
        ...[
          'activation',
          'approval',
          'closure-diff',
          'dsse',
          'enrol-file',
          'enrolment',
          'host-bundle',
          'jcs',
          'manifest',
          'nonce-proof',
          'offer',
          'receipt',
          'root',
          'time',
          'token-request',
          'told-progress',
          'log-view',
          'snapshot',
          'verify',
          'verify-offer',
          'windows',
        ].map((name) => `src/manifest/${name}.ts`),
      ],
      packages: ['undici', 'typebox'],
    },
  ],
  [
    'server',
    {
      may: [
        ...FOUNDATION,
        ...['nix', 'delta', 'tlog', 'bundle', 'storage', 'cache', 'manifest', 'audit'],
      ],
      packages: ['fastify', 'prom-client'],
    },
  ],
  [
    'cli',
    {
      may: [
        ...FOUNDATION,
        ...[
          'nix',
          'delta',
          'tlog',
          'bundle',
          'storage',
          'cache',
          'manifest',
          'audit',
          'agent',
          'server',
        ],
      ],
      packages: ['commander'],
    },
  ],
]);

/** `src/nix/nar.ts` → `nix`; `src/errors.ts` → `errors`; `cli/init.ts` → `cli`. */
export function layerOf(file: string): string {
  const parts = file.split('/');
  if (parts[0] === 'cli') return 'cli';
  return parts.length === 2 ? (parts[1] ?? '').replace(/\.ts$/, '') : (parts[1] ?? '');
}

/** What is loaded with the file itself. */
const STATIC = [
  /\b(?:import|export)\b[^'";]*?\bfrom\s*['"]([^'"]+)['"]/g,
  // A statement's beginning: the word may also end a string.
  /(?:^|;)\s*import\s*['"]([^'"]+)['"]/gm,
];

/** Every module name that `source` imports, re-exports, requires, or hands to a Worker. */
export function importsOf(source: string): string[] {
  const patterns = [
    ...STATIC,
    /\b(?:import|require|getBuiltinModule)\s*\(\s*['"]([^'"]+)['"]/g,
    /\bnew URL\(\s*['"`]([^'"`$]+)['"`]\s*,\s*import\.meta\.url/g,
  ];
  return matchesOf(source, patterns);
}

/** What `source` loads at once, types left out: neither `import()` nor `import type`. */
export function loadedBy(source: string): string[] {
  const patterns = [...STATIC, /\bgetBuiltinModule\s*\(\s*['"]([^'"]+)['"]/g];
  return matchesOf(source.replace(/\b(?:import|export) type\b[^;]*;/g, ''), patterns);
}

function matchesOf(source: string, patterns: readonly RegExp[]): string[] {
  const found = patterns.flatMap((pattern) =>
    [...source.matchAll(pattern)].map(([, name]) => name),
  );
  return [...new Set(found.filter((name) => name !== undefined))];
}

/** One line for each import that breaks a rule, and each file that no rule knows. */
export function findViolations(files: ReadonlyMap<string, string>): string[] {
  const violations: string[] = [];
  for (const [file, text] of files) {
    const layer = layerOf(file);
    const rule = RULES.get(layer);
    if (rule === undefined) {
      violations.push(`${file}: no rule for layer "${layer}"`);
      continue;
    }
    for (const name of importsOf(text)) {
      if (isBuiltin(name)) continue;
      if (name.startsWith('.')) {
        const target = posix.join(posix.dirname(file), name);
        // Worker files are named without their ending, which differs once they are compiled.
        const other = layerOf(target);
        const allowed = other === layer || rule.may.includes(other) || rule.may.includes(target);
        if (!allowed) violations.push(`${file} may not import ${target}`);
      } else {
        const bare = name.split('/', name.startsWith('@') ? 2 : 1).join('/');
        if (!rule.packages.includes(bare)) violations.push(`${file} may not import ${name}`);
      }
    }
  }
  return violations;
}

/** All files and packages (Node's own included) that `starts` import, directly or through others. */
export function reachable(
  starts: readonly string[],
  files: ReadonlyMap<string, string>,
  imports: (source: string) => string[] = importsOf,
): { files: Set<string>; packages: Set<string> } {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const queue = [...starts];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    for (const name of imports(files.get(file) ?? '')) {
      if (name.startsWith('.')) queue.push(posix.join(posix.dirname(file), name));
      else packages.add(isBuiltin(name) && !name.startsWith('node:') ? `node:${name}` : name);
    }
  }
  return { files: seen, packages };
}
