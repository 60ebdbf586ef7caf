// The thread of pack-pool.ts: NARs as they are stored → a segment of a pack, or that there is none worth keeping. One piece
// of work at a time.
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { makePatch } from '../delta/make-patch.ts';
import type { OldNar } from '../delta/old-nar.ts';
import { formatPackIndex } from '../delta/pack-index.ts';
import { readNar, rewritten } from '../delta/rewrite.ts';
import { packWhole, wholeMemory } from '../delta/whole.ts';
import { errnoOf, isFleetError } from '../errors.ts';
import { narBytesOf } from '../nix/closure.ts';
import { formatNarHash, type NarHash } from '../nix/hash.ts';
import { threadError } from '../thread-error.ts';
import { openOldNar, unpackedNar } from './pack-old-nar.ts';
import type { NarFile, PackReply, PackRequest, PackSettings, PackTask } from './pack-tasks.ts';

/** Kept back, as most patches that are worth nothing are found to be so before that. */
const HELD_BYTES = 4 * 1024 * 1024;

const { scratch } = workerData as PackSettings;
/** Told whether the piece that was sent is to be followed by others. */
let answered: ((goesOn: boolean) => void) | null = null;

/** Hands pieces on, a few megabytes at a time. */
class Sender {
  readonly #most: number;
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #bytes = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** False: it is not worth going on. A piece is used up when this is fulfilled. */
  async add(piece: Uint8Array): Promise<boolean> {
    this.#bytes += piece.length;
    if (this.#bytes > this.#most) return false;
    this.#held.push(Uint8Array.from(piece));
    this.#heldBytes += piece.length;
    return this.#heldBytes < HELD_BYTES || (await this.flush());
  }

  async flush(): Promise<boolean> {
    const bytes = new Uint8Array(this.#heldBytes);
    let at = 0;
    for (const piece of this.#held) {
      bytes.set(piece, at);
      at += piece.length;
    }
    [this.#held, this.#heldBytes] = [[], 0];
    const next = new Promise<boolean>((resolve) => {
      answered = resolve;
    });
    reply({ kind: 'piece', bytes });
    return await next;
  }
}

async function work(task: PackTask): Promise<PackReply> {
  if (task.kind === 'index') {
    const sender = new Sender(Number.POSITIVE_INFINITY);
    await sender.add(formatPackIndex(task.index, { paths: task.paths }));
    await sender.flush();
    return { kind: 'end', memory: 0 };
  }
  const sender = new Sender(task.most);
  if (task.kind === 'whole') {
    const bytes = narBytesOf(task.nars);
    for await (const piece of packWhole(concatenated(task.nars), bytes)) {
      if (!(await sender.add(piece))) return { kind: 'poor' };
    }
    await sender.flush();
    return { kind: 'end', memory: wholeMemory(bytes) };
  }
  const opened = await openOldNar(task.old, scratch).catch((error) => {
    if (isFleetError(error) || errnoOf(error) === 'ENOENT') return null;
    throw error;
  });
  if (opened === null) return { kind: 'no-old' };
  using unpacked = opened;
  const old = rewritten(unpacked, task.renames);
  if (old.size === task.nar.narSize && hashOf(old) === task.nar.narHash) return { kind: 'copy' };
  const patch = makePatch(old, unpackedNar(task.nar));
  for (;;) {
    const { done, value } = await patch.next();
    if (done === true) {
      await sender.flush();
      return { kind: 'end', memory: value.memory };
    }
    if (await sender.add(value)) continue;
    await patch.return({ memory: 0 });
    return { kind: 'poor' };
  }
}

async function* concatenated(nars: readonly NarFile[]): AsyncGenerator<Uint8Array> {
  for (const nar of nars) yield* unpackedNar(nar);
}

function hashOf(nar: OldNar): NarHash {
  const hash = createHash('sha256');
  for (const piece of readNar(nar)) hash.update(piece);
  return formatNarHash(hash.digest());
}

function reply(message: PackReply): void {
  parentPort?.postMessage(message, message.kind === 'piece' ? [message.bytes.buffer] : []);
}

parentPort?.on('message', (request: PackRequest) => {
  if (request.kind === 'next' || request.kind === 'stop') {
    answered?.(request.kind === 'next');
    return;
  }
  work(request).then(reply, (error: unknown) =>
    reply({ kind: 'error', error: threadError(error) }),
  );
});
