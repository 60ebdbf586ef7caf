// Programs of the machine that a test has replaced by scripts.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from './temporary.ts';

/** Does `work` where these are the first on PATH: name → script for sh. `alone`: and nothing else is there. */
export async function withPrograms<T>(
  programs: Readonly<Record<string, string>>,
  work: () => Promise<T>,
  alone = false,
): Promise<T> {
  await using dir = await temporaryDirectory();
  for (const [name, script] of Object.entries(programs)) {
    await writeFile(join(dir.path, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }
  const path = process.env['PATH'] ?? '';
  process.env['PATH'] = alone ? dir.path : `${dir.path}:${path}`;
  try {
    return await work();
  } finally {
    process.env['PATH'] = path;
  }
}
