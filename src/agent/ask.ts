// The server's offer → the newest trusted root, and what is offered under it, still to be verified; a
// manifest's closure file → bytes that are still to be verified. One conditional GET in most runs. A 304 proves
// nothing: the stored offer is used as if it had just come, and once its checkpoint is half as old as the
// root allows, the server is asked unconditionally. Where the machine's clock is no measure, a proof of the time
// is asked for with it (SPEC §5.3).
// Refuses a root chain with a gap, and an offer that leads on without end.
import { FleetError, isFleetError } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyCheckpoint } from '../manifest/log-view.ts';
import type { Deployment } from '../manifest/manifest.ts';
import { MAX_OFFER_BYTES, MAX_OFFER_ROOTS, type Offer, parseOffer } from '../manifest/offer.ts';
import { type Root, verifyRootUpdate } from '../manifest/root.ts';
import { headOf, type TrustedRoot } from '../manifest/verify-offer.ts';
import { parseNote } from '../tlog/note.ts';
import { type Client, errorDocument } from './client.ts';
import {
  type Memory,
  readMemory,
  readOffer,
  type StoredOffer,
  type Trust,
  writeOffer,
} from './memory.ts';
import { withToken } from './renew-token.ts';
import type { Source } from './source.ts';
import type { RunTime } from './time.ts';
import { advanceTrust, trustedRoot } from './trusted.ts';

export type Asked = {
  /** With every new root persisted. */
  readonly trust: Trust;
  readonly root: TrustedRoot;
  /** null: the server has no manifest for this host yet. */
  readonly offer: Offer | null;
  /** Whether it was received by an earlier run, and is unchanged as far as the server says. */
  readonly isStored: boolean;
  /** Stores the offer, so that the server need not say it again: for one whose manifest was verified. */
  readonly keep: () => Promise<void>;
};

type Got = Pick<Asked, 'isStored' | 'keep'> & { readonly offer: Offer };

/** So many offers full of roots in a row are no fleet's history. */
const MAX_ROUNDS = 64;

/**
 * Each root is persisted before the next one is looked at (SPEC §3.4). From then on `time` is the proved one, where
 * the clock needs that. `onOther` takes a checkpoint that its log signed, that the server shows, and that is neither the
 * one that was accepted nor the one that the proof of time is of: it may be of another history.
 * @throws FleetError E_OFFER_…, E_ROOT_…, E_SIGNATURE…, E_NONCE_…, E_SERVER_…
 */
async function askForOffer(
  source: Source,
  memory: Memory,
  time: RunTime,
  onOther: (checkpoint: string) => void = () => {},
): Promise<Asked> {
  const asked = await askAt(source, memory, time.now(memory.trust));
  const { trust, root, offer, isStored } = asked;
  if (offer === null || !(await time.needsProof(memory))) return asked;
  const isProved = await prove(source, { ...memory, trust }, asked, time).catch((error) => {
    if (isFleetError(error, 'E_NONCE_CHECKPOINT')) return false;
    throw error;
  });
  const isGood = !isStored || isYoung(offer.checkpoint, root.root, time.now(trust));
  if (isProved && isGood) return asked;
  // Something was published between the two questions, or it is later than the clock made believe.
  const again = await askAt(source, { ...memory, trust }, null);
  await prove(source, { ...memory, trust: again.trust }, again, time).catch((error) => {
    const other = isFleetError(error, 'E_NONCE_CHECKPOINT') ? shownBeside(again) : null;
    if (other !== null) onOther(other);
    throw error;
  });
  return again;
}

/** As askForOffer, with the next token where this one is no longer taken. `now`: by this machine's clock. */
export async function askServer(
  client: Client,
  memory: Memory,
  time: RunTime,
  now: number,
  onOther: (checkpoint: string) => void,
): Promise<Asked> {
  // Again after a renewal: what an attempt before this one came to trust is on disk.
  const ask = async () => await askForOffer(client, await readMemory(memory.dir), time, onOther);
  return await withToken(client, memory, now, ask);
}

/**
 * As askForOffer, where nobody is there who could prove the time. `onAged`: root's word that it may be any; done before
 * that is relied on. null: it may not.
 * @throws FleetError E_NONCE_MISSING, E_BUNDLE_FROM, E_OFFER_…, E_ROOT_…, E_SIGNATURE…
 */
export async function askBundle(
  source: Source,
  memory: Memory,
  time: RunTime,
  onAged: (() => Promise<void>) | null,
): Promise<Asked> {
  if (await time.needsProof(memory)) {
    if (onAged === null) {
      const text =
        'this machine’s clock is not synchronised, and no file can prove what time it is';
      throw new FleetError('E_NONCE_MISSING', text, {
        hint: 'set the clock, and, as root, vouch for it: fleet agent apply FILE --accept-age',
      });
    }
    await onAged();
  }
  return await askAt(source, memory, null);
}

/** The checkpoint of an offer, as others may be shown it, where its log signed it and it is not the accepted one. */
function shownBeside({ offer, root: { root }, trust }: Asked): string | null {
  if (offer === null) return null;
  try {
    const { text } = verifyCheckpoint(offer.checkpoint, root);
    const isAccepted = trust.checkpoint !== null && textOf(trust.checkpoint) === textOf(text);
    return isAccepted ? null : text;
  } catch {
    // What nobody signed proves nothing.
    return null;
  }
}

const textOf = (note: string): string => parseNote(note).text;

async function prove(
  source: Source,
  memory: Memory,
  { root: { root }, offer }: Asked,
  time: RunTime,
): Promise<true> {
  if (offer !== null) await time.prove(source, memory, { root, checkpoint: offer.checkpoint });
  return true;
}

/** `now`: to judge by whether a stored offer will do; null: it will not. */
async function askAt(source: Source, memory: Memory, now: number | null): Promise<Asked> {
  let trust = memory.trust;
  let root = trustedRoot(memory);
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const got = await getOffer(source, memory, root, now);
    const trusted = () => ({ root, envelope: trust.root });
    if (got === null) {
      return { trust, root: trusted(), offer: null, isStored: false, keep: async () => {} };
    }
    const { offer } = got;
    for (const text of offer.roots) {
      const { epoch } = root;
      root = verifyRootUpdate(root, parseEnvelope(text));
      // Another epoch frees a host from times that a stolen key signed (SPEC §5.3).
      trust = { ...trust, root: text, time: root.epoch === epoch ? trust.time : null };
      await advanceTrust(memory.dir, trust);
    }
    if (offer.roots.length < MAX_OFFER_ROOTS) return { ...got, trust, root: trusted() };
  }
  throw new FleetError('E_OFFER_FORM', 'the server offers new roots without end');
}

/** closure.fp of a verified manifest, at most as long as is signed. */
export async function getClosure(source: Source, manifest: Deployment): Promise<Uint8Array> {
  const { sha256, bytes } = manifest.closure;
  try {
    return (await source.document(`/v1/closures/${sha256}`, bytes)).body;
  } catch (cause) {
    if (!isFleetError(cause, 'E_BODY_LIMIT')) throw cause;
    const message = `the closure file is longer than the ${bytes} bytes that are signed`;
    throw new FleetError('E_CLOSURE_SIZE', message, { cause });
  }
}

async function getOffer(
  source: Source,
  memory: Memory,
  root: Root,
  now: number | null,
): Promise<Got | null> {
  const stored = await readOffer(memory.dir);
  const { version } = root;
  // Another root was asked from: the server's answer is another document.
  const known = stored !== null && stored.root === version ? openOffer(stored) : null;
  const isEnough = known !== null && now !== null && isYoung(known.offer.checkpoint, root, now);
  const { checkpoint } = memory.trust;
  const from = checkpoint === null ? 0 : headOf(checkpoint).size;
  const path = `/v1/hosts/${memory.config.host}/offer?root=${version}&from=${from}`;
  const answer = await source.document(path, MAX_OFFER_BYTES, {
    // A 304 that was not asked for changes nothing: what is stored goes on ageing.
    expect: known === null ? [404] : [404, 304],
    ...(isEnough ? { ifNoneMatch: known.etag } : {}),
  });
  if (answer.status === 304 && known !== null) {
    return { offer: known.offer, isStored: true, keep: async () => {} };
  }
  if (answer.status === 404) return requireNone(answer.body, memory);
  const { etag } = answer;
  const offer = parseOffer(answer.body);
  const text = answer.body.toString('utf8');
  const keep = () => writeOffer(memory.dir, etag === null ? null : { etag, root: version, text });
  return { offer, isStored: false, keep };
}

/** What was stored by an older fleet, or damaged, is none. */
function openOffer({ text, etag }: StoredOffer): { offer: Offer; etag: string } | null {
  try {
    return { offer: parseOffer(text), etag };
  } catch {
    return null;
  }
}

/** Whether the checkpoint of a stored offer may be relied on for a while. */
function isYoung(checkpoint: string, root: Root, now: number): boolean {
  try {
    const { freshAt } = verifyCheckpoint(checkpoint, root);
    return freshAt !== null && now - freshAt <= root.maxAge / 2;
  } catch {
    // Of a root that is not the newest any more.
    return false;
  }
}

// A 404 ends nothing: it is believed only by a host that never saw a manifest.
function requireNone(body: Uint8Array, memory: Memory): null {
  const said = errorDocument(body);
  if (said?.error === 'E_NO_MANIFEST' && memory.trust.floor === null) return null;
  const seen = memory.trust.floor === null ? '' : ', although there was one before';
  throw new FleetError(
    'E_SERVER_ANSWER',
    `the server has no offer for ${memory.config.host}${seen}${said === null ? '' : `: ${said.message}`}`,
  );
}
