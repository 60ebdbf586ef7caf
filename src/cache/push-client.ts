// What `fleet cache push` asks of a server: requests of its upload routes (docs/CACHE.md), tried again
// when the line or the server is in trouble, and refusals in the server's own words.
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, type Dispatcher } from 'undici';
import { FleetError, messageOf } from '../errors.ts';
import type { StorePath } from '../nix/storepath.ts';

export type PushTarget = {
  /** Base URL without a trailing slash. */
  readonly url: string;
  readonly token: string;
  readonly signal?: AbortSignal;
  /** Before the first, second, … try again, in milliseconds; tests set shorter ones. */
  readonly pauses?: readonly number[];
};

type Body = string | (() => AsyncIterable<Uint8Array>);
type Answer = { readonly status: number; readonly code: string | null; readonly text: string };

const PAUSES = [500, 2_000, 5_000, 15_000];
const MAX_ANSWER = 4 * 1024 * 1024;
const ASKED_AT_ONCE = 10_000;

export class PushClient implements AsyncDisposable {
  readonly #target: PushTarget;
  readonly #agent: Agent;

  /** `parallel`: connections, at most. */
  constructor(target: PushTarget, parallel: number) {
    this.#target = target;
    this.#agent = new Agent({
      connections: parallel,
      headersTimeout: 600_000,
      bodyTimeout: 120_000,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent.destroy();
  }

  /** Those of `paths` that the server lacks. @throws FleetError E_PUSH */
  async missing(paths: readonly StorePath[]): Promise<Set<string>> {
    const missing = new Set<string>();
    for (let at = 0; at < paths.length; at += ASKED_AT_ONCE) {
      const body = JSON.stringify({ paths: paths.slice(at, at + ASKED_AT_ONCE) });
      const { text } = await this.#ask('POST', '/v1/cache/missing', body);
      for (const path of parseMissing(text)) missing.add(path);
    }
    return missing;
  }

  /** Whether the server has a NAR under that name, for narinfos to name. */
  async hasNar(file: string): Promise<boolean> {
    return (await this.#ask('HEAD', `/nar/${file}`, null, [404])).status === 200;
  }

  async putNar(file: string, body: () => AsyncIterable<Uint8Array>): Promise<void> {
    await this.#ask('PUT', `/nar/${file}`, body);
  }

  /** @returns the code of a refusal that another upload of the NAR would mend; null when it was taken. */
  async putNarInfo(
    hashPart: string,
    text: string,
  ): Promise<'E_UPLOAD_NO_NAR' | 'E_UPLOAD_MISMATCH' | null> {
    const { status, code } = await this.#ask('PUT', `/${hashPart}.narinfo`, text, [422]);
    if (status !== 422) return null;
    if (code === 'E_UPLOAD_NO_NAR' || code === 'E_UPLOAD_MISMATCH') return code;
    throw new FleetError('E_PUSH', `the server refused ${hashPart}.narinfo (${code})`);
  }

  async #ask(
    method: Dispatcher.HttpMethod,
    path: string,
    body: Body | null,
    expect: readonly number[] = [],
  ): Promise<Answer> {
    const { signal, pauses = PAUSES } = this.#target;
    for (let tries = 0; ; tries++) {
      signal?.throwIfAborted();
      const pause = pauses[tries];
      try {
        const answer = await this.#once(method, path, body);
        const isGood = answer.status >= 200 && answer.status < 300;
        if (isGood || (expect.includes(answer.status) && !isRefusalToTell(answer))) return answer;
        const passing = [408, 429, 502, 503, 504].includes(answer.status);
        if (!passing || pause === undefined) throw refusal(this.#target.url, path, answer);
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof FleetError) throw error;
        if (pause === undefined) {
          throw new FleetError('E_PUSH', `${this.#target.url}${path}: ${messageOf(error)}`, {
            hint: 'is the URL that of fleet serve, and can it be reached? what was uploaded is kept',
            cause: error,
          });
        }
      }
      await sleep(pause, undefined, signal === undefined ? {} : { signal });
    }
  }

  async #once(method: Dispatcher.HttpMethod, path: string, body: Body | null): Promise<Answer> {
    const { url, token, signal } = this.#target;
    const { origin, pathname } = new URL(url + path);
    const response = await this.#agent.request({
      origin,
      path: pathname,
      method,
      headers: { authorization: `Bearer ${token}`, 'user-agent': 'fleet' },
      body: typeof body === 'function' ? (body() as never) : body,
      ...(signal === undefined ? {} : { signal }),
    });
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of response.body) {
      size += (part as Uint8Array).length;
      if (size > MAX_ANSWER) throw new FleetError('E_PUSH', `${url}${path}: the answer has no end`);
      parts.push(part as Uint8Array);
    }
    const text = Buffer.concat(parts).toString('utf8');
    return { status: response.statusCode, code: codeOf(text), text };
  }
}

/** A 422 that no repetition mends. */
function isRefusalToTell({ status, code }: Answer): boolean {
  return status === 422 && code !== 'E_UPLOAD_NO_NAR' && code !== 'E_UPLOAD_MISMATCH';
}

function refusal(url: string, path: string, { status, text }: Answer): FleetError {
  const said = documentOf(text);
  const words = said === null ? '' : `: ${String(said['message'])} (${String(said['error'])})`;
  const hint = typeof said?.['hint'] === 'string' ? { hint: said['hint'] } : {};
  return new FleetError('E_PUSH', `${url}${path} answered ${status}${words}`, hint);
}

function codeOf(text: string): string | null {
  const code = documentOf(text)?.['error'];
  return typeof code === 'string' ? code : null;
}

function documentOf(text: string): Record<string, unknown> | null {
  try {
    const json: unknown = JSON.parse(text);
    return typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

function parseMissing(text: string): string[] {
  const missing = documentOf(text)?.['missing'];
  if (Array.isArray(missing) && missing.every((path) => typeof path === 'string')) return missing;
  throw new FleetError('E_PUSH', 'the server does not say which paths are missing', {
    hint: 'check that the URL is that of fleet serve, and its version',
  });
}
