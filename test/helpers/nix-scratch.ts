// Chroot stores, binary caches and keys for tests with the real Nix, in a directory that is removed.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError } from '../../src/errors.ts';
import { openNixEnvironment } from '../../src/nix/environment.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import { temporaryDirectory } from './temporary.ts';

/** A temporary directory for a whole file of tests. */
export async function openScratch(): Promise<
  AsyncDisposable & {
    readonly dir: string;
    /** A new directory in it, of a name that a shell, a URL or a store reference could trip over. */
    readonly directory: () => Promise<string>;
  }
> {
  const temporary = await temporaryDirectory();
  let counter = 0;
  return {
    dir: temporary.path,
    directory: async () => {
      counter += 1;
      const dir = join(temporary.path, `${counter} a?b%20c`);
      await mkdir(dir);
      return dir;
    },
    [Symbol.asyncDispose]: () => temporary[Symbol.asyncDispose](),
  };
}

/** Runs a nix program offline, with `input` on its standard input; returns what it printed. */
export async function nix(args: readonly string[], input = ''): Promise<string> {
  const settings = new Map([
    ['substituters', ''],
    ['sandbox', 'false'],
  ]);
  await using environment = await openNixEnvironment({ settings, isolated: true });
  const [program = '', ...rest] = args;
  const env = Object.fromEntries(environment.variables);
  const run = spawnSync(program, rest, { env, input, encoding: 'utf8' });
  assert.equal(run.status, 0, `${args.join(' ')}\n${run.stderr}`);
  return run.stdout;
}

/** Writes `files` (name → content) below `dir`. */
export async function writeFiles(dir: string, files: Record<string, string>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    await mkdir(join(dir, name, '..'), { recursive: true });
    await writeFile(join(dir, name), content);
  }
}

/** A predicate for assert.rejects: a FleetError of that code with a message of one line. */
export function refused(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FleetError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  };
}

/** Registers `contents` as `path` in the store below `root`, whatever Nix would have made of it. */
export async function register(
  root: string,
  path: StorePath,
  contents: string,
  references: readonly StorePath[],
): Promise<void> {
  await writeFiles(root, { [path]: contents });
  const hash = (await nix(['nix-hash', '--type', 'sha256', join(root, path)])).trim();
  const size = (await nix(['nix-store', '--dump', join(root, path)])).length;
  const record = [path, hash, size, '', references.length, ...references];
  await nix(storeArguments(root, '--load-db'), record.map((line) => `${line}\n`).join(''));
}

/** The start of a nix-store command line for the chroot store below `root`. */
export function storeArguments(root: string, ...args: string[]): string[] {
  const store = `local?root=${root.split('/').map(encodeURIComponent).join('/')}`;
  return ['nix-store', '--store', store, ...args];
}
