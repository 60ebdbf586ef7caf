// A bundle that was unpacked (SPEC §8.2) → what a run gets from it, in the place of the server: its roots and its offer as one
// offer for this host, the closure file, narinfos and NARs. All of it is verified by whoever asks.
// Refuses to give what the bundle does not have, and an offer that does not lead on from where this host is.
import { createReadStream } from 'node:fs';
import { open, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, FleetError, isFleetError } from '../errors.ts';
import { HOST_BUNDLE_FILES, mostBytesOf } from '../manifest/host-bundle.ts';
import { formatOffer, MAX_OFFER_ROOTS, parseOffer } from '../manifest/offer.ts';
import { headOf } from '../manifest/verify-offer.ts';
import { type Memory, memoryFiles } from './memory.ts';
import type { Answer, Source } from './source.ts';
import { type Unpacked, unpackBundle } from './unpack-bundle.ts';

class BundleSource implements Source, AsyncDisposable {
  readonly upstreams: readonly string[] = [];
  /** A bundle has no update packs. */
  readonly part = null;
  readonly #unpacked: Unpacked;
  /** The checkpoint that this host accepted last. */
  readonly #seen: string | null;
  readonly #host: string;
  readonly #state: string;

  private constructor(unpacked: Unpacked, { dir, config, trust }: Memory) {
    this.#state = dir;
    this.#unpacked = unpacked;
    this.#seen = trust.checkpoint;
    this.#host = config.host;
  }

  /** @throws FleetError as unpackBundle does */
  static async open(chunks: AsyncIterable<Uint8Array>, memory: Memory): Promise<BundleSource> {
    try {
      return new BundleSource(await unpackBundle(chunks, memory), memory);
    } catch (error) {
      await remove(memory.dir);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await remove(this.#state);
  }

  async document(path: string, maxBytes: number): Promise<Answer> {
    const [, root] =
      new RegExp(`^/v1/hosts/${this.#host}/offer\\?root=(\\d+)&from=\\d+$`).exec(path) ?? [];
    if (root !== undefined) return answer(await this.#offer(Number(root)));
    if (path.startsWith('/v1/closures/'))
      return answer(await this.#file(HOST_BUNDLE_FILES.closure, maxBytes));
    const [, hashPart] = /^\/([0-9a-z]{32})\.narinfo$/.exec(path) ?? [];
    if (hashPart === undefined) throw new Error(`a bundle has no ${path}`);
    return answer(await this.#file(HOST_BUNDLE_FILES.narInfo(hashPart), maxBytes));
  }

  async *stream(
    path: string,
    maxBytes: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    // From a narinfo, which may name anything.
    const name = path.slice(1);
    if (!path.startsWith('/nar/') || mostBytesOf(name) === 0) throw lacks(name);
    const file = join(this.#unpacked.dir, name);
    if ((await this.#sizeOf(name)) > maxBytes) throw tooLarge(name, maxBytes);
    const options = signal === undefined ? {} : { signal };
    yield* createReadStream(file, options) as AsyncIterable<Uint8Array>;
  }

  /** As a server would make it for a host with root version `known`. */
  async #offer(known: number): Promise<Buffer> {
    const { roots, bundle } = this.#unpacked;
    const offer = parseOffer(await this.#whole(HOST_BUNDLE_FILES.offer));
    const texts: string[] = [];
    for (let version = known + 1; version <= roots && texts.length < MAX_OFFER_ROOTS; version++) {
      texts.push((await this.#whole(HOST_BUNDLE_FILES.root(version))).toString('utf8'));
    }
    requireWayFrom(this.#seen, offer.checkpoint, bundle);
    return Buffer.from(formatOffer({ ...offer, roots: texts }));
  }

  async #file(name: string, maxBytes: number): Promise<Buffer> {
    if ((await this.#sizeOf(name)) > maxBytes) throw tooLarge(name, maxBytes);
    return await this.#whole(name);
  }

  async #whole(name: string): Promise<Buffer> {
    await using handle = await open(join(this.#unpacked.dir, name));
    return await handle.readFile();
  }

  async #sizeOf(name: string): Promise<number> {
    try {
      return (await stat(join(this.#unpacked.dir, name))).size;
    } catch (error) {
      throw errnoOf(error) === 'ENOENT' ? lacks(name) : error;
    }
  }
}

/** With what is in a bundle, and gone afterwards. @throws FleetError as unpackBundle does, and what `use` throws */
export async function withBundle<T>(
  chunks: AsyncIterable<Uint8Array>,
  memory: Memory,
  use: (source: Source) => Promise<T>,
): Promise<T> {
  try {
    await using source = await BundleSource.open(chunks, memory);
    return await use(source);
  } catch (error) {
    throw isFleetError(error) ? advised(error, memory.config.host) : error;
  }
}

/** What to do about what was refused, where it came on a stick. */
function advised(error: FleetError, host: string): FleetError {
  const anew = `fleet host bundle ${host} --out FILE`;
  const hint = isFleetError(error, 'E_STALE')
    ? `make a new one: ${anew}; or, as root, take one of any age: fleet agent apply FILE --accept-age`
    : isFleetError(error, 'E_CHECKPOINT_OLDER', 'E_SEQUENCE_OLDER')
      ? `this host has seen something newer than this bundle; make a new one: ${anew}`
      : null;
  if (hint === null) return error;
  return new FleetError(error.code, error.message, { hint, details: error.details, cause: error });
}

/** @throws FleetError E_BUNDLE_FROM */
function requireWayFrom(
  seen: string | null,
  checkpoint: string,
  { host, from }: Pick<Unpacked['bundle'], 'host' | 'from'>,
): void {
  if (seen === null) return;
  const [before, after] = [headOf(seen), headOf(checkpoint)];
  // Nothing has to be proved of another log, and nothing can be of an older one.
  if (before.origin !== after.origin || before.size >= after.size || before.size === from) return;
  const leads = `it leads from entry ${from} of the log to ${after.size}`;
  throw new FleetError(
    'E_BUNDLE_FROM',
    `the bundle: ${leads}, and this host has come to ${before.size}`,
    {
      hint: `have it made from there: fleet host bundle ${host} --from ${before.size} --out FILE`,
    },
  );
}

async function remove(state: string): Promise<void> {
  await rm(memoryFiles(state).bundle, { recursive: true, force: true });
}

function lacks(name: string): FleetError {
  return new FleetError(
    'E_FETCH',
    `the bundle does not have ${JSON.stringify(name.slice(0, 100))}`,
    {
      hint: 'have it made with everything in it: fleet host bundle HOST --all --out FILE',
    },
  );
}

function tooLarge(name: string, maxBytes: number): FleetError {
  return new FleetError('E_BODY_LIMIT', `${name} of the bundle has more than ${maxBytes} bytes`, {
    hint: 'do not trust where it comes from',
  });
}

function answer(body: Buffer): Answer {
  return { status: 200, etag: null, body };
}
