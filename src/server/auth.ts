// Who may ask for what. Closed by default: the cache's read side wants a token of scope `read` or
// `host` (or `public` in fleet.json), a host's own routes want that host's token.
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Credential, StateReads } from '../storage/state.ts';
import { refuse } from './replies.ts';
import { hashToken, tokenFromHeader } from './tokens.ts';

export type Guard = (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;

export type Auth = {
  /** Lets pass who may read the cache. */
  readonly mayRead: Guard;
  /** Lets pass the host whose id is the route's `:host`. */
  readonly isHost: Guard;
};

export function makeAuth(state: StateReads, open: boolean, now: () => number): Auth {
  const credentialOf = async (request: FastifyRequest): Promise<Credential | null> => {
    const token = tokenFromHeader(request.headers.authorization);
    const found = token === null ? null : await state.credential(hashToken(token));
    const expired = found?.expiresAt != null && found.expiresAt <= now();
    return expired ? null : found;
  };
  return {
    mayRead: async (request, reply) => {
      if (open || (await credentialOf(request)) !== null) return;
      return unauthorized(reply);
    },
    isHost: async (request, reply) => {
      const credential = await credentialOf(request);
      if (credential === null) return unauthorized(reply);
      const { host } = request.params as { host: string };
      if (credential.scope !== 'host' || credential.host !== host) {
        return refuse(reply, 403, 'E_FORBIDDEN', `this token may not act as host ${host}`);
      }
    },
  };
}

function unauthorized(reply: FastifyReply): FastifyReply {
  // curl, and so Nix, sends what netrc holds without being asked; browsers ask their user on this.
  reply.header('www-authenticate', 'Basic realm="fleet", charset="UTF-8"');
  return refuse(reply, 401, 'E_UNAUTHORIZED', 'a valid token is needed');
}
