// Who may ask for what. Closed by default: the read side wants any valid token (or `public` in
// fleet.json), uploads one of scope `push`, metrics one of scope `admin`, a host's own routes that host's.
// A token is looked up by its SHA-256 and never compared itself, so no time taken depends on how much of
// a guess is right. What was found is kept while the state's version stays the same.
import type { FastifyReply, FastifyRequest } from 'fastify';
import { TurnVersion } from '../cache/turn-version.ts';
import type { Credential, Scope, StateReads } from '../storage/state.ts';
import { FailureLimit } from './rate-limit.ts';
import { refuse } from './replies.ts';
import { hashToken, tokenFromHeader } from './tokens.ts';

export type Guard = (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;

export type Auth = {
  /** Lets pass who may read the cache; null where everybody may. */
  readonly mayRead: Guard | null;
  /** Whether this Authorization header was found to be good for reading a moment ago. */
  readonly mayReadNow: (authorization: string | undefined) => boolean;
  /** Lets pass who may upload. */
  readonly mayPush: Guard;
  /** Lets pass who may see metrics. */
  readonly mayAdmin: Guard;
  /** Lets pass the host whose id is the route's `:host`. */
  readonly isHost: Guard;
  /** Notes a failed attempt to be someone; answers and returns false where there were too many. */
  readonly mayFailAgain: (request: FastifyRequest, reply: FastifyReply) => boolean;
  readonly counts: { failures: number; limited: number };
};

/** More credentials than any fleet uses at a time; beyond, they are looked up again. */
const MAX_KNOWN = 10_000;

export function makeAuth(state: StateReads, open: boolean, now: () => number): Auth {
  const version = new TurnVersion(state);
  const limit = new FailureLimit();
  const counts = { failures: 0, limited: 0 };
  /** SHA-256 of a token → its credential, as of `knownAt`. */
  const known = new Map<string, Credential>();
  /** Authorization header → the same. It is no more secret here than in the requests that bring it. */
  const headers = new Map<string, Credential>();
  let knownAt = -1;

  const find = async (tokenHash: string): Promise<Credential | null> => {
    const current = await version.read();
    if (current !== knownAt || known.size > MAX_KNOWN) {
      known.clear();
      headers.clear();
    }
    knownAt = current;
    const found = known.get(tokenHash) ?? (await state.credential(tokenHash));
    if (found !== null) known.set(tokenHash, found);
    return found;
  };

  const mayFailAgain = (request: FastifyRequest, reply: FastifyReply): boolean => {
    counts.failures += 1;
    const wait = limit.failed(request.ip, now());
    if (wait === 0) return true;
    counts.limited += 1;
    reply.header('retry-after', String(wait));
    refuse(reply, 429, 'E_RATE_LIMITED', 'too many bad tokens came from this address');
    return false;
  };

  /** The request's credential, or null after it was answered. */
  const credentialOf = async (
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<Credential | null> => {
    const { authorization } = request.headers;
    const token = tokenFromHeader(authorization);
    const found = token === null ? null : await find(hashToken(token));
    if (found !== null && (found.expiresAt === null || found.expiresAt > now())) {
      names.set(request, found.name);
      // One token fits many headers: any user name goes with it.
      if (headers.size >= MAX_KNOWN) headers.clear();
      if (authorization !== undefined) headers.set(authorization, found);
      return found;
    }
    // Nix asks without credentials first; only a wrong token is an attempt.
    if (authorization === undefined || mayFailAgain(request, reply)) unauthorized(reply);
    return null;
  };

  const withScope =
    (...scopes: Scope[]): Guard =>
    async (request, reply) => {
      const credential = await credentialOf(request, reply);
      if (credential === null) return reply;
      if (scopes.includes(credential.scope)) return;
      const wanted = scopes[0] ?? '';
      return refuse(reply, 403, 'E_FORBIDDEN', `this needs a token of scope ${wanted}`);
    };

  return {
    mayRead: open ? null : withScope('read', 'push', 'host', 'admin'),
    mayReadNow: (authorization) => {
      if (open) return true;
      const found = authorization === undefined ? undefined : headers.get(authorization);
      if (found === undefined || version.recent() !== knownAt) return false;
      return found.expiresAt === null || found.expiresAt > now();
    },
    mayPush: withScope('push', 'admin'),
    mayAdmin: withScope('admin'),
    isHost: async (request, reply) => {
      const credential = await credentialOf(request, reply);
      if (credential === null) return reply;
      const { host } = request.params as { host: string };
      if (credential.scope !== 'host' || credential.host !== host) {
        return refuse(reply, 403, 'E_FORBIDDEN', `this token may not act as host ${host}`);
      }
    },
    mayFailAgain,
    counts,
  };
}

/** Route options of `guard`; none where everybody may. */
export function guardedBy(guard: Guard | null): { preHandler?: Guard } {
  return guard === null ? {} : { preHandler: guard };
}

const names = new WeakMap<FastifyRequest, string>();

/** The name of the credential that a request came with; null when none was asked for or good. */
export function credentialName(request: FastifyRequest): string | null {
  return names.get(request) ?? null;
}

function unauthorized(reply: FastifyReply): FastifyReply {
  // curl, and so Nix, sends what netrc holds without being asked; browsers ask their user on this.
  reply.header('www-authenticate', 'Basic realm="fleet", charset="UTF-8"');
  return refuse(reply, 401, 'E_UNAUTHORIZED', 'a valid token is needed');
}
