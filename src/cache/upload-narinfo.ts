// An uploaded narinfo → a row of the index, or a refusal that says what does not fit. A flat list of
// checks, cheap ones first; only when all hold does one transaction add the path, after all that it
// refers to. What the NAR is was found out while it arrived (nar-intake.ts), not taken from the client.
import { FleetError } from '../errors.ts';
import { checkContentAddress } from '../nix/content-address.ts';
import { decompress } from '../nix/decompress.ts';
import { findHashParts } from '../nix/mentions.ts';
import { type NarInfo, parseNarInfo } from '../nix/narinfo.ts';
import { type NixPublicKey, parsePathSignature, verifyPathSignature } from '../nix/signature.ts';
import { hashPartOf, type StorePath } from '../nix/storepath.ts';
import type { BlobId, Blobs } from '../storage/blobs.ts';
import type { NewPath, StagedNar, State, StoredPath } from '../storage/state.ts';
import { isOnDisk } from './nar-intake.ts';
import { compressionOf } from './upload-nar.ts';

export type UploadPolicy = {
  /** One of these must have signed what is uploaded; none: nobody need have. */
  readonly trustedKeys: readonly NixPublicKey[];
  /** `exact`: a NAR that mentions a path of this cache must list it. */
  readonly references: 'exact' | 'declared';
};

type Uploaded = StoredPath & NewPath;
type Stores = { readonly state: State; readonly blobs: Blobs };

/**
 * @returns whether the path is new here.
 * @throws FleetError E_NARINFO, E_UPLOAD_*.
 */
export async function acceptNarInfo(
  hashPart: string,
  text: string,
  { state, blobs }: Stores,
  policy: UploadPolicy,
  now: number,
): Promise<'added' | 'same'> {
  const info = parseNarInfo(text, { hashPart });
  const vouched = requireSignature(info, policy.trustedKeys);
  const file = /^nar\/([^/]+)$/.exec(info.url)?.[1];
  if (file === undefined) {
    throw new FleetError('E_UPLOAD_MISMATCH', `${info.path}: its URL must be nar/<file>`);
  }
  const nar = await state.stagedNar(file);
  if (nar === null || !(await isOnDisk(nar, blobs))) {
    return await acceptKnown(info, { state, blobs }, now);
  }
  requireSameNar(info, nar, file);
  const ca = contentAddressOf(info, nar);
  if (!vouched) await requireReferences(info, nar, { state, blobs }, policy.references);
  const { narHash, narSize, blob, blobSize, contents } = nar;
  const { path, references, deriver, sigs } = info;
  const row = { path, narHash, narSize, references, deriver, sigs, ca, contents };
  const stored: Uploaded = { ...row, compression: 'zstd', blob, blobSize, upstream: null };
  const outcome = await add(stored, null, state, now);
  const found = await bytesOf(info.path, { state, blobs });
  if (found === 'there') return outcome;
  // Pushed again because its bytes were lost or damaged: these take their place.
  await add(stored, found, state, now);
  if ((await bytesOf(info.path, { state, blobs })) === 'there') return outcome;
  throw noNar(info);
}

/** Whether the bytes of a path's row are there; else which are lost. Null: there is no row. */
async function bytesOf(
  path: StorePath,
  { state, blobs }: Stores,
): Promise<BlobId | 'there' | null> {
  const row = await state.cachedPath(hashPartOf(path));
  if (row === null) return null;
  return row.blob === null || (await isOnDisk(row, blobs)) ? 'there' : row.blob;
}

/**
 * A path that is here already needs no NAR: another client was first. What this one says of it was held
 * against no bytes, so it is compared with the row and never becomes one, also when the row goes meanwhile.
 */
async function acceptKnown(info: NarInfo, stores: Stores, now: number): Promise<'same'> {
  if ((await bytesOf(info.path, stores)) !== 'there') throw noNar(info);
  const outcome = await stores.state.confirmPath(info, now);
  if (outcome === 'differs') throw conflict(info.path);
  // Looked at again: only now that it is marked as used do row and bytes stay.
  if (outcome === 'same' && (await bytesOf(info.path, stores)) === 'there') return outcome;
  throw noNar(info);
}

function noNar({ path, url }: NarInfo): FleetError {
  return new FleetError('E_UPLOAD_NO_NAR', `${path}: ${url} has not been uploaded`);
}

function conflict(path: StorePath): FleetError {
  return new FleetError(
    'E_UPLOAD_CONFLICT',
    `${path} is in this cache with other bytes or references`,
  );
}

async function add(
  row: Uploaded,
  lost: BlobId | null,
  state: State,
  now: number,
): Promise<'added' | 'same'> {
  const done = await state.addUploadedPath(row, lost, now);
  if (done.outcome === 'differs') throw conflict(row.path);
  if (done.outcome === 'references missing') {
    throw new FleetError(
      'E_UPLOAD_REFERENCES_MISSING',
      `${row.path} refers to what is not in this cache: ${some(done.missing)}`,
    );
  }
  return done.outcome;
}

/** Whether a trusted key has signed it. @throws FleetError E_UPLOAD_UNSIGNED where one must have. */
function requireSignature(info: NarInfo, trusted: readonly NixPublicKey[]): boolean {
  if (trusted.length === 0) return false;
  const names = info.sigs.map((sig) => parsePathSignature(sig).name);
  if (info.sigs.some((sig) => verifyPathSignature(info, sig, trusted))) return true;
  const seen = names.length === 0 ? 'by no key' : `by ${some(names)}`;
  throw new FleetError(
    'E_UPLOAD_UNSIGNED',
    `${info.path} is signed ${seen}; this cache takes what is validly signed by ${some(trusted.map(({ name }) => name))}`,
  );
}

function requireSameNar(info: NarInfo, nar: StagedNar, file: string): void {
  const differs =
    info.narHash !== nar.narHash
      ? `NarHash ${info.narHash}, and the NAR has ${nar.narHash}`
      : info.narSize !== nar.narSize
        ? `NarSize ${info.narSize}, and the NAR has ${nar.narSize}`
        : info.fileHash !== null && info.fileHash !== nar.fileHash
          ? `FileHash ${info.fileHash}, and ${nar.fileHash} arrived`
          : info.fileSize !== null && info.fileSize !== nar.fileSize
            ? `FileSize ${info.fileSize}, and ${nar.fileSize} arrived`
            : info.compression !== compressionOf(file)
              ? `Compression ${info.compression} for a file named ${file}`
              : null;
  if (differs === null) return;
  throw new FleetError('E_UPLOAD_MISMATCH', `the narinfo of ${info.path} says ${differs}`);
}

/** The content address where it is right, null where it cannot be checked. @throws E_UPLOAD_CA */
function contentAddressOf(info: NarInfo, nar: StagedNar): string | null {
  const { ca } = info;
  if (ca === null) return null;
  return checkContentAddress({ ...info, ca }, nar.flatHash) === 'verified' ? ca : null;
}

async function requireReferences(
  info: NarInfo,
  nar: StagedNar,
  { state, blobs }: Stores,
  rule: UploadPolicy['references'],
): Promise<void> {
  const mentioned = new Set(nar.mentions);
  const listed = new Set(info.references.map(hashPartOf));
  const unseen = new Set([...listed].filter((hashPart) => !mentioned.has(hashPart)));
  if (unseen.size > 0) {
    // Not as a whole store path, then; Nix takes a bare hash part for a reference too.
    const blob = await blobs.get(nar.blob);
    if (blob === null) throw noNar(info);
    const found = await findHashParts(decompress(blob, 'zstd'), unseen);
    const absent = info.references.filter((path) => {
      const hashPart = hashPartOf(path);
      return unseen.has(hashPart) && !found.has(hashPart);
    });
    if (absent.length > 0) {
      throw new FleetError(
        'E_UPLOAD_REFERENCES',
        `the narinfo of ${info.path} lists ${some(absent)}, which its NAR does not mention`,
      );
    }
  }
  if (rule === 'declared') return;
  const unlisted = [...mentioned].filter((hashPart) => !listed.has(hashPart));
  const known = (await state.cachedPathsByHash(unlisted)).map(({ path }) => path);
  if (unlisted.includes(hashPartOf(info.path))) known.push(info.path);
  if (known.length === 0) return;
  throw new FleetError(
    'E_UPLOAD_REFERENCES',
    `the NAR of ${info.path} mentions ${some(known)}, which its narinfo does not list`,
  );
}

function some(names: readonly (StorePath | string)[]): string {
  const more = names.length - 5;
  return names.slice(0, 5).join(', ') + (more > 0 ? ` and ${more} more` : '');
}
