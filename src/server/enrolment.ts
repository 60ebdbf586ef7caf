// Enrolment: a one-time invitation, which the admin carries to the machine in a file, becomes a host
// key known to the server and a token for the host. The request is signed by the new key, which
// proves that the host holds it; repeating it with the same key is safe until the invitation ends.
import type { FastifyInstance } from 'fastify';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyEnrolRequest } from '../manifest/enrolment.ts';
import { requireHostKey } from '../manifest/root.ts';
import type { Auth } from './auth.ts';
import { bodyText } from './hosts.ts';
import { tokenSeconds } from './renew-token.ts';
import { refuse } from './replies.ts';
import type { StateDir } from './statedir.ts';
import { generateToken, hashToken, tokenFromHeader } from './tokens.ts';

const REFUSALS = {
  unknown: 'this enrolment file is not known here, or was replaced by a newer one',
  expired: 'this enrolment file has expired',
  used: 'this enrolment file was used already, by another key',
  removed: 'this host was removed from the fleet, and its name is not used again',
} as const;

export function registerEnrolment(
  app: FastifyInstance,
  dir: StateDir,
  auth: Pick<Auth, 'mayFailAgain'>,
  now: () => number,
  onEnrolled: () => void = () => {},
): void {
  const { state } = dir;
  app.post('/v1/enroll', async (request, reply) => {
    const secret = tokenFromHeader(request.headers.authorization);
    const secretHash = secret === null ? null : hashToken(secret);
    const invitation = secretHash === null ? null : await state.invitation(secretHash);
    if (secretHash === null || invitation === null) {
      if (!auth.mayFailAgain(request, reply)) return reply;
      return refuse(reply, 401, 'E_ENROL_REFUSED', REFUSALS.unknown);
    }
    const { publicKey } = verifyEnrolRequest(parseEnvelope(bodyText(request.body)), {
      fleet: dir.root.fleet,
      host: invitation.host,
      invitation: secretHash,
    });
    requireHostKey(dir.root, publicKey);
    const token = generateToken();
    const expiresIn = tokenSeconds(dir);
    const at = now();
    const outcome = await state.enrol({
      ...{ secretHash, publicKey, tokenHash: hashToken(token) },
      ...{ now: at, expiresAt: at + expiresIn },
    });
    if (outcome === 'enrolled') onEnrolled();
    if (outcome === 'enrolled' || outcome === 'replay') return reply.send({ token, expiresIn });
    return refuse(reply, 401, 'E_ENROL_REFUSED', REFUSALS[outcome]);
  });
}
