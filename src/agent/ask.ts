// The server's offer → the newest trusted root, and what is offered under it, still to be verified; a
// manifest's closure file → bytes that are still to be verified. One conditional GET in most runs. A 304 proves
// nothing: the stored offer is used as if it had just come, and once its checkpoint is half as old as the
// root allows, the server is asked unconditionally.
// Refuses a root chain with a gap, and an offer that leads on without end.
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyCheckpoint } from '../manifest/log-view.ts';
import type { Deployment } from '../manifest/manifest.ts';
import { MAX_OFFER_BYTES, MAX_OFFER_ROOTS, type Offer, parseOffer } from '../manifest/offer.ts';
import { parseRoot, type Root, verifyRootUpdate } from '../manifest/root.ts';
import { headOf, type TrustedRoot } from '../manifest/verify-offer.ts';
import { type Client, errorDocument } from './client.ts';
import {
  type Memory,
  memoryFiles,
  readOffer,
  type StoredOffer,
  type Trust,
  writeOffer,
  writeTrust,
} from './memory.ts';
import { corrupt } from './record.ts';

export type Asked = {
  /** With every new root persisted. */
  readonly trust: Trust;
  readonly root: TrustedRoot;
  /** null: the server has no manifest for this host yet. */
  readonly offer: Offer | null;
  /** Stores the offer, so that the server need not say it again: for one whose manifest was verified. */
  readonly keep: () => Promise<void>;
};

type Got = { readonly offer: Offer; readonly keep: () => Promise<void> };

/** So many offers full of roots in a row are no fleet's history. */
const MAX_ROUNDS = 64;

/** The root that the agent trusts. @throws FleetError E_AGENT_STATE_CORRUPT */
export function trustedRoot(memory: Memory): Root {
  try {
    return parseRoot(parseEnvelope(memory.trust.root).payload);
  } catch (cause) {
    throw corrupt(memoryFiles(memory.dir).trust, messageOf(cause), cause);
  }
}

/**
 * Each root is persisted before the next one is looked at (SPEC §3.4).
 * @throws FleetError E_OFFER_…, E_ROOT_…, E_SIGNATURE…, E_SERVER_…
 */
export async function askForOffer(client: Client, memory: Memory, now: number): Promise<Asked> {
  let trust = memory.trust;
  let root = trustedRoot(memory);
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const got = await getOffer(client, memory, root, now);
    const trusted = () => ({ root, envelope: trust.root });
    if (got === null) return { trust, root: trusted(), offer: null, keep: async () => {} };
    const { offer, keep } = got;
    for (const text of offer.roots) {
      root = verifyRootUpdate(root, parseEnvelope(text));
      trust = { ...trust, root: text };
      await writeTrust(memory.dir, trust);
    }
    if (offer.roots.length < MAX_OFFER_ROOTS) return { trust, root: trusted(), offer, keep };
  }
  throw new FleetError('E_OFFER_FORM', 'the server offers new roots without end');
}

/** closure.fp of a verified manifest, at most as long as is signed. */
export async function getClosure(client: Client, manifest: Deployment): Promise<Uint8Array> {
  const { sha256, bytes } = manifest.closure;
  try {
    return (await client.document(`/v1/closures/${sha256}`, bytes)).body;
  } catch (cause) {
    if (!isFleetError(cause, 'E_BODY_LIMIT')) throw cause;
    const message = `the closure file is longer than the ${bytes} bytes that are signed`;
    throw new FleetError('E_CLOSURE_SIZE', message, { cause });
  }
}

async function getOffer(
  client: Client,
  memory: Memory,
  root: Root,
  now: number,
): Promise<Got | null> {
  const stored = await readOffer(memory.dir);
  const { version } = root;
  // Another root was asked from: the server's answer is another document.
  const known =
    stored !== null && stored.root === version && isYoung(stored, root, now) ? stored : null;
  const { checkpoint } = memory.trust;
  const from = checkpoint === null ? 0 : headOf(checkpoint).size;
  const path = `/v1/hosts/${memory.config.host}/offer?root=${version}&from=${from}`;
  const answer = await client.document(path, MAX_OFFER_BYTES, {
    expect: known === null ? [404] : [404, 304],
    ...(known === null ? {} : { ifNoneMatch: known.etag }),
  });
  if (answer.status === 304 && known !== null) {
    return { offer: parseOffer(known.text), keep: async () => {} };
  }
  if (answer.status === 404) return requireNone(answer.body, memory);
  const { etag } = answer;
  const offer = parseOffer(answer.body);
  const text = answer.body.toString('utf8');
  const keep = () => writeOffer(memory.dir, etag === null ? null : { etag, root: version, text });
  return { offer, keep };
}

/** Whether the checkpoint of a stored offer may be relied on for a while. */
function isYoung({ text }: StoredOffer, root: Root, now: number): boolean {
  try {
    const { freshAt } = verifyCheckpoint(parseOffer(text).checkpoint, root);
    return freshAt !== null && now - freshAt <= root.maxAge / 2;
  } catch {
    // Of an older fleet, or of a root that is not the newest any more.
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
