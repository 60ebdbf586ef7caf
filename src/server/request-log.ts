// An answered request → one JSON line. Of what a client sent it holds method and path alone: neither query
// nor header nor body, which is where secrets are put, also by mistake; what looks like one of our tokens
// is struck out of the path too.

/** What the log says of a request. docs/OPERATIONS.md explains the fields. */
export type LogEntry = {
  /** When the answer ended; milliseconds since 1970. */
  readonly time: number;
  /** Counts the requests of this process; errors name it. */
  readonly id: number;
  /** The client's address; what trusted proxies say it is. */
  readonly remote: string;
  readonly method: string;
  /** As it was asked for, query and all. */
  readonly url: string;
  /** The pattern that answered, or `none`. */
  readonly route: string;
  readonly status: number;
  /** False when the connection ended before the answer did. */
  readonly whole: boolean;
  /** Written to the connection meanwhile: the answer with its head. */
  readonly bytes: number;
  /** From the request's head to the end of the answer. */
  readonly ms: number;
  /** Name of the credential that let it in, if any did. */
  readonly credential: string | null;
};

const LONGEST_PATH = 500;
const OUR_TOKENS = /fleet_[A-Za-z0-9_-]{20,}/g;

/** One line without its end. */
export function formatLogEntry({ url, ms, ...entry }: LogEntry): string {
  const path = (url.split('?', 1)[0] ?? '').replace(OUR_TOKENS, 'fleet_[secret]');
  return JSON.stringify({
    level: 30,
    ...entry,
    path: path.length > LONGEST_PATH ? `${path.slice(0, LONGEST_PATH)}…` : path,
    ms: Math.round(ms * 1000) / 1000,
  });
}
