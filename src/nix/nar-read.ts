// NAR bytes, in chunks of any size, to events (see nar-format.ts). An explicit state machine: it
// never recurses, holds at most one short token, and hands contents on as views of the chunks.
// Refuses (E_NAR_BAD) all that the canonical form excludes: words out of order, names not strictly
// increasing, padding that is not zero, lengths beyond the caps (before anything is allocated for
// them), nodes nested too deep, bytes after the end; and an early end (E_NAR_TRUNCATED).

import { FleetError } from '../errors.ts';
import {
  badNar,
  MAGIC,
  MAX_DEPTH,
  MAX_NAME,
  MAX_TAG,
  MAX_TARGET,
  type NarEvent,
  nameFault,
  paddingOf,
  showBytes,
  targetFault,
} from './nar-format.ts';

/** What the grammar wants next: a fixed word, one of several, a free text, or a file's size. */
type Want =
  | 'magic'
  | 'node'
  | 'type'
  | 'kind'
  | 'executable|contents'
  | 'executable value'
  | 'contents'
  | 'size'
  | 'target'
  | 'target text'
  | 'end of node'
  | 'entry|end'
  | 'entry'
  | 'name'
  | 'name text'
  | 'entry node'
  | 'end of entry'
  | 'nothing';

/** How the bytes at hand are to be taken. */
type Stage = 'length' | 'token' | 'contents' | 'padding';

const CAPS: ReadonlyMap<Want, number> = new Map<Want, number>([
  ['name text', MAX_NAME],
  ['target text', MAX_TARGET],
]);

/**
 * The events of one NAR. Data of `contents` are views of the chunk they came in.
 * @throws FleetError E_NAR_BAD, E_NAR_TRUNCATED
 */
export async function* readNar(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<NarEvent> {
  const parser = new NarParser();
  for await (const chunk of chunks) yield* parser.push(chunk);
  parser.finish();
}

/** The reader without the waiting, for those who check or unpack while bytes pass by. */
export class NarParser {
  #want: Want = 'magic';
  #stage: Stage = 'length';
  /** Bytes that the stage still takes: of contents in all, else of one piece. */
  #need = 8;
  /** Length of the token, or of the contents, without padding. */
  #length = 0;
  /** A piece that the end of a chunk cut in two. */
  readonly #held = Buffer.allocUnsafe(MAX_TARGET + 8);
  #heldBytes = 0;
  /** For every open directory the name of its newest entry. */
  readonly #open: string[] = [];
  #name: string | null = null;
  #executable = false;

  /** The events that `chunk` completes. E_NAR_BAD at the first byte that cannot be right. */
  push(chunk: Uint8Array): NarEvent[] {
    const events: NarEvent[] = [];
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length);
    let at = 0;
    while (at < bytes.length) {
      if (this.#want === 'nothing') throw badNar('bytes after its end');
      if (this.#stage === 'contents') {
        const data = chunk.subarray(at, at + this.#need);
        events.push({ type: 'contents', data });
        at += data.length;
        this.#need -= data.length;
        if (this.#need === 0) this.#enterPadding();
      } else if (this.#heldBytes === 0 && bytes.length - at >= this.#need) {
        const start = at;
        at += this.#need;
        this.#piece(bytes, start, events);
      } else {
        const taken = bytes.copy(
          this.#held,
          this.#heldBytes,
          at,
          at + this.#need - this.#heldBytes,
        );
        at += taken;
        this.#heldBytes += taken;
        if (this.#heldBytes === this.#need) {
          this.#heldBytes = 0;
          this.#piece(this.#held, 0, events);
        }
      }
    }
    return events;
  }

  /** To be called after the last chunk: E_NAR_TRUNCATED unless the NAR is complete. */
  finish(): void {
    if (this.#want === 'nothing') return;
    const missing = this.#want === 'size' && this.#stage !== 'length' ? 'contents' : this.#want;
    throw new FleetError('E_NAR_TRUNCATED', `the NAR ends early, where ${missing} should be`);
  }

  /** Takes `#need` bytes at `start`, which are a length, a token with its padding, or a padding. */
  #piece(bytes: Buffer, start: number, events: NarEvent[]): void {
    if (this.#stage === 'length') {
      this.#takeLength(bytes.readUInt32LE(start), bytes.readUInt32LE(start + 4), events);
      return;
    }
    const isToken = this.#stage === 'token';
    const zeros = isToken ? start + this.#length : start;
    const end = start + this.#need;
    for (let i = zeros; i < end; i++) if (bytes[i] !== 0) throw badNar('padding that is not zero');
    this.#enterLength();
    this.#want = isToken
      ? this.#next(bytes.toString('latin1', start, zeros), events)
      : 'end of node';
  }

  #takeLength(low: number, high: number, events: NarEvent[]): void {
    // Beyond 2^53 the sum is not exact, but beyond 2^53 it stays, where all are refused.
    const length = high * 2 ** 32 + low;
    if (this.#want === 'size') {
      if (!Number.isSafeInteger(length)) throw badNar('a file of 2^53 bytes or more');
      this.#length = length;
      events.push({ type: 'file', name: this.#name, executable: this.#executable, size: length });
      if (length === 0) {
        this.#enterLength();
        this.#want = 'end of node';
      } else {
        this.#stage = 'contents';
        this.#need = length;
      }
      return;
    }
    const cap = CAPS.get(this.#want) ?? MAX_TAG;
    if (length > cap) throw badNar(`${length} bytes where ${this.#want} should be`);
    if (length === 0) {
      this.#enterLength();
      this.#want = this.#next('', events);
    } else {
      this.#stage = 'token';
      this.#length = length;
      this.#need = length + paddingOf(length);
    }
  }

  /** Takes one word or text; gives what must come after it. */
  #next(token: string, events: NarEvent[]): Want {
    switch (this.#want) {
      case 'magic':
        return word(token, MAGIC, 'node');
      case 'node':
        if (this.#open.length > MAX_DEPTH) throw badNar('directories nested too deep');
        return word(token, '(', 'type');
      case 'type':
        return word(token, 'type', 'kind');
      case 'kind':
        return this.#kind(token, events);
      case 'executable|contents':
        this.#executable = token === 'executable';
        return this.#executable ? 'executable value' : word(token, 'contents', 'size');
      case 'executable value':
        return word(token, '', 'contents');
      case 'contents':
        return word(token, 'contents', 'size');
      case 'target':
        return word(token, 'target', 'target text');
      case 'target text':
        refuse(targetFault(token));
        events.push({ type: 'symlink', name: this.#name, target: token });
        return 'end of node';
      case 'end of node':
        return word(token, ')', this.#afterNode());
      case 'entry|end':
        if (token !== ')') return word(token, 'entry', 'entry');
        this.#open.pop();
        events.push({ type: 'leave' });
        return this.#afterNode();
      case 'entry':
        return word(token, '(', 'name');
      case 'name':
        return word(token, 'name', 'name text');
      case 'name text':
        return this.#entryName(token);
      case 'entry node':
        return word(token, 'node', 'node');
      case 'end of entry':
        return word(token, ')', 'entry|end');
      case 'size':
      case 'nothing':
        throw new Error(`no token belongs to ${this.#want}`);
    }
  }

  #kind(token: string, events: NarEvent[]): Want {
    if (token === 'regular') return 'executable|contents';
    if (token === 'symlink') return 'target';
    if (token !== 'directory') throw badNar(`unknown type ${showBytes(token)}`);
    events.push({ type: 'directory', name: this.#name });
    this.#open.push('');
    return 'entry|end';
  }

  #entryName(name: string): Want {
    refuse(nameFault(name));
    const previous = this.#open.at(-1) ?? '';
    if (name === previous) throw badNar(`two entries named ${showBytes(name)}`);
    if (name < previous) throw badNar(`entry ${showBytes(name)} after ${showBytes(previous)}`);
    this.#open[this.#open.length - 1] = name;
    this.#name = name;
    return 'entry node';
  }

  #afterNode(): Want {
    return this.#open.length === 0 ? 'nothing' : 'end of entry';
  }

  #enterLength(): void {
    this.#stage = 'length';
    this.#need = 8;
  }

  #enterPadding(): void {
    this.#need = paddingOf(this.#length);
    this.#stage = 'padding';
    if (this.#need > 0) return;
    this.#enterLength();
    this.#want = 'end of node';
  }
}

function word(token: string, expected: string, next: Want): Want {
  if (token === expected) return next;
  throw badNar(`${showBytes(token)} where ${showBytes(expected)} should be`);
}

function refuse(fault: string | undefined): void {
  if (fault !== undefined) throw badNar(fault);
}
