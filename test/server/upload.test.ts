// Uploads through the whole server, over real sockets: what `nix copy` does, and every way in which what
// comes does not fit. A refusal changes nothing.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { brotliCompressSync, gzipSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import Fastify from 'fastify';
import { registerUploadRoutes } from '../../src/cache/upload-routes.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { formatNarInfo, type NarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import {
  formatNixPublicKey,
  generateNixKey,
  nixPublicKeyOf,
  signPath,
} from '../../src/nix/signature.ts';
import { hashPartOf, parseStorePath } from '../../src/nix/storepath.ts';
import { storePath } from '../helpers/paths.ts';
import { narOfFile } from '../helpers/state.ts';
import { cache, NOW, narinfoPath, parcel, put, refused } from '../helpers/uploads.ts';

test('a NAR and its narinfo come in, and are served in our form, signed by us', async (t) => {
  const made = await cache(t);
  const one = parcel('one', 'first');
  const two = parcel('two', 'second', [one.info.path, storePath('two')]);
  await put(made, one);
  await put(made, two);
  const served = await made.send('GET', narinfoPath(two.info));
  const info = parseNarInfo(await served.text());
  assert.deepEqual(info.references, two.info.references);
  assert.equal(info.sigs.length, 1);
  const nar = Buffer.from(await (await made.send('GET', `/${info.url}`)).arrayBuffer());
  assert.deepEqual(zstdDecompressSync(nar), zstdDecompressSync(two.nar));
  const listing = await made.send('GET', `/${hashPartOf(two.info.path)}.ls`);
  assert.equal(
    ((await listing.json()) as { root: { type: string; size: number } }).root.type,
    'regular',
  );
  // Once more, by another client: nothing to do.
  assert.equal(
    (await made.send('PUT', narinfoPath(two.info), formatNarInfo(two.info))).status,
    200,
  );
});

test('every narinfo that does not fit is refused with its own code, and changes nothing', async (t) => {
  const made = await cache(t);
  const known = parcel('known', 'here already');
  await put(made, known);
  const absent = storePath('absent');
  const good = parcel('good', 'text', [known.info.path]);
  assert.equal((await made.send('PUT', `/nar/${good.file}`, good.nar)).status, 201);
  const flat = createHash('sha256').update('other').digest('hex');
  const cases: [string, Partial<NarInfo> | string, number, string][] = [
    ['another NarHash', { narHash: known.info.narHash }, 422, 'E_UPLOAD_MISMATCH'],
    ['another NarSize', { narSize: good.info.narSize + 1 }, 422, 'E_UPLOAD_MISMATCH'],
    ['another FileHash', { fileHash: known.info.fileHash }, 422, 'E_UPLOAD_MISMATCH'],
    ['another FileSize', { fileSize: 1 }, 422, 'E_UPLOAD_MISMATCH'],
    ['another compression', { compression: 'xz' }, 422, 'E_UPLOAD_MISMATCH'],
    ['a URL elsewhere', { url: 'elsewhere.nar.zst' }, 422, 'E_UPLOAD_MISMATCH'],
    ['a NAR that never came', { url: 'nar/never.nar.zst' }, 422, 'E_UPLOAD_NO_NAR'],
    [
      'a reference it does not mention',
      { references: [absent, known.info.path].sort() },
      422,
      'E_UPLOAD_REFERENCES',
    ],
    ['a mentioned path left out', { references: [] }, 422, 'E_UPLOAD_REFERENCES'],
    ['a false flat address', { ca: `fixed:sha256:${flat}` }, 422, 'E_UPLOAD_CA'],
    ['a false recursive address', { ca: `fixed:r:sha256:${flat}` }, 422, 'E_UPLOAD_CA'],
    ['a false text address', { ca: `text:sha256:${flat}` }, 422, 'E_UPLOAD_CA'],
    ['a malformed signature', 'Sig: nonsense\n', 422, 'E_NARINFO'],
    ['a URL with a scheme', { url: 'file:///etc/passwd' }, 422, 'E_NARINFO'],
    ['another path', { path: absent }, 422, 'E_NARINFO'],
    ['no narinfo at all', 'hello', 422, 'E_NARINFO'],
  ];
  for (const [name, change, status, code] of cases) {
    const text =
      typeof change !== 'string'
        ? formatNarInfo({ ...good.info, ...change })
        : change === 'hello'
          ? change
          : formatNarInfo(good.info) + change;
    const answer = await made.send('PUT', narinfoPath(good.info), text);
    await t.test(name, () => refused(answer, status, code));
    assert.equal((await made.send('GET', narinfoPath(good.info))).status, 404, name);
  }
  // The NAR waits for its narinfo all the while.
  assert.equal((await made.send('HEAD', `/nar/${good.file}`)).status, 200);
  await put(made, good);
});

test('references come before what refers to them, and a path keeps its first bytes', async (t) => {
  const made = await cache(t);
  const library = parcel('library', 'a library');
  const program = parcel('program', 'a program', [library.info.path]);
  assert.equal((await made.send('PUT', `/nar/${program.file}`, program.nar)).status, 201);
  const text = formatNarInfo(program.info);
  await refused(
    await made.send('PUT', narinfoPath(program.info), text),
    422,
    'E_UPLOAD_REFERENCES_MISSING',
  );
  await put(made, library);
  assert.equal((await made.send('PUT', narinfoPath(program.info), text)).status, 201);

  const other = parcel('library', 'other bytes');
  assert.equal((await made.send('PUT', `/nar/${other.file}`, other.nar)).status, 201);
  const again = await made.send('PUT', narinfoPath(other.info), formatNarInfo(other.info));
  await refused(again, 409, 'E_UPLOAD_CONFLICT');
  const served = parseNarInfo(await (await made.send('GET', narinfoPath(library.info))).text());
  assert.equal(served.narHash, library.info.narHash);
});

test('a mention that is no reference is allowed where the configuration says so', async (t) => {
  const made = await cache(t, { uploadReferences: 'declared' });
  const known = parcel('known', 'here');
  const manual = parcel('manual', 'see', [known.info.path]);
  await put(made, known);
  await put(made, { ...manual, info: { ...manual.info, references: [] } });
});

test('where keys are asked for, one of them must have signed; foreign signatures are kept', async (t) => {
  const [trusted, stranger] = [generateNixKey('trusted-1'), generateNixKey('stranger-1')];
  const made = await cache(t, { uploadKeys: [formatNixPublicKey(nixPublicKeyOf(trusted))] });
  const one = parcel('one', 'text');
  assert.equal((await made.send('PUT', `/nar/${one.file}`, one.nar)).status, 201);
  const impostor = { ...stranger, name: 'trusted-1' };
  for (const sigs of [[], [signPath(one.info, stranger)], [signPath(one.info, impostor)]]) {
    const answer = await made.send(
      'PUT',
      narinfoPath(one.info),
      formatNarInfo({ ...one.info, sigs }),
    );
    const said = await answer.clone().text();
    await refused(answer, 422, 'E_UPLOAD_UNSIGNED');
    assert.match(said, /trusted-1/);
  }
  const sigs = [signPath(one.info, stranger), signPath(one.info, trusted)];
  await put(made, { ...one, info: { ...one.info, sigs } });
  const served = parseNarInfo(await (await made.send('GET', narinfoPath(one.info))).text());
  assert.deepEqual(served.sigs.slice(1), sigs);
});

test('a content address that is right is kept', async (t) => {
  const made = await cache(t);
  const contents = 'hello\n';
  const digest = createHash('sha256').update(contents).digest();
  // nix-store --add-fixed sha256 hello.txt
  const one = parcel('x', contents);
  const ca = `fixed:${formatNarHash(digest)}`;
  const inner = createHash('sha256')
    .update(`fixed:out:sha256:${digest.toString('hex')}:`)
    .digest('hex');
  const { encodeBase32 } = await import('../../src/nix/base32.ts');
  const folded = new Uint8Array(20);
  const outer = createHash('sha256')
    .update(`output:out:sha256:${inner}:/nix/store:hello.txt`)
    .digest();
  for (const [i, byte] of outer.entries()) folded[i % 20] = (folded[i % 20] ?? 0) ^ byte;
  const path = parseStorePath(`/nix/store/${encodeBase32(folded)}-hello.txt`);
  await put(made, { ...one, info: { ...one.info, path, ca } });
  assert.equal(
    parseNarInfo(await (await made.send('GET', narinfoPath({ ...one.info, path }))).text()).ca,
    ca,
  );
});

test('a NAR that is none, that is cut, too large, or not what its name says, leaves nothing', async (t) => {
  const made = await cache(t, { uploadMaxBytes: 100_000 });
  const { nar, file } = parcel('one', 'text');
  const raw = zstdDecompressSync(nar);
  const large = narOfFile(Buffer.alloc(200_000));
  const cases: [string, string, Uint8Array, Record<string, string>, number, string][] = [
    ['no NAR', 'a.nar', Buffer.from('hello'), {}, 422, 'E_UPLOAD_NAR'],
    ['empty', 'a.nar', Buffer.alloc(0), {}, 422, 'E_UPLOAD_NAR'],
    ['cut', 'a.nar', raw.subarray(0, -8), {}, 422, 'E_UPLOAD_NAR'],
    ['more after it', 'a.nar', Buffer.concat([raw, Buffer.alloc(8)]), {}, 422, 'E_UPLOAD_NAR'],
    ['cut zstd', 'a.nar.zst', nar.subarray(0, -3), {}, 422, 'E_UPLOAD_NAR'],
    ['no zstd', 'a.nar.zst', raw, {}, 422, 'E_UPLOAD_NAR'],
    ['no xz', 'a.nar.xz', raw, {}, 422, 'E_UPLOAD_NAR'],
    ['another hash', file, zstdCompressSync(large.subarray(0, 0)), {}, 422, 'E_UPLOAD_NAR'],
    ['a name that lies', `${'0'.repeat(52)}.nar.zst`, nar, {}, 422, 'E_UPLOAD_MISMATCH'],
    ['too large', 'a.nar.zst', zstdCompressSync(large), {}, 413, 'E_UPLOAD_LIMIT'],
    ['a bomb', 'a.nar.zst', zstdCompressSync(Buffer.alloc(50_000_000)), {}, 413, 'E_UPLOAD_LIMIT'],
    ['bzip2', 'a.nar.bz2', nar, {}, 415, 'E_UPLOAD_COMPRESSION'],
    [
      'a coding on top',
      'a.nar',
      gzipSync(raw),
      { 'content-encoding': 'gzip' },
      415,
      'E_UPLOAD_COMPRESSION',
    ],
    ['a strange name', 'a%20b.nar', raw, {}, 422, 'E_UPLOAD_MISMATCH'],
  ];
  for (const [name, target, body, headers, status, code] of cases) {
    const answer = await made.send('PUT', `/nar/${target}`, body, headers);
    await t.test(name, () => refused(answer, status, code));
    assert.equal((await made.send('HEAD', `/nar/${target}`)).status, 404, name);
  }
  const blobs = await readdir(join(made.dir.layout.blobs), {
    recursive: true,
    withFileTypes: true,
  });
  const files = blobs.filter((entry) => entry.isFile());
  // Only what was refused after it had been stored whole is there still, as nobody's.
  assert.ok(files.length <= 1, files.map(({ name }) => name).join());
  assert.deepEqual(await readdir(join(made.dir.layout.blobs, 'tmp')), []);
});

test('who may not upload is told before the body is sent', async (t) => {
  const made = await cache(t);
  const { file, nar } = parcel('one', 'text');
  for (const [authorization, status, code] of [
    [undefined, 401, 'E_UNAUTHORIZED'],
    ['Bearer wrong', 401, 'E_UNAUTHORIZED'],
    [`Bearer ${made.token('read')}`, 403, 'E_FORBIDDEN'],
  ] as const) {
    const answer = await fetch(`${made.url}/nar/${file}`, {
      method: 'PUT',
      body: nar,
      headers: authorization === undefined ? {} : { authorization },
    });
    await refused(answer, status, code);
    // A body of which not one byte is ever sent must not be waited for.
    const early = await new Promise<number>((resolve, reject) => {
      const request = httpRequest(`${made.url}/nar/${file}`, {
        method: 'PUT',
        headers: {
          'content-length': 1_000_000,
          ...(authorization === undefined ? {} : { authorization }),
        },
      });
      request.on('response', (response) => {
        resolve(response.statusCode ?? 0);
        request.destroy();
      });
      request.on('error', reject);
      request.flushHeaders();
    });
    assert.equal(early, status);
  }
});

test('Expect: 100-continue is answered, and then the upload goes on', async (t) => {
  const made = await cache(t);
  const { file, nar } = parcel('one', 'text');
  const status = await new Promise<number>((resolve, reject) => {
    const request = httpRequest(`${made.url}/nar/${file}`, {
      method: 'PUT',
      headers: {
        authorization: `Bearer ${made.token('push')}`,
        'content-length': nar.length,
        expect: '100-continue',
      },
    });
    request.on('continue', () => request.end(nar));
    request.on('response', (response) => resolve(response.statusCode ?? 0));
    request.on('error', reject);
    request.flushHeaders();
  });
  assert.equal(status, 201);
});

test('an upload that is cut leaves nothing, and can be sent again', async (t) => {
  const made = await cache(t);
  const big = parcel('big', 'x'.repeat(400_000));
  const { port } = new URL(made.url);
  const socket = connect(Number(port), '127.0.0.1');
  socket.write(
    `PUT /nar/${big.file} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${made.token('push')}\r\nContent-Length: ${big.nar.length}\r\n\r\n`,
  );
  socket.write(big.nar.subarray(0, big.nar.length - 5));
  await sleep(200);
  socket.destroy();
  const tmp = join(made.dir.layout.blobs, 'tmp');
  for (let i = 0; i < 100 && (await readdir(tmp)).length > 0; i++) await sleep(20);
  assert.deepEqual(await readdir(tmp), []);
  assert.equal((await made.send('HEAD', `/nar/${big.file}`)).status, 404);
  await put(made, big);
});

test('a path whose bytes were lost is healed by pushing it again, and keeps its signatures', async (t) => {
  const made = await cache(t);
  const one = parcel('one', 'text');
  const sigs = [signPath(one.info, generateNixKey('foreign-1'))];
  await put(made, { ...one, info: { ...one.info, sigs } });
  const row = await made.dir.state.cachedPath(hashPartOf(one.info.path));
  assert.ok(row?.blob != null);
  // As a NAR that was stored in another way has it: other compressed bytes, and now lost.
  const other = await made.dir.blobs.put([Buffer.from('other bytes')]);
  await made.dir.state.addCachedPaths([{ ...row, blob: other.id, blobSize: other.size }], NOW);
  await made.dir.blobs.delete(other.id);
  assert.equal((await made.send('GET', narinfoPath(one.info))).status, 404);
  assert.equal((await made.send('PUT', `/nar/${one.file}`, one.nar)).status, 201);
  assert.equal(
    (await made.send('PUT', narinfoPath(one.info), formatNarInfo(one.info))).status,
    200,
  );
  const served = parseNarInfo(await (await made.send('GET', narinfoPath(one.info))).text());
  assert.equal((await made.send('GET', `/${served.url}`)).status, 200);
  assert.deepEqual(served.sigs.slice(1), sigs);
});

test('two clients at once with one path both succeed', async (t) => {
  const made = await cache(t);
  const one = parcel('one', 'y'.repeat(100_000));
  const client = async (): Promise<number> => {
    assert.equal((await made.send('PUT', `/nar/${one.file}`, one.nar)).status, 201);
    return (await made.send('PUT', narinfoPath(one.info), formatNarInfo(one.info))).status;
  };
  for (const status of await Promise.all([client(), client(), client()])) {
    assert.ok(status === 200 || status === 201, String(status));
  }
  assert.equal((await made.send('GET', narinfoPath(one.info))).status, 200);
});

test('a body that stands still is given up', async (t) => {
  const { dir } = await cache(t);
  const app = Fastify();
  registerUploadRoutes(app, {
    ...{ state: dir.state, blobs: dir.blobs, mayPush: async () => undefined, level: 1 },
    ...{ maxNarBytes: 1e9, trustedKeys: [], references: 'exact', now: () => NOW },
    pace: { bytes: 100, ms: 200 },
  });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => app.close());
  for (const path of ['/nar/a.nar', `/${'0'.repeat(32)}.narinfo`, `/log/${'0'.repeat(32)}-x.drv`]) {
    const ended = await new Promise<string>((resolve) => {
      const request = httpRequest(url + path, {
        method: 'PUT',
        headers: { 'content-length': 1000 },
      });
      request.on('response', (response) => resolve(`answered ${response.statusCode}`));
      request.on('error', (error) => resolve(`ended: ${error.message}`));
      request.write('slow');
    });
    assert.match(ended, /ended|answered 4/, path);
  }
});

test('metadata may be encoded; what encodes it otherwise is refused', async (t) => {
  const made = await cache(t);
  for (const [seed, coding, encode] of [
    ['a', 'gzip', gzipSync],
    ['b', 'zstd', zstdCompressSync],
    ['c', 'br', brotliCompressSync],
  ] as const) {
    const one = parcel(seed, seed);
    assert.equal((await made.send('PUT', `/nar/${one.file}`, one.nar)).status, 201);
    const body = encode(Buffer.from(formatNarInfo(one.info)));
    const headers = { 'content-encoding': coding };
    assert.equal((await made.send('PUT', narinfoPath(one.info), body, headers)).status, 201);
    await refused(await made.send('PUT', narinfoPath(one.info), 'x', headers), 422, 'E_UPLOAD_NAR');
  }
  const path = `/${'0'.repeat(32)}.narinfo`;
  await refused(
    await made.send('PUT', path, 'x', { 'content-encoding': 'compress' }),
    415,
    'E_UPLOAD_COMPRESSION',
  );
  const bomb = gzipSync(Buffer.alloc(20_000_000));
  await refused(
    await made.send('PUT', path, bomb, { 'content-encoding': 'gzip' }),
    413,
    'E_UPLOAD_LIMIT',
  );
  await refused(await made.send('PUT', '/nonsense.narinfo', 'x'), 422, 'E_STORE_PATH');
});

test('logs and realisations come back; listings and debug indexes are dropped', async (t) => {
  const made = await cache(t);
  const one = parcel('one', 'text');
  await put(made, one);
  const log = '/log/00000000000000000000000000000000-x.drv';
  const headers = { 'content-encoding': 'gzip' };
  assert.equal((await made.send('PUT', log, gzipSync('what happened\n'), headers)).status, 201);
  assert.equal(await (await made.send('GET', log)).text(), 'what happened\n');
  await refused(await made.send('PUT', '/log/x.drv', 'x'), 422, 'E_STORE_PATH');

  const id = `sha256:${'a'.repeat(64)}!out`;
  const outPath = one.info.path.slice('/nix/store/'.length);
  const json = { id, outPath, signatures: [], dependentRealisations: {} };
  const address = `/realisations/${id}.doi`;
  assert.equal((await made.send('PUT', address, JSON.stringify(json))).status, 201);
  assert.deepEqual(await (await made.send('GET', address)).json(), json);
  await refused(await made.send('PUT', address, '{}'), 422, 'E_REALISATION');
  const gone = JSON.stringify({ ...json, outPath: storePath('gone').slice(11) });
  await refused(await made.send('PUT', address, gone), 422, 'E_UPLOAD_REFERENCES_MISSING');

  assert.equal(
    (await made.send('PUT', `/${hashPartOf(one.info.path)}.ls`, '{"lies":1}')).status,
    200,
  );
  assert.equal((await made.send('PUT', `/debuginfo/${'a'.repeat(40)}`, '{}')).status, 200);
  assert.equal((await made.send('GET', `/debuginfo/${'a'.repeat(40)}`)).status, 404);
  const listing = await made.send('GET', `/${hashPartOf(one.info.path)}.ls`);
  assert.equal(((await listing.json()) as { root: { type: string; size: number } }).root.size, 4);
});

test('which paths are missing is answered strictly', async (t) => {
  const made = await cache(t);
  const one = parcel('one', 'text');
  await put(made, one);
  const ask = (body: string) => made.send('POST', '/v1/cache/missing', body);
  const absent = storePath('absent');
  const answer = await ask(JSON.stringify({ paths: [one.info.path, absent] }));
  assert.deepEqual(await answer.json(), { missing: [absent] });
  for (const [body, status] of [
    ['', 400],
    ['{', 400],
    ['null', 400],
    ['[]', 400],
    ['{"paths":{}}', 400],
    ['{"paths":[],"more":1}', 400],
    ['{"paths":[],"__proto__":{}}', 400],
    ['{"paths":[1]}', 400],
    ['{"paths":["/etc/passwd"]}', 422],
    ['['.repeat(10_000), 400],
    [JSON.stringify({ paths: new Array(20_001).fill(absent) }), 400],
    [`{"paths":["${'x'.repeat(5_000_000)}"]}`, 413],
  ] as const) {
    assert.equal((await ask(body)).status, status, body.slice(0, 40));
  }
});
