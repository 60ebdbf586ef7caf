// restoreNar: the tree it makes, and that no failure leaves anything behind. Targets that exist and ways
// out through symlinks are in nar-hostile.test.ts.
import assert from 'node:assert/strict';
import { lstatSync, readFileSync, readlinkSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { restoreNar } from '../../src/nix/nar-restore.ts';
import { writeNar } from '../../src/nix/nar-write.ts';
import {
  bytesOf,
  directory,
  entry,
  eventsOfTree,
  file,
  inChunks,
  symlink as link,
  nar,
  raw,
  treeArbitrary,
} from '../helpers/nar.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const executable = raw('(', 'type', 'regular', 'executable', '', 'contents', 'run', ')');
const mode = (path: string) => (lstatSync(path).mode & 0o7777).toString(8);

describe('restoreNar', () => {
  it('makes files, executables, symlinks and directories, whatever the umask', async () => {
    await using temporary = await temporaryDirectory();
    const target = join(temporary.path, 't');
    const bytes = nar(
      directory(
        entry('d', directory(entry('f', file('text')))),
        entry('e', executable),
        entry('l', link('/etc/passwd')),
      ),
    );
    const umask = process.umask(0o077);
    try {
      await restoreNar(inChunks(bytes, 11), target);
    } finally {
      process.umask(umask);
    }
    assert.equal(readFileSync(join(target, 'd/f'), 'utf8'), 'text');
    assert.equal(readlinkSync(join(target, 'l')), '/etc/passwd');
    const modes = ['', 'd', 'd/f', 'e'].map((name) => mode(join(target, name)));
    assert.deepEqual(modes, ['755', '755', '644', '755']);
  });

  it('the root may be a file, an executable or a symlink', async () => {
    await using temporary = await temporaryDirectory();
    const at = (name: string) => join(temporary.path, name);
    await restoreNar(inChunks(nar(file('x'))), at('file'));
    await restoreNar(inChunks(nar(executable)), at('exe'));
    await restoreNar(inChunks(nar(link('nowhere'))), at('link'));
    assert.deepEqual([mode(at('file')), mode(at('exe'))], ['644', '755']);
    assert.equal(readlinkSync(at('link')), 'nowhere');
  });

  it('a NAR that is cut short leaves nothing behind, wherever the cut is', async () => {
    await using temporary = await temporaryDirectory();
    const bytes = nar(directory(entry('\xff', directory(entry('f', file('0123456789'))))));
    for (let end = 0; end < bytes.length; end += 3) {
      const target = join(temporary.path, 't');
      await assert.rejects(restoreNar(inChunks(bytes.subarray(0, end), 8), target), {
        code: 'E_NAR_TRUNCATED',
      });
      assert.deepEqual(await readdir(temporary.path), []);
    }
  });

  it('an error of the source, and bytes after the end, leave nothing behind', async () => {
    await using temporary = await temporaryDirectory();
    const bytes = nar(directory(entry('f', file('x'))));
    const target = join(temporary.path, 't');
    const failing = async function* () {
      yield bytes.subarray(0, bytes.length - 8);
      throw new Error('line cut');
    };
    await assert.rejects(restoreNar(failing(), target), /line cut/);
    const more = Buffer.concat([bytes, Buffer.alloc(8)]);
    await assert.rejects(restoreNar(inChunks(more, 16), target), { code: 'E_NAR_BAD' });
    assert.deepEqual(await readdir(temporary.path), []);
  });

  it('any tree dumps again to the same bytes', async () => {
    await using temporary = await temporaryDirectory();
    let count = 0;
    await fc.assert(
      fc.asyncProperty(treeArbitrary, fc.integer({ min: 1, max: 99 }), async (tree, size) => {
        const bytes = await bytesOf(writeNar(eventsOfTree(tree)));
        const target = join(temporary.path, `${count++}`);
        await restoreNar(inChunks(bytes, size), target);
        assert.ok((await bytesOf(dumpNar(target))).equals(bytes));
      }),
      { numRuns: 100 },
    );
  });

  it('long contents arrive whole', async () => {
    await using temporary = await temporaryDirectory();
    const contents = 'contents'.repeat(100_000);
    const target = join(temporary.path, 't');
    await restoreNar(inChunks(nar(file(contents)), 200_000), target);
    assert.equal(readFileSync(target, 'latin1'), contents);
  });
});
