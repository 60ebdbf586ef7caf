// A small fleet in one process: keys, root, systems that the real Nix built, and a server for them that
// the test can make misbehave. What it serves is made with the real modules; only the HTTP is its own,
// because the real server refuses to lie.
import { createHash, randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { zstdCompressSync } from 'node:zlib';
import { generateSecretKey } from '../../src/ed25519.ts';
import { type PublicKey, publicKeyOfSecret } from '../../src/keyfile.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { type ApprovalFile, makeApproval, proveApproval } from '../../src/manifest/approval.ts';
import { MAX_ENVELOPE_BYTES, parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { formatEnrolFile } from '../../src/manifest/enrol-file.ts';
import {
  type Decommission,
  type Deployment,
  formatManifest,
  type Manifest,
  manifestDigest,
} from '../../src/manifest/manifest.ts';
import { type FreshText, signNonceProof } from '../../src/manifest/nonce-proof.ts';
import {
  AGENT_VERSION,
  formatOffer,
  formatProof,
  MAX_OFFER_ROOTS,
  OFFER_VERSION,
  type Offer,
} from '../../src/manifest/offer.ts';
import { type Receipt, verifyReceipt } from '../../src/manifest/receipt.ts';
import {
  formatRoot,
  makeInitialRoot,
  ROOT_PAYLOAD_TYPE,
  type Root,
} from '../../src/manifest/root.ts';
import { rootDigest } from '../../src/manifest/snapshot.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { formatClosure, type PathInfo } from '../../src/nix/closure.ts';
import { formatNarInfo, type NarInfo } from '../../src/nix/narinfo.ts';
import {
  formatNixPublicKey,
  generateNixKey,
  type NixSecretKey,
  nixPublicKeyOf,
  signPath,
} from '../../src/nix/signature.ts';
import { hashPartOf, parseStorePath } from '../../src/nix/storepath.ts';
import { parseNote } from '../../src/tlog/note.ts';
import { serveHttp } from './http.ts';
import { type LogKeys, TestLog } from './log.ts';
import { type BuiltSystem, SYSTEM } from './systems.ts';

export const FLEET = 'world.test';
export const HOST = 'alpha';

/** Returns true when it has answered. */
export type Misbehaviour = (
  path: string,
  response: ServerResponse,
  request: IncomingMessage,
) => boolean;

export class World implements AsyncDisposable {
  readonly dir: string;
  readonly rootKey = generateSecretKey();
  readonly directorKey = generateSecretKey();
  readonly releaseKeys = [generateSecretKey(), generateSecretKey(), generateSecretKey()];
  readonly logKeys: LogKeys = { log: generateSecretKey(), freshness: generateSecretKey() };
  readonly nonceKey = generateSecretKey();
  log = new TestLog();
  /** When the log's checkpoint was said to be the newest; null: now, always. */
  freshAt: number | null = null;
  readonly cacheKey: NixSecretKey = generateNixKey('world.test-1');
  readonly secret = randomBytes(32).toString('base64url');
  readonly token = `fleet_${randomBytes(32).toString('base64url')}`;
  /** Envelopes of all roots, the first first. */
  readonly roots: string[] = [];
  root: Root;
  manifest: string | null = null;
  approval: ApprovalFile | null = null;
  closures = new Map<string, Buffer>();
  narinfos = new Map<string, string>();
  nars = new Map<string, Buffer>();
  /** Update packs, by what is asked for: `/v1/packs/CLOSURE?base=BASE`. */
  packs = new Map<string, Buffer>();
  misbehave: Misbehaviour = () => false;
  /** What is sent as the offer, under the ETag of the honest one. */
  distort: (offer: string) => string = (offer) => offer;
  /** What is sent as the proof of time for a nonce; null: there is none. */
  prove: (nonce: string) => string | null = (nonce) => this.proofOf({ nonce });
  /** What agents count by, in seconds. */
  uptime = 1000;
  /** Seconds since 1970; the agents' clock too. */
  now = Math.floor(Date.now() / 1000) - 7200;
  readonly reports: Receipt[] = [];
  readonly requests: string[] = [];
  url = '';
  #hostKey: PublicKey | null = null;
  #head: string | null = null;
  /** Digests of all receipts that were stored. */
  readonly #taken = new Set<string>();
  #sequence = 0;
  #close: (() => Promise<void>) | null = null;

  private constructor(dir: string) {
    this.dir = dir;
    this.root = makeInitialRoot({
      fleet: FLEET,
      now: this.now - 1000,
      keys: {
        root: [publicKeyOfSecret(this.rootKey)],
        release: this.releaseKeys.map(publicKeyOfSecret),
        director: [publicKeyOfSecret(this.directorKey)],
        log: publicKeyOfSecret(this.logKeys.log),
        freshness: publicKeyOfSecret(this.logKeys.freshness),
        nonce: publicKeyOfSecret(this.nonceKey),
        cache: [formatNixPublicKey(nixPublicKeyOf(this.cacheKey))],
      },
    });
    this.roots.push(this.signRoot(this.root));
    this.append([this.roots[0] ?? '']);
  }

  /** Appends entries and a snapshot to the log. */
  append(entries: readonly string[]): void {
    const sha256 = rootDigest(parseEnvelope(this.roots.at(-1) ?? '').payload);
    this.log.publish(entries, { version: this.root.version, sha256 });
  }

  static async open(dir: string): Promise<World> {
    const world = new World(dir);
    const server = await serveHttp((request, response) => {
      world.#answer(request, response).catch(() => response.destroy());
    });
    world.url = server.url;
    world.#close = async () => await server[Symbol.asyncDispose]();
    return world;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** Nobody is there any more. */
  async stop(): Promise<void> {
    await this.#close?.();
    this.#close = null;
  }

  signRoot(root: Root, keys: readonly Uint8Array[] = [this.rootKey]): string {
    return signEnvelope(ROOT_PAYLOAD_TYPE, formatRoot(root), keys);
  }

  /** Replaces the newest root by one that differs in `changes`. */
  rotate(changes: Partial<Root>): void {
    this.root = { ...this.root, version: this.root.version + 1, ...changes };
    this.roots.push(this.signRoot(this.root));
    this.append([this.roots.at(-1) ?? '']);
  }

  /** The manifest of `system`, one sequence further, with `changes`. */
  manifestOf(system: BuiltSystem, changes: Partial<Deployment> = {}): Deployment {
    const closure = formatClosure(system.infos);
    const toplevel = system.infos.find(({ path }) => path === system.toplevel);
    if (toplevel === undefined) throw new Error('no toplevel');
    this.#sequence = changes.sequence ?? this.#sequence + 1;
    return {
      fleet: { name: FLEET, rootVersion: this.root.version },
      host: { id: HOST, system: SYSTEM },
      epoch: this.root.epoch,
      sequence: this.#sequence,
      minSequence: 0,
      previous: null,
      emergency: false,
      issuedAt: this.now - 60,
      notBefore: this.now - 60,
      expiresAt: this.now + 86_400,
      intent: 'deploy',
      toplevel: system.toplevel,
      toplevelNarHash: toplevel.narHash,
      closure: {
        sha256: sha256(closure),
        bytes: closure.length,
        paths: system.infos.length,
        narBytes: system.infos.reduce((sum, { narSize }) => sum + narSize, 0),
      },
      activation: DEFAULT_ACTIVATION,
      provenance: {
        flakeRef: 'path:/world',
        rev: null,
        flakeNarHash: null,
        lockSha256: null,
        attribute: 'nixosConfigurations.alpha',
        drvPath: parseStorePath(`/nix/store/${'0'.repeat(32)}-system.drv`),
        builder: { id: 'world', nixVersion: '2.8.0', system: SYSTEM },
      },
      ...changes,
    };
  }

  /** Publishes `system`, and returns its manifest's digest. */
  publish(system: BuiltSystem, changes: Partial<Deployment> = {}): string {
    this.serve(system);
    return this.show(this.manifestOf(system, changes));
  }

  /** Signs `manifest` and makes it the one that is offered. */
  show(manifest: Manifest, keys: readonly Uint8Array[] = [this.directorKey]): string {
    const payload = formatManifest(manifest);
    this.manifest = signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, keys);
    const sha256 = manifestDigest(payload);
    const { epoch, sequence } = manifest;
    this.log.hosts.set(HOST, { host: HOST, epoch, sequence, sha256 });
    this.append([this.manifest]);
    return sha256;
  }

  /** Ends the host. */
  decommission(previous: { epoch: number; sequence: number; sha256: string }): void {
    const { fleet, host, epoch, minSequence, emergency, issuedAt, notBefore, expiresAt } =
      this.manifestOf({ name: '', toplevel: SOME_PATH, infos: [SOME_INFO], nars: new Map() });
    const common = { fleet, host, epoch, minSequence, emergency, issuedAt, notBefore, expiresAt };
    const manifest: Decommission = {
      ...common,
      sequence: this.#sequence,
      previous,
      intent: 'decommission',
    };
    this.show(manifest);
  }

  /** Puts closure file, narinfos and NARs of `system` into the cache. */
  serve(system: BuiltSystem): void {
    const closure = formatClosure(system.infos);
    this.closures.set(sha256(closure), closure);
    for (const info of system.infos) {
      const nar = system.nars.get(info.path);
      if (nar === undefined) throw new Error(`no NAR of ${info.path}`);
      this.serveNar(info, zstdCompressSync(nar));
    }
  }

  /** Serves `bytes` as the compressed NAR of `info`, and its narinfo with `changes`. */
  serveNar(info: PathInfo, bytes: Buffer, changes: Partial<NarInfo> = {}): void {
    const url = `nar/${sha256(bytes)}.nar.zst`;
    this.nars.set(`/${url}`, bytes);
    const narinfo: NarInfo = {
      path: info.path,
      narHash: info.narHash,
      narSize: info.narSize,
      references: info.references,
      url,
      compression: 'zstd',
      fileHash: null,
      fileSize: bytes.length,
      deriver: null,
      sigs: [signPath(info, this.cacheKey)],
      ca: null,
      ...changes,
    };
    this.narinfos.set(`/${hashPartOf(info.path)}.narinfo`, formatNarInfo(narinfo));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '', this.url);
    const path = url.pathname;
    this.requests.push(`${request.method} ${path}${url.search}`);
    if (this.misbehave(path, response, request)) return;
    if (path === '/v1/enroll') {
      const body = await bodyOf(request);
      const { publicKey } = JSON.parse(Buffer.from(parseEnvelope(body).payload).toString()) as {
        publicKey: PublicKey;
      };
      if (request.headers.authorization !== `Bearer ${this.secret}`) {
        return refuse(response, 401, 'E_TOKEN');
      }
      this.#hostKey = publicKey;
      this.#head = null;
      return void response.end(JSON.stringify({ token: this.token }));
    }
    if (request.headers.authorization !== `Bearer ${this.token}`) {
      return refuse(response, 401, 'E_TOKEN');
    }
    if (path === `/v1/hosts/${HOST}/offer`) return this.#offer(url, request, response);
    if (path === `/v1/hosts/${HOST}/reports`) return await this.#report(request, response);
    if (path === `/v1/hosts/${HOST}/fresh`) {
      const proof = this.prove(url.searchParams.get('nonce') ?? '');
      return proof === null ? refuse(response, 404, 'E_MISSING') : void response.end(proof);
    }
    const pack = this.packs.get(path + url.search);
    if (pack !== undefined) return sendPart(request, response, pack);
    const body =
      this.closures.get(path.replace('/v1/closures/', '')) ??
      this.narinfos.get(path) ??
      this.nars.get(path);
    if (body === undefined) return refuse(response, 404, 'E_MISSING');
    response.end(body);
  }

  /**
   * Approves what is shown now, and `others`, signed by `keys`, and logs that; the host is offered it from now on.
   * The manifest is shown again behind it.
   */
  approve(
    keys: readonly Uint8Array[],
    { digests = [this.digest()], expiresAt = this.now + 86_400, root = this.root } = {},
  ): void {
    const { payload, batch } = makeApproval(digests, { issuedAt: this.now, expiresAt }, root);
    this.approval = { envelope: signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, keys), batch };
    this.append([this.approval.envelope]);
  }

  /** A proof of now and of the newest checkpoint, but for what is given. */
  proofOf(fresh: Pick<FreshText, 'nonce'> & Partial<FreshText>, secret = this.nonceKey): string {
    const { text } = parseNote(this.log.checkpoint(this.root, this.logKeys, null));
    return signNonceProof({ time: this.now, checkpoint: text, ...fresh }, secret);
  }

  /** Of the manifest that is shown. */
  digest(): string {
    return manifestDigest(parseEnvelope(this.manifest ?? '').payload);
  }

  #offeredApproval(): Offer['approval'] {
    if (this.approval === null) return null;
    const { envelope } = this.approval;
    const place = proveApproval(this.approval, this.digest());
    const proof = { index: place?.index ?? 0, proof: formatProof(place?.proof ?? []) };
    return { envelope, ...proof, logged: this.log.logged(envelope) };
  }

  #offer(url: URL, request: IncomingMessage, response: ServerResponse): void {
    if (this.manifest === null) {
      refuse(response, 404, 'E_NO_MANIFEST');
      return;
    }
    const offer = this.offer(
      Number(url.searchParams.get('root')),
      Number(url.searchParams.get('from')),
    );
    const lasting = JSON.stringify({ ...offer, checkpoint: '', growth: [] });
    const etag = `"${sha256(Buffer.from(lasting)).slice(0, 16)}"`;
    if (request.headers['if-none-match'] === etag) return void response.writeHead(304).end();
    response.setHeader('etag', etag).end(this.distort(formatOffer(offer)));
  }

  /** What is offered to a host that has root version `root` and saw `from` entries of the log. */
  offer(root: number, from: number): Offer {
    const { log, manifest } = this;
    return {
      offerVersion: OFFER_VERSION,
      minAgent: AGENT_VERSION,
      roots: this.roots.slice(root, root + MAX_OFFER_ROOTS),
      checkpoint: log.checkpoint(this.root, this.logKeys, this.freshAt ?? this.now),
      growth: log.consistency(from),
      anchor: log.consistency(this.root.log.anchor.size),
      snapshot: {
        text: log.leaves.at(-1)?.toString() ?? '',
        proof: log.inclusion(log.size - 1),
      },
      entry: log.entry(HOST),
      manifest: manifest ?? '',
      approval: this.#offeredApproval(),
      logged: log.logged(manifest ?? ''),
      closure: null,
    };
  }

  async #report(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await bodyOf(request);
    if (this.#hostKey === null) return refuse(response, 422, 'E_HOST_UNKNOWN');
    const expect = { publicKey: this.#hostKey, fleet: FLEET, host: HOST };
    const { receipt, digest } = verifyReceipt(parseEnvelope(body), expect);
    // A run that was killed before it could note what was taken sends all of that again.
    if (this.#taken.has(digest)) return void response.end('{"stored":false}');
    if (receipt.previous !== this.#head) return refuse(response, 409, 'E_RECEIPT_CHAIN');
    this.#head = digest;
    this.#taken.add(digest);
    this.reports.push(receipt);
    response.end('{"stored":true}');
  }
}

export function enrolFileOf(world: World): string {
  return formatEnrolFile({
    server: world.url,
    fleet: FLEET,
    host: HOST,
    root: world.roots.at(-1) ?? '',
    secret: world.secret,
    expiresAt: world.now + 3600,
  });
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

const SOME_PATH = parseStorePath(`/nix/store/${'1'.repeat(32)}-none`);
const SOME_INFO = {
  path: SOME_PATH,
  narHash: `sha256:${'0'.repeat(52)}` as PathInfo['narHash'],
  narSize: 1,
  references: [],
};

/** All of it, or the range that is asked for. */
export function sendPart(request: IncomingMessage, response: ServerResponse, bytes: Buffer): void {
  const etag = `"${sha256(bytes).slice(0, 32)}"`;
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
  const condition = request.headers['if-range'];
  response.setHeader('etag', etag);
  if (from === undefined || (condition !== undefined && condition !== etag)) {
    return void response.setHeader('content-length', bytes.length).end(bytes);
  }
  const end = to === '' || to === undefined ? bytes.length : Math.min(Number(to) + 1, bytes.length);
  if (Number(from) >= end) return void response.writeHead(416).end();
  const range = `bytes ${from}-${end - 1}/${bytes.length}`;
  response.writeHead(206, { 'content-range': range, 'content-length': end - Number(from) });
  response.end(bytes.subarray(Number(from), end));
}

function refuse(response: ServerResponse, status: number, error: string): void {
  response.writeHead(status).end(JSON.stringify({ error, message: 'no', hint: '' }));
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += (chunk as Buffer).length;
    if (size > MAX_ENVELOPE_BYTES) throw new Error('body too large');
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}
