// The agent as the local Nix's only substituter (ARCHITECTURE, "The agent"): the missing paths
// of one verified closure → an HTTP cache on 127.0.0.1 below an unguessable path, alive during one update.
// Nix gets narinfos and NARs of supply.ts, which agree with the closure. A NAR is streamed with backpressure, as many at a time as
// there is memory for. No secret of ours reaches Nix. Every other request is 404.
import { randomBytes } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type FleetError, isFleetError } from '../errors.ts';
import { formatNarInfo, type NarInfo } from '../nix/narinfo.ts';
import { Budget } from './budget.ts';
import type { Supply } from './supply.ts';

/** As many NARs at once; each may hold one zstd window. */
const PARALLEL = 4;

export class Substituter implements AsyncDisposable {
  /** What Nix is told. Whoever knows it may read the closure while the update lasts. */
  readonly url: string;
  /** Aborted when something went wrong that trying again cannot mend. */
  readonly signal: AbortSignal;
  readonly #server: Server;
  readonly #prefix: string;
  readonly #supply: Supply;
  readonly #abort: AbortController;
  readonly #places = new Budget(PARALLEL);
  #failure: FleetError | null = null;

  private constructor(supply: Supply, server: Server, prefix: string) {
    this.#supply = supply;
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

  static async open(supply: Supply): Promise<Substituter> {
    // Not imported: see hints.ts.
    const server = process.getBuiltinModule('node:http').createServer();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
    await promise;
    return new Substituter(supply, server, `/${randomBytes(32).toString('hex')}`);
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
    const info = this.#supply.infos.get(hashPart);
    if (info === undefined) return void response.writeHead(404).end();
    if (kind === 'narinfo') return sendText(response, formatNarInfo(localNarInfo(info, hashPart)));
    response.setHeader('content-type', 'application/x-nix-nar');
    if (head) return void response.end();
    await this.#sendNar(info, response);
  }

  async #sendNar(info: NarInfo, response: ServerResponse): Promise<void> {
    using _place = await this.#places.take(1);
    await send(this.#supply.nar(info, this.signal), response);
  }

  #note(error: unknown): void {
    if (!isFleetError(error) || this.signal.aborted) return;
    this.#failure = error;
    // A line that broke may hold the next time Nix asks; nothing else gets better by itself.
    if (!isFleetError(error, 'E_SERVER_UNREACHABLE', 'E_SERVER_BUSY')) this.#abort.abort();
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

/**
 * Passes `chunks` on, each of which may be reused once the kernel has it. Nix sees the end of the body only once all of it was
 * checked: no Content-Length.
 */
async function send(chunks: AsyncIterable<Uint8Array>, response: ServerResponse): Promise<void> {
  for await (const chunk of chunks) {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const gone = (): void => reject(new Error('Nix has gone'));
    response.once('close', gone);
    if (response.destroyed) gone();
    else response.write(chunk, (error) => (error ? reject(error) : resolve()));
    await promise;
    response.off('close', gone);
  }
  response.end();
}

function sendText(response: ServerResponse, text: string): void {
  response.writeHead(200, { 'content-length': Buffer.byteLength(text) }).end(text);
}
