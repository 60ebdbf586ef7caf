// Errors over HTTP: `{"error": code, "message", "hint"}`, never cached, and which status a code has.
import type { FastifyReply } from 'fastify';
import { ERRORS, type ErrorCode, FleetError } from '../errors.ts';

/** Answers with an error document. */
export function refuse(
  reply: FastifyReply,
  status: number,
  code: ErrorCode,
  message: string,
): FastifyReply {
  return reply
    .code(status)
    .type('application/json; charset=utf-8')
    .header('cache-control', 'no-store')
    .send({ error: code, message, hint: ERRORS[code].advice });
}

/** Answers with what was thrown: 503 where trying again helps, 422 for what a client sent, else 500. */
export function refuseError(reply: FastifyReply, error: unknown): FastifyReply {
  const status = statusOf(error);
  if (error instanceof FleetError && status !== 500) {
    if (status === 503) reply.header('retry-after', '2');
    return refuse(reply, status, error.code, error.message);
  }
  // Fastify's own refusals (body too large, not JSON, …) are the client's fault and may be told.
  if (status < 500 && error instanceof Error) {
    return refuse(reply, status, 'E_REQUEST', error.message);
  }
  // What went wrong inside, with its paths, is for the log alone.
  return refuse(reply, 500, 'E_INTERNAL', 'the server failed; its log says why');
}

export function statusOf(error: unknown): number {
  if (error instanceof FleetError) {
    if (error.code === 'E_STATE_BUSY') return 503;
    return error.exitCode === 3 ? 422 : 500;
  }
  const status = (error as { statusCode?: unknown } | null)?.statusCode;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : 500;
}
