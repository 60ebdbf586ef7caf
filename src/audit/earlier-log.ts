// What an audit knows of a log that another one came after → what that other one must still agree with (SPEC §11.3): the
// roots, and of each host the number that it had come to. Whether the old log was read to its end nobody can say: what
// came after the part that was read is taken from the new one's word.
import { type ErrorCode, FleetError } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { rootDigest } from '../manifest/snapshot.ts';
import type { ManifestFact } from './facts.ts';
import type { KeptHost, Told } from './hosts.ts';
import type { RootChain } from './root-chain.ts';

/** The last that an earlier log told of a host that this one has not told anything of yet. */
export type Floor = Pick<Told, 'epoch' | 'sequence' | 'digest' | 'intent'> & {
  readonly host: string;
};

type Tell = (code: ErrorCode, message: string) => void;

/** Origins of one fleet end in the number of its log (SPEC §3.1); a root, which is verified, names it. */
export function isLaterLog(before: string, now: string): boolean {
  const [fleet, number] = splitOrigin(before);
  const [sameFleet, newer] = splitOrigin(now);
  return fleet === sameFleet && newer > number;
}

function splitOrigin(origin: string): [string, number] {
  const at = origin.lastIndexOf('/') + 1;
  return [origin.slice(0, at), Number(origin.slice(at))];
}

/** Of what was kept of a log, the floors for the log after it. */
export function floorsOf(hosts: readonly KeptHost[], floors: readonly Floor[]): Floor[] {
  const told = hosts.flatMap(({ host, last }) => {
    if (last === null) return [];
    const { epoch, sequence, digest, intent } = last;
    return [{ host, epoch, sequence, digest, intent }];
  });
  return [...floors, ...told];
}

export class Floors {
  readonly #floors: Map<string, Floor>;

  constructor(floors: readonly Floor[]) {
    this.#floors = new Map(floors.map((one) => [one.host, one]));
  }

  /** Judges the first manifest that this log tells of a host. */
  judge(host: string, says: ManifestFact, tell: Tell): void {
    const floor = this.#floors.get(host);
    if (floor === undefined) return;
    this.#floors.delete(host);
    const [name, before] = [`${says.epoch}.${says.sequence}`, `${floor.epoch}.${floor.sequence}`];
    const order = compare(says, floor);
    if (order < 0) tell('E_SEQUENCE_OLDER', `${name} comes after ${before} of an earlier log`);
    if (order === 0) tell('E_SEQUENCE_CONFLICT', `${name} is in an earlier log as well`);
    if (floor.intent === 'decommission' && says.intent !== 'decommission') {
      tell('E_DECOMMISSIONED', 'the host had been ended in an earlier log');
    }
    const { previous } = says;
    const place = previous === null ? -1 : compare(previous, floor);
    // Of a later one than was read nothing is known. A restored server names an older one, in an epoch of its own.
    const fits = place === 0 ? previous?.sha256 === floor.digest : place > 0;
    const isRestored = place < 0 && says.epoch > floor.epoch;
    if (fits || isRestored) return;
    tell('E_AUDIT_PREVIOUS', `${name} does not go on from ${before} of an earlier log`);
  }

  /** Those of hosts that this log has told nothing of. */
  left(): Floor[] {
    return [...this.#floors.values()];
  }
}

type Numbers = { readonly epoch: number; readonly sequence: number };

function compare(one: Numbers, other: Numbers): number {
  return one.epoch - other.epoch || one.sequence - other.sequence;
}

/** The roots of a later log begin with those of the log before it. @throws FleetError E_ROOT_CONFLICT. */
export function requireRoots(chain: RootChain, before: readonly string[]): void {
  const digestOf = (text: string | undefined) =>
    text === undefined ? null : rootDigest(parseEnvelope(text).payload);
  const at = before.findIndex((text, i) => digestOf(chain.later[i]) !== digestOf(text));
  if (at < 0) return;
  const { version } = JSON.parse(
    Buffer.from(parseEnvelope(before[at] as string).payload).toString('utf8'),
  ) as { version: number };
  const what = `the log has not the root of version ${version} that was verified before`;
  throw new FleetError('E_ROOT_CONFLICT', what);
}
