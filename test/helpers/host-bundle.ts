// Bundles for the host of a World, honest or not: as names and bytes, put together by tar-stream itself, which refuses nothing.
import { type Header, pack } from 'tar-stream';
import { formatOffer } from '../../src/manifest/offer.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import type { BuiltSystem } from './systems.ts';
import { FLEET, HOST, type World } from './world.ts';

export type Member = {
  readonly name: string;
  readonly data: Buffer;
  /** What its header says besides. */
  readonly header?: Partial<Header>;
};

/** What the server would put into it, but for the header; `without`: what the host has already. */
export function membersOf(
  world: World,
  system: BuiltSystem,
  from: number,
  without: BuiltSystem | null = null,
): Member[] {
  const had = new Set(without?.infos.map(({ path }) => path));
  const infos = system.infos.filter(({ path }) => !had.has(path));
  const narInfos = infos.map(({ path }) => {
    const name = `${hashPartOf(path)}.narinfo`;
    return { name: `narinfo/${name}`, data: Buffer.from(world.narinfos.get(`/${name}`) ?? '') };
  });
  const nars = narInfos.map(({ data }) => {
    const url = /^URL: (.*)$/m.exec(data.toString())?.[1] ?? '';
    return { name: url, data: world.nars.get(`/${url}`) ?? Buffer.of() };
  });
  const closure = [...world.closures.values()].at(-1) ?? Buffer.of();
  return [
    ...world.roots.map((text, i) => ({ name: `root/${i + 1}.root.json`, data: Buffer.from(text) })),
    { name: 'offer.json', data: Buffer.from(formatOffer({ ...world.offer(0, from), roots: [] })) },
    { name: 'closure.fp', data: closure },
    ...narInfos.sort(byName),
    ...nars.sort(byName),
  ];
}

function byName(a: Member, b: Member): number {
  return a.name < b.name ? -1 : 1;
}

/** With the header that goes with `members`, but for what is given. */
export async function bundleOf(
  members: readonly Member[],
  from: number,
  changes: object = {},
): Promise<Buffer> {
  const header = {
    ...{ bundleVersion: 1, fleet: FLEET, host: HOST, from, files: members.length },
    bytes: members.reduce((sum, { data }) => sum + data.length, 0),
    ...changes,
  };
  return await tarOf([
    { name: 'bundle.json', data: Buffer.from(JSON.stringify(header)) },
    ...members,
  ]);
}

export async function tarOf(members: readonly Member[]): Promise<Buffer> {
  const tar = pack();
  for (const { name, data, header } of members) {
    const given = { name, mtime: new Date(0), ...header } as Header;
    if (given.type === undefined || given.type === 'file') tar.entry(given, data);
    else tar.entry(given);
  }
  tar.finalize();
  const chunks: Uint8Array[] = [];
  for await (const chunk of tar as unknown as AsyncIterable<Uint8Array>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The header block of a file that never comes. */
export async function headerOf(name: string, size: number): Promise<Buffer> {
  const tar = pack();
  tar.entry({ name, size, mtime: new Date(0) });
  for await (const chunk of tar as unknown as AsyncIterable<Uint8Array>) return Buffer.from(chunk);
  throw new Error('no header');
}
