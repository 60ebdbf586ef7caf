// Two lines of one kind, to our server and to nginx, and runs over them.
import type { Trio } from './delta-figures.ts';
import type { Machine, Run } from './delta-machines.ts';
import type { Site } from './delta-site.ts';
import { type Line, type LineKind, startLine } from './line.ts';

export type Lines = { readonly kind: LineKind; readonly fleet: Line; readonly nginx: Line };

export async function openLines(
  site: Site,
  kind: LineKind,
  stack: AsyncDisposableStack,
): Promise<Lines> {
  const fleet = stack.use(await startLine(site.servers.fleet, kind));
  return { kind, fleet, nginx: stack.use(await startLine(site.servers.nginx, kind)) };
}

export type Machines = {
  readonly ours: Machine;
  readonly theirs: Machine;
  readonly parallel: Machine;
};

/** One run of each machine, in this order or the other way round. */
export async function runAll(
  machines: Machines,
  toplevel: string,
  oursFirst: boolean,
): Promise<Trio> {
  const order = ['ours', 'theirs', 'parallel'] as const;
  const runs = new Map<keyof Trio, Run>();
  for (const who of oursFirst ? order : order.toReversed()) {
    runs.set(who, await machines[who].run(toplevel));
  }
  const of = (who: keyof Trio): Run => {
    const run = runs.get(who);
    if (run === undefined) throw new Error(`${who} did not run`);
    return run;
  };
  return { ours: of('ours'), theirs: of('theirs'), parallel: of('parallel') };
}
