// Asks the person at the terminal whether to go on. Refuses where nobody is there to be asked.
import { createInterface } from 'node:readline/promises';
import { FleetError } from '../src/errors.ts';
import type { Globals } from './output.ts';

export type Question = {
  /** What it is about, shown before. */
  readonly text: string;
  readonly question: string;
  /** What to do where nobody can be asked. */
  readonly hint: string;
  /** What became of it, when the answer is no. */
  readonly otherwise: string;
};

/** @throws FleetError E_USAGE, E_INTERRUPTED. */
export async function confirm(
  globals: Globals,
  { text, question, hint, otherwise }: Question,
): Promise<void> {
  if (!process.stdin.isTTY || globals.json) {
    throw new FleetError('E_USAGE', 'nobody is there to be asked', { hint });
  }
  process.stderr.write(`${text}\n\n`);
  const asking = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await asking.question(`${question} [y/N] `);
  asking.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw new FleetError('E_INTERRUPTED', otherwise);
}
