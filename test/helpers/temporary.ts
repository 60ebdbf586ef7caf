// Temporary directories of tests, removed when they go out of scope or when the test ends.
import { chmod, lstat, mkdtemp, readdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** One that is removed when it goes out of scope, read-only store paths in it included. */
export async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  // The real path: what Nix and the agent print is compared with it.
  const path = await realpath(await mkdtemp(join(tmpdir(), 'fleet-test-')));
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      // Root may remove what is read-only; others may not.
      if (process.geteuid?.() !== 0) await makeWritable(path);
      await rm(path, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** One that is removed at the end of the test. */
export async function temporaryDir(t: {
  readonly after: (done: () => Promise<void>) => void;
}): Promise<string> {
  const dir = await temporaryDirectory();
  t.after(async () => {
    await dir[Symbol.asyncDispose]();
  });
  return dir.path;
}

async function makeWritable(dir: string): Promise<void> {
  const found = await lstat(dir).catch(() => null);
  if (found === null || !found.isDirectory()) return;
  await chmod(dir, 0o755);
  for (const name of await readdir(dir)) await makeWritable(join(dir, name));
}
