// A host's token follows another (SPEC §7.4): the host shows the one it has, which may have expired, and its key signs
// the hash of the next. The server gives tokens no life of their own here: it only notes what the host made. Each
// token has one successor, so of a machine that was cloned only one goes on, and the other is noticed.
import type { FastifyInstance } from 'fastify';
import { parsePublicKey } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { manifestDigest } from '../manifest/manifest.ts';
import { verifyTokenRequest } from '../manifest/token-request.ts';
import type { Credential } from '../storage/state.ts';
import type { Auth } from './auth.ts';
import { bodyText } from './hosts.ts';
import { refuse } from './replies.ts';
import type { StateDir } from './statedir.ts';
import { hashToken, tokenFromHeader } from './tokens.ts';

/** An answer to a host bears it, with `renew`, when its token should be followed by the next. */
export const TOKEN_HEADER = 'fleet-token';

/** How long a host's token is valid, in seconds. */
export function tokenSeconds({ config }: Pick<StateDir, 'config'>): number {
  return config.hostTokenDays * 86_400;
}

/** Whether a host should get the next token: when a third of its life is left, or where it has no end. */
export function wantsRenewal(
  { expiresAt, scope }: Pick<Credential, 'expiresAt' | 'scope'>,
  seconds: number,
  now: number,
): boolean {
  if (scope !== 'host') return false;
  return expiresAt === null || expiresAt - now <= seconds / 3;
}

export function registerTokenRenewal(
  app: FastifyInstance,
  dir: StateDir,
  auth: Auth,
  now: () => number,
): void {
  const { state } = dir;
  app.post<{ Params: { host: string } }>(
    '/v1/hosts/:host/token',
    { onRequest: auth.wasHost },
    async (request, reply) => {
      const { host } = request.params;
      const record = await state.host(host);
      const replaces = hashToken(tokenFromHeader(request.headers.authorization) ?? '');
      const envelope = bodyText(request.body);
      const opened = parseEnvelope(envelope);
      // Who holds a token of a host that is enrolled.
      const publicKey = parsePublicKey(record?.publicKey ?? '');
      const { fleet } = dir.root;
      const { token } = verifyTokenRequest(opened, { publicKey, fleet, host, replaces });
      const at = now();
      const renewed = await state.renewToken({
        ...{ host, publicKey, replaces, tokenHash: token, now: at, envelope },
        expiresAt: at + tokenSeconds(dir),
        digest: manifestDigest(opened.payload),
      });
      switch (renewed.outcome) {
        case 'renewed':
          // A length of time: what the host's clock says is none of the server's business.
          return reply.send({ expiresIn: Math.max(0, (renewed.expiresAt ?? at) - at) });
        case 'unknown':
          return refuse(reply, 401, 'E_UNAUTHORIZED', 'a valid token is needed');
        case 'successor': {
          const cloned = 'a cloned machine, or lost state';
          const given = `this token of ${host} has a successor already: ${cloned}`;
          return refuse(reply, 409, 'E_TOKEN_SUCCESSOR', given);
        }
        case 'leaving':
          return refuse(reply, 409, 'E_DECOMMISSIONED', `${host} was removed from the fleet`);
      }
    },
  );
}
