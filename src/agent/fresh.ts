// One question to the server with a new nonce → what it answers (SPEC §9.8), still to be verified. And, after a
// switch: whether the server can still be heard from the new system. For that it must answer a question of now, on
// a connection of now, with a signature by a nonce key of the root that this host trusts: what somebody recorded, or
// says in its place, is silence. Which checkpoint the answer names does not matter: something may have been published.
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.ts';
import { MAX_NONCE_PROOF_BYTES, verifyNonceProof } from '../manifest/nonce-proof.ts';
import type { Root } from '../manifest/root.ts';
import { Client, errorDocument } from './client.ts';
import type { Memory } from './memory.ts';
import type { Source } from './source.ts';

export type FreshAnswer = {
  readonly nonce: string;
  /** null: it gives none, and `refusal` says why. */
  readonly proof: Uint8Array | null;
  readonly refusal: string;
};

/** @throws FleetError E_SERVER_…, E_BODY_LIMIT */
export async function askFresh(
  client: Pick<Source, 'document'>,
  host: string,
  signal?: AbortSignal,
): Promise<FreshAnswer> {
  const nonce = randomBytes(32).toString('hex');
  const answer = await client.document(
    `/v1/hosts/${host}/fresh?nonce=${nonce}`,
    MAX_NONCE_PROOF_BYTES,
    { expect: [400, 404, 409], ...(signal === undefined ? {} : { signal }) },
  );
  if (answer.status < 300) return { nonce, proof: answer.body, refusal: '' };
  const said = errorDocument(answer.body);
  const refusal = said === null ? `it answered ${answer.status}` : said.message;
  return { nonce, proof: null, refusal };
}

/** A server that is listened for, in the background, until this is disposed of. */
export type Listening = AsyncDisposable & {
  /** Resolves once it was heard; never rejects. */
  readonly heard: Promise<void>;
  readonly isHeard: () => boolean;
  /** Why it was not heard yet. */
  readonly problem: () => string;
};

export type Listen = (seconds: number) => Listening;

/** So many questions at least are asked, whatever happens to the first ones. */
const LEAST_ATTEMPTS = 3;
/** Between two questions, in milliseconds: at first, and at most. */
const PAUSE = { first: 500, most: 5000 };

/** Asks again and again, as often as `seconds` in all allow. */
export function listenForServer(
  { config, token, trust }: Pick<Memory, 'config' | 'token' | 'trust'>,
  root: Pick<Root, 'nonce'>,
  seconds: number,
): Listening {
  const ending = new AbortController();
  const heard = Promise.withResolvers<void>();
  let isHeard = false;
  let problem = 'it did not answer';
  const patienceSeconds = Math.min(config.patienceSeconds, seconds / LEAST_ATTEMPTS);
  const ask = async (): Promise<void> => {
    // One that was open before the switch may live on where no new one could be made.
    await using client = new Client({ ...config, token, patienceSeconds });
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), patienceSeconds * 1000);
    try {
      const signal = AbortSignal.any([ending.signal, late.signal]);
      const { nonce, proof, refusal } = await askFresh(client, config.host, signal);
      if (proof === null) throw new Error(`it gives no proof: ${refusal}`);
      verifyNonceProof(proof, { root, nonce, checkpoint: null, floor: trust.time });
      isHeard = true;
    } catch (error) {
      if (ending.signal.aborted) return;
      problem = late.signal.aborted ? 'it does not answer' : messageOf(error);
    } finally {
      clearTimeout(timer);
    }
  };
  const listen = async (): Promise<void> => {
    for (let pause = PAUSE.first; !ending.signal.aborted; pause *= 2) {
      await ask();
      if (isHeard) return heard.resolve();
      const ms = Math.min(pause, PAUSE.most);
      await sleep(ms, undefined, { signal: ending.signal }).catch(() => {});
    }
  };
  const listening = listen();
  return {
    heard: heard.promise,
    isHeard: () => isHeard,
    problem: () => problem,
    [Symbol.asyncDispose]: async () => {
      ending.abort();
      await listening;
    },
  };
}
