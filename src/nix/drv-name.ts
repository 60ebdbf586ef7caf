// A store path's name taken apart as Nix does it (`parseDrvName`): the version begins at the first dash that no letter follows.

/** `glibc-2.39-52` → `glibc`, `2.39-52`. */
export function splitName(text: string): { name: string; version: string } {
  const at = text.search(/-[^A-Za-z]/);
  if (at <= 0) return { name: text, version: '' };
  return { name: text.slice(0, at), version: text.slice(at + 1) };
}
