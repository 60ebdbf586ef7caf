// How far a host is with fetching what a manifest names, as it tells its server meanwhile ↔ a typed document (SPEC §6.4). It is
// neither signed nor kept: for whoever looks at the status now, and nothing follows from it.
import type { Static } from 'typebox';
import { FleetError } from '../errors.ts';
import { Count, Exact, Nullable, Sha256 } from './fields.ts';
import { type Frozen, requireShape } from './shape.ts';

const Share = Exact({ done: Count, total: Count });

export const ToldProgressSchema = Exact({
  /** Digest of the manifest. */
  manifest: Sha256,
  /** What was missing when it began, and how much of it Nix has. */
  paths: Share,
  /** The same in bytes of NARs, unpacked. */
  bytes: Share,
  /** null: nobody can tell yet. */
  secondsLeft: Nullable(Count),
});

export type ToldProgress = Frozen<Static<typeof ToldProgressSchema>>;

export const MAX_TOLD_PROGRESS_BYTES = 1024;
/** What is older says nothing of now: a host tells at least every five minutes, while it fetches. */
export const TOLD_PROGRESS_SECONDS = 600;

export function formatToldProgress(progress: ToldProgress): string {
  return JSON.stringify(progress);
}

/** @throws FleetError E_REQUEST */
export function parseToldProgress(text: string): ToldProgress {
  if (Buffer.byteLength(text) > MAX_TOLD_PROGRESS_BYTES) {
    throw new FleetError('E_REQUEST', `progress: more than ${MAX_TOLD_PROGRESS_BYTES} bytes`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FleetError('E_REQUEST', 'progress: it is not JSON', { cause });
  }
  const progress = requireShape(ToldProgressSchema, json, 'E_REQUEST', 'progress');
  for (const name of ['paths', 'bytes'] as const) {
    const { done, total } = progress[name];
    if (done > total) throw new FleetError('E_REQUEST', `progress: more ${name} than in all`);
  }
  return progress;
}
