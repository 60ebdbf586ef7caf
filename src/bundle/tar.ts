// Bundles: named bytes ↔ a tar file that always comes out the same (SPEC §10.3): plain ustar, fixed owner, mode and
// time, in the order given. The reader is for hostile files: it refuses everything but that form (links,
// directories, extended headers, absolute names, `..`, a name that comes twice, sizes beyond its limits),
// and writes nothing anywhere. Files that are larger than memory pass through both ways in pieces.
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { extract, type Header, pack } from 'tar-stream';
import { FleetError, isFleetError, messageOf } from '../errors.ts';

export type BundleFile = { readonly name: string; readonly data: Uint8Array };

/** A file that is never held whole: of `size` bytes exactly, to be read once. */
export type BundleMember = {
  readonly name: string;
  readonly size: number;
  readonly data: AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
};

export type BundleLimits = {
  /** Bytes of one file, whatever it is called or by its name, and of all of them together. */
  readonly fileBytes: number | ((name: string) => number);
  readonly totalBytes: number;
};

/** What plain ustar holds without a second header. */
const MAX_NAME = 100;
const NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]*(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$/;

/** The bytes of a bundle, streamed. `files` are asked for one at a time. */
export async function* writeBundle(
  files: AsyncIterable<BundleFile> | Iterable<BundleFile>,
): AsyncGenerator<Uint8Array> {
  async function* members(): AsyncGenerator<BundleMember> {
    for await (const { name, data } of files) yield { name, size: data.length, data: [data] };
  }
  yield* writeMembers(members());
}

/** As writeBundle, of files that may be larger than memory. Throws what their data throws, and where a size was wrong. */
export async function* writeMembers(
  members: AsyncIterable<BundleMember> | Iterable<BundleMember>,
): AsyncGenerator<Uint8Array> {
  const tar = pack();
  const closed = Promise.withResolvers<void>();
  tar.on('close', () => closed.resolve());
  const fill = (async () => {
    for await (const { name, size, data } of members) {
      requireName(name);
      const header = { name, size, mode: 0o644, mtime: new Date(0), uid: 0, gid: 0 };
      const entry = tar.entry(header);
      const done = once(entry, 'finish');
      // Whoever waits below is told.
      done.catch(() => {});
      for await (const chunk of data) {
        // Whoever reads may be gone, and would never ask for more.
        if (!entry.write(chunk)) await Promise.race([once(entry, 'drain'), closed.promise]);
        if (tar.destroyed) return;
      }
      entry.end(Buffer.alloc(0));
      // Its `end` waits for whoever reads.
      await Promise.race([done, closed.promise]);
      if (tar.destroyed) return;
    }
    tar.finalize();
  })().catch((error: Error) => tar.destroy(error));
  yield* tar as unknown as AsyncIterable<Uint8Array>;
  await fill;
}

/**
 * The files of a bundle, in their order.
 * @throws FleetError E_BUNDLE_FORM.
 */
export async function* readBundle(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  limits: BundleLimits,
): AsyncGenerator<BundleFile> {
  for await (const { name, data } of readMembers(source, limits)) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of data) chunks.push(chunk);
    yield { name, data: Buffer.concat(chunks) };
  }
}

/**
 * As readBundle, without holding any of them. Each must be read to its end before the next is asked for.
 * @throws FleetError E_BUNDLE_FORM; also while the data of one is read.
 */
export async function* readMembers(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  { fileBytes, totalBytes }: BundleLimits,
): AsyncGenerator<BundleMember> {
  const tar = extract();
  const input = Readable.from(source, { objectMode: false });
  input.on('error', (error) => tar.destroy(error));
  input.pipe(tar as unknown as NodeJS.WritableStream);
  const seen = new Set<string>();
  let total = 0;
  try {
    for await (const entry of tar) {
      const { header } = entry;
      const name = requireFile(header, seen);
      const size = header.size ?? 0;
      total += size;
      const most = typeof fileBytes === 'number' ? fileBytes : fileBytes(name);
      if (!(size <= most)) refuse(`${name} has more than ${most} bytes`);
      if (!(total <= totalBytes)) refuse(`it has more than ${totalBytes} bytes`);
      yield { name, size, data: formed(entry as AsyncIterable<Uint8Array>) };
    }
  } catch (cause) {
    throw asForm(cause);
  } finally {
    input.destroy();
    tar.destroy();
  }
}

async function* formed(data: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* data;
  } catch (cause) {
    throw asForm(cause);
  }
}

function asForm(cause: unknown): unknown {
  // What the system says of the file is nothing about its form.
  if (isFleetError(cause) || (cause instanceof Error && 'syscall' in cause)) return cause;
  const message = `bundle: it is no tar file: ${messageOf(cause)}`;
  return new FleetError('E_BUNDLE_FORM', message, { cause });
}

function requireFile({ name, type, pax }: Header, seen: Set<string>): string {
  const shown = JSON.stringify(name.slice(0, MAX_NAME));
  if (type !== 'file') refuse(`${shown} is a ${type}, and no file`);
  if (pax !== undefined && pax !== null) refuse(`${shown} has an extended header`);
  if (!isName(name)) refuse(`${shown} is no name for a file of it`);
  if (seen.has(name)) refuse(`${shown} comes twice`);
  seen.add(name);
  return name;
}

function isName(name: string): boolean {
  return name.length <= MAX_NAME && NAME.test(name);
}

function requireName(name: string): void {
  if (!isName(name)) refuse(`${JSON.stringify(name)} is no name for a file of it`);
}

function refuse(what: string): never {
  throw new FleetError('E_BUNDLE_FORM', `bundle: ${what}`);
}
