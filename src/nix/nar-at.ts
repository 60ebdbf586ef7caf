// A store path on disk → its NAR, read at any place, synchronously: what update packs copy from (SPEC §12.4, §12.5). Reads
// what is asked for and no more; whoever reads it in small pieces reads ahead (delta/rewrite.ts).
// Refuses files that are not as they were when the layout was made: bytes that nobody vouches for are then not read on.
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { errnoOf, FleetError } from '../errors.ts';
import { showBytes } from './nar-format.ts';
import { type Extent, layOutNar, type NarLayout, pathOf } from './nar-layout.ts';

/** Files that are kept open: patches jump between a few. */
const MOST_OPEN = 16;
// A pipe that took a file's place must not block the process, nor a symlink be followed.
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

export class NarAt implements Disposable {
  readonly #layout: NarLayout;
  /** Where in `fixed` the bytes behind each extent begin. */
  readonly #behind: Float64Array;
  /** The one used last comes last. */
  readonly #open = new Map<Extent, number>();

  private constructor(layout: NarLayout) {
    this.#layout = layout;
    this.#behind = new Float64Array(layout.extents.length);
    let contents = 0;
    for (const [i, { start, size }] of layout.extents.entries()) {
      this.#behind[i] = start - contents;
      contents += size;
    }
  }

  /** @throws FleetError E_NAR_BAD; the system's error for what cannot be read */
  static async open(path: string): Promise<NarAt> {
    return new NarAt(await layOutNar(path));
  }

  /** Bytes of the NAR. */
  get size(): number {
    return this.#layout.size;
  }

  [Symbol.dispose](): void {
    for (const fd of this.#open.values()) closeSync(fd);
    this.#open.clear();
  }

  /**
   * Fills `target` with what begins at `offset`.
   * @throws FleetError E_PATCH_BAD beyond the end, E_NAR_CHANGED; the system's error for what cannot be read
   */
  read(offset: number, target: Uint8Array): void {
    const end = offset + target.length;
    if (!(offset >= 0 && end <= this.size)) {
      throw new FleetError('E_PATCH_BAD', `it reads at ${offset} of a NAR of ${this.size} bytes`);
    }
    const { extents, fixed } = this.#layout;
    let i = this.#extentAt(offset);
    for (let done = 0; done < target.length; ) {
      const at = offset + done;
      const extent = extents[i];
      const rest = target.subarray(done);
      if (extent !== undefined && at < extent.start + extent.size) {
        const piece = rest.subarray(0, extent.start + extent.size - at);
        this.#readFile(extent, at - extent.start, piece);
        done += piece.length;
        continue;
      }
      // Between the end of this extent (or the beginning) and the next one.
      const next = extents[i + 1];
      const behind = extent === undefined ? 0 : extent.start + extent.size;
      const from = (this.#behind[i] ?? 0) + at - behind;
      const piece = rest.subarray(0, (next?.start ?? this.size) - at);
      piece.set(fixed.subarray(from, from + piece.length));
      done += piece.length;
      if (done < target.length) i += 1;
    }
  }

  /** The last extent that begins at or before `offset`; -1: none does. */
  #extentAt(offset: number): number {
    const { extents } = this.#layout;
    let [low, high] = [0, extents.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((extents[middle]?.start ?? 0) <= offset) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  #readFile(extent: Extent, offset: number, target: Uint8Array): void {
    const fd = this.#fdOf(extent);
    for (let done = 0; done < target.length; ) {
      const got = readSync(fd, target, done, target.length - done, offset + done);
      if (got === 0) throw changed(extent);
      done += got;
    }
  }

  #fdOf(extent: Extent): number {
    const known = this.#open.get(extent);
    const fd = known ?? openFile(extent);
    this.#open.delete(extent);
    this.#open.set(extent, fd);
    const [oldest] = this.#open;
    if (this.#open.size > MOST_OPEN && oldest !== undefined) {
      this.#open.delete(oldest[0]);
      closeSync(oldest[1]);
    }
    return fd;
  }
}

function openFile(extent: Extent): number {
  let fd: number;
  try {
    fd = openSync(Buffer.from(pathOf(extent.dir, extent.name), 'latin1'), OPEN_FLAGS);
  } catch (error) {
    throw ['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO'].includes(errnoOf(error) ?? '')
      ? changed(extent, error)
      : error;
  }
  const stat = fstatSync(fd);
  if (stat.isFile() && stat.size === extent.size && stat.mtimeMs === extent.mtimeMs) return fd;
  closeSync(fd);
  throw changed(extent);
}

function changed({ dir, name }: Extent, cause?: unknown): FleetError {
  const what = showBytes(pathOf(dir, name));
  return new FleetError('E_NAR_CHANGED', `${what} changed while it was read`, { cause });
}
