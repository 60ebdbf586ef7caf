// Bearer tokens: what they look like, and how a request shows one. Only their SHA-256 is ever stored,
// so looking one up compares hashes, not secrets, and takes no time that depends on the secret.
import { createHash, randomBytes } from 'node:crypto';

/** A new token: `fleet_` and 256 random bits in base64url, easy to find in a leak. */
export function generateToken(): string {
  return `fleet_${randomBytes(32).toString('base64url')}`;
}

/** What is stored of a token: SHA-256, lowercase hex. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/**
 * The token of an Authorization header, or null when it has none: `Bearer TOKEN`, or `Basic` with
 * any user name and the token as password, which is how Nix sends what netrc holds.
 */
export function tokenFromHeader(authorization: string | undefined): string | null {
  const match = /^(Bearer|Basic) +([A-Za-z0-9._~+/=-]{1,512})$/i.exec(authorization ?? '');
  if (match?.[1] === undefined || match[2] === undefined) return null;
  if (match[1].toLowerCase() === 'bearer') return match[2];
  const pair = Buffer.from(match[2], 'base64').toString('utf8');
  const colon = pair.indexOf(':');
  return colon === -1 || colon === pair.length - 1 ? null : pair.slice(colon + 1);
}

/** The secret of a one-time enrolment file: 256 random bits in base64url. */
export function generateEnrolSecret(): string {
  return randomBytes(32).toString('base64url');
}
