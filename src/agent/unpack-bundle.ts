// A host's bundle, from a stick (SPEC §8.2) → its files in a directory of this agent's own, and what its first one says. Read
// once, as a stream; nothing is written beyond what was announced and what there is room for, under no name but
// the few that a bundle has.
// Refuses one of another form, order, fleet or host, or that is cut short, and one for which there is no room.
import { mkdir, open, rm, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type BundleMember, readMembers } from '../bundle/tar.ts';
import { asAccess, asDiskFull } from '../durable.ts';
import { FleetError } from '../errors.ts';
import {
  type HostBundle,
  HostBundleOrder,
  mostBytesOf,
  parseHostBundle,
} from '../manifest/host-bundle.ts';
import { type Memory, memoryFiles } from './memory.ts';

export type Unpacked = {
  readonly dir: string;
  readonly bundle: HostBundle;
  /** Versions of its roots are 1 to this. */
  readonly roots: number;
};

/** What is left for the machine to live on. */
const SPARE_BYTES = 32 * 2 ** 20;
/** What a tar file has for each file besides its bytes, and at its end. */
const PER_FILE = 1024;
const AT_END = 64 * 1024;
/** What may be read ahead before the announcement was. */
const AHEAD = 16 * 2 ** 20;

/**
 * Whatever was in the directory before is removed, and what is in it after a refusal is the caller's to remove.
 * @throws FleetError E_BUNDLE_FORM, E_OFFER_VERSION, E_FLEET_MISMATCH, E_HOST_MISMATCH, E_PREFLIGHT, E_DISK_FULL
 */
export async function unpackBundle(
  chunks: AsyncIterable<Uint8Array>,
  { dir: state, config }: Pick<Memory, 'dir' | 'config'>,
): Promise<Unpacked> {
  const dir = memoryFiles(state).bundle;
  const order = new HostBundleOrder();
  let bundle: HostBundle | null = null;
  let [files, bytes] = [0, 0];
  const most = (): number =>
    bundle === null ? AHEAD : bundle.bytes + (bundle.files + 1) * PER_FILE + AT_END;
  const limits = {
    // Another name is refused by the order, which says so.
    fileBytes: (name: string) => mostBytesOf(name) || Number.MAX_SAFE_INTEGER,
    totalBytes: Number.MAX_SAFE_INTEGER,
  };
  try {
    await rm(dir, { recursive: true, force: true });
    for (const part of ['root', 'narinfo', 'nar']) {
      await mkdir(join(dir, part), { recursive: true, mode: 0o700 });
    }
    for await (const member of readMembers(bounded(chunks, most), limits)) {
      order.next(member.name);
      if (bundle === null) {
        bundle = parseHostBundle(await contentOf(member));
        requireOurs(bundle, config);
        await requireRoom(dir, bundle);
        continue;
      }
      files += 1;
      bytes += member.size;
      if (files > bundle.files || bytes > bundle.bytes) refuse('it has more than it announced');
      await write(join(dir, member.name), member);
    }
  } catch (error) {
    throw asAccess(asDiskFull(error, dir), dir);
  }
  const roots = order.end();
  if (bundle === null || files < bundle.files || bytes < bundle.bytes) {
    refuse('it was cut short: it has less than it announced');
  }
  return { dir, bundle, roots };
}

/** Not even zeros after the end go on without one. */
async function* bounded(
  chunks: AsyncIterable<Uint8Array>,
  most: () => number,
): AsyncGenerator<Uint8Array> {
  let read = 0;
  for await (const chunk of chunks) {
    read += chunk.length;
    if (read > most()) refuse('it goes on after its end');
    yield chunk;
  }
}

async function contentOf({ data }: BundleMember): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of data) chunks.push(chunk);
  return Buffer.concat(chunks);
}

// Not durable: what a run that died leaves is removed by the next.
async function write(file: string, { data }: BundleMember): Promise<void> {
  await using handle = await open(file, 'wx', 0o600);
  for await (const chunk of data) await handle.writeFile(chunk);
}

function requireOurs(
  { fleet, host }: HostBundle,
  config: Pick<Memory['config'], 'fleet' | 'host'>,
): void {
  if (fleet !== config.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `the bundle is of fleet ${fleet}`, {
      hint: 'ask for one of the fleet that this host is enrolled in',
    });
  }
  if (host !== config.host) {
    throw new FleetError('E_HOST_MISMATCH', `the bundle is for ${host}; this is ${config.host}`, {
      hint: `ask for one that is made for this host: fleet host bundle ${config.host} --out FILE`,
    });
  }
}

async function requireRoom(dir: string, { bytes }: HostBundle): Promise<void> {
  const { blocks, bavail, bsize } = await statfs(dir);
  const free = bavail * bsize;
  const needed = bytes + SPARE_BYTES;
  if (blocks === 0 || free >= needed) return;
  const mebibytes = (count: number): string => `${(count / 2 ** 20).toFixed(1)} MiB`;
  const text = `${dirname(dir)} has ${mebibytes(free)} free, and the bundle needs ${mebibytes(needed)}`;
  throw new FleetError('E_PREFLIGHT', text, { hint: 'free some space; nothing was changed' });
}

function refuse(what: string): never {
  throw new FleetError('E_BUNDLE_FORM', `bundle: ${what}`);
}
