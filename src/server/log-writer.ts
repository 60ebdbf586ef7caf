// The state directory's log: its files, and the keys that sign it.
import type { LogWriter, NoteSigner } from '../manifest/append.ts';
import { logNumber } from '../manifest/append.ts';
import { openFileLog } from '../storage/file-log.ts';
import type { LogStore } from '../storage/log.ts';
import {
  NOTE_COSIGNATURE,
  NOTE_ED25519,
  parseVerifierKey,
  type VerifierKey,
} from '../tlog/vkey.ts';
import { readServerKey, type StateDir } from './statedir.ts';

type Dir = Pick<StateDir, 'layout' | 'root' | 'roots' | 'state'>;

/** The log that the newest root names. */
export function logStoreOf({ layout, root }: Pick<StateDir, 'layout' | 'root'>): LogStore {
  return openFileLog(layout.log(logNumber(root)));
}

/** @throws FleetError E_STATE_INCOMPLETE, also where there are only keys that the root does not name. */
export async function openLogWriter(dir: Dir): Promise<LogWriter> {
  const { state, root, roots } = dir;
  const freshness = root.freshness.keys.map((text) => parseVerifierKey(text, NOTE_COSIGNATURE));
  return {
    state,
    store: logStoreOf(dir),
    root,
    roots: roots.map(({ envelope }) => envelope),
    log: await signerOf(dir, 'log', [parseVerifierKey(root.log.vkey, NOTE_ED25519)]),
    freshness: await signerOf(dir, 'freshness', freshness),
    director: (await readServerKey(dir, 'director')).secret,
  };
}

async function signerOf(
  dir: Dir,
  role: 'log' | 'freshness',
  named: readonly VerifierKey[],
): Promise<NoteSigner> {
  const { secret, publicKey } = await readServerKey(dir, role);
  const key = named.find((one) => one.publicKey === publicKey);
  // readServerKey has found it among them.
  if (key === undefined) throw new Error(`no ${role} key`);
  return { key, secret };
}
