// The draft of the next root, as `fleet root rotate` and `fleet key revoke` write it.
import { draftRoot, formatDraft, type RootChanges } from '../src/manifest/rotate.ts';
import { headOf } from '../src/manifest/verify-offer.ts';
import { writeNew } from './new-file.ts';
import { type Globals, print } from './output.ts';
import { withStateDir } from './state.ts';

export type DraftChanges = Omit<RootChanges, 'now' | 'logSize' | 'anchor'> & {
  /** Every log shown to hosts must go on from the one of now. */
  readonly anchor: boolean;
};

/** Changes nothing that a draft need not change: a root like the last one, for another year. */
export const NO_CHANGES: DraftChanges = {
  days: 365,
  keys: new Map(),
  cacheKeys: null,
  thresholds: new Map(),
  revoke: [],
  newEpoch: false,
  newLog: false,
  anchor: false,
};

/** Writes the next root of the state to `out`, and says what it needs. */
export async function writeDraft(
  globals: Globals,
  out: string,
  changes: DraftChanges,
): Promise<void> {
  const { logStoreOf } = await import('../src/server/log-writer.ts');
  await withStateDir(globals, async (dir) => {
    const checkpoint = await logStoreOf(dir).checkpoint();
    const head = checkpoint === null ? null : headOf(checkpoint);
    const draft = draftRoot(dir.root, {
      ...changes,
      now: Math.floor(Date.now() / 1000),
      anchor: changes.anchor ? head : null,
      logSize: head?.size ?? 0,
    });
    // Never over one that is there: a half-signed root is not made twice.
    await writeNew(out, formatDraft(draft));
    const { threshold } = dir.root.roles.root;
    const own = draft.roles.root.threshold;
    print(
      globals,
      { version: 1, file: out, rootVersion: draft.version },
      [
        `A draft of root version ${draft.version} is in ${out}. It may be edited before it is signed.`,
        '',
        `It needs ${threshold} of the root keys of version ${dir.root.version}, and ${own} of its own:`,
        `  fleet root sign ${out} --key ROOT.pem        (on each machine that has one)`,
        `  fleet root import${globals.stateOption} ${out}                     (here)`,
      ].join('\n'),
    );
  });
}
