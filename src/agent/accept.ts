// What of an offer is kept before anything is done about it: how far the log has come, what time it is at
// least, and the newest manifest of this host. Each is durable before the next step relies on it, and none
// ever goes back (SPEC §5.1).
import { isFleetError } from '../errors.ts';
import type { VerifiedCheckpoint } from '../manifest/log-view.ts';
import type { Offer } from '../manifest/offer.ts';
import type { VerifiedManifest } from '../manifest/verify.ts';
import { headOf, type TrustedRoot, verifyOfferedLog } from '../manifest/verify-offer.ts';
import type { Trust } from './memory.ts';
import { advanceTrust } from './trusted.ts';

/** So many logs are no fleet's history; the oldest are forgotten. */
const MAX_EARLIER = 8;

/** What a run knows of the time, and what root says of it. */
export type AcceptTime = {
  /** POSIX seconds. */
  readonly now: number;
  /** A time that the server proved in this run. */
  readonly proved: number | null;
  /** Root's word that a checkpoint may be older than maxAge: done before such a one is kept. null: it may not. */
  readonly onAged: (() => Promise<void>) | null;
};

/** @throws FleetError with the code of the first step that refuses. */
export async function acceptLog(
  dir: string,
  trust: Trust,
  offer: Offer,
  root: TrustedRoot,
  { now, proved, onAged }: AcceptTime,
): Promise<{ readonly trust: Trust; readonly log: VerifiedCheckpoint }> {
  const log = verifyOfferedLog(offer, root, trust.checkpoint, now, onAged !== null);
  const { text, freshAt, checkpoint } = log;
  if (now - (freshAt ?? 0) > root.root.maxAge) await onAged?.();
  // Never later than the root that vouches for these keys, which could name any time. SPEC §5.3
  const signed = Math.min(Math.max(freshAt ?? 0, proved ?? 0), root.root.expiresAt);
  const time = Math.max(trust.time ?? 0, signed);
  if (text === trust.checkpoint && time === trust.time) return { trust, log };
  const last = trust.checkpoint;
  const isOther = last !== null && headOf(last).origin !== checkpoint.origin;
  const earlier = isOther ? [last, ...trust.earlier].slice(0, MAX_EARLIER) : trust.earlier;
  const next = { ...trust, checkpoint: text, earlier, time };
  await advanceTrust(dir, next);
  return { trust: next, log };
}

export async function acceptManifest(
  dir: string,
  trust: Trust,
  { manifest, digest }: VerifiedManifest,
): Promise<Trust> {
  const { epoch, sequence, intent } = manifest;
  const decommissioned = intent === 'decommission';
  if (trust.floor?.digest === digest && !decommissioned) return trust;
  const next = { ...trust, floor: { epoch, sequence, digest }, decommissioned };
  await advanceTrust(dir, next);
  return next;
}

/** Whether it proves two histories, or a server that shows an old one; a file may have lain in a drawer. */
export function contradicts(error: unknown, isServers: boolean): boolean {
  const isOld = isServers && isFleetError(error, 'E_CHECKPOINT_OLDER');
  return isOld || isFleetError(error, 'E_FORK', 'E_CONSISTENCY');
}
