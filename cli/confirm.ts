// What is about to be done, shown to whoever sits at the terminal → their yes, or a refusal.
import { createInterface } from 'node:readline/promises';
import { FleetError } from '../src/errors.ts';
import type { Globals } from './output.ts';

/**
 * @throws FleetError E_USAGE with `hint` where nobody is there; E_INTERRUPTED, with `unchanged` as its message,
 *   for any other answer than yes.
 */
export async function confirm(
  globals: Globals,
  text: string,
  question: string,
  {
    hint,
    unchanged,
    details = [],
  }: {
    readonly hint: string;
    readonly unchanged: string;
    /** What belongs to the refusal where nobody is there. */
    readonly details?: readonly string[];
  },
): Promise<void> {
  if (!process.stdin.isTTY || globals.json) {
    throw new FleetError('E_USAGE', 'nobody is there to be asked', { hint, details });
  }
  process.stderr.write(`${text}\n\n`);
  const asking = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await asking.question(`${question} [y/N] `);
  asking.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw new FleetError('E_INTERRUPTED', unchanged);
}
