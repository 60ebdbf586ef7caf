// Two lines of one kind, to our server and to nginx, and one run over each of them.
import type { Pair } from './delta-figures.ts';
import type { Machine } from './delta-machines.ts';
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

export async function runPair(
  agent: Machine,
  stock: Machine,
  toplevel: string,
  oursFirst: boolean,
): Promise<Pair> {
  if (oursFirst) {
    const ours = await agent.run(toplevel);
    return { ours, theirs: await stock.run(toplevel) };
  }
  const theirs = await stock.run(toplevel);
  return { ours: await agent.run(toplevel), theirs };
}
