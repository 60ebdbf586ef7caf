// Our listings and debug files beside those that `nix copy` writes, for a store path with all that a NAR
// holds; and Nix reading files by a listing of ours alone.
import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { NarListing } from '../../src/nix/nar-listing.ts';
import { NarParser } from '../../src/nix/nar-read.ts';
import { hashPartOf, parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { bytesOf } from '../helpers/nar.ts';
import { nix, openScratch, storeArguments, writeFiles } from '../helpers/nix-scratch.ts';

const BUILD_ID = `ab${'c'.repeat(38)}`;
const DEBUG_FILE = `lib/debug/.build-id/ab/${'c'.repeat(38)}.debug`;

let scratch: Awaited<ReturnType<typeof openScratch>>;
let root: string;
before(async () => {
  scratch = await openScratch();
  root = await scratch.directory();
});
after(() => scratch[Symbol.asyncDispose]());

async function ourListing(path: StorePath): Promise<NarListing> {
  const [parser, listing] = [new NarParser(), new NarListing()];
  const bytes = await bytesOf(dumpNar(join(root, path)));
  for (const event of parser.push(bytes)) listing.add(event);
  return listing;
}

/** Adds `source` to the store and copies it to a cache of files beside it. */
async function copied(source: string, options: string) {
  const path = parseStorePath((await nix(storeArguments(root, '--add', source))).trim());
  // Nix 2.8 does not decode the path of a file URL.
  const cache = join(scratch.dir, `cache-${hashPartOf(path)}`);
  const store = storeArguments(root)[2] ?? '';
  const url = `file://${cache}?compression=none&${options}`;
  await nix(['nix', 'copy', '--store', store, '--to', url, path]);
  return { path, cache, url };
}

describe('listings beside Nix', () => {
  it('are the same, character by character', async () => {
    const source = join(await scratch.directory(), 'tree');
    await writeFiles(source, {
      __proto__: 'x',
      'a file': 'contents',
      empty: '',
      script: '#!/bin/sh\n',
      'nested/deeper/leaf': 'x'.repeat(100_000),
      'nested/é': 'NFC',
      'quote"back\\slash\ttab\nline': 'x',
      [DEBUG_FILE]: 'symbols',
      [`${DEBUG_FILE}.not`]: 'symbols',
    });
    await writeFile(join(source, '__proto__'), 'no prototype');
    await chmod(join(source, 'script'), 0o755);
    await mkdir(join(source, 'nothing'));
    await symlink('../nowhere', join(source, 'link'));
    const { path, cache } = await copied(source, 'write-nar-listing=true&index-debug-info=true');

    const listing = await ourListing(path);
    const theirs = await readFile(join(cache, `${hashPartOf(path)}.ls`), 'utf8');
    assert.equal(listing.finish(), theirs);
    assert.match(theirs, /"narOffset":\d+/);
    const debugFiles = await readdir(join(cache, 'debuginfo'));
    assert.deepEqual(debugFiles, [`${BUILD_ID}.debug`]);
    const entry = await readFile(join(cache, 'debuginfo', `${BUILD_ID}.debug`), 'utf8');
    const { member } = JSON.parse(entry);
    assert.deepEqual(listing.debugFiles, [{ buildId: BUILD_ID, member }]);
  });

  for (const [what, plant] of [
    ['a file', (at: string) => writeFile(at, 'root')],
    ['an empty file', (at: string) => writeFile(at, '')],
    ['an executable', (at: string) => writeFile(at, 'run', { mode: 0o755 })],
    ['a symlink', (at: string) => symlink('/nowhere', at)],
    ['an empty directory', (at: string) => mkdir(at)],
  ] as const) {
    it(`are the same when the root is ${what}`, async () => {
      const source = join(await scratch.directory(), 'root');
      await plant(source);
      const { path, cache } = await copied(source, 'write-nar-listing=true');
      const theirs = await readFile(join(cache, `${hashPartOf(path)}.ls`), 'utf8');
      assert.equal((await ourListing(path)).finish(), theirs);
    });
  }

  it('of ours let Nix list a path and read its files', async () => {
    const source = join(await scratch.directory(), 'read');
    await writeFiles(source, { 'bin/run': 'one', 'doc/text': 'two', zero: '' });
    await chmod(join(source, 'bin/run'), 0o755);
    const listings = join(scratch.dir, 'listings');
    const { path, cache, url } = await copied(source, `local-nar-cache=${listings}`);
    // A NAR that is kept with what is below "root" is all that Nix looks at: the cache's own is gone.
    const { root: listing } = JSON.parse((await ourListing(path)).finish() ?? '');
    await writeFiles(listings, { [`${hashPartOf(path)}.ls`]: JSON.stringify(listing) });
    const bytes = await bytesOf(dumpNar(join(root, path)));
    await writeFile(join(listings, `${hashPartOf(path)}.nar`), bytes);
    await rm(join(cache, 'nar'), { recursive: true });
    const store = (verb: string, ...args: string[]) =>
      nix(['nix', 'store', verb, '--store', url, ...args]);
    assert.deepEqual(JSON.parse(await store('ls', '--json', '-R', path)), listing);
    assert.equal(await store('cat', `${path}/bin/run`), 'one');
    assert.equal(await store('cat', `${path}/doc/text`), 'two');
    assert.match(await store('ls', '-l', path), /bin\n.*doc\n.*zero\n/);
  });
});
