// A store path on disk → where in its NAR each file's contents lie, and all the bytes between them. No file is read for
// that: directories and links are, once. nar-at.ts reads NARs with it at any place.
// Refuses what dumpNar refuses: sockets, pipes and devices, names that a NAR cannot hold.
import { lstatSync, readdirSync, readlinkSync, type Stats } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { badNar, showBytes } from './nar-format.ts';
import { type NarNode, NarWriter, NODE_ROOM } from './nar-write.ts';

/** How long the event loop may be kept waiting. */
const TURN_MS = 4;

/** The contents of a file that is not empty. */
export type Extent = {
  /** Where they begin in the NAR. */
  readonly start: number;
  readonly size: number;
  /** Of the file when it was looked at; bytes as latin1, so that nothing is normalised. */
  readonly dir: string;
  /** null: the path itself is the file. */
  readonly name: string | null;
  readonly mtimeMs: number;
};

export type NarLayout = {
  /** Bytes of the NAR. */
  readonly size: number;
  /** In the order of the NAR. */
  readonly extents: readonly Extent[];
  /** The NAR without them. */
  readonly fixed: Buffer;
};

type Frame = { readonly path: string; readonly names: readonly string[]; next: number };

/** @throws FleetError E_NAR_BAD; the system's error for what cannot be read, or vanishes meanwhile */
export async function layOutNar(path: string): Promise<NarLayout> {
  const builder = new LayoutBuilder();
  const root = Buffer.from(path).toString('latin1');
  const frames: Frame[] = [];
  let at: { dir: string; name: string | null } | null = { dir: root, name: null };
  let turn = performance.now();
  while (at !== null || frames.length > 0) {
    if (performance.now() - turn > TURN_MS) {
      await nextTurn();
      turn = performance.now();
    }
    if (at === null) {
      frames.pop();
      builder.node({ type: 'leave' });
    } else {
      const names = builder.add(at.dir, at.name);
      if (names !== null) frames.push({ path: pathOf(at.dir, at.name), names, next: 0 });
    }
    const frame: Frame | undefined = frames.at(-1);
    const name: string | undefined = frame?.names[frame.next++];
    at = frame === undefined || name === undefined ? null : { dir: frame.path, name };
  }
  return builder.finish();
}

/** The file that has an extent's contents. */
export function pathOf(dir: string, name: string | null): string {
  return name === null ? dir : `${dir}/${name}`;
}

/** Grows with each node. */
class LayoutBuilder {
  readonly #writer = new NarWriter();
  readonly #fixed: Buffer[] = [];
  #fixedBytes = 0;
  #contents = 0;
  readonly #extents: Extent[] = [];

  /** Adds what lies there; the names in it where that is a directory. */
  add(dir: string, name: string | null): readonly string[] | null {
    const path = pathOf(dir, name);
    const bytes = Buffer.from(path, 'latin1');
    const stat = lstatSync(bytes);
    if (stat.isFile()) {
      this.#file(dir, name, stat);
      return null;
    }
    if (stat.isSymbolicLink()) {
      this.node({ type: 'symlink', name, target: readlinkSync(bytes, 'latin1') });
      return null;
    }
    if (!stat.isDirectory()) throw badNar(`${showBytes(path)} is no file, directory or symlink`);
    this.node({ type: 'directory', name });
    const names = readdirSync(bytes, { encoding: 'buffer' }).map((one) => one.toString('latin1'));
    return names.sort((a, b) => (a < b ? -1 : 1));
  }

  node(node: NarNode): void {
    if (this.#writer.room < NODE_ROOM) this.#take();
    this.#writer.node(node);
  }

  #file(dir: string, name: string | null, { size, mode, mtimeMs }: Stats): void {
    this.node({ type: 'file', name, executable: (mode & 0o100) !== 0, size });
    if (size > 0) {
      const start = this.#fixedBytes + this.#writer.used + this.#contents;
      this.#extents.push({ start, size, dir, name, mtimeMs });
      this.#contents += size;
    }
    this.#writer.endFile();
  }

  #take(): void {
    const chunk = Buffer.from(this.#writer.take());
    this.#fixed.push(chunk);
    this.#fixedBytes += chunk.length;
  }

  finish(): NarLayout {
    this.#take();
    const size = this.#fixedBytes + this.#contents;
    return { size, extents: this.#extents, fixed: Buffer.concat(this.#fixed) };
  }
}
