// Runs of one case over one line, ours and stock Nix's, by itself and with many paths at once → figures: medians of each, and how they compare.
import type { Run } from './delta-machines.ts';
import { type Figure, median } from './figures.ts';

/** `parallel`: stock Nix as newer ones are, with many paths at once. */
export type Trio = { readonly ours: Run; readonly theirs: Run; readonly parallel: Run };

/** @param smaller true where our bytes are told as a part of theirs, instead of how many times less they are. */
export function compare(name: string, trios: readonly Trio[], smaller: boolean): Figure[] {
  const of = (who: keyof Trio, what: (run: Run) => number): number =>
    median(trios.map((trio) => what(trio[who])));
  const both = (what: string, unit: string, value: (run: Run) => number): Figure[] => [
    { name: `${name}, ${what}, fleet`, value: of('ours', value), unit },
    { name: `${name}, ${what}, Nix`, value: of('theirs', value), unit },
  ];
  const down = (run: Run): number => run.down;
  const seconds = (run: Run): number => run.seconds;
  const [ours, theirs] = [of('ours', down), of('theirs', down)];
  return [
    ...both('down', 'MB', (run) => run.down / 1e6),
    ...both('up', 'KB', (run) => run.up / 1e3),
    ...both('requests', '', (run) => run.requests),
    ...both('connections', '', (run) => run.connections),
    ...both('time', 's', seconds),
    ...both('CPU', 's', (run) => run.cpu),
    { name: `${name}, CPU of the agent alone`, value: of('ours', (run) => run.nodeCpu), unit: 's' },
    peak(`${name}, peak memory, agent`, trios, (trio) => trio.ours.nodePeakMiB),
    peak(`${name}, peak memory, the agent's Nix`, trios, (trio) => trio.ours.nixPeakMiB),
    peak(`${name}, peak memory, Nix`, trios, (trio) => trio.theirs.nixPeakMiB),
    smaller
      ? { name: `${name}, down, fleet / Nix`, value: ours / theirs, unit: 'x' }
      : { name: `${name}, down, Nix / fleet`, value: theirs / ours, unit: 'x' },
    {
      name: `${name}, time, Nix / fleet`,
      value: of('theirs', seconds) / of('ours', seconds),
      unit: 'x',
    },
    { name: `${name}, time, Nix with 16 at once`, value: of('parallel', seconds), unit: 's' },
    {
      name: `${name}, time, Nix with 16 at once / fleet`,
      value: of('parallel', seconds) / of('ours', seconds),
      unit: 'x',
    },
  ];
}

function peak(name: string, trios: readonly Trio[], of: (trio: Trio) => number): Figure {
  return { name, value: Math.max(...trios.map(of)), unit: 'MiB' };
}

/** Them in one line, while the benchmark goes on. */
export function told({ ours, theirs, parallel }: Trio): string {
  const one = (run: Run): string =>
    `${(run.down / 1e6).toFixed(2)} MB, ${run.requests} requests, ${run.seconds.toFixed(1)} s`;
  return `fleet ${one(ours)}   Nix ${one(theirs)}   16 at once ${one(parallel)}`;
}
