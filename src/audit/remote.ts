// A log that a server shows under /tlog/ → what an audit reads from. The only part of an audit that knows a
// network; loaded for `--url` alone. Receipts are not there: they come in bundles.
import { Agent } from 'undici';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { formatTilePath, MAX_ENTRY_BYTES, TILE_WIDTH } from '../tlog/tile.ts';
import type { LogSource } from './audit.ts';

export type RemoteLog = {
  /** Base URL without a trailing slash. */
  readonly url: string;
  /** null where the log is open to all. */
  readonly token: string | null;
};

const PATIENCE_MS = 30_000;
const MAX_BYTES = TILE_WIDTH * (MAX_ENTRY_BYTES + 2);

/** @throws FleetError E_SERVER_UNREACHABLE, E_SERVER_ANSWER, E_UNAUTHORIZED, E_FORBIDDEN. */
export async function openRemoteSource(remote: RemoteLog): Promise<LogSource & AsyncDisposable> {
  const agent = new Agent({ headersTimeout: PATIENCE_MS, bodyTimeout: PATIENCE_MS });
  const get = async (path: string): Promise<Buffer | null> => {
    const { url, token } = remote;
    const base = new URL(url);
    try {
      const { statusCode, body } = await agent.request({
        origin: base.origin,
        path: `${base.pathname.replace(/\/$/, '')}/tlog/${path}`,
        method: 'GET',
        headers: token === null ? {} : { authorization: `Bearer ${token}` },
      });
      if (statusCode === 404) {
        await body.dump();
        return null;
      }
      if (statusCode !== 200) {
        await body.dump();
        throw refusalOf(statusCode, `${url}/tlog/${path}`, token !== null);
      }
      const chunks: Uint8Array[] = [];
      let size = 0;
      for await (const chunk of body as AsyncIterable<Uint8Array>) {
        size += chunk.length;
        if (size > MAX_BYTES) {
          throw new FleetError('E_SERVER_ANSWER', `${url}/tlog/${path} does not end`);
        }
        chunks.push(chunk);
      }
      return Buffer.concat(chunks);
    } catch (cause) {
      if (isFleetError(cause)) throw cause;
      const what = `${url}/tlog/${path}: ${messageOf(cause)}`;
      throw new FleetError('E_SERVER_UNREACHABLE', what, { cause });
    }
  };
  const dispose = () => agent.destroy();
  let checkpoint: Buffer | null;
  try {
    checkpoint = await get('checkpoint');
    if (checkpoint === null) {
      throw new FleetError('E_SERVER_ANSWER', `${remote.url} has no log at /tlog/checkpoint`);
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    checkpoint: checkpoint.toString('utf8'),
    bundle: (index, width) => get(formatTilePath({ level: 'entries', index, width })),
    async batch(index) {
      const text = (await get(`batch/${index}`))?.toString('utf8');
      return text === undefined ? null : text.split('\n').slice(0, -1);
    },
    tile: (id) => get(formatTilePath(id)),
    async *receipts() {},
    [Symbol.asyncDispose]: dispose,
  };
}

function refusalOf(status: number, address: string, hasToken: boolean): FleetError {
  const made = 'made on the server with: fleet token create NAME';
  if (status === 401) {
    return hasToken
      ? new FleetError('E_UNAUTHORIZED', `${address}: the token is wrong, expired or revoked`, {
          hint: `give another one with --token-file FILE, ${made}`,
        })
      : new FleetError('E_UNAUTHORIZED', `${address}: this log is not open without a token`, {
          hint: `give one that may read with --token-file FILE, ${made}`,
        });
  }
  if (status === 403) {
    return new FleetError('E_FORBIDDEN', `${address}: this token may not read the log`, {
      hint: `give one that may read with --token-file FILE, ${made}`,
    });
  }
  return new FleetError('E_SERVER_ANSWER', `${address}: status ${status}`);
}
