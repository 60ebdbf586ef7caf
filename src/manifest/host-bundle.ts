// A host's bundle (SPEC §8.2): names, order and sizes of its files, and its first one ↔ its fields. It says what the files
// are, and nothing that is believed: what they hold is verified as what a server answers is.
// Refuses other files, another order, more or fewer than were announced.
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { FleetError } from '../errors.ts';
import { MAX_ENVELOPE_BYTES } from './dsse.ts';
import { Count, Exact, FleetName, HostId, Ordinal } from './fields.ts';
import { MAX_OFFER_BYTES } from './offer.ts';
import { type Frozen, requireShape } from './shape.ts';

export const HOST_BUNDLE_VERSION = 1;

export const HOST_BUNDLE_FILES = {
  header: 'bundle.json',
  root: (version: number): string => `root/${version}.root.json`,
  offer: 'offer.json',
  closure: 'closure.fp',
  narInfo: (hashPart: string): string => `narinfo/${hashPart}.narinfo`,
  /** `blob`: SHA-256 of the compressed NAR, as its narinfo's URL has it. */
  nar: (blob: string): string => `nar/${blob}.nar.zst`,
} as const;

export const HostBundleSchema = Exact({
  bundleVersion: Type.Literal(HOST_BUNDLE_VERSION),
  fleet: FleetName,
  host: HostId,
  /** Entries of the log that the growth proof of the offer leads on from; 0: it leads on from nothing. */
  from: Count,
  /** How many files follow this one, and their bytes. */
  files: Type.Integer({ minimum: 2, maximum: 1_000_000 }),
  bytes: Ordinal,
});

export type HostBundle = Frozen<Static<typeof HostBundleSchema>>;

const HEADER_BYTES = 4096;
const CLOSURE_BYTES = 128 * 2 ** 20;
const NARINFO_BYTES = 4 * 2 ** 20;

/** In the order in which they come; a name's place among those of its kind, as what can be compared. */
const KINDS: readonly {
  readonly name: RegExp;
  readonly most: number;
}[] = [
  { name: /^(bundle\.json)$/, most: HEADER_BYTES },
  { name: /^root\/([1-9]\d{0,6})\.root\.json$/, most: MAX_ENVELOPE_BYTES },
  { name: /^(offer\.json)$/, most: MAX_OFFER_BYTES },
  { name: /^(closure\.fp)$/, most: CLOSURE_BYTES },
  { name: /^narinfo\/([0-9a-df-np-sv-z]{32})\.narinfo$/, most: NARINFO_BYTES },
  { name: /^nar\/([0-9a-f]{64})\.nar\.zst$/, most: Number.MAX_SAFE_INTEGER },
];
const [HEADER, ROOT, OFFER] = [0, 1, 2];

/** The most bytes that a file of this name may have; 0: there is no such file. */
export function mostBytesOf(name: string): number {
  return KINDS[kindOf(name)]?.most ?? 0;
}

/** Told of each file's name in turn. @throws FleetError E_BUNDLE_FORM for one that is not of a bundle, or out of order. */
export class HostBundleOrder {
  #kind = -1;
  #key = '';
  #roots = 0;
  #hasOffer = false;

  next(name: string): void {
    const kind = kindOf(name);
    const key = KINDS[kind]?.name.exec(name)?.[1] ?? '';
    if (kind === -1) refuse(`${JSON.stringify(name)} is no file of it`);
    const isFirst = this.#kind === -1;
    if (isFirst !== (kind === HEADER)) refuse(`it must begin with ${HOST_BUNDLE_FILES.header}`);
    if (kind === ROOT && Number(key) !== ++this.#roots) refuse(`${name} is out of order`);
    const follows =
      kind > this.#kind || (kind === this.#kind && (kind === ROOT || key > this.#key));
    if (!follows) refuse(`${name} is out of order`);
    if (kind === OFFER) this.#hasOffer = true;
    if (kind > OFFER && !this.#hasOffer) refuse(`it has no ${HOST_BUNDLE_FILES.offer}`);
    [this.#kind, this.#key] = [kind, key];
  }

  /** Nothing follows. Returns how many roots there were. */
  end(): number {
    if (this.#roots === 0) refuse('it has no root');
    if (!this.#hasOffer) refuse(`it has no ${HOST_BUNDLE_FILES.offer}`);
    return this.#roots;
  }
}

/** @throws FleetError E_BUNDLE_FORM; E_OFFER_VERSION for one of a newer form. */
export function parseHostBundle(text: Uint8Array): HostBundle {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text));
  } catch (cause) {
    const message = `bundle: ${HOST_BUNDLE_FILES.header} is not JSON`;
    throw new FleetError('E_BUNDLE_FORM', message, { cause });
  }
  const version: unknown =
    typeof json === 'object' && json !== null ? Reflect.get(json, 'bundleVersion') : null;
  if (typeof version === 'number' && version > HOST_BUNDLE_VERSION) {
    const versions = `its version is ${version}, and this agent knows ${HOST_BUNDLE_VERSION}`;
    throw new FleetError('E_OFFER_VERSION', `the bundle is too new: ${versions}`);
  }
  const what = `bundle: ${HOST_BUNDLE_FILES.header}`;
  return requireShape(HostBundleSchema, json, 'E_BUNDLE_FORM', what);
}

export function formatHostBundle(bundle: HostBundle): Buffer {
  const what = `bundle: ${HOST_BUNDLE_FILES.header}`;
  return Buffer.from(
    `${JSON.stringify(requireShape(HostBundleSchema, bundle, 'E_BUNDLE_FORM', what))}\n`,
  );
}

function kindOf(name: string): number {
  return KINDS.findIndex((kind) => kind.name.test(name));
}

function refuse(what: string): never {
  throw new FleetError('E_BUNDLE_FORM', `bundle: ${what}`);
}
