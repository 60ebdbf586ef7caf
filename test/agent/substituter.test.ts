// The loopback cache as Nix sees it; what it refuses to pass on is in test/e2e/agent-refusals.test.ts.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { Client } from '../../src/agent/client.ts';
import { Substituter } from '../../src/agent/substituter.ts';
import { Supply } from '../../src/agent/supply.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { formatNarInfo, type NarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import { generateNixKey, nixPublicKeyOf, signPath } from '../../src/nix/signature.ts';
import { hashPartOf, parseStorePath } from '../../src/nix/storepath.ts';
import { serveHttp } from '../helpers/http.ts';

/** The NAR of a regular file: nix-archive-1, as the Nix manual spells it. */
function narOf(contents: Buffer): Buffer {
  const word = (value: Buffer | string): Buffer => {
    const bytes = Buffer.from(value);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    return Buffer.concat([length, bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)]);
  };
  const tags = ['nix-archive-1', '(', 'type', 'regular', 'contents'].map(word);
  return Buffer.concat([...tags, word(contents), word(')')]);
}

const NAR = narOf(Buffer.alloc(3_000_000, 'some text '));
const PATH = parseStorePath(`/nix/store/${'a'.repeat(32)}-file`);
const KEY = generateNixKey('test-1');
const SIGNED = {
  path: PATH,
  narHash: formatNarHash(createHash('sha256').update(NAR).digest()),
  narSize: NAR.length,
  references: [],
};
const INFO: NarInfo = {
  ...SIGNED,
  url: 'nar/x.nar.zst',
  compression: 'zstd',
  fileHash: formatNarHash(Buffer.alloc(32)),
  fileSize: 5,
  deriver: PATH,
  sigs: [signPath(SIGNED, KEY)],
  ca: 'fixed:made-up',
};

async function open(body: Buffer) {
  const stack = new AsyncDisposableStack();
  const asked: (string | undefined)[] = [];
  const server = stack.use(
    await serveHttp((request, response) => {
      asked.push(request.headers.authorization);
      const isInfo = request.url?.endsWith('.narinfo') === true;
      response.end(isInfo ? formatNarInfo(INFO) : body);
    }),
  );
  const client = stack.use(
    new Client({
      server: server.url,
      token: 'fleet_hidden',
      leastBytesPerSecond: 1000,
      patienceSeconds: 5,
    }),
  );
  const supply = await Supply.open(client, [SIGNED], [nixPublicKeyOf(KEY)]);
  asked.length = 0;
  const substituter = stack.use(await Substituter.open(supply));
  return { substituter, supply, asked, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

test('Nix gets what is signed, and a NAR that is unpacked', async () => {
  await using s = await open(zstdCompressSync(NAR));
  const { url } = s.substituter;
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/[0-9a-f]{64}$/);
  const info = await (await fetch(`${url}/nix-cache-info`)).text();
  assert.match(info, /^StoreDir: \/nix\/store$/m);
  const narinfo = parseNarInfo(await (await fetch(`${url}/${hashPartOf(PATH)}.narinfo`)).text());
  assert.deepEqual(narinfo, {
    ...INFO,
    url: `${hashPartOf(PATH)}.nar`,
    compression: 'none',
    fileHash: null,
    fileSize: null,
    deriver: null,
    ca: null,
  });
  const nar = Buffer.from(await (await fetch(`${url}/${narinfo.url}`)).arrayBuffer());
  assert.ok(nar.equals(NAR));
  assert.ok(s.supply.received > 0 && s.supply.received < NAR.length);
  assert.deepEqual(s.asked, ['Bearer fleet_hidden']);
});

test('all else is missing: other paths, other prefixes, other verbs', async () => {
  await using s = await open(zstdCompressSync(NAR));
  const { url } = s.substituter;
  const hash = hashPartOf(PATH);
  const base = new URL(url).origin;
  const missing = [
    `${url}/${'b'.repeat(32)}.narinfo`,
    `${url}/${hash}.ls`,
    `${url}/../${hash}.narinfo`,
    `${url}x/${hash}.narinfo`,
    `${base}/${hash}.narinfo`,
    `${base}/nix-cache-info`,
    `${url}/`,
    base,
  ];
  for (const one of missing) assert.equal((await fetch(one)).status, 404, one);
  assert.equal((await fetch(`${url}/nix-cache-info`, { method: 'PUT', body: 'x' })).status, 405);
  assert.equal((await fetch(`${url}/${hash}.narinfo`, { method: 'HEAD' })).status, 200);
  assert.deepEqual(s.asked, []);
});

test('wrong bytes never come to an end, and end the update', async () => {
  const other = Buffer.from(NAR);
  other.writeUInt8(other.readUInt8(NAR.length - 100) ^ 1, NAR.length - 100);
  await using s = await open(zstdCompressSync(other));
  const { url, signal } = s.substituter;
  await assert.rejects(async () => {
    await (await fetch(`${url}/${hashPartOf(PATH)}.nar`)).arrayBuffer();
  });
  assert.ok(signal.aborted);
  assert.equal(s.substituter.failure?.code, 'E_NAR_REFUSED');
  assert.match(s.substituter.failure?.message ?? '', new RegExp(PATH));
});

test('when the update is over nobody answers', async () => {
  let url: string;
  {
    await using s = await open(zstdCompressSync(NAR));
    url = s.substituter.url;
  }
  await assert.rejects(fetch(`${url}/nix-cache-info`));
});
