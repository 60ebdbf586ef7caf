// The agent's HTTP: requests to the one server it is enrolled with → status, ETag and limited bytes.
// (and for NARs to the upstreams that agent.json names, without it).
// The token goes into the Authorization header of that server's origin and nowhere else: redirects
// are not followed, and no error, log line or URL ever holds it. Nothing that comes back is trusted.
import { type Dispatcher, EnvHttpProxyAgent, errors } from 'undici';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { limitBody } from './body.ts';
import { Pace } from './pace.ts';
import { readProxies } from './proxy.ts';
import type { Answer, Part, PartRequest, Request, Source } from './source.ts';

export type ClientOptions = {
  /** Base URL without a final slash. */
  readonly server: string;
  readonly token: string | null;
  /** Base URLs of caches that NARs may also come from; they never see the token. */
  readonly upstreams?: readonly string[];
  readonly leastBytesPerSecond: number;
  /** Seconds to wait for a connection, for headers, or for the least rate's worth of body. */
  readonly patienceSeconds: number;
  /** Bytes per second that NARs and packs may take together; null: as many as come. */
  readonly bandwidth?: number | null;
};

/** What an error document may weigh; more of it is not read. */
const ERROR_BYTES = 4096;

/** RFC 9110 §8.8.3, in ASCII and no longer than anyone needs. */
const ETAG = /^(?:W\/)?"[\x21\x23-\x7e]{0,256}"$/;

export class Client implements Source, AsyncDisposable {
  readonly #dispatcher: EnvHttpProxyAgent;
  readonly #options: ClientOptions;
  readonly #pace: Pace | null;
  #token: string | null;
  #isToldToRenew = false;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#token = options.token;
    this.#pace = options.bandwidth == null ? null : new Pace(options.bandwidth);
    // By way of the proxy that the environment names, if any.
    const patience = Math.ceil(options.patienceSeconds * 1000);
    const { HTTP_PROXY, HTTPS_PROXY, NO_PROXY } = readProxies();
    this.#dispatcher = new EnvHttpProxyAgent({
      httpProxy: HTTP_PROXY ?? '',
      httpsProxy: HTTPS_PROXY ?? '',
      noProxy: NO_PROXY ?? '',
      connect: { timeout: patience },
      headersTimeout: patience,
      // limitBody does it better.
      bodyTimeout: 0,
      // So that a request right after an idle second does not meet a connection the server just closed.
      keepAliveTimeout: 1000,
      connections: 8,
    });
  }

  get upstreams(): readonly string[] {
    return this.#options.upstreams ?? [];
  }

  /** Whether the server said that the token should be followed by the next. */
  get isToldToRenew(): boolean {
    return this.#isToldToRenew;
  }

  /** What is shown from now on. */
  useToken(token: string): void {
    this.#token = token;
    this.#isToldToRenew = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dispatcher.destroy();
  }

  /**
   * Asks for `path` and reads the whole answer, at most `maxBytes`.
   * @throws FleetError E_SERVER_UNREACHABLE, _SLOW, _AUTH, _BUSY, _ANSWER, E_BODY_LIMIT
   */
  async document(path: string, maxBytes: number, request: Request = {}): Promise<Answer> {
    const response = await this.#request(path, request);
    const known = response.statusCode >= 200 && response.statusCode < 300;
    if (!known && !(request.expect ?? []).includes(response.statusCode)) {
      throw await this.#refusal(path, response);
    }
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.#limited(path, response, maxBytes)) chunks.push(chunk);
    const etag = etagOf(response);
    return { status: response.statusCode, etag, body: Buffer.concat(chunks) };
  }

  /**
   * Asks for `path` and streams the body of a 200, at most `maxBytes`. A whole URL goes to an upstream,
   * without the token. Throws as `document` does.
   */
  async *stream(
    path: string,
    maxBytes: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const response = await this.#request(path, signal === undefined ? {} : { signal });
    if (response.statusCode !== 200) throw await this.#refusal(path, response);
    yield* this.#paced(this.#limited(path, response, maxBytes), signal);
  }

  /** See Source. */
  async part(path: string, maxBytes: number, asked: PartRequest): Promise<Part> {
    const { from, to, ifRange, signal } = asked;
    const isWhole = from === 0 && to === null;
    const range = isWhole ? {} : { range: `bytes=${from}-${to === null ? '' : to - 1}` };
    const condition = ifRange === null || isWhole ? {} : { 'if-range': ifRange };
    const request = signal === undefined ? {} : { signal };
    const response = await this.#request(path, request, { ...range, ...condition });
    const status = response.statusCode;
    const start = status === 206 ? startOf(response) : 0;
    const isEmpty = [404, 416, 429, 503].includes(status);
    if (!isEmpty && (start === null || (status !== 200 && status !== 206))) {
      throw await this.#refusal(path, response);
    }
    const body = this.#paced(
      this.#limited(path, response, isEmpty ? ERROR_BYTES : maxBytes),
      signal,
    );
    if (isEmpty) {
      // Read, so that the connection may be used again.
      await Array.fromAsync(body).catch(() => {});
    }
    const after = String(response.headers['retry-after']);
    return {
      status,
      etag: etagOf(response),
      retryAfter: /^\d{1,6}$/.test(after) ? Number(after) : null,
      start: start ?? 0,
      body,
    };
  }

  #paced(
    chunks: AsyncGenerator<Uint8Array, void, undefined>,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    return this.#pace === null ? chunks : this.#pace.keep(chunks, signal);
  }

  async #request(
    path: string,
    request: Request,
    more: Readonly<Record<string, string>> = {},
  ): Promise<Dispatcher.ResponseData> {
    const headers: Record<string, string> = { 'user-agent': 'fleet-agent', ...more };
    const isOurs = path.startsWith('/');
    if (isOurs && this.#token !== null) {
      headers['authorization'] = `Bearer ${this.#token}`;
    }
    if (request.contentType !== undefined) headers['content-type'] = request.contentType;
    if (request.ifNoneMatch !== undefined) headers['if-none-match'] = request.ifNoneMatch;
    const url = new URL(this.#address(path));
    // undici waits anew for headers after every 1xx. Twice: for the connection, and for the answer.
    const seconds = 2 * this.#options.patienceSeconds;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), seconds * 1000);
    const signals = request.signal === undefined ? [] : [request.signal];
    try {
      const response = await this.#dispatcher.request({
        origin: url.origin,
        path: `${url.pathname}${url.search}`,
        method: request.method ?? 'GET',
        headers,
        body: request.body ?? null,
        signal: AbortSignal.any([late.signal, ...signals]),
      });
      if (isOurs && response.headers['fleet-token'] === 'renew') this.#isToldToRenew = true;
      return response;
    } catch (error) {
      if (late.signal.aborted && request.signal?.aborted !== true) throw this.#slow(path, seconds);
      throw this.#transportError(path, error);
    } finally {
      clearTimeout(timer);
    }
  }

  async *#limited(
    path: string,
    response: Dispatcher.ResponseData,
    maxBytes: number,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const what = this.#address(path);
    const { leastBytesPerSecond, patienceSeconds } = this.#options;
    const limits = { maxBytes, leastBytesPerSecond, patience: patienceSeconds * 1000, what };
    try {
      if (Number(response.headers['content-length'] ?? 0) > maxBytes) {
        throw new FleetError('E_BODY_LIMIT', `${what}: more than ${maxBytes} bytes`);
      }
      yield* limitBody(response.body, limits);
    } catch (error) {
      throw this.#transportError(path, error);
    } finally {
      // Whatever is left of the body dies with its connection; an error event of that is no news.
      response.body.on('error', () => {}).destroy();
    }
  }

  /** The error for an answer that nobody expected; the server's own words, cut short, are part of it. */
  async #refusal(path: string, response: Dispatcher.ResponseData): Promise<FleetError> {
    const chunks: Uint8Array[] = [];
    try {
      for await (const chunk of this.#limited(path, response, ERROR_BYTES)) chunks.push(chunk);
    } catch {
      // The status is what counts.
    }
    const said = errorDocument(Buffer.concat(chunks));
    const words = said === null ? '' : `: ${said.message} (${said.error})`;
    const status = response.statusCode;
    const message = `${this.#address(path)} answered ${status}${words}`;
    // Enrolment shows an invitation, and there is no token yet that could be wrong.
    if (status === 401 && said?.error === 'E_ENROL_REFUSED') {
      return new FleetError('E_ENROL_REFUSED', `${this.#options.server}: ${said.message}`);
    }
    if (status === 401 || status === 403) return new FleetError('E_SERVER_AUTH', message);
    if (status === 429 || status === 503) {
      const after = response.headers['retry-after'];
      const hint = /^\d{1,6}$/.test(String(after)) ? { hint: `try again in ${after} s` } : {};
      return new FleetError('E_SERVER_BUSY', message, hint);
    }
    return new FleetError('E_SERVER_ANSWER', message);
  }

  #address(path: string): string {
    return path.startsWith('/') ? `${this.#options.server}${path}` : path;
  }

  #slow(path: string, seconds: number, cause?: unknown): FleetError {
    const message = `${this.#address(path)}: no answer in ${seconds} s`;
    return new FleetError('E_SERVER_SLOW', message, { cause });
  }

  #transportError(path: string, error: unknown): unknown {
    if (isFleetError(error)) return error;
    if (error instanceof DOMException && error.name === 'AbortError') return error;
    if (error instanceof errors.RequestAbortedError) return error;
    if (error instanceof errors.HeadersTimeoutError) {
      return this.#slow(path, this.#options.patienceSeconds, error);
    }
    const what = this.#address(path);
    return new FleetError('E_SERVER_UNREACHABLE', `${what}: ${messageOf(error)}`, { cause: error });
  }
}

function etagOf({ headers: { etag } }: Dispatcher.ResponseData): string | null {
  // One that could not be sent back would end every later request.
  return typeof etag === 'string' && ETAG.test(etag) ? etag : null;
}

/** Where a part begins, by its Content-Range; null: it does not say. */
function startOf({ headers }: Dispatcher.ResponseData): number | null {
  const [, start] = /^bytes (\d{1,15})-\d{1,15}\//.exec(String(headers['content-range'])) ?? [];
  return start === undefined ? null : Number(start);
}

/** `{"error", "message"}` of a server's refusal, each cut short; null when it is not one. */
export function errorDocument(body: Uint8Array): { error: string; message: string } | null {
  try {
    const json: unknown = JSON.parse(Buffer.from(body).toString('utf8'));
    if (typeof json !== 'object' || json === null) return null;
    const { error, message } = json as { error?: unknown; message?: unknown };
    if (typeof error !== 'string' || typeof message !== 'string') return null;
    return { error: error.slice(0, 64), message: message.slice(0, 300) };
  } catch {
    return null;
  }
}
