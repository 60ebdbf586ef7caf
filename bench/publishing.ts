// What publishing for a large fleet takes once everything is built, on the roads of `fleet build` and of `fleet root
// import`, which issues every manifest again. Hosts have systems of their own (large-fleet.ts). Not measured: the
// evaluation, build and ingest of each host, and storing its closure file, which are done before and one by one.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type StoredClosure, storeClosure } from '../src/manifest/publish.ts';
import { openStateDir } from '../src/server/statedir.ts';
import { blobIdOf } from '../src/storage/blobs.ts';
import { type Figure, type Measured, measure } from './figures.ts';
import { builtHost, makeLargeFleet } from './large-fleet.ts';

const CHILD = fileURLToPath(new URL('./publish-child.ts', import.meta.url));

/** Leaves a state in `top` that has published each host twice. */
export async function publishingFigures(
  dir: string,
  top: string,
  hosts: number,
  log: (line: string) => void,
): Promise<Figure[]> {
  const [store, closures] = [join(dir, 'nix-store'), join(dir, 'closures.json')];
  await makeLargeFleet(top, store, hosts);
  writeFileSync(closures, JSON.stringify(await storeClosures(top, hosts)));
  const child = [CHILD, top, store, String(hosts), closures];
  const built = await measure(process.execPath, child, {});
  const { phases, cpu } = JSON.parse(built.stdout) as {
    phases: Record<string, number>;
    cpu: number;
  };
  const shown = Object.entries(phases).map(([name, seconds]) => `${name} ${seconds.toFixed(1)} s`);
  log(`${hosts} hosts published: ${shown.join(', ')}; CPU ${cpu.toFixed(1)} s`);
  const publishing = Object.values(phases).reduce((sum, seconds) => sum + seconds, 0);
  const imported = await importRoot(dir, top);
  const { reissued } = JSON.parse(imported.stdout) as { reissued: string[] };
  if (reissued.length !== hosts) throw new Error(`${reissued.length} were issued again`);
  return [
    { name: `publishing for ${hosts} hosts`, value: publishing, unit: 's' },
    { name: 'publishing, peak memory', value: built.peakMiB, unit: 'MiB' },
    { name: `root import for ${hosts} hosts`, value: imported.seconds, unit: 's' },
    { name: 'root import, peak memory', value: imported.peakMiB, unit: 'MiB' },
  ];
}

/** As builds leave them, but without waiting for the disk. */
async function storeClosures(top: string, hosts: number): Promise<StoredClosure[]> {
  await using dir = await openStateDir(top, { writer: 'inline' });
  const put = async (chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) => {
    const bytes = Buffer.concat(await Array.fromAsync(chunks));
    const id = blobIdOf(bytes);
    writeFileSync(join(dir.layout.blobs, id.slice(0, 2), id.slice(2)), bytes);
    return { id, size: bytes.length };
  };
  const all: StoredClosure[] = [];
  for (let i = 0; i < hosts; i++) {
    const { built, closure } = builtHost(i);
    all.push(await storeClosure(built, closure, { put }, dir.root.limits));
  }
  return all;
}

async function importRoot(dir: string, top: string): Promise<Measured> {
  const file = join(dir, '2.json');
  execFileSync('bin/fleet', ['root', 'rotate', '--state', top, '--out', file]);
  execFileSync('bin/fleet', ['root', 'sign', file, '--key', join(top, 'keys/root.pem')]);
  return await measure('bin/fleet', ['root', 'import', file, '--state', top, '--json'], {});
}
