// A file of 1 GiB of which little changes, installed and then brought up to date, over a line that only counts: what an
// agent needs of memory for it, and how many bytes.
import { makeLargeFiles } from './delta-corpus.ts';
import { compare, told } from './delta-figures.ts';
import { agentMachine, stockMachine } from './delta-machines.ts';
import { stepOf, waitForPack } from './delta-packs.ts';
import { openLines, runAll } from './delta-runs.ts';
import type { Site } from './delta-site.ts';
import type { Figure } from './figures.ts';
import type { LineKind } from './line.ts';

/** As quick as the machines are. */
const WIRE: LineKind = { name: 'wire', delay: 0, rate: 4e9 };

export async function largeFile(
  site: Site,
  stack: AsyncDisposableStack,
  log: (line: string) => void,
): Promise<Figure[]> {
  makeLargeFiles(site.corpus);
  const lines = await openLines(site, WIRE, stack);
  const host = 'large';
  await site.publish({ [host]: 'large-old' });
  await site.mirror();
  const agent = await agentMachine(site, host, lines.fleet, null);
  await waitForPack(site, agent, stepOf(site, host));
  const machines = {
    ours: agent,
    theirs: stockMachine(site, host, lines.nginx, null, 1),
    parallel: stockMachine(site, host, lines.nginx, null, 16),
  };
  const install = await runAll(machines, site.toplevelOf(host), true);
  log(`  1 GiB file, install: ${told(install)}`);
  await site.publish({ [host]: 'large-new' });
  await site.mirror();
  await waitForPack(site, agent, stepOf(site, host));
  const update = await runAll(machines, site.toplevelOf(host), false);
  log(`  1 GiB file, update: ${told(update)}`);
  return [
    ...compare('1 GiB file, install', [install], true),
    ...compare('1 GiB file, update', [update], false),
  ];
}
