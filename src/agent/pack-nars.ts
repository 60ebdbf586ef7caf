// An update pack that arrives → the NARs of the paths that it is used for, as Nix asks for them: an old NAR rewritten, a patch
// upon that, or whole ones (SPEC §12.3). Reads old NARs from this store, waits for segments, and works on as much at a time as
// there is memory for. Every NAR is compared with the closure.
import { applyPatch } from '../delta/apply-patch.ts';
import type { PackedPath } from '../delta/pack-index.ts';
import { readNar, rewritten } from '../delta/rewrite.ts';
import { FleetError } from '../errors.ts';
import type { PathInfo } from '../nix/closure.ts';
import { NarAt } from '../nix/nar-at.ts';
import { checkNar } from '../nix/nar-check.ts';
import type { StorePath } from '../nix/storepath.ts';
import { Budget } from './budget.ts';
import { NarRow } from './nar-row.ts';
import type { PackFile } from './pack-file.ts';
import { PackSpool } from './pack-spool.ts';
import { type Place, realPathOf } from './place.ts';
import { unpackFrame } from './unpack-frame.ts';

/** Unpacked segments that are kept; the oldest is unpacked again where it is asked for later. */
export const MAX_SPOOLS = 3;
/** So often a segment is unpacked; whoever has it needed more often, among others, would have it written to disk for ever. */
const MAX_UNPACKINGS = 3;
/** As §12 has it for windows. */
const MAX_WINDOW_LOG = 25;

export class PackNars implements Disposable {
  readonly #pack: PackFile;
  readonly #place: Place;
  /** For spools. */
  readonly #dir: string;
  readonly #budget: Budget;
  /** By segment, the oldest first. */
  readonly #spools = new Map<number, Promise<PackSpool>>();
  readonly #unpackings = new Map<number, number>();
  /** Paths of each segment that nobody had yet. */
  readonly #left: ReadonlyMap<number, Set<StorePath>>;

  /** `memory`: bytes, for all that is worked on at a time. */
  constructor(pack: PackFile, place: Place, dir: string, memory: number) {
    this.#pack = pack;
    this.#place = place;
    this.#dir = dir;
    this.#budget = new Budget(memory);
    const left = new Map<number, Set<StorePath>>();
    for (const path of pack.plan.paths.values()) {
      if (path.kind !== 'whole') continue;
      left.set(path.segment, (left.get(path.segment) ?? new Set()).add(path.info.path));
    }
    this.#left = left;
  }

  [Symbol.dispose](): void {
    for (const segment of [...this.#spools.keys()]) this.#drop(segment);
  }

  /**
   * The NAR of a path of the plan, exactly the signed one when it comes to its end. A chunk is valid until the next
   * is asked for.
   * @throws FleetError E_NAR_…, E_PACK_BAD, E_PATCH_BAD, E_SERVER_…; what keeps the old one from being read
   */
  async *nar(path: PackedPath): AsyncGenerator<Uint8Array, void, undefined> {
    const { info } = path;
    if (path.kind !== 'whole') yield* checkNar(this.#from(path), info);
    else if (this.#left.get(path.segment)?.size === 1 && !this.#spools.has(path.segment)) {
      yield* checkNar(this.#alone(path.segment, info), info);
    } else yield* this.#spooled(path.segment, info);
  }

  /** From the old NAR. */
  async *#from(
    path: PackedPath & { kind: 'copy' | 'patch' },
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const { old, renames } = path;
    using _ = path.kind === 'copy' ? null : await this.#enter(path.segment);
    using nar = await NarAt.open(realPathOf(this.#place, old));
    const source = rewritten(nar, renames);
    if (path.kind === 'copy') yield* readNar(source);
    else yield* applyPatch(source, this.#pack.chunks(path.segment), this.#memoryOf(path.segment));
  }

  /** The only one that is wanted of its segment: not worth a file. */
  async *#alone(segment: number, info: PathInfo): AsyncGenerator<Uint8Array, void, undefined> {
    using _ = await this.#enter(segment);
    await using row = this.#unpacked(segment);
    for (const other of this.#group(segment)) {
      const nar = row.next(other.narSize);
      if (other.path === info.path) {
        yield* nar;
        return;
      }
      await nar.next();
    }
  }

  async *#spooled(segment: number, info: PathInfo): AsyncGenerator<Uint8Array, void, undefined> {
    let spool = this.#spools.get(segment);
    if (spool === undefined) {
      spool = this.#spool(segment);
      spool.catch(() => this.#spools.delete(segment));
      this.#spools.set(segment, spool);
      const [oldest] = this.#spools.keys();
      if (this.#spools.size > MAX_SPOOLS && oldest !== undefined) this.#drop(oldest);
    }
    yield* (await spool).nar(info);
    const left = this.#left.get(segment);
    left?.delete(info.path);
    if (left?.size === 0) this.#drop(segment);
  }

  async #spool(segment: number): Promise<PackSpool> {
    const times = (this.#unpackings.get(segment) ?? 0) + 1;
    if (times > MAX_UNPACKINGS) {
      throw new FleetError(
        'E_PACK_BAD',
        `segment ${segment} of the update pack is needed too often`,
      );
    }
    this.#unpackings.set(segment, times);
    const held = await this.#enter(segment);
    const wanted = new Set(this.#left.get(segment));
    const free = (): void => held[Symbol.dispose]();
    const row = this.#unpacked(segment);
    return await PackSpool.open(this.#dir, row, this.#group(segment), wanted, free);
  }

  #drop(segment: number): void {
    const spool = this.#spools.get(segment);
    this.#spools.delete(segment);
    spool?.then(
      (one) => one.close(),
      () => {},
    );
  }

  /** Waits for the segment, and for memory. */
  async #enter(segment: number): Promise<Disposable> {
    await this.#pack.whenThere(segment);
    return await this.#budget.take(this.#memoryOf(segment));
  }

  /** With no larger window than it said that it needs. */
  #unpacked(segment: number): NarRow {
    const windowLog = Math.min(MAX_WINDOW_LOG, Math.floor(Math.log2(this.#memoryOf(segment))));
    const chunks = this.#pack.chunks(segment);
    return new NarRow(unpackFrame(chunks, Math.max(windowLog, 10)));
  }

  #memoryOf(segment: number): number {
    return this.#pack.index.segments[segment]?.memory ?? 0;
  }

  #group(segment: number): readonly PathInfo[] {
    return this.#pack.plan.groups.get(segment) ?? [];
  }
}
