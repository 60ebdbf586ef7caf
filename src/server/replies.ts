// Errors over HTTP: `{"error": code, "message", "hint"}`, never cached, and which status a code has.
import type { FastifyReply } from 'fastify';
import { ERRORS, type ErrorCode, FleetError } from '../errors.ts';

/** Answers with an error document. */
export function refuse(
  reply: FastifyReply,
  status: number,
  code: ErrorCode,
  message: string,
  hint: string = ERRORS[code].advice,
): FastifyReply {
  return reply
    .code(status)
    .type('application/json; charset=utf-8')
    .header('cache-control', 'no-store')
    .send({ error: code, message, hint });
}

/** Answers with what was thrown: 503 where trying again helps, 422 for what a client sent, else 500. */
export function refuseError(reply: FastifyReply, error: unknown): FastifyReply {
  const status = statusOf(error);
  if (error instanceof FleetError && status !== 500) {
    if (status === 503) reply.header('retry-after', '2');
    // The paths in these messages are the server's own, and none of the client's business.
    if (status === 503)
      return refuse(reply, status, error.code, busy(error.code), 'try again later');
    return refuse(reply, status, error.code, error.message, error.hint);
  }
  // Fastify's own refusals (body too large, not JSON, …) are the client's fault and may be told.
  if (status < 500 && error instanceof Error) {
    return refuse(reply, status, 'E_REQUEST', error.message);
  }
  // What went wrong inside, with its paths, is for the log alone.
  return refuse(reply, 500, 'E_INTERNAL', 'the server failed; its log says why');
}

function busy(code: ErrorCode): string {
  return code === 'E_DISK_FULL' ? 'the server has no space left' : 'the server is busy';
}

/** What a client's own doing, or a passing trouble, is called in HTTP. */
const STATUSES: ReadonlyMap<ErrorCode, number> = new Map<ErrorCode, number>([
  ['E_DISK_FULL', 503],
  ['E_HASH', 422],
  ['E_NARINFO', 422],
  ['E_NAR_BAD', 422],
  ['E_REALISATION', 422],
  ['E_REQUEST', 400],
  ['E_STATE_BUSY', 503],
  ['E_STORE_PATH', 422],
  ['E_UPLOAD_CA', 422],
  ['E_UPLOAD_COMPRESSION', 415],
  ['E_UPLOAD_CONFLICT', 409],
  ['E_UPLOAD_LIMIT', 413],
  ['E_UPLOAD_MISMATCH', 422],
  ['E_UPLOAD_NAR', 422],
  ['E_UPLOAD_NO_NAR', 422],
  ['E_UPLOAD_REFERENCES', 422],
  ['E_UPLOAD_REFERENCES_MISSING', 422],
  ['E_UPLOAD_UNSIGNED', 422],
]);

export function statusOf(error: unknown): number {
  if (error instanceof FleetError) {
    return STATUSES.get(error.code) ?? (error.exitCode === 3 ? 422 : 500);
  }
  const status = (error as { statusCode?: unknown } | null)?.statusCode;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : 500;
}
