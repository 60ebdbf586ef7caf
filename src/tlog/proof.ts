// A `.tlog-proof` ↔ its parts (C2SP tlog-proof, SPEC §9.6): an entry's place in a log, the hashes that prove
// it, and the checkpoint that they lead to, in one text that other programs read too. The checkpoint stays
// the text that it was. `extra` is authenticated by nobody: it is kept and never used.
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { FleetError } from '../errors.ts';
import { HASH_BYTES } from './merkle.ts';

export type LogProof = {
  readonly extra: Uint8Array | null;
  readonly index: number;
  readonly hashes: readonly Uint8Array[];
  /** A signed note, parsed by others. */
  readonly checkpoint: string;
};

const HEADER = 'c2sp.org/tlog-proof@v1';
/** A tree of 2^53 leaves has no longer path. */
const MAX_HASHES = 53;

/** @throws FleetError E_LOG_PROOF. */
export function parseLogProof(text: string): LogProof {
  const split = text.indexOf('\n\n');
  const [header, ...lines] = (split === -1 ? '' : text.slice(0, split)).split('\n');
  if (header !== HEADER) refuse(`its first line is not ${HEADER}`);
  const hasExtra = lines[0]?.startsWith('extra ') ?? false;
  const extra = hasExtra ? decodeBase64(lines.shift()?.slice('extra '.length) ?? '') : null;
  if (extra === undefined) refuse('its extra data are not base64');
  const index = Number(/^index (0|[1-9]\d{0,15})$/.exec(lines.shift() ?? '')?.[1]);
  if (!Number.isSafeInteger(index)) refuse('it has no index');
  if (lines.length > MAX_HASHES) refuse(`it has more than ${MAX_HASHES} hashes`);
  const hashes = lines.map((line) => {
    const hash = decodeBase64(line);
    if (hash?.length !== HASH_BYTES) refuse('a line is not the base64 of a hash');
    return hash;
  });
  return { extra, index, hashes, checkpoint: text.slice(split + 2) };
}

/** @throws FleetError E_LOG_PROOF for what parseLogProof would not accept. */
export function formatLogProof({ extra, index, hashes, checkpoint }: LogProof): string {
  const lines = [
    HEADER,
    ...(extra === null ? [] : [`extra ${encodeBase64(extra)}`]),
    `index ${index}`,
    ...hashes.map(encodeBase64),
  ];
  const text = `${lines.join('\n')}\n\n${checkpoint}`;
  parseLogProof(text);
  return text;
}

function refuse(what: string): never {
  throw new FleetError('E_LOG_PROOF', `not a log proof: ${what}`);
}
