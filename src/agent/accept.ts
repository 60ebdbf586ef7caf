// What of an offer is kept before anything is done about it: how far the log has come, what time it is at
// least, and the newest manifest of this host. Each is durable before the next step relies on it, and none
// ever goes back (SPEC §5.1).
import type { VerifiedCheckpoint } from '../manifest/log-view.ts';
import type { Offer } from '../manifest/offer.ts';
import type { VerifiedManifest } from '../manifest/verify.ts';
import { headOf, type TrustedRoot, verifyOfferedLog } from '../manifest/verify-offer.ts';
import { type Trust, writeTrust } from './memory.ts';

/** So many logs are no fleet's history; the oldest are forgotten. */
const MAX_EARLIER = 8;

/** The machine's clock, or the latest time that was signed, if that is later. POSIX seconds. */
export function nowOf(trust: Trust, clock: number): number {
  return Math.max(clock, trust.time ?? 0);
}

/** @throws FleetError with the code of the first step that refuses. */
export async function acceptLog(
  dir: string,
  trust: Trust,
  offer: Offer,
  root: TrustedRoot,
  clock: number,
): Promise<{ readonly trust: Trust; readonly log: VerifiedCheckpoint }> {
  const log = verifyOfferedLog(offer, root, trust.checkpoint, nowOf(trust, clock));
  const { text, freshAt, checkpoint } = log;
  // Never later than the root that vouches for the freshness key, which could name any time.
  const time = Math.max(trust.time ?? 0, Math.min(freshAt ?? 0, root.root.expiresAt));
  if (text === trust.checkpoint && time === trust.time) return { trust, log };
  const last = trust.checkpoint;
  const isOther = last !== null && headOf(last).origin !== checkpoint.origin;
  const earlier = isOther ? [last, ...trust.earlier].slice(0, MAX_EARLIER) : trust.earlier;
  const next = { ...trust, checkpoint: text, earlier, time };
  await writeTrust(dir, next);
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
  await writeTrust(dir, next);
  return next;
}
