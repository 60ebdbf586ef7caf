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
  /** Whether anybody may read the transparency log. */
  readonly publicLog: boolean;
  /** zstd level of stored NARs, 1 to 19. */
  readonly zstdLevel: number;
  /** How long a manifest is valid, in days, 1 to 3650. It is issued anew when a third of that is left. */
  readonly manifestDays: number;
  /** How long a host's token is valid, in days, 1 to 3650. The host gets the next one when a third of that is left. */
  readonly hostTokenDays: number;
  /** `Priority` in nix-cache-info; clients ask caches with a lower number first. */
  readonly cachePriority: number;
  /** Garbage collection keeps the closures of the newest so many manifests of each host, 1 to 1000. */
  readonly keepManifests: number;
  /** … and every path that was used in the last so many days, 0 to 3650. */
  readonly keepUnusedDays: number;
  /** For how many days a NAR's URL outlives its narinfo, 0 to 3650; Nix remembers narinfos for 30. */
  readonly keepNarDays: number;
  /** Whether `fleet serve` makes and serves update packs. */
  readonly packs: boolean;
  /** In how many threads, 1 to 16. */
  readonly packWorkers: number;
  /** `fleet serve` collects garbage every so many hours, 1 to 8760; 0: never by itself. */
  readonly gcHours: number;
  /** Nix public keys (`name:base64`): an upload must be signed by one of them; none: by nobody. */
  readonly uploadKeys: readonly string[];
  /**
   * `exact`: a NAR that mentions a path of this cache which its narinfo does not list is refused;
   * `declared`: only that a listed one must occur in it.
   */
  readonly uploadReferences: 'exact' | 'declared';
  /** The largest NAR that may be uploaded, in bytes. */
  readonly uploadMaxBytes: number;
  /** Caches whose paths are left out of storage, in the order in which they are asked. */
  readonly upstreams: readonly Upstream[];
  /** Addresses (or CIDR ranges) of proxies whose X-Forwarded-For is believed. */
  readonly trustedProxies: readonly string[];
};

/** Another Nix binary cache. */
export type Upstream = {
  /** Base URL without a trailing slash. */
  readonly url: string;
  /** Nix public keys, `name:base64`; one of them must have signed a path that is left to it. */
  readonly keys: readonly string[];
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
  ['publicLog', { parse: parseBoolean, fallback: false }],
  ['zstdLevel', integer(1, 19, 3)],
  ['manifestDays', integer(1, 3650, 90)],
  ['hostTokenDays', integer(1, 3650, 90)],
  ['cachePriority', integer(1, 1000, 30)],
  ['keepManifests', integer(1, 1000, 5)],
  ['keepUnusedDays', integer(0, 3650, 7)],
  ['keepNarDays', integer(0, 3650, 30)],
  ['packs', { parse: parseBoolean, fallback: true }],
  ['packWorkers', integer(1, 16, 2)],
  ['gcHours', integer(0, 8760, 24)],
  ['uploadKeys', listOf(parseNixKeyText)],
  ['uploadReferences', { parse: parseUploadReferences, fallback: 'exact' }],
  ['uploadMaxBytes', integer(1, Number.MAX_SAFE_INTEGER, 64 * 1024 ** 3)],
  ['upstreams', listOf(parseUpstream)],
  ['trustedProxies', listOf(parseProxy)],
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

function listOf(parse: (value: unknown) => unknown): Field {
  return {
    fallback: Object.freeze([]),
    parse: (value) => {
      if (!Array.isArray(value) || value.length > 100) {
        throw new TypeError('must be a list of at most 100');
      }
      return Object.freeze(value.map(parse));
    },
  };
}

/** Its form only; a key of 32 bytes that is no point of the curve signs nothing. */
function parseNixKeyText(value: unknown): string {
  if (typeof value !== 'string' || !/^[^\s:]{1,128}:[A-Za-z0-9+/]{43}=$/.test(value)) {
    throw new TypeError('must hold Nix public keys such as "cache.example.org-1:BASE64"');
  }
  return value;
}

function parseUploadReferences(value: unknown): string {
  if (value !== 'exact' && value !== 'declared') {
    throw new TypeError('must be "exact" or "declared"');
  }
  return value;
}

function parseUpstream(value: unknown): Upstream {
  const given = new Map<string, unknown>(
    typeof value === 'object' && value !== null ? Object.entries(value) : [],
  );
  const keys = given.get('keys');
  const unknown = [...given.keys()].find((key) => key !== 'url' && key !== 'keys');
  if (unknown !== undefined) throw new TypeError(`has an unknown key "${unknown}"`);
  if (!Array.isArray(keys) || keys.length === 0) {
    throw new TypeError('must hold objects {"url", "keys"} with at least one key each');
  }
  return Object.freeze({
    url: parseBaseUrl(given.get('url')),
    keys: Object.freeze(keys.map(parseNixKeyText)),
  });
}

/** The form of an IP address, or of a range of them in CIDR form. */
function parseProxy(value: unknown): string {
  const number = '(25[0-5]|2[0-4]\\d|1?\\d?\\d)';
  const four = `(${number}\\.){3}${number}(/(3[0-2]|[12]?\\d))?`;
  const six = '(?=.*::|([^:]*:){7})[0-9a-fA-F:]{2,39}(/(12[0-8]|1[01]\\d|\\d?\\d))?';
  if (typeof value === 'string' && new RegExp(`^(${four}|${six})$`).test(value)) return value;
  throw new TypeError('must hold addresses such as "127.0.0.1", "::1" or "10.0.0.0/8"');
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
