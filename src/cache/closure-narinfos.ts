// All narinfos of a closure in one answer, separated by empty lines, references before referrers or in
// the order of the closure file. Stock Nix needs a request a path, and learns what a path refers to only
// from its answer. All or nothing: where one of them cannot be had, it is 404 before the first byte.

import { Readable } from 'node:stream';
import { text as textOf } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { constants, createZstdCompress, zstdCompress } from 'node:zlib';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { hashPartOf, isHashPart } from '../nix/storepath.ts';
import { type BlobId, type Blobs, parseBlobId } from '../storage/blobs.ts';
import type { StateReads } from '../storage/state.ts';
import { accepts } from './accept-encoding.ts';
import { missing } from './missing-reply.ts';
import type { NarInfoCache } from './narinfo-cache.ts';
import type { TurnVersion } from './turn-version.ts';

type Document = {
  readonly hashParts: readonly string[];
  readonly plain: Buffer;
  zstd: Buffer | null;
  readonly version: number;
  /** That signed. */
  readonly keys: NarInfoCache['keys'];
};

/** Larger closures are not looked for path by path. */
const MAX_PATHS = 100_000;
const PER_BATCH = 500;
/** Answers up to so many bytes are kept until something changes; larger ones are made as they are sent. */
const MAX_KEPT = 4 * 1024 * 1024;
const MAX_DOCUMENTS = 8;

const compress = promisify<Uint8Array, Parameters<typeof createZstdCompress>[0] & {}, Buffer>(
  zstdCompress,
);
const OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: 3 } };

export class ClosureNarInfos {
  readonly #state: StateReads;
  readonly #blobs: Blobs;
  readonly #narinfos: NarInfoCache;
  readonly #version: TurnVersion;
  readonly #documents = new Map<string, Document>();

  constructor(state: StateReads, blobs: Blobs, narinfos: NarInfoCache, version: TurnVersion) {
    this.#state = state;
    this.#blobs = blobs;
    this.#narinfos = narinfos;
    this.#version = version;
  }

  /** Answers for a closure file that a published manifest names. */
  async ofClosure(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const id = parseBlobId((request.params as { closure: string }).closure);
    if (id === null || (await this.#state.closureSize(id)) === null) return missing(reply);
    return await this.#answer(id, () => this.#listed(id), request, reply);
  }

  /** Answers for what any path of the index refers to, itself included. */
  async ofPath(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { hash } = request.params as { hash: string };
    if (!isHashPart(hash)) return missing(reply);
    return await this.#answer(hash, () => this.#walked(hash), request, reply);
  }

  async #answer(
    key: string,
    find: () => Promise<string[] | null>,
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    const version = await this.#version.read();
    const known = this.#documents.get(key);
    const wantsZstd = accepts(request.headers['accept-encoding'], 'zstd');
    reply
      .type('text/x-nix-narinfo')
      .header('cache-control', 'private, no-cache')
      .header('vary', 'accept-encoding');
    const { keys } = this.#narinfos;
    const isKnown = known?.version === version && known.keys === keys;
    const hashParts = isKnown ? known.hashParts : await find();
    if (hashParts === null || !(await this.#allThere(hashParts))) return missing(reply);
    if (isKnown) return await send(known, wantsZstd, reply);

    const parts: Buffer[] = [];
    let bytes = 0;
    const batches = this.#batches(hashParts);
    // Not `for await`: leaving it would end the generator, which goes on where the answer is large.
    for (let next = await batches.next(); next.done !== true; next = await batches.next()) {
      if (next.value === null) return missing(reply);
      parts.push(next.value);
      bytes += next.value.length;
      if (bytes > MAX_KEPT) return sendLarge(rest(parts, batches), wantsZstd, reply);
    }
    const document = { hashParts, plain: Buffer.concat(parts), zstd: null, version, keys };
    this.#documents.delete(key);
    this.#documents.set(key, document);
    for (const oldest of this.#documents.keys()) {
      if (this.#documents.size <= MAX_DOCUMENTS) break;
      this.#documents.delete(oldest);
    }
    return await send(document, wantsZstd, reply);
  }

  async #allThere(hashParts: readonly string[]): Promise<boolean> {
    for (const batch of inBatches(hashParts)) {
      if ((await this.#narinfos.getMany(batch)).size < batch.length) return false;
    }
    return true;
  }

  /** Null in place of a batch of which a path has gone since it was looked for. */
  async *#batches(hashParts: readonly string[]): AsyncGenerator<Buffer | null, void, undefined> {
    for (const batch of inBatches(hashParts)) {
      const found = await this.#narinfos.getMany(batch);
      const texts = batch.map((hashPart) => found.get(hashPart));
      const isWhole = texts.every((text) => text !== undefined);
      yield isWhole ? Buffer.from(texts.map((text) => `${text}\n`).join('')) : null;
    }
  }

  /** Hash parts in the order of the closure file. */
  async #listed(id: BlobId): Promise<string[] | null> {
    const file = await this.#blobs.get(id);
    if (file === null) return null;
    const lines = (await textOf(file)).split('\n').slice(0, -1);
    return lines.map((line) => line.slice('1;/nix/store/'.length).slice(0, 32));
  }

  /** Hash parts of all that is reached, references before referrers. */
  async #walked(start: string): Promise<string[] | null> {
    const references = new Map<string, readonly string[]>();
    for (let wanted = [start]; wanted.length > 0; ) {
      for (const row of await this.#state.cachedPathsByHash(wanted)) {
        references.set(hashPartOf(row.path), row.references.map(hashPartOf));
      }
      if (wanted.some((hashPart) => !references.has(hashPart))) return null;
      if (references.size > MAX_PATHS) return null;
      const next = wanted.flatMap((hashPart) => references.get(hashPart) ?? []);
      wanted = [...new Set(next)].filter((hashPart) => !references.has(hashPart));
    }
    return inReferenceOrder(start, references);
  }
}

/** Depth first, without recursion: a path comes once all that it refers to has come. */
function inReferenceOrder(
  start: string,
  references: ReadonlyMap<string, readonly string[]>,
): string[] {
  const order = new Set<string>();
  const stack: { readonly hashPart: string; readonly left: Iterator<string> }[] = [];
  const seen = new Set<string>();
  const enter = (hashPart: string): void => {
    seen.add(hashPart);
    stack.push({ hashPart, left: (references.get(hashPart) ?? []).values() });
  };
  enter(start);
  for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
    const { done, value } = top.left.next();
    if (done === true) order.add(stack.pop()?.hashPart ?? '');
    else if (!seen.has(value)) enter(value);
  }
  return [...order];
}

function* inBatches(hashParts: readonly string[]): Generator<readonly string[]> {
  for (let at = 0; at < hashParts.length; at += PER_BATCH) {
    yield hashParts.slice(at, at + PER_BATCH);
  }
}

async function* rest(
  parts: readonly Buffer[],
  batches: AsyncIterable<Buffer | null>,
): AsyncGenerator<Buffer> {
  yield* parts;
  for await (const batch of batches) {
    // The head has been sent: the connection ends, and with it a body that is not whole.
    if (batch === null) throw new Error('a path of the closure is gone');
    yield batch;
  }
}

async function send(
  document: Document,
  wantsZstd: boolean,
  reply: FastifyReply,
): Promise<FastifyReply> {
  if (!wantsZstd) return reply.send(document.plain);
  document.zstd ??= await compress(document.plain, OPTIONS);
  return reply.header('content-encoding', 'zstd').send(document.zstd);
}

function sendLarge(
  chunks: AsyncIterable<Buffer>,
  wantsZstd: boolean,
  reply: FastifyReply,
): FastifyReply {
  const plain = Readable.from(chunks, { objectMode: false });
  if (!wantsZstd) return reply.send(plain);
  const encoder = createZstdCompress(OPTIONS);
  plain.once('error', (error) => encoder.destroy(error));
  encoder.once('close', () => plain.destroy());
  return reply.header('content-encoding', 'zstd').send(plain.pipe(encoder));
}
