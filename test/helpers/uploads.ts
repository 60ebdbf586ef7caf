// A cache that takes uploads, on a real socket, and what a client sends to it.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { zstdCompressSync } from 'node:zlib';
import type { Config } from '../../src/config.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { formatNarInfo, type NarInfo } from '../../src/nix/narinfo.ts';
import { hashPartOf, type StorePath } from '../../src/nix/storepath.ts';
import { buildApp } from '../../src/server/app.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import { storePath } from './paths.ts';
import { makeState, narOfFile } from './state.ts';
import { temporaryDir } from './temporary.ts';

export const NOW = 1_800_000_000;
type Context = Parameters<typeof temporaryDir>[0];

export type Cache = {
  readonly url: string;
  readonly dir: StateDir;
  readonly token: (scope: 'read' | 'push') => string;
  /** Sends a request with the push token. */
  readonly send: (
    method: string,
    path: string,
    body?: Uint8Array | string,
    headers?: Record<string, string>,
  ) => Promise<Response>;
};

/** `change`: what the server gets in place of the state directory, for what happens in between. */
export async function cache(
  t: Context,
  config: Partial<Config> = {},
  change: (dir: StateDir) => StateDir = (dir) => dir,
): Promise<Cache> {
  const made = await makeState(await temporaryDir(t), NOW);
  const dir = { ...made, config: { ...made.config, ...config } };
  const tokens = new Map<string, string>();
  for (const scope of ['read', 'push'] as const) {
    const token = generateToken();
    tokens.set(scope, token);
    const row = { tokenHash: hashToken(token), name: scope, scope, host: null };
    await dir.state.addCredential({ ...row, createdAt: NOW, expiresAt: null });
  }
  const app = buildApp(change(dir), { now: () => NOW });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await dir[Symbol.asyncDispose]();
  });
  const token = (scope: 'read' | 'push'): string => tokens.get(scope) ?? '';
  const send: Cache['send'] = (method, path, body, headers = {}) =>
    fetch(url + path, {
      method,
      body: (body ?? null) as string | null,
      headers: { authorization: `Bearer ${token('push')}`, ...headers },
    });
  return { url, dir, token, send };
}

export type Parcel = { readonly info: NarInfo; readonly nar: Buffer; readonly file: string };

/** A path that is one file, and how a client would describe it. */
export function parcel(seed: string, text: string, references: readonly StorePath[] = []): Parcel {
  const path = storePath(seed);
  const nar = narOfFile(Buffer.from([text, ...references].join('\n')));
  const body = zstdCompressSync(nar);
  const hash = (bytes: Buffer) => formatNarHash(createHash('sha256').update(bytes).digest());
  const fileHash = hash(body);
  const file = `${fileHash.slice(7)}.nar.zst`;
  const info: NarInfo = {
    ...{ path, url: `nar/${file}`, compression: 'zstd', fileHash, fileSize: body.length },
    ...{ narHash: hash(nar), narSize: nar.length, references: [...references].sort() },
    ...{ deriver: null, sigs: [], ca: null },
  };
  return { info, nar: body, file };
}

export const narinfoPath = ({ path }: NarInfo): string => `/${hashPartOf(path)}.narinfo`;

export async function put({ send }: Cache, { info, nar, file }: Parcel): Promise<void> {
  assert.equal((await send('PUT', `/nar/${file}`, nar)).status, 201);
  const answer = await send('PUT', narinfoPath(info), formatNarInfo(info));
  assert.equal(answer.status, 201, await answer.clone().text());
}

export async function refused(answer: Response, status: number, code: string): Promise<void> {
  const text = await answer.text();
  assert.equal(answer.status, status, text);
  assert.equal(JSON.parse(text).error, code, text);
}
