// Nix's `--log-format internal-json` → what is being built, its log, and which derivation failed.
// The format is Nix's own between its processes (libutil/logging.hh: ActivityType, ResultType; the
// numbers are the same from 2.4 to 2.36 and in Lix), so it is read leniently: what is not understood
// is passed over, a line that is no JSON is a message. Keeps at most 20 lines per derivation and
// forgets derivations that are done.
import { stripAnsi } from './lines.ts';

export type BuildEvent =
  | { readonly type: 'building'; readonly drv: string }
  | { readonly type: 'built'; readonly drv: string }
  | { readonly type: 'log'; readonly drv: string; readonly line: string }
  /** `path` is being fetched from the substituter `from`. */
  | { readonly type: 'fetching'; readonly path: string; readonly from: string }
  | {
      readonly type: 'progress';
      readonly done: number;
      readonly expected: number;
      readonly running: number;
      readonly failed: number;
    }
  /** Something Nix says to a person; `level` 0 is an error, 1 a warning. */
  | { readonly type: 'message'; readonly level: number; readonly text: string };

export type BuildFailure = {
  /** The first derivation that failed itself, or null when Nix did not say. */
  readonly drv: string | null;
  /** The last lines of its log; when there are none, what Nix said. */
  readonly lines: readonly string[];
};

const PREFIX = '@nix ';
const KEPT_LINES = 20;
// A failed build's log is wanted after it stopped; so is that of others that stopped just before.
const KEPT_LOGS = 64;

const ACTIVITY = { builds: 104, build: 105, substitute: 108 } as const;
const RESULT = { buildLogLine: 101, progress: 105 } as const;

/** Reads the log of one `nix-store --realise` line by line. */
export class BuildLog {
  readonly #activities = new Map<number, { readonly type: number; readonly drv: string }>();
  readonly #logs = new Map<string, string[]>();
  readonly #errors: string[] = [];
  #failed: string | null = null;

  /** What `line` of standard error means, or null. */
  push(line: string): BuildEvent | null {
    if (!line.startsWith(PREFIX)) return this.#message(3, line);
    let entry: unknown;
    try {
      entry = JSON.parse(line.slice(PREFIX.length));
    } catch {
      return null;
    }
    if (typeof entry !== 'object' || entry === null) return null;
    const { action, id, type, level, msg, fields } = entry as { readonly [key: string]: unknown };
    const values = Array.isArray(fields) ? fields : [];
    if (action === 'msg') {
      return typeof msg === 'string' ? this.#message(Number(level ?? 3), msg) : null;
    }
    if (typeof id !== 'number') return null;
    if (action === 'start') return this.#start(id, Number(type), values);
    if (action === 'stop') return this.#stop(id);
    return action === 'result' ? this.#result(id, Number(type), values) : null;
  }

  /** What is known of a failure, once Nix has ended with one. */
  failure(): BuildFailure {
    const log = this.#failed === null ? undefined : this.#logs.get(this.#failed);
    return { drv: this.#failed, lines: log !== undefined && log.length > 0 ? log : this.#errors };
  }

  #start(id: number, type: number, fields: readonly unknown[]): BuildEvent | null {
    const [first, second] = fields;
    if (type === ACTIVITY.builds) this.#activities.set(id, { type, drv: '' });
    if (typeof first !== 'string') return null;
    if (type === ACTIVITY.substitute) {
      return { type: 'fetching', path: first, from: String(second ?? '') };
    }
    if (type !== ACTIVITY.build) return null;
    this.#activities.set(id, { type, drv: first });
    this.#logs.set(first, []);
    return { type: 'building', drv: first };
  }

  #stop(id: number): BuildEvent | null {
    const activity = this.#activities.get(id);
    this.#activities.delete(id);
    if (activity?.type !== ACTIVITY.build) return null;
    const running = new Set([...this.#activities.values()].map(({ drv }) => drv));
    for (const drv of this.#logs.keys()) {
      if (this.#logs.size <= KEPT_LOGS) break;
      if (!running.has(drv) && drv !== this.#failed) this.#logs.delete(drv);
    }
    return { type: 'built', drv: activity.drv };
  }

  #result(id: number, type: number, fields: readonly unknown[]): BuildEvent | null {
    const activity = this.#activities.get(id);
    if (activity?.type === ACTIVITY.build && type === RESULT.buildLogLine) {
      const line = stripAnsi(String(fields[0] ?? ''));
      const log = this.#logs.get(activity.drv);
      log?.push(line);
      if (log !== undefined && log.length > KEPT_LINES) log.shift();
      return { type: 'log', drv: activity.drv, line };
    }
    if (activity?.type === ACTIVITY.builds && type === RESULT.progress) {
      const [done = 0, expected = 0, running = 0, failed = 0] = fields.map(Number);
      return { type: 'progress', done, expected, running, failed };
    }
    return null;
  }

  #message(level: number, raw: string): BuildEvent {
    const text = stripAnsi(raw);
    if (level === 0 || /^\s*error:/.test(text)) {
      this.#failed ??= failedDerivation(text);
      for (const line of text.split('\n')) {
        this.#errors.push(line);
        if (this.#errors.length > KEPT_LINES) this.#errors.shift();
      }
    }
    return { type: 'message', level, text };
  }
}

/**
 * The derivation that an error message blames, null when it blames none or only a dependency.
 * 2.8 to 2.2x: `builder for 'X.drv' failed with exit code 1`. Since: `Cannot build 'X.drv'.` with
 * `Reason: builder failed …`, or `Reason: 1 dependency failed.` for those that wait for it.
 */
function failedDerivation(text: string): string | null {
  const found =
    /(?:builder for|build of|hash mismatch in fixed-output derivation) '([^']+\.drv)'/.exec(text) ??
    /Cannot build '([^']+\.drv)'\.\s+Reason: (?!\d+ dependenc)/.exec(text);
  return found?.[1] ?? null;
}
