// What one host asks for and says: its offer, closure files, its reports, and how far it is with an update.
// A host's own routes want that host's token; a report is checked against the key it enrolled with,
// so that a stolen token alone cannot speak for a host.

import type { FastifyInstance } from 'fastify';
import { type ErrorCode, FleetError } from '../errors.ts';
import { parsePublicKey } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyReceipt } from '../manifest/receipt.ts';
import { formatToldProgress, parseToldProgress } from '../manifest/told-progress.ts';
import { parseBlobId } from '../storage/blobs.ts';
import { type Auth, guardedBy } from './auth.ts';
import { makeOffer } from './offers.ts';
import type { PublishedLog } from './published.ts';
import { TOKEN_HEADER, tokenSeconds, wantsRenewal } from './renew-token.ts';
import { refuse } from './replies.ts';
import type { StateDir } from './statedir.ts';

/** A host that was removed, and said that it knows, may say so once more: an answer may have been lost. */
const FAREWELL_SECONDS = 86_400;

/** A host's sighting is written at most so often, in seconds. */
const TOUCH_EVERY = 30;
/** And how far it is, too; hosts say so every minute at most. */
const PROGRESS_EVERY = 10;

export function registerHostRoutes(
  app: FastifyInstance,
  dir: StateDir,
  published: PublishedLog,
  auth: Auth,
  now: () => number,
  onError?: (error: unknown) => void,
): void {
  const { state, blobs } = dir;
  const touched = new Map<string, number>();

  /** Notes a sighting; that a sighting is lost must not fail the request. */
  const touch = (host: string): void => {
    const at = now();
    if (isTooSoon(touched, host, at, TOUCH_EVERY)) return;
    state.touchHost(host, at).catch((error) => onError?.(error));
  };

  app.get<{ Params: { host: string }; Querystring: { root?: string; from?: string } }>(
    '/v1/hosts/:host/offer',
    guardedBy(auth.isHost),
    async (request, reply) => {
      const { host } = request.params;
      touch(host);
      const holder = auth.holder(request);
      if (holder !== undefined && wantsRenewal(holder, tokenSeconds(dir), now())) {
        reply.header(TOKEN_HEADER, 'renew');
      }
      const known = Number(/^[1-9]\d{0,6}$/.exec(request.query.root ?? '1')?.[0] ?? Number.NaN);
      const from = Number(/^\d{1,15}$/.exec(request.query.from ?? '0')?.[0] ?? Number.NaN);
      if (Number.isNaN(known) || Number.isNaN(from)) {
        const numbers = 'root must be the number of a root version, from a number of entries';
        return refuse(reply, 400, 'E_REQUEST', numbers);
      }
      const made = await makeOffer(dir, published, host, { root: known, from });
      if (made === null) {
        return refuse(reply, 404, 'E_NO_MANIFEST', `nothing was published for ${host} yet`);
      }
      reply.header('etag', made.etag).header('cache-control', 'private, no-cache');
      if (request.headers['if-none-match'] === made.etag) return reply.code(304).send();
      return reply.type('application/json; charset=utf-8').send(made.text);
    },
  );

  app.get<{ Params: { closure: string } }>(
    '/v1/closures/:closure',
    guardedBy(auth.mayRead),
    async (request, reply) => {
      const id = parseBlobId(request.params.closure);
      const size = id === null ? null : await state.closureSize(id);
      const isWhole = id !== null && size !== null && (await blobs.size(id)) === size;
      const body = isWhole ? await blobs.get(id) : null;
      if (body === null) {
        return refuse(reply, 404, 'E_NOT_FOUND', 'no published manifest names this closure');
      }
      return reply
        .type('text/plain; charset=utf-8')
        .header('content-length', size)
        .header('etag', `"${id}"`)
        .header('cache-control', 'private, max-age=31536000, immutable')
        .send(body);
    },
  );

  app.post<{ Params: { host: string } }>(
    '/v1/hosts/:host/reports',
    guardedBy(auth.isHost),
    async (request, reply) => {
      const { host } = request.params;
      touch(host);
      const record = await state.host(host);
      if (record?.publicKey == null) {
        return refuse(reply, 409, 'E_NOT_ENROLLED', `${host} is not enrolled`);
      }
      const text = bodyText(request.body);
      const { receipt, digest } = verifyReceipt(parseEnvelope(text), {
        publicKey: parsePublicKey(record.publicKey),
        fleet: dir.root.fleet,
        host,
      });
      const outcome = await state.addReport({
        host,
        counter: receipt.counter,
        digest,
        previous: receipt.previous,
        receivedAt: now(),
        envelope: text,
        request: receipt.request?.number ?? null,
      });
      if (outcome === 'fork' || outcome === 'gap') {
        return refuse(
          reply,
          409,
          'E_RECEIPT_CHAIN',
          outcome === 'fork'
            ? `another receipt of ${host} has counter ${receipt.counter}: a cloned machine, or lost state`
            : `the receipts of ${host} before ${receipt.counter} are missing`,
        );
      }
      if (receipt.phase === 'decommissioned') {
        await state.endLeaving(host, now() + FAREWELL_SECONDS);
      }
      return reply.send({ stored: outcome === 'stored' });
    },
  );

  const told = new Map<string, number>();
  app.post<{ Params: { host: string } }>(
    '/v1/hosts/:host/progress',
    guardedBy(auth.isHost),
    async (request, reply) => {
      const { host } = request.params;
      touch(host);
      // One that was removed has nothing to fetch.
      if (auth.holder(request)?.scope === 'leaving') {
        return refuse(reply, 403, 'E_FORBIDDEN', `${host} was removed from the fleet`);
      }
      const progress = parseToldProgress(bodyText(request.body, 'E_REQUEST'));
      const at = now();
      if (isTooSoon(told, host, at, PROGRESS_EVERY)) {
        reply.header('retry-after', String(PROGRESS_EVERY));
        return refuse(reply, 429, 'E_RATE_LIMITED', `${host} said how far it is a moment ago`);
      }
      await state.noteProgress(host, formatToldProgress(progress), at);
      return reply.code(204).send();
    },
  );
}

/** Whether it is less than `seconds` since the last one of `host` that was not; else this one is the last. */
function isTooSoon(last: Map<string, number>, host: string, at: number, seconds: number): boolean {
  // Either way: a clock that was ahead must not silence a host until it is caught up with.
  if (Math.abs(at - (last.get(host) ?? Number.NEGATIVE_INFINITY)) < seconds) return true;
  last.set(host, at);
  return false;
}

/** The text of a raw body. @throws FleetError `code` when it is not UTF-8. */
export function bodyText(body: unknown, code: ErrorCode = 'E_ENVELOPE'): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(
      body instanceof Uint8Array ? body : new Uint8Array(),
    );
  } catch (cause) {
    throw new FleetError(code, 'the body is not UTF-8', { cause });
  }
}
