// The agent as the local Nix's only substituter (ARCHITECTURE, "The agent"): the missing paths
// of one verified closure → an HTTP cache on 127.0.0.1 below an unguessable path, alive during one update.
// Nix gets the narinfos that cached.ts compared with the closure, and NARs that are fetched with our
// credential, unpacked, and passed on only as far as they are exactly the signed bytes (it stops
// at the first byte too many, and caps the window). A NAR is streamed with backpressure, never held whole. No secret of
// ours reaches Nix. Every other request is 404.
import { randomBytes } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { decompress } from '../nix/decompress.ts';
import { checkNar } from '../nix/nar-check.ts';
import { formatNarInfo, type NarInfo } from '../nix/narinfo.ts';
import type { Source } from './source.ts';

/** As many NARs at once; each may hold one zstd window. */
const PARALLEL = 4;

export class Substituter implements AsyncDisposable {
  /** What Nix is told. Whoever knows it may read the closure while the update lasts. */
  readonly url: string;
  /** Aborted when something went wrong that trying again cannot mend. */
  readonly signal: AbortSignal;
  /** Compressed bytes that came from the server. */
  received = 0;
  readonly #server: Server;
  readonly #prefix: string;
  readonly #wanted: ReadonlyMap<string, NarInfo>;
  readonly #source: Source;
  readonly #abort: AbortController;
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #failure: FleetError | null = null;

  private constructor(
    source: Source,
    wanted: ReadonlyMap<string, NarInfo>,
    server: Server,
    prefix: string,
  ) {
    this.#source = source;
    this.#wanted = wanted;
    this.#server = server;
    this.#prefix = prefix;
    this.#abort = new AbortController();
    this.signal = this.#abort.signal;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}${prefix}`;
    server.on('request', (request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        this.#note(error);
        response.destroy();
      });
    });
  }

  /** Serves `wanted`: narinfos by hash part, as fetchNarInfos returns them. */
  static async open(source: Source, wanted: ReadonlyMap<string, NarInfo>): Promise<Substituter> {
    // Not imported: see hints.ts.
    const server = process.getBuiltinModule('node:http').createServer();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
    await promise;
    return new Substituter(source, wanted, server, `/${randomBytes(32).toString('hex')}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    this.#server.closeAllConnections();
    await promise;
  }

  /** Why the update failed, as far as it is known here: the first verification failure, else the last trouble. */
  get failure(): FleetError | null {
    return this.#failure;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = request.url ?? '';
    const file = url.startsWith(`${this.#prefix}/`) ? url.slice(this.#prefix.length + 1) : '';
    const head = request.method === 'HEAD';
    if (!head && request.method !== 'GET') return void response.writeHead(405).end();
    if (file === 'nix-cache-info') {
      return sendText(response, 'StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 1\n');
    }
    const [, hashPart = '', kind] = /^([0-9a-z]{32})\.(narinfo|nar)$/.exec(file) ?? [];
    const info = this.#wanted.get(hashPart);
    if (info === undefined) return void response.writeHead(404).end();
    if (kind === 'narinfo') return sendText(response, formatNarInfo(localNarInfo(info, hashPart)));
    response.setHeader('content-type', 'application/x-nix-nar');
    if (head) return void response.end();
    await this.#sendNar(info, response);
  }

  async #sendNar(info: NarInfo, response: ServerResponse): Promise<void> {
    await this.#enter();
    try {
      // Nix sees the end of the body only once all of it was checked: no Content-Length.
      await pipeline(Readable.from(this.#nar(info), { objectMode: false }), response);
    } finally {
      this.#leave();
    }
  }

  async *#nar(info: NarInfo): AsyncGenerator<Uint8Array, void, undefined> {
    // Incompressible data grows by at most 1/256 and a frame's header, zstd's and none's alike.
    const most = info.narSize + Math.ceil(info.narSize / 128) + 1024;
    const address = /^https?:/.test(info.url) ? info.url : `/${info.url}`;
    const body = this.#count(this.#source.stream(address, most, this.signal));
    try {
      yield* checkNar(decompress(body, info.compression), info);
    } catch (error) {
      throw refusal(info, error);
    }
  }

  async *#count(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of chunks) {
      this.received += chunk.length;
      yield chunk;
    }
  }

  #note(error: unknown): void {
    if (!isFleetError(error) || this.signal.aborted) return;
    this.#failure = error;
    // A line that broke may hold the next time Nix asks; nothing else gets better by itself.
    if (!isFleetError(error, 'E_SERVER_UNREACHABLE', 'E_SERVER_BUSY')) this.#abort.abort();
  }

  async #enter(): Promise<void> {
    if (this.#running < PARALLEL) {
      this.#running++;
      return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    await promise;
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#running--;
    else next();
  }
}

/** Only what is signed, or is ours: Nix fetches the NAR unpacked, from us. */
function localNarInfo(info: NarInfo, hashPart: string): NarInfo {
  return {
    ...info,
    url: `${hashPart}.nar`,
    compression: 'none',
    fileHash: null,
    fileSize: null,
    deriver: null,
    ca: null,
  };
}

/** What the line did stays what it is; all else is the server's doing, and names the path. */
function refusal(info: NarInfo, error: unknown): unknown {
  if (isFleetError(error, 'E_SERVER_ANSWER')) {
    return new FleetError('E_FETCH', `the NAR of ${info.path}: ${error.message}`, { cause: error });
  }
  const bad =
    isFleetError(error, 'E_NAR_BAD', 'E_NAR_LIMIT', 'E_NAR_MISMATCH', 'E_NAR_TRUNCATED') ||
    isFleetError(error, 'E_BODY_LIMIT');
  if (!bad) return error;
  return new FleetError('E_NAR_REFUSED', `the NAR of ${info.path}: ${messageOf(error)}`, {
    cause: error,
  });
}

function sendText(response: ServerResponse, text: string): void {
  response.writeHead(200, { 'content-length': Buffer.byteLength(text) }).end(text);
}
