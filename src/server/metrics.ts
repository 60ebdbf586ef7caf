// What the server counts, in Prometheus' text form at /metrics. On the way of a request only plain
// numbers are added up; names, labels and sums are made when somebody asks. Labels come from routes and
// the like, never from what a client sent, so there is an end to them. docs/OPERATIONS.md lists all.
import { statfs } from 'node:fs/promises';
import type { FastifyInstance } from 'fastify';
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { CacheTotals } from '../storage/state.ts';
import type { Auth, Guard } from './auth.ts';
import { addCounters } from './counters.ts';
import type { StateDir } from './statedir.ts';

/** Seconds; the last bucket is +Inf. */
const BUCKETS = [0.001, 0.005, 0.025, 0.1, 0.5, 2, 10, 60];
/** Sums over the whole index are made anew at most so often, in milliseconds. */
const TOTALS_AGE = 60_000;

type RouteStats = {
  readonly labels: { readonly method: string; readonly route: string };
  readonly statuses: Map<number, number>;
  readonly buckets: number[];
  seconds: number;
  count: number;
  bytes: number;
};

const NONE = { seconds: 0, count: 0, bytes: 0 };

export type Metrics = {
  readonly registry: Registry;
  /** `bytes`: what was written for it, head and body. */
  readonly observe: (
    method: string,
    route: string,
    status: number,
    seconds: number,
    bytes: number,
  ) => void;
  readonly onUpload: (what: 'nar' | 'narinfo', result: 'stored' | 'known' | 'refused') => void;
  readonly onSweep: (removedPaths: number, freedBytes: number) => void;
  /** Requests by route, in Prometheus' text form. */
  readonly requests: () => string;
};

export function makeMetrics(
  { state, layout }: StateDir,
  auth: Auth['counts'],
  version: string,
): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  /** By route, then by method: both are texts whose hashes are known, which one made of them would not be. */
  const stats = new Map<string, Map<string, RouteStats>>();

  const uploads = new Counter({
    name: 'fleet_uploads_total',
    help: 'NARs and narinfos that clients uploaded, by what became of them',
    labelNames: ['what', 'result'],
    registers,
  });
  const collected = new Counter({
    name: 'fleet_gc_removed_paths_total',
    help: 'Paths that garbage collection removed from the index',
    registers,
  });
  const freed = new Counter({
    name: 'fleet_gc_freed_bytes_total',
    help: 'Bytes of blobs that garbage collection deleted',
    registers,
  });
  addCounters(registers, auth, [
    ['fleet_auth_failures_total', 'Requests with a token that is not valid', 'failures'],
    ['fleet_rate_limited_total', 'Such requests that were told to wait', 'limited'],
  ]);

  let totals: { readonly at: number; readonly value: Promise<CacheTotals> } | null = null;
  const cacheTotals = (): Promise<CacheTotals> => {
    if (totals === null || performance.now() - totals.at > TOTALS_AGE) {
      totals = { at: performance.now(), value: state.cacheTotals() };
    }
    return totals.value;
  };
  for (const [name, help, key] of [
    ['fleet_cache_paths', 'Paths in the index', 'paths'],
    ['fleet_cache_upstream_paths', 'Paths of the index that an upstream serves', 'upstreamPaths'],
    ['fleet_cache_nar_bytes', 'Bytes of all paths, unpacked', 'narBytes'],
    ['fleet_cache_blobs', 'Compressed NARs', 'blobs'],
    ['fleet_cache_blob_bytes', 'Bytes of compressed NARs', 'blobBytes'],
  ] as const) {
    new Gauge({
      name,
      help,
      registers,
      async collect() {
        this.set((await cacheTotals())[key]);
      },
    });
  }
  new Gauge({
    name: 'fleet_disk_free_bytes',
    help: 'Room left for blobs',
    registers,
    async collect() {
      const { bavail, bsize } = await statfs(layout.blobs);
      this.set(bavail * bsize);
    },
  });
  new Gauge({
    name: 'fleet_build_info',
    help: 'Always 1; the version is a label',
    labelNames: ['version', 'node'],
    registers,
  }).set({ version, node: process.versions.node }, 1);
  new Gauge({
    name: 'fleet_host_last_seen_timestamp_seconds',
    help: 'When each enrolled host was last heard from',
    labelNames: ['host'],
    registers,
    async collect() {
      this.reset();
      for (const { record } of await state.status()) {
        if (record.lastSeen !== null) this.set({ host: record.host }, record.lastSeen);
      }
    },
  });

  return {
    registry,
    observe: (method, route, status, seconds, bytes) => {
      let methods = stats.get(route);
      if (methods === undefined) {
        methods = new Map();
        stats.set(route, methods);
      }
      let route_ = methods.get(method);
      if (route_ === undefined) {
        const buckets = new Array<number>(BUCKETS.length).fill(0);
        route_ = { labels: { method, route }, statuses: new Map(), buckets, ...NONE };
        methods.set(method, route_);
      }
      route_.statuses.set(status, (route_.statuses.get(status) ?? 0) + 1);
      const bucket = BUCKETS.findIndex((limit) => seconds <= limit);
      if (bucket !== -1) route_.buckets[bucket] = (route_.buckets[bucket] ?? 0) + 1;
      route_.seconds += seconds;
      route_.count += 1;
      route_.bytes += bytes;
    },
    onUpload: (what, result) => uploads.inc({ what, result }),
    onSweep: (paths, bytes) => {
      collected.inc(paths);
      freed.inc(bytes);
    },
    requests: () => formatRequests([...stats.values()].flatMap((methods) => [...methods.values()])),
  };
}

export function registerMetrics(app: FastifyInstance, metrics: Metrics, guard: Guard): void {
  app.get('/metrics', { preHandler: guard }, async (_request, reply) => {
    const text = `${await metrics.registry.metrics()}${metrics.requests()}`;
    return reply.type(metrics.registry.contentType).header('cache-control', 'no-store').send(text);
  });
}

function formatRequests(all: readonly RouteStats[]): string {
  const total = 'fleet_http_requests_total';
  const duration = 'fleet_http_request_duration_seconds';
  const lines = [`# HELP ${total} Requests by route and status`, `# TYPE ${total} counter`];
  for (const { labels, statuses } of all) {
    for (const [status, count] of statuses) {
      lines.push(`${total}{${formatLabels({ ...labels, status: String(status) })}} ${count}`);
    }
  }
  const sent = 'fleet_http_response_bytes_total';
  lines.push(`# HELP ${sent} Bytes of answers, heads included`, `# TYPE ${sent} counter`);
  for (const { labels, bytes } of all) lines.push(`${sent}{${formatLabels(labels)}} ${bytes}`);
  lines.push(
    `# HELP ${duration} Time until the last byte was sent`,
    `# TYPE ${duration} histogram`,
  );
  for (const { labels, buckets, seconds, count } of all) {
    let below = 0;
    for (const [i, limit] of BUCKETS.entries()) {
      below += buckets[i] ?? 0;
      lines.push(`${duration}_bucket{${formatLabels({ ...labels, le: String(limit) })}} ${below}`);
    }
    lines.push(`${duration}_bucket{${formatLabels({ ...labels, le: '+Inf' })}} ${count}`);
    lines.push(`${duration}_sum{${formatLabels(labels)}} ${seconds}`);
    lines.push(`${duration}_count{${formatLabels(labels)}} ${count}`);
  }
  return `${lines.join('\n')}\n`;
}

function formatLabels(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${value.replace(/["\\\n]/g, '_')}"`)
    .join(',');
}
