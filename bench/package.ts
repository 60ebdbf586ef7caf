// The package as it is published, which is what hosts run: JavaScript, started by bin/fleet.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** Makes it in `dir`; returns its launcher. */
export function makePackage(dir: string): string {
  mkdirSync(dir);
  execFileSync(process.execPath, ['scripts/build.ts', join(dir, 'dist')]);
  for (const name of ['bin', 'package.json']) cpSync(name, join(dir, name), { recursive: true });
  symlinkSync(resolve('node_modules'), join(dir, 'node_modules'));
  return join(dir, 'bin/fleet');
}
