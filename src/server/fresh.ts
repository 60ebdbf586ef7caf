// A host's nonce → what time it is, and which checkpoint is the newest, signed for that question alone (SPEC
// §9.8). Refuses what is no nonce, and one that was used before, as far back as is remembered.
import type { FastifyInstance } from 'fastify';
import { isNonce, signNonceProof } from '../manifest/nonce-proof.ts';
import type { Root } from '../manifest/root.ts';
import { parseNote } from '../tlog/note.ts';
import { type Auth, guardedBy } from './auth.ts';
import type { PublishedLog } from './published.ts';
import { refuse } from './replies.ts';
import { readServerKey, type StateDir } from './statedir.ts';

/** A host makes up a nonce for each question; of so many the newest are remembered (about 2 MiB). */
const MOST_NONCES = 10_000;

export function registerFresh(
  app: FastifyInstance,
  dir: StateDir,
  published: PublishedLog,
  auth: Auth,
  now: () => number,
): void {
  const used = new Set<string>();
  let signer: { readonly root: Root; readonly secret: Uint8Array } | null = null;

  /** The nonce key that the newest root names. */
  const secretOf = async (root: Root): Promise<Uint8Array> => {
    if (signer?.root === root) return signer.secret;
    const { secret } = await readServerKey({ layout: dir.layout, root }, 'nonce');
    signer = { root, secret };
    return secret;
  };

  app.get<{ Params: { host: string }; Querystring: { nonce?: unknown } }>(
    '/v1/hosts/:host/fresh',
    guardedBy(auth.isHost),
    async (request, reply) => {
      const { nonce } = request.query;
      if (!isNonce(nonce)) {
        return refuse(reply, 400, 'E_REQUEST', 'nonce must be 64 lowercase hex digits');
      }
      if (used.has(nonce)) {
        return refuse(reply, 409, 'E_NONCE_USED', 'this nonce was used before');
      }
      used.add(nonce);
      const [oldest] = used;
      if (used.size > MOST_NONCES && oldest !== undefined) used.delete(oldest);
      const view = await published.view();
      if (view === null) return refuse(reply, 404, 'E_NO_MANIFEST', 'nothing was published yet');
      const secret = await secretOf(view.root);
      const checkpoint = parseNote(view.text).text;
      // Read last: what was waited for before is none of the host's round trip to be.
      const proof = signNonceProof({ nonce, time: now(), checkpoint }, secret);
      return reply
        .type('application/json; charset=utf-8')
        .header('cache-control', 'no-store')
        .send(proof);
    },
  );
}
