// The builder of what consists of links in the delta benchmark: NixOS's system-path (programs and manual pages of all
// packages), and the directory of all units. Its environment: `out`, `from` (store paths, JSON), `places` (JSON; which of
// their directories count, '' for the path itself).
import { lstatSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';

const { out = '', from = '[]', places = '[]' } = process.env;
mkdirSync(out);
for (const path of JSON.parse(from) as string[]) {
  for (const place of JSON.parse(places) as string[]) link(join(path, place), join(out, place));
}

/** Directories become directories, what is in them links; of two that have one name, the first stays. */
function link(source: string, target: string): void {
  if (!lstatSync(source, { throwIfNoEntry: false })?.isDirectory()) return;
  mkdirSync(target, { recursive: true });
  for (const entry of readdirSync(source, { withFileTypes: true })) {
    const to = join(target, entry.name);
    if (entry.isDirectory()) link(join(source, entry.name), to);
    else if (lstatSync(to, { throwIfNoEntry: false }) === undefined) {
      symlinkSync(join(source, entry.name), to);
    }
  }
}
