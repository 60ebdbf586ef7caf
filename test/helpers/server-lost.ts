// Rules of hosts that have one second to hear their server after a switch, and how such a run may end.
import type { OnceResult } from '../../src/agent/once-options.ts';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';

export const rules = (changes: Partial<Activation> = {}): Activation => ({
  ...DEFAULT_ACTIVATION,
  confirmSeconds: 1,
  ...changes,
});

export const verdictOf = ({ outcome, error }: OnceResult) => [
  outcome?.phase,
  outcome?.reason?.code,
  error?.code,
];

export const LOST = ['rolled-back', 'E_SERVER_LOST', 'E_SERVER_LOST'];
export const WELL = ['in-sync', undefined, undefined];
