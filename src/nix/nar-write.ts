// NAR events to bytes (see nar-format.ts): the writer that dumpNar and event streams share.
// NarWriter lays the format's words out in two big buffers that take turns, so that thousands of
// small nodes become a few large chunks. Refuses names and targets that its reader would refuse.

import {
  badNar,
  MAGIC,
  MAX_DEPTH,
  type NarEvent,
  nameFault,
  paddingOf,
  showBytes,
  targetFault,
} from './nar-format.ts';

/** Bytes of each of the two buffers, and so the longest chunk. */
export const CHUNK_BYTES = 256 * 1024;
/** Room that any node without its contents needs, the longest name and target included. */
export const NODE_ROOM = 8 * 1024;

/** What a NAR holds besides the contents of files. */
export type NarNode = Exclude<NarEvent, { type: 'contents' }>;

/** The bytes of tokens, laid out once. */
function tokens(...words: string[]): Buffer {
  const parts = words.flatMap((word) => {
    const length = Buffer.alloc(8);
    length.writeUInt32LE(word.length);
    return [length, Buffer.from(word, 'latin1'), Buffer.alloc(paddingOf(word.length))];
  });
  return Buffer.concat(parts);
}

const START = tokens(MAGIC);
const ENTRY = tokens('entry', '(', 'name');
const NODE = tokens('node');
const DIRECTORY = tokens('(', 'type', 'directory');
const SYMLINK = tokens('(', 'type', 'symlink', 'target');
const FILE = tokens('(', 'type', 'regular', 'contents');
const EXECUTABLE = tokens('(', 'type', 'regular', 'executable', '', 'contents');
const END_ROOT = tokens(')');
const END_ENTRY = tokens(')', ')');

/**
 * The NAR of a stream of events. A chunk may be reused as soon as the next one is asked for.
 * @throws FleetError E_NAR_BAD when the events are not in a NAR's order, or stop early
 */
export async function* writeNar(
  events: AsyncIterable<NarEvent> | Iterable<NarEvent>,
): AsyncGenerator<Uint8Array> {
  const writer = new NarWriter();
  let left = 0;
  for await (const event of events) {
    if (writer.room < NODE_ROOM) yield writer.take();
    if (event.type !== 'contents') {
      if (left > 0) throw badNar(`a file ends ${left} bytes early`);
      writer.node(event);
      if (event.type === 'file') left = event.size;
      if (event.type === 'file' && left === 0) writer.endFile();
      continue;
    }
    const { data } = event;
    if (data.length > left) throw badNar('contents beyond the size of their file');
    if (data.length > writer.room - NODE_ROOM) {
      yield writer.take();
      yield data;
    } else writer.bytes(data);
    left -= data.length;
    if (left === 0 && data.length > 0) writer.endFile();
  }
  if (!writer.complete) throw badNar('events stop before its end');
  yield writer.take();
}

/**
 * Appends nodes to the buffer at hand. The caller keeps NODE_ROOM free before every node, puts
 * contents into `buffer` at `used` itself, and passes on what `take` returns before the buffer
 * after the next one is needed.
 */
export class NarWriter {
  buffer: Buffer;
  used = 0;
  complete = false;
  #spare: Buffer | undefined;
  /** Size of the file whose contents are being written. */
  #fileSize: number | undefined;
  readonly #open: string[] = [];

  readonly #onNode: ((event: NarNode) => void) | undefined;

  /** `onNode` is told of every node as it is laid out; `buffer` is the first of the two. */
  constructor(
    onNode?: (event: NarNode) => void,
    buffer: Buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES),
  ) {
    this.buffer = buffer;
    this.#onNode = onNode;
    this.bytes(START);
  }

  get room(): number {
    return this.buffer.length - this.used;
  }

  /** The bytes so far; writing goes on in the other buffer. */
  take(): Uint8Array {
    const full = this.buffer;
    const chunk = full.subarray(0, this.used);
    this.buffer = this.#spare ?? Buffer.allocUnsafeSlow(CHUNK_BYTES);
    this.#spare = full;
    this.used = 0;
    return chunk;
  }

  bytes(bytes: Uint8Array): void {
    this.buffer.set(bytes, this.used);
    this.used += bytes.length;
  }

  /** A node up to its contents, or the end of a directory. */
  node(event: NarNode): void {
    this.#onNode?.(event);
    if (this.complete || this.#fileSize !== undefined)
      throw badNar(`${event.type} where none can be`);
    if (event.type === 'leave') {
      if (this.#open.pop() === undefined) throw badNar('more directories end than began');
      this.#end();
      return;
    }
    this.#entry(event.name);
    if (event.type === 'directory') {
      this.bytes(DIRECTORY);
      this.#open.push('');
    } else if (event.type === 'symlink') {
      const fault = targetFault(event.target);
      if (fault !== undefined) throw badNar(fault);
      this.bytes(SYMLINK);
      this.#token(event.target);
      this.#end();
    } else {
      this.bytes(event.executable ? EXECUTABLE : FILE);
      this.#length(event.size);
      this.#fileSize = event.size;
    }
  }

  /** What follows a file's contents. */
  endFile(): void {
    this.#zeros(paddingOf(this.#fileSize ?? 0));
    this.#fileSize = undefined;
    this.#end();
  }

  #entry(name: string | null): void {
    const depth = this.#open.length;
    if ((name === null) !== (depth === 0)) throw badNar('only the root has no name');
    if (depth > MAX_DEPTH) throw badNar(`directories nested too deep, at ${showBytes(name ?? '')}`);
    if (name === null) return;
    const fault = nameFault(name);
    if (fault !== undefined) throw badNar(fault);
    if (name <= (this.#open[depth - 1] ?? '')) {
      throw badNar(`entry ${showBytes(name)} is out of order`);
    }
    this.#open[depth - 1] = name;
    this.bytes(ENTRY);
    this.#token(name);
    this.bytes(NODE);
  }

  #end(): void {
    this.complete = this.#open.length === 0;
    this.bytes(this.complete ? END_ROOT : END_ENTRY);
  }

  #token(text: string): void {
    this.#length(text.length);
    this.used += this.buffer.write(text, this.used, 'latin1');
    this.#zeros(paddingOf(text.length));
  }

  #length(length: number): void {
    this.buffer.writeUInt32LE(length % 2 ** 32, this.used);
    this.buffer.writeUInt32LE(Math.floor(length / 2 ** 32), this.used + 4);
    this.used += 8;
  }

  #zeros(count: number): void {
    this.buffer.fill(0, this.used, this.used + count);
    this.used += count;
  }
}
