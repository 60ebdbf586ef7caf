// Who may ask for what. Closed by default: the read side wants any valid token (or `public` in
// fleet.json), uploads one of scope `push`, metrics one of scope `admin`, a host's own routes that host's.
// A token is looked up by its SHA-256 and never compared itself, so no time taken depends on how much of
// a guess is right. What was found is kept, by a keyed hash of the header it came in, while the state's
// version stays the same; when it expires is looked at every time.
import { hash, randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { TurnVersion } from '../cache/turn-version.ts';
import type { Credential, Scope, StateReads } from '../storage/state.ts';
import { FailureLimit } from './rate-limit.ts';
import { refuse } from './replies.ts';
import { hashToken, tokenFromHeader } from './tokens.ts';
import { setCredential } from './watch.ts';

export type Guard = (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;

export type Auth = {
  /** Lets pass who may read the cache; null where everybody may. */
  readonly mayRead: Guard | null;
  /** Whether this request's Authorization header was found to be good for reading, as of `version`. */
  readonly mayReadAt: (request: IncomingMessage, version: number) => boolean;
  /** Lets pass who may upload. */
  readonly mayPush: Guard;
  /** Lets pass who may see metrics. */
  readonly mayAdmin: Guard;
  /** Lets pass the host whose id is the route's `:host`. */
  readonly isHost: Guard;
  /** The same, also with a token whose time is over. */
  readonly wasHost: Guard;
  /** Whose credential let this request in. */
  readonly holder: (request: FastifyRequest) => Credential | undefined;
  /** Notes a failed attempt to be someone; answers and returns false where there were too many. */
  readonly mayFailAgain: (request: FastifyRequest, reply: FastifyReply) => boolean;
  readonly counts: { failures: number; limited: number };
};

/** More than any fleet uses at a time; beyond, they are looked up again. (Any user name goes with a token.) */
const MAX_KNOWN = 10_000;

/** All but a host that was removed, which may only be told so. */
const READERS: readonly Scope[] = ['read', 'push', 'host', 'admin'];
const mayReadWith = (scope: Scope): boolean => READERS.includes(scope);

export function makeAuth(
  state: StateReads,
  open: boolean,
  now: () => number,
  version: TurnVersion,
): Auth {
  const limit = new FailureLimit();
  const counts = { failures: 0, limited: 0 };
  /** Authorization headers, hashed → their credentials, as of `knownAt`. No secret stays in memory. */
  const known = new Map<string, Credential>();
  let knownAt = -1;
  const hashKey = randomBytes(32).toString('hex');
  const holders = new WeakMap<FastifyRequest, Credential>();
  const nameOf = (authorization: string): string => hash('sha256', hashKey + authorization);

  const find = async (authorization: string): Promise<Credential | null> => {
    const token = tokenFromHeader(authorization);
    if (token === null) return null;
    const current = await version.read();
    if (current !== knownAt || known.size >= MAX_KNOWN) known.clear();
    knownAt = current;
    const name = nameOf(authorization);
    const found = known.get(name) ?? (await state.credential(hashToken(token)));
    // Another request may have seen a newer version while this one waited.
    if (found !== null && knownAt === current) known.set(name, found);
    return found;
  };

  const mayFailAgain = (request: FastifyRequest, reply: FastifyReply): boolean => {
    counts.failures += 1;
    // Of a client that is gone already there is no address, whatever the type says.
    const address: string | undefined = request.ip;
    const wait = limit.failed(address ?? '', now());
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
    evenExpired = false,
  ): Promise<Credential | null> => {
    const { authorization } = request.headers;
    const found = authorization === undefined ? null : await find(authorization);
    const lives = found !== null && (found.expiresAt === null || found.expiresAt > now());
    if (found !== null && (lives || evenExpired)) {
      setCredential(reply.raw, found.name);
      holders.set(request, found);
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

  const asHost =
    (evenExpired: boolean): Guard =>
    async (request, reply) => {
      const credential = await credentialOf(request, reply, evenExpired);
      if (credential === null) return reply;
      const { host } = request.params as { host: string };
      const isHosts = credential.scope === 'host' || credential.scope === 'leaving';
      if (!isHosts || credential.host !== host) {
        return refuse(reply, 403, 'E_FORBIDDEN', `this token may not act as host ${host}`);
      }
    };

  return {
    mayRead: open ? null : withScope(...READERS),
    mayReadAt: (request, version) => {
      // Before the headers are looked at: Node makes them up when they are.
      if (open) return true;
      const { authorization } = request.headers;
      if (authorization === undefined || version !== knownAt) return false;
      const found = known.get(nameOf(authorization));
      if (found === undefined || !mayReadWith(found.scope)) return false;
      return found.expiresAt === null || found.expiresAt > now();
    },
    mayPush: withScope('push', 'admin'),
    mayAdmin: withScope('admin'),
    isHost: asHost(false),
    wasHost: asHost(true),
    holder: (request) => holders.get(request),
    mayFailAgain,
    counts,
  };
}

/** Route options of `guard`; none where everybody may. A body is read only of those who may send it. */
export function guardedBy(guard: Guard | null): { onRequest?: Guard } {
  return guard === null ? {} : { onRequest: guard };
}

function unauthorized(reply: FastifyReply): FastifyReply {
  // curl, and so Nix, sends what netrc holds without being asked; browsers ask their user on this.
  reply.header('www-authenticate', 'Basic realm="fleet", charset="UTF-8"');
  return refuse(reply, 401, 'E_UNAUTHORIZED', 'a valid token is needed');
}
