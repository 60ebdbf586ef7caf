// fleet.json → a frozen Config. Pure: opens no file and no key. Unknown keys are refused, and a
// misspelt one is told which word was meant.
import { FleetError, messageOf } from './errors.ts';

/** The server's configuration, as `fleet init` writes it and docs/CONFIG.md explains it. */
export type Config = {
  /** Name of the fleet: what manifests and the root call it. Lowercase DNS-like, at most 200 characters. */
  readonly fleet: string;
  /** Base URL under which hosts and Nix clients reach `fleet serve`, without a trailing slash; null until known. */
  readonly url: string | null;
  /** HOST:PORT that `fleet serve` listens on. */
  readonly listen: string;
  /** True: the cache's read side needs no token. */
  readonly public: boolean;
  /** zstd level of stored NARs, 1 to 19. */
  readonly zstdLevel: number;
  /** How long a manifest is valid, in days, 1 to 3650. It is issued anew when a third of that is left. */
  readonly manifestDays: number;
  /** `Priority` in nix-cache-info; clients ask caches with a lower number first. */
  readonly cachePriority: number;
};

type Field = { readonly parse: (value: unknown) => unknown; readonly fallback?: unknown };

const integer = (low: number, high: number, fallback: number): Field => ({
  fallback,
  parse: (value) => {
    if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) {
      return value;
    }
    throw new TypeError(`must be a whole number from ${low} to ${high}`);
  },
});

// No default is made up for `version` and `fleet`: a file without them is not ours.
const FIELDS = new Map<string, Field>([
  ['version', { parse: parseVersion }],
  ['fleet', { parse: parseFleetName }],
  ['url', { parse: (value) => (value === null ? null : parseBaseUrl(value)), fallback: null }],
  ['listen', { parse: (value) => formatListen(parseListen(value)), fallback: '127.0.0.1:8080' }],
  ['public', { parse: parseBoolean, fallback: false }],
  ['zstdLevel', integer(1, 19, 3)],
  ['manifestDays', integer(1, 3650, 90)],
  ['cachePriority', integer(1, 1000, 30)],
]);

/** The keys of fleet.json, for the test that compares them with docs/CONFIG.md. */
export const CONFIG_KEYS: readonly string[] = [...FIELDS.keys()];

/**
 * Parses the text of fleet.json; `file` names it in errors.
 * @throws FleetError E_CONFIG naming the key, what is wrong with it, and the word that was meant.
 */
export function parseConfig(text: string, file: string): Config {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FleetError('E_CONFIG', `${file} is not JSON: ${messageOf(cause)}`, { cause });
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new FleetError('E_CONFIG', `${file} must hold one JSON object`);
  }
  const given = new Map<string, unknown>(Object.entries(json));
  for (const key of given.keys()) {
    if (FIELDS.has(key)) continue;
    const meant = nearestWord(key, FIELDS.keys());
    throw new FleetError(
      'E_CONFIG',
      `${file}: unknown key "${key}"${meant === null ? '' : `; did you mean "${meant}"?`}`,
    );
  }
  const config: Record<string, unknown> = {};
  for (const [key, field] of FIELDS) {
    if (!given.has(key) && field.fallback === undefined) {
      throw new FleetError('E_CONFIG', `${file}: "${key}" is missing`);
    }
    try {
      config[key] = given.has(key) ? field.parse(given.get(key)) : field.fallback;
    } catch (cause) {
      throw new FleetError('E_CONFIG', `${file}: "${key}" ${messageOf(cause)}`, { cause });
    }
  }
  delete config['version'];
  return Object.freeze(config) as Config;
}

/** The text of a new fleet.json that spells out every key. */
export function formatConfig(config: Config): string {
  return `${JSON.stringify({ version: 1, ...config }, null, 2)}\n`;
}

function parseVersion(value: unknown): number {
  if (value !== 1) throw new TypeError('must be 1: this fleet knows no other format');
  return value;
}

function parseBoolean(value: unknown): boolean {
  if (typeof value !== 'boolean') throw new TypeError('must be true or false');
  return value;
}

/** Checks a fleet's name: labels of lowercase letters, digits and inner hyphens, joined by dots. */
export function parseFleetName(value: unknown): string {
  const label = '[a-z0-9]([a-z0-9-]*[a-z0-9])?';
  if (
    typeof value !== 'string' ||
    value.length > 200 ||
    !new RegExp(`^${label}(\\.${label})*$`).test(value)
  ) {
    throw new TypeError('must be a name such as "fleet.example.org": lowercase labels and dots');
  }
  return value;
}

/** Checks an http(s) base URL without credentials, query or fragment; returns it without a final slash. */
export function parseBaseUrl(value: unknown): string {
  const url = typeof value === 'string' ? URL.parse(value) : null;
  if (url === null || !['http:', 'https:'].includes(url.protocol)) {
    throw new TypeError('must be a URL such as "https://fleet.example.org"');
  }
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw new TypeError('must be a plain URL, without user, password, query or fragment');
  }
  return url.href.replace(/\/+$/, '');
}

export type Listen = { readonly host: string; readonly port: number };

/** Parses HOST:PORT; an IPv6 address stands in brackets; port 0 lets the system choose. */
export function parseListen(value: unknown): Listen {
  const match =
    typeof value === 'string' ? /^(\[[0-9a-fA-F:.]+\]|[^:[\]]+):(\d{1,5})$/.exec(value) : null;
  const port = Number(match?.[2]);
  if (match?.[1] === undefined || port > 65535) {
    throw new TypeError('must be HOST:PORT, such as "127.0.0.1:8080" or "[::]:8080"');
  }
  return { host: match[1].replace(/^\[|\]$/g, ''), port };
}

export function formatListen({ host, port }: Listen): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** The candidate that `word` was probably meant to be (at most two edits away), or null. */
export function nearestWord(word: string, candidates: Iterable<string>): string | null {
  let best: { word: string; distance: number } | null = null;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance <= 2 && (best === null || distance < best.distance)) {
      best = { word: candidate, distance };
    }
  }
  return best?.word ?? null;
}

function editDistance(a: string, b: string): number {
  // A word from outside may be of any length; beyond this it is nobody's misspelling.
  if (a.length > 64 || b.length > 64) return Number.POSITIVE_INFINITY;
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
