// What the effects of an activation pass on: the transaction as it stands, and what happened to it.
import type { Reason } from '../manifest/receipt.ts';
import type { Transaction } from './journal.ts';
import type { Event, Step } from './machine.ts';
import type { Attempt } from './outcome.ts';

/** A transaction at any step; at `idle` it is over, and the journal has none. */
export type At = Omit<Transaction, 'step'> & { readonly step: Step };

export type Happened = {
  readonly event: Event;
  /** What is known now and was not before. */
  readonly change?: Partial<Omit<Transaction, 'step'>>;
  /** What the run ends with, where this ends it; null: there is nothing to say. */
  readonly told?: Attempt | null;
};

/** The event that leads back to what was before. */
export function backBecause(
  event: 'broken' | 'unhealthy' | 'abandoned' | 'missed',
  why: Reason,
  change: Happened['change'] = {},
): Happened {
  return { event, change: { ...change, why } };
}
