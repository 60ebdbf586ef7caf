// How often the local group may ask for what (SPEC §5.9): at most so many in any such time, of all its members
// together, as nothing tells them apart. Pure: times are milliseconds of a clock that never jumps. It is forgotten with the
// process; what waits on disk has a bound of its own.
import { FleetError } from '../errors.ts';
import type { Verb } from './control-protocol.ts';

/** At most `most` in any `within`. */
export type Rate = { readonly most: number; readonly within: number };

const MINUTE = 60_000;
const ASKED: Rate = { most: 60, within: MINUTE };

const RATES: Readonly<Record<Verb, Rate>> = {
  status: ASKED,
  news: ASKED,
  defer: { most: 10, within: MINUTE },
  apply: { most: 10, within: MINUTE },
  'apply-bundle': { most: 6, within: 10 * MINUTE },
  rollback: { most: 3, within: 10 * MINUTE },
  request: { most: 6, within: 60 * MINUTE },
};

export class Rates {
  readonly #times = new Map<Verb, number[]>();

  /** Counts one more. @throws FleetError E_RATE_LIMITED, which is not counted. */
  take(verb: Verb, now: number): void {
    const { most, within } = RATES[verb];
    const times = (this.#times.get(verb) ?? []).filter((at) => now - at < within);
    this.#times.set(verb, times);
    const [first] = times;
    if (times.length < most || first === undefined) {
      times.push(now);
      return;
    }
    const wait = Math.ceil((first + within - now) / 1000);
    throw new FleetError('E_RATE_LIMITED', `"${verb}" was asked for ${most} times`, {
      hint: `try again in ${wait < 120 ? `${wait} s` : `${Math.ceil(wait / 60)} min`}`,
    });
  }
}
