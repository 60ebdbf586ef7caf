// The events of a NAR → Nix's listing (`.ls`: libutil/nar-accessor.cc, listNar) with the place of each
// file's contents in the archive, and the debug files in it. Places follow from the events, because
// the form is canonical: every word, name and file takes a length, its bytes and their padding.
// Gives no listing where names or targets are no UTF-8, or the document would be too large to keep.
import { isUtf8 } from 'node:buffer';
import { type NarEvent, paddingOf } from './nar-format.ts';

/** Where the file of debug symbols with this build id (40 hex digits) lies in its path. */
export type DebugFile = { readonly buildId: string; readonly member: string };

/** Larger documents are not made: a client that finds none reads the NAR itself. */
const MAX_LISTING = 16 * 1024 * 1024;
const MAX_DEBUG_FILES = 100_000;

const sizeOf = (length: number): number => 8 + length + paddingOf(length);
const sizeOfWords = (...words: string[]): number =>
  words.reduce((sum, word) => sum + sizeOf(word.length), 0);

const START = sizeOfWords('nix-archive-1');
const ENTRY = sizeOfWords('entry', '(', 'name');
const NODE = sizeOfWords('node');
const DIRECTORY = sizeOfWords('(', 'type', 'directory');
const SYMLINK = sizeOfWords('(', 'type', 'symlink', 'target');
const FILE = sizeOfWords('(', 'type', 'regular', 'contents');
const EXECUTABLE = sizeOfWords('executable', '');
const END = sizeOfWords(')');

export class NarListing {
  readonly debugFiles: DebugFile[] = [];
  #json = '{"version":1,"root":';
  #usable = true;
  /** Bytes of the archive up to here. */
  #at = START;
  /** Names of the open directories below the root; the root itself is ''. */
  readonly #open: string[] = [];
  /** Whether the next entry is the first of its directory. */
  #first = true;

  add(event: NarEvent): void {
    if (event.type === 'contents') return;
    if (event.type === 'leave') {
      this.#text('}}');
      this.#open.pop();
      this.#first = false;
      this.#end();
      return;
    }
    this.#entry(event.name);
    if (event.type === 'directory') {
      this.#at += DIRECTORY;
      this.#text('{"type":"directory","entries":{');
      this.#open.push(event.name ?? '');
      this.#first = true;
      return;
    }
    if (event.type === 'symlink') {
      this.#at += SYMLINK + sizeOf(event.target.length);
      this.#text(`{"type":"symlink","target":${this.#string(event.target)}}`);
    } else {
      this.#at += FILE + (event.executable ? EXECUTABLE : 0) + 8;
      const executable = event.executable ? ',"executable":true' : '';
      this.#text(`{"type":"regular","size":${event.size}${executable},"narOffset":${this.#at}}`);
      this.#at += event.size + paddingOf(event.size);
      this.#debugFile(event.name);
    }
    this.#first = false;
    this.#end();
  }

  /** The document of a NAR whose events have all been added; null where there is none. */
  finish(): string | null {
    return this.#usable ? `${this.#json}}` : null;
  }

  #entry(name: string | null): void {
    if (name === null) return;
    this.#at += ENTRY + sizeOf(name.length) + NODE;
    this.#text(`${this.#first ? '' : ','}${this.#string(name)}:`);
  }

  #end(): void {
    this.#at += this.#open.length === 0 ? END : 2 * END;
  }

  #text(text: string): void {
    if (!this.#usable) return;
    this.#json += text;
    if (this.#json.length <= MAX_LISTING) return;
    this.#usable = false;
    this.#json = '';
  }

  /** A byte string (one character a byte) as a JSON string. */
  #string(bytes: string): string {
    const buffer = Buffer.from(bytes, 'latin1');
    if (!isUtf8(buffer)) this.#usable = false;
    return JSON.stringify(buffer.toString());
  }

  #debugFile(name: string | null): void {
    const [root, lib, debug, dir, two = '', ...more] = this.#open;
    if (root !== '' || lib !== 'lib' || debug !== 'debug' || dir !== '.build-id') return;
    const rest = /^([0-9a-f]{38})\.debug$/.exec(name ?? '')?.[1];
    if (more.length > 0 || rest === undefined || !/^[0-9a-f]{2}$/.test(two)) return;
    if (this.debugFiles.length >= MAX_DEBUG_FILES) return;
    const member = `lib/debug/.build-id/${two}/${name}`;
    this.debugFiles.push({ buildId: two + rest, member });
  }
}
