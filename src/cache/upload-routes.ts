// The write side of the cache, as `nix copy --to http://…` uses it: NARs, narinfos, and what goes with
// them. Requests → checked and stored, or refused with a code. Bodies are streams here (the rest of the
// server buffers small ones), with a limit on how slow they may be and none on how long they take.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { FleetError } from '../errors.ts';
import { parseRealisation } from '../nix/realisation.ts';
import type { NixPublicKey } from '../nix/signature.ts';
import { isHashPart, parseStorePath, type StorePath } from '../nix/storepath.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { CachedPath, State } from '../storage/state.ts';
import { addLog } from './build-logs.ts';
import { compressedStream } from './compress.ts';
import { Gate } from './gate.ts';
import { derivationOf, realisationKeyOf } from './metadata-routes.ts';
import { missing } from './missing-reply.ts';
import { decodedBody, type Pace, smallBody } from './upload-body.ts';
import { acceptNar } from './upload-nar.ts';
import { acceptNarInfo } from './upload-narinfo.ts';

export type UploadRoutes = {
  readonly state: State;
  readonly blobs: Blobs;
  /** Refuses a request that may not upload. */
  readonly mayPush: (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;
  /** zstd's, 1 to 19. */
  readonly level: number;
  readonly maxNarBytes: number;
  readonly trustedKeys: readonly NixPublicKey[];
  readonly references: 'exact' | 'declared';
  /** POSIX seconds. */
  readonly now: () => number;
  /** How slow a body may be; tests set it. */
  readonly pace?: Pace;
  /** Told what became of each NAR and narinfo. */
  readonly onUpload?: (what: 'nar' | 'narinfo', result: 'stored' | 'known' | 'refused') => void;
};

/** NARs taken in at a time: each may hold a window of 128 MiB. */
const PARALLEL = 4;
const MAX_WAITING = 200;
const MAX_NARINFO = 1024 * 1024;
const MAX_DROPPED = 64 * 1024 * 1024;
const MAX_LOG = 64 * 1024 * 1024;
const MAX_QUESTION = 4 * 1024 * 1024;
const MAX_ASKED = 20_000;
/** How long a client that was refused in mid-body may go on before the line is cut. */
const DRAIN_MS = 10_000;

export function registerUploadRoutes(app: FastifyInstance, options: UploadRoutes): void {
  app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_request, _payload, done) => done(null, undefined));
    scope.addHook('onError', async (request, reply) => endSoon(request, reply));
    addRoutes(scope, options);
  });
}

function addRoutes(scope: FastifyInstance, options: UploadRoutes): void {
  const { state, blobs, level, maxNarBytes, trustedKeys, references, now, onUpload } = options;
  const pace = options.pace;
  const paced = pace === undefined ? {} : { pace };
  // Nothing has been read of the body by then: who may not upload is told so at once.
  const guarded = { preHandler: options.mayPush };
  const gate = new Gate(PARALLEL);
  let waiting = 0;

  scope.put<{ Params: { file: string } }>('/nar/:file', guarded, async (request, reply) => {
    if (waiting >= MAX_WAITING) {
      throw new FleetError('E_STATE_BUSY', `${MAX_WAITING} uploads are waiting already`);
    }
    waiting += 1;
    try {
      using _place = await gate.enter();
      const to = { state, blobs, level, maxBytes: maxNarBytes, now, ...paced };
      await acceptNar(request.params.file, request.raw, to);
      onUpload?.('nar', 'stored');
    } catch (error) {
      onUpload?.('nar', 'refused');
      throw error;
    } finally {
      waiting -= 1;
    }
    return reply.code(201).send();
  });

  scope.put<{ Params: { hash: string } }>('/:hash.narinfo', guarded, async (request, reply) => {
    try {
      const { hash } = request.params;
      if (!isHashPart(hash)) throw new FleetError('E_STORE_PATH', 'that is no hash part of a path');
      const text = (await smallBody(request.raw, MAX_NARINFO, pace)).toString('utf8');
      const policy = { trustedKeys, references };
      const outcome = await acceptNarInfo(hash, text, { state, blobs }, policy, now());
      onUpload?.('narinfo', outcome === 'added' ? 'stored' : 'known');
      return reply.code(outcome === 'added' ? 201 : 200).send();
    } catch (error) {
      onUpload?.('narinfo', 'refused');
      throw error;
    }
  });

  // Made by ourselves while the NAR arrives: what a client says of it is not believed.
  const drop = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    let size = 0;
    for await (const chunk of decodedBody(request.raw, pace)) {
      size += chunk.length;
      if (size > MAX_DROPPED) throw new FleetError('E_UPLOAD_LIMIT', 'the body is too large');
    }
    return reply.code(200).send();
  };
  scope.put('/:hash.ls', guarded, drop);
  scope.put('/debuginfo/:buildId', guarded, drop);

  scope.put<{ Params: { drv: string } }>('/log/:drv', guarded, async (request, reply) => {
    const drv = derivationOf(request.params.drv);
    if (drv === null) throw new FleetError('E_STORE_PATH', 'that is no name of a derivation');
    const text = capped(decodedBody(request.raw, pace), MAX_LOG);
    const blob = await blobs.put(compressedStream(text, level));
    if (!(await addLog(drv, blob, { state, blobs }, now()))) {
      throw new FleetError(
        'E_STATE_BUSY',
        `the log of ${drv} was removed before it could be named`,
        {
          hint: 'send it again',
        },
      );
    }
    return reply.code(201).send();
  });

  const realisation = async (
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply> => {
    const key = realisationKeyOf(request);
    if (key === null) return missing(reply);
    const text = (await smallBody(request.raw, 64 * 1024, pace)).toString('utf8');
    const record = parseRealisation(key, text);
    if (await state.addRealisation(record, now())) return reply.code(201).send();
    throw new FleetError(
      'E_UPLOAD_REFERENCES_MISSING',
      `${key} names ${record.outPath}, which is not in this cache`,
    );
  };
  scope.put('/realisations/:id', guarded, realisation);
  scope.put('/build-trace-v2/:drv/:output', guarded, realisation);

  scope.post('/v1/cache/missing', guarded, async (request, reply) => {
    const asked = parseQuestion((await smallBody(request.raw, MAX_QUESTION, pace)).toString());
    const there = new Set<StorePath>();
    for (const row of await marked(asked, state, now())) {
      if (row.blob === null || (await blobs.size(row.blob)) === row.blobSize) there.add(row.path);
    }
    return reply.send({ missing: asked.filter((path) => !there.has(path)) });
  });
}

/** Rows of `paths`, kept from now on until the narinfos that will refer to them have come. */
async function marked(paths: StorePath[], state: State, now: number): Promise<CachedPath[]> {
  for (;;) {
    const rows = await state.cachedPaths(paths);
    const found = await state.touchPaths(
      rows.map(({ path }) => path),
      now,
    );
    // Fewer: some went between the question and the mark.
    if (found === rows.length) return rows;
  }
}

/** `{"paths": ["/nix/store/…", …]}` and nothing else. @throws FleetError E_REQUEST, E_STORE_PATH */
function parseQuestion(text: string): StorePath[] {
  const bad = (cause?: unknown) =>
    new FleetError(
      'E_REQUEST',
      `the body must be {"paths": […]}, at most ${MAX_ASKED} store paths`,
      {
        cause,
      },
    );
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw bad(cause);
  }
  const fields = new Map(Object.entries(typeof json === 'object' && json !== null ? json : {}));
  const paths: unknown = fields.get('paths');
  if (fields.size !== 1 || !Array.isArray(paths) || paths.length > MAX_ASKED) throw bad();
  return paths.map((path: unknown) => {
    if (typeof path !== 'string') throw bad();
    return parseStorePath(path);
  });
}

async function* capped(
  chunks: AsyncIterable<Uint8Array>,
  most: number,
): AsyncGenerator<Uint8Array> {
  let size = 0;
  for await (const chunk of chunks) {
    size += chunk.length;
    if (size > most) throw new FleetError('E_UPLOAD_LIMIT', `a log is at most ${most} bytes`);
    yield chunk;
  }
}

/**
 * After a refusal in mid-body: Node reads the rest and forgets it, so that the client, which may read the
 * answer only once it has sent everything, gets to see it; but not for ever.
 */
function endSoon(request: FastifyRequest, reply: FastifyReply): void {
  const { raw } = request;
  if (raw.complete) return;
  reply.header('connection', 'close');
  const timer = setTimeout(() => raw.socket.destroy(), DRAIN_MS);
  timer.unref();
  raw.resume();
  raw.once('close', () => clearTimeout(timer));
}
