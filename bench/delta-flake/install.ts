// The builder of a package of the delta benchmark: an unpacked Debian tree → an output as NixOS has one. Runs inside of
// a Nix build, alone, with what it needs in its environment: `src`, `out`, `self` (the package's name) and `needs`
// (name → store path, JSON). Each program and library gets an interpreter and an RPATH of store paths, as `patchelf` leaves
// them, scripts get interpreters from the store, unit files their own path. /usr is gone; documents of Debian's are left out.
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, extname, join } from 'node:path';

const { src = '', out = '', self = '', needs: needsText = '{}' } = process.env;
const needs = new Map<string, string>(Object.entries(JSON.parse(needsText)));
needs.set(self, out);

// Where Debian's programs have their interpreter's name.
const INTERPRETER_AT = 0x318;
const LEFT_OUT = /^usr\/share\/(doc|lintian|bug)(\/|$)/;
const WITH_PATHS = new Set('.service .socket .timer .target .mount .path .rules .conf'.split(' '));
const INTERPRETERS: readonly (readonly [RegExp, string, string])[] = [
  [/^#! *\/(usr\/)?bin\/(ba)?sh\b/, 'bash', 'bin/bash'],
  [/^#! *\/usr\/bin\/(env +)?perl\b/, 'perl', 'bin/perl'],
  [/^#! *\/usr\/bin\/(env +)?python3[.\d]*/, 'python3', 'bin/python3.11'],
];

const rpath = [...needs.values()].map((path) => `${path}/lib`).join(':');
const interpreter = `${needs.get('glibc')}/lib/ld-linux-x86-64.so.2`;

/** Where a file of Debian's goes. */
const placeOf = (path: string): string => join(out, path.replace(/^usr\//, ''));

function install(path: string): void {
  if (LEFT_OUT.test(path)) return;
  const from = join(src, path);
  const stat = lstatSync(from);
  if (stat.isDirectory()) {
    for (const name of readdirSync(from).sort()) install(join(path, name));
  } else if (stat.isSymbolicLink()) {
    put(path, (to) => symlinkSync(targetOf(readlinkSync(from)), to));
  } else if (stat.isFile()) {
    const bytes = rewritten(path, readFileSync(from));
    put(path, (to) => {
      writeFileSync(to, bytes);
      chmodSync(to, (stat.mode & 0o111) === 0 ? 0o444 : 0o555);
    });
  }
}

/** Of two files that come to one place (/lib/x and /usr/lib/x), the first stays. */
function put(path: string, write: (to: string) => void): void {
  const to = placeOf(path);
  if (lstatSync(to, { throwIfNoEntry: false }) !== undefined) return;
  mkdirSync(dirname(to), { recursive: true });
  write(to);
}

/** A link into the package's own tree leads into its output; any other stays, wherever it leads. */
function targetOf(target: string): string {
  const own = target.startsWith('/') && lstatSync(join(src, target), { throwIfNoEntry: false });
  return own ? placeOf(target.slice(1)) : target;
}

function rewritten(path: string, bytes: Buffer): Buffer {
  if (bytes.subarray(0, 4).toString('latin1') === '\x7fELF') {
    return Buffer.concat([
      bytes.subarray(0, INTERPRETER_AT),
      Buffer.from(`${interpreter}\0`),
      bytes.subarray(INTERPRETER_AT),
      Buffer.from(`\0${rpath}\0`),
    ]);
  }
  if (bytes.subarray(0, 2).toString('latin1') === '#!') {
    const text = bytes.toString('latin1');
    for (const [pattern, name, program] of INTERPRETERS) {
      const store = needs.get(name);
      if (store !== undefined && pattern.test(text)) {
        return Buffer.from(text.replace(pattern, `#!${store}/${program}`), 'latin1');
      }
    }
  }
  if (WITH_PATHS.has(extname(path))) {
    const text = bytes.toString('latin1');
    return Buffer.from(text.replace(/(?<![\w.])\/(usr\/)?(?=lib\/|s?bin\/)/g, `${out}/`), 'latin1');
  }
  return bytes;
}

mkdirSync(out);
install('');
