// Content addresses and realisations of the real Nix: every kind that it makes is verified by us, from
// the narinfo and the NAR that `nix copy` writes; and its realisations are taken as they are.
import assert from 'node:assert/strict';
import { createHash, type Hash } from 'node:crypto';
import { chmod, readdir, readFile, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { currentSystem } from '../../src/nix/command.ts';
import { checkContentAddress } from '../../src/nix/content-address.ts';
import { formatNarHash, type NarHash } from '../../src/nix/hash.ts';
import { NarParser } from '../../src/nix/nar-read.ts';
import { type NarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import { parseRealisation } from '../../src/nix/realisation.ts';
import { formatNixSecretKey, generateNixKey } from '../../src/nix/signature.ts';
import { nameOf, parseStorePath } from '../../src/nix/storepath.ts';
import { nix, openScratch, storeArguments, writeFiles } from '../helpers/nix-scratch.ts';

let scratch: Awaited<ReturnType<typeof openScratch>>;
before(async () => {
  scratch = await openScratch();
});
after(() => scratch[Symbol.asyncDispose]());

type Cached = {
  readonly info: NarInfo & { readonly ca: string };
  readonly flatHash: NarHash | null;
};

/** What is in a cache of files, by name. */
async function readCache(cache: string): Promise<Map<string, Cached>> {
  const found = new Map<string, Cached>();
  for (const file of await readdir(cache)) {
    if (!file.endsWith('.narinfo')) continue;
    const info = parseNarInfo(await readFile(join(cache, file), 'utf8'));
    const { ca } = info;
    if (ca === null) continue;
    const flatHash = flatHashOf(await readFile(join(cache, info.url)));
    found.set(nameOf(info.path), { info: { ...info, ca }, flatHash });
  }
  return found;
}

/** The hash of the contents of a NAR that is one file, not executable. */
function flatHashOf(nar: Buffer): NarHash | null {
  let flat: Hash | null = null;
  for (const event of new NarParser().push(nar)) {
    if (event.type === 'file' && event.name === null && !event.executable) {
      flat = createHash('sha256');
    }
    if (event.type === 'contents') flat?.update(event.data);
  }
  return flat === null ? null : formatNarHash((flat as Hash).digest());
}

describe('content addresses of Nix', () => {
  it('are verified, whichever way Nix made the path', async () => {
    const root = await scratch.directory();
    const source = await scratch.directory();
    await writeFiles(source, {
      'added-file': 'one',
      'added-tree/sub/file': 'two',
      'added-tree/script': 'run',
      'added-executable': 'run',
      'fixed-flat': 'three',
      'fixed-empty': '',
      'fixed-tree/file': 'four',
      'fixed-sha1': 'five',
      'path-of-nix': 'six',
    });
    await chmod(join(source, 'added-executable'), 0o755);
    await chmod(join(source, 'added-tree/script'), 0o755);
    await symlink('nowhere', join(source, 'added-link'));
    const at = (name: string) => join(source, name);
    const store = (...args: string[]) => nix(storeArguments(root, ...args));
    const made: string[] = [];
    const add = async (output: Promise<string>) =>
      void made.push(...(await output).trim().split('\n'));
    for (const name of ['file', 'tree', 'executable', 'link']) {
      await add(store('--add', at(`added-${name}`)));
    }
    await add(store('--add-fixed', 'sha256', at('fixed-flat'), at('fixed-empty')));
    await add(store('--add-fixed', '--recursive', 'sha256', at('fixed-tree')));
    await add(store('--add-fixed', 'sha1', at('fixed-sha1')));
    const [program = '', ...rest] = storeArguments(root);
    assert.equal(program, 'nix-store');
    const expression = `
      let
        leaf = builtins.toFile "text-leaf" "leaf";
        other = builtins.toFile "text-other" "other";
        both = builtins.toFile "text-both" "\${other} and \${leaf}";
        path = builtins.path { path = ${JSON.stringify(at('path-of-nix'))}; name = "path-of-nix"; };
        flat = builtins.path {
          path = ${JSON.stringify(at('path-of-nix'))}; name = "path-flat"; recursive = false;
        };
      in builtins.concatStringsSep "\\n" [ leaf other both "\${path}" "\${flat}" ]`;
    const printed = await nix([
      'nix-instantiate',
      ...rest,
      '--eval',
      '--read-write-mode',
      '-E',
      expression,
    ]);
    made.push(...JSON.parse(printed).split('\n'));
    const paths = made.map(parseStorePath);

    // Nix 2.8 does not decode the path of a file URL.
    const cache = join(scratch.dir, 'cache');
    const from = storeArguments(root).slice(1);
    await nix(['nix', 'copy', ...from, '--to', `file://${cache}?compression=none`, ...paths]);
    const cached = await readCache(cache);
    assert.deepEqual([...cached.keys()].sort(), paths.map(nameOf).sort());
    for (const [name, { info, flatHash }] of cached) {
      const expected = name === 'fixed-sha1' ? 'unverifiable' : 'verified';
      assert.equal(checkContentAddress(info, flatHash), expected, info.ca);
    }
    assert.equal(cached.get('text-both')?.info.references.length, 2);
    assert.match(cached.get('fixed-flat')?.info.ca ?? '', /^fixed:sha256:/);
    assert.match(cached.get('path-flat')?.info.ca ?? '', /^fixed:sha256:/);
  });

  it('of outputs are told apart, and their realisations taken', async () => {
    // In the store of this machine: there are no builds in a chroot store without a shell in it.
    const dir = await scratch.directory();
    const common = `
      system = "${currentSystem()}";
      builder = "/bin/sh";
      __contentAddressed = true;
      outputHashMode = "recursive";
      outputHashAlgo = "sha256";`;
    await writeFiles(dir, {
      'default.nix': `let
        dep = derivation { name = "ca-dep"; ${common} args = [ "-c" "echo ${dir} > $out" ]; };
      in derivation { name = "ca-top"; ${common} args = [ "-c" "echo \${dep} $out > $out" ]; }`,
    });
    const features = ['--extra-experimental-features', 'ca-derivations'];
    const file = ['-f', join(dir, 'default.nix')];
    await nix(['nix', 'build', ...features, '--no-link', ...file]);
    const cache = join(scratch.dir, 'realised');
    const keyFile = join(scratch.dir, 'key.sec');
    await writeFiles(scratch.dir, { 'key.sec': formatNixSecretKey(generateNixKey('cache-1')) });
    const url = `file://${cache}?compression=none&secret-key=${keyFile}`;
    await nix(['nix', 'copy', ...features, '--to', url, ...file]);

    const cached = await readCache(cache);
    const [dep, top] = [cached.get('ca-dep'), cached.get('ca-top')];
    assert.ok(dep !== undefined && top !== undefined);
    assert.equal(checkContentAddress(dep.info, dep.flatHash), 'verified');
    assert.ok(top.info.references.includes(top.info.path));
    assert.equal(checkContentAddress(top.info, top.flatHash), 'unverifiable');

    const outputs = new Set<string>();
    for (const name of await readdir(join(cache, 'realisations'))) {
      const text = await readFile(join(cache, 'realisations', name), 'utf8');
      const { outPath, json } = parseRealisation(`realisations/${name}`, text);
      assert.equal(json, text);
      outputs.add(outPath);
    }
    assert.deepEqual(outputs, new Set([dep.info.path, top.info.path]));
  });
});
