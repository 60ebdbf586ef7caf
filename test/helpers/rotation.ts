// The next root of a state made in-process, signed by the root key that lies in it, and keys for it.
import { readFile, writeFile } from 'node:fs/promises';
import { generateSecretKey } from '../../src/ed25519.ts';
import {
  formatSecretKey,
  keyId,
  type PublicKey,
  parseSecretKey,
  publicKeyOfSecret,
} from '../../src/keyfile.ts';
import type { Root } from '../../src/manifest/root.ts';
import {
  draftRoot,
  formatDraft,
  type KeyedRole,
  openDraft,
  type RootChanges,
  signWith,
} from '../../src/manifest/rotate.ts';
import type { StateDir } from '../../src/server/statedir.ts';

/** `edit` is done by hand to the draft, before it is signed. */
export async function signNext(
  dir: StateDir,
  now: number,
  changes: Partial<RootChanges> = {},
  edit: (draft: Root) => unknown = (draft) => draft,
): Promise<string> {
  const draft = draftRoot(dir.root, {
    ...{ now, days: 365, keys: new Map(), cacheKeys: null, thresholds: new Map(), revoke: [] },
    ...{ newEpoch: false, newLog: false, anchor: null, logSize: 0 },
    ...changes,
  });
  const edited = edit(JSON.parse(formatDraft(draft)));
  const secret = parseSecretKey(await readFile(dir.layout.key('root.pem'), 'utf8'));
  return signWith(openDraft(JSON.stringify(edited)), secret);
}

/** Another key of the server's for `role`, which no root names yet. */
export async function addServerKey(dir: StateDir, role: KeyedRole): Promise<PublicKey> {
  const secret = generateSecretKey();
  const publicKey = publicKeyOfSecret(secret);
  const file = dir.layout.key(`${role}-${keyId(publicKey)}.pem`);
  await writeFile(file, formatSecretKey(secret));
  return publicKey;
}
