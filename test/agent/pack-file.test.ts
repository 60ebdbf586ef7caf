// The file of an update pack, and what is asked for to fill it. Real lines that break are in test/e2e/agent-packs-lines.test.ts.
import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { Client } from '../../src/agent/client.ts';
import { PackFile } from '../../src/agent/pack-file.ts';
import type { PackPlan } from '../../src/agent/pack-plan.ts';
import { formatPackIndex, type PackedPath } from '../../src/delta/pack-index.ts';
import type { Closure, PathInfo } from '../../src/nix/closure.ts';
import { noise } from '../helpers/drafted-packs.ts';
import { serveHttp } from '../helpers/http.ts';
import { bytesOf } from '../helpers/nar.ts';
import { storePath } from '../helpers/paths.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { sendPart, sha256 } from '../helpers/world.ts';

const MIB = 2 ** 20;
const [CLOSURE, BASE] = ['c'.repeat(64), 'd'.repeat(64)];
/** Segments of these sizes, each of a path of its own. */
const SIZES = [100_000, MIB + 5, 10, 300_000, 2 * MIB, 50_000];
const SEGMENTS = SIZES.map((size, i) => noise(`segment ${i}`, size));
const infos = SIZES.map(
  (_, i): PathInfo => ({
    path: storePath(`path-${i}`, `path-${i}`),
    narHash: `sha256:${'0'.repeat(52)}` as PathInfo['narHash'],
    narSize: 1,
    references: [],
  }),
).sort((a, b) => (a.path < b.path ? -1 : 1));
const paths: Closure = {
  toplevel: storePath('path-0', 'path-0'),
  paths: new Map(infos.map((info) => [info.path, info])),
  narBytes: 0,
};

function packWith(segments: readonly Buffer[]): Buffer {
  const given = infos.map((info, segment): PackedPath => {
    const sigs = [`a-1:${Buffer.alloc(64).toString('base64')}`];
    return { kind: 'whole', info, sigs, segment };
  });
  const index = formatPackIndex(
    {
      closure: CLOSURE,
      base: BASE,
      segments: segments.map((bytes) => ({
        bytes: bytes.length,
        sha256: sha256(bytes),
        memory: 1,
      })),
      paths: given,
    },
    paths,
  );
  return Buffer.concat([index, ...segments]);
}

const PACK = packWith(SEGMENTS);
const FIRST = PACK.length - SIZES.reduce((a, b) => a + b);

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

async function opened(answer: Answer, wanted: readonly number[], dir?: string) {
  const stack = new AsyncDisposableStack();
  const temporary = stack.use(await temporaryDirectory());
  const ranges: (string | undefined)[] = [];
  const server = stack.use(
    await serveHttp((request, response) => {
      ranges.push(request.headers.range);
      answer(request, response);
    }),
  );
  const client = stack.use(
    new Client({
      server: server.url,
      token: null,
      leastBytesPerSecond: 1000,
      patienceSeconds: 2,
    }),
  );
  const file = await PackFile.open({
    part: client.part.bind(client),
    dir: dir ?? join(temporary.path, 'pack'),
    closure: CLOSURE,
    base: BASE,
    paths,
    waitSeconds: 0,
    plan: async (): Promise<PackPlan> => ({
      paths: new Map(),
      segments: wanted,
      groups: new Map(),
    }),
  }).catch(async (error: unknown) => {
    await stack.disposeAsync();
    throw error;
  });
  if (file !== null) stack.use(file);
  const body = join(dir ?? join(temporary.path, 'pack'), 'body');
  return { file, ranges, body, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const honest: Answer = (request, response) => sendPart(request, response, PACK);

async function whole(file: PackFile | null, segment: number): Promise<Buffer> {
  assert.ok(file !== null);
  await file.whenThere(segment);
  return await bytesOf(file.chunks(segment));
}

test('all of it: one request', async () => {
  const all = SIZES.map((_, i) => i);
  await using o = await opened(honest, all);
  o.file?.start();
  for (const i of all) assert.ok((await whole(o.file, i)).equals(SEGMENTS[i] ?? Buffer.of()));
  assert.deepEqual(o.ranges, [undefined]);
  assert.equal(o.file?.received, PACK.length);
  assert.equal((await stat(o.body)).size, PACK.length);
});

test('what is not wanted is read over where it is short, and not asked for where it is long', async () => {
  await using o = await opened(honest, [0, 2, 3, 5]);
  o.file?.start();
  for (const i of [0, 2, 3, 5]) {
    assert.ok((await whole(o.file, i)).equals(SEGMENTS[i] ?? Buffer.of()));
  }
  const startOf = (segment: number): number =>
    SIZES.slice(0, segment).reduce((a, b) => a + b, FIRST);
  assert.deepEqual(o.ranges, [
    undefined,
    `bytes=${startOf(2)}-${startOf(4) - 1}`,
    `bytes=${startOf(5)}-${PACK.length - 1}`,
  ]);
  assert.ok((o.file?.received ?? 0) < PACK.length - 2 * MIB);
  // Holes take no disk.
  assert.ok((await stat(o.body)).blocks * 512 < 600_000);
});

test('nothing more than the index says is written or waited for', async () => {
  const endless: Answer = (_, response) => {
    response.setHeader('etag', '"endless"');
    response.write(PACK);
    const timer = setInterval(() => response.write(Buffer.alloc(10_000)), 1);
    response.on('close', () => clearInterval(timer));
  };
  await using o = await opened(
    endless,
    SIZES.map((_, i) => i),
  );
  o.file?.start();
  await whole(o.file, 5);
  assert.equal((await stat(o.body)).size, PACK.length);
});

test('a wrong digest is one segment’s, and the others are good', async () => {
  const spoilt = Buffer.from(PACK);
  spoilt.writeUInt8(spoilt.readUInt8(FIRST + 5) ^ 1, FIRST + 5);
  await using o = await opened((request, response) => sendPart(request, response, spoilt), [0, 3]);
  o.file?.start();
  assert.ok((await whole(o.file, 3)).equals(SEGMENTS[3] ?? Buffer.of()));
  await assert.rejects(whole(o.file, 0), { code: 'E_PACK_BAD' });
});

test('no ETag, a weak one, and an index that is too long: none is used', async () => {
  const plain: Answer = (_, response) => void response.end(PACK);
  const weak: Answer = (_, response) => void response.setHeader('etag', 'W/"x"').end(PACK);
  const long: Answer = (_, response) => {
    response.setHeader('etag', '"x"').write('fleet-pack/1 20000000\n');
    response.end(Buffer.alloc(20_000_000));
  };
  for (const answer of [plain, weak, long]) {
    await assert.rejects(opened(answer, [0]), { code: 'E_PACK_BAD' });
  }
});

test('an index that never comes to its end is not asked for without end', async () => {
  let asked = 0;
  const breaking: Answer = (_, response) => {
    asked += 1;
    response.setHeader('etag', '"x"').write('fleet-pack/1 1000000\n');
    response.write(Buffer.alloc(200_000), () => response.destroy());
  };
  await assert.rejects(opened(breaking, [0]), { code: 'E_SERVER_UNREACHABLE' });
  assert.equal(asked, 5);
});

test('another pack in the middle of it: what is lacking does not come', async () => {
  let asked = 0;
  const changing: Answer = (request, response) =>
    asked++ === 0
      ? sendPart(request, response, PACK)
      : sendPart(request, response, packWith([...SEGMENTS].reverse()));
  await using o = await opened(changing, [0, 5]);
  o.file?.start();
  assert.ok((await whole(o.file, 0)).equals(SEGMENTS[0] ?? Buffer.of()));
  await assert.rejects(whole(o.file, 5), { code: 'E_PACK_BAD' });
});

test('what is there is not asked for, also in another run, and a changed ETag begins anew', async () => {
  await using dir = await temporaryDirectory();
  const place = join(dir.path, 'pack');
  {
    await using o = await opened(honest, [0, 1], place);
    o.file?.start();
    await whole(o.file, 1);
  }
  {
    await using o = await opened(honest, [0, 1], place);
    o.file?.start();
    assert.ok((await whole(o.file, 0)).equals(SEGMENTS[0] ?? Buffer.of()));
    assert.deepEqual(o.ranges, []);
  }
  const other = packWith([...SEGMENTS].reverse());
  await using o = await opened(
    (request, response) => sendPart(request, response, other),
    [0, 3],
    place,
  );
  o.file?.start();
  assert.ok((await whole(o.file, 3)).equals(SEGMENTS[2] ?? Buffer.of()));
  // By range, for which all of it came; and the rest of that, behind the gap.
  assert.equal(o.ranges.length, 2);
});

test('none at all', async () => {
  await using o = await opened((_, response) => void response.writeHead(404).end(), [0]);
  assert.equal(o.file, null);
});
