// fleet diff HOST: what the host's next step costs, by NARs and by its update pack, in all and by package.
import type { Command } from 'commander';
import type { PackageCost, StepCost } from '../src/server/step-cost.ts';
import { counted, formatBytes, globalsOf, print, printable, table } from './output.ts';
import { withStateDir } from './state.ts';
import { shortPath } from './status.ts';

export function registerDiff(program: Command): void {
  program
    .command('diff')
    .argument('<host>')
    .description('show what a host has to fetch for its next system')
    .action(async (host: string, _options: unknown, command: Command) => {
      const globals = globalsOf(command);
      const { stepCost } = await import('../src/server/step-cost.ts');
      await withStateDir(globals, async (dir) => {
        const cost = await stepCost(dir, printable(host), Math.floor(Date.now() / 1000));
        print(globals, { version: 1, ...cost }, textOf(cost, dir.config.packs));
      });
    });
}

function textOf(cost: StepCost, areMade: boolean): string {
  const { host, running, from, to, nars, upstream, pack, packages } = cost;
  const target = `#${to.sequence} ${shortPath(to.toplevel)}${to.published ? '' : ' (waits to be published)'}`;
  if (from?.closure === to.closure) return `${host} runs ${target}: nothing to fetch.`;
  const runs = running === null ? 'it has not said what it runs' : `it runs ${shortPath(running)}`;
  const known = from === null && running !== null ? ', which no manifest ever named' : '';
  const first = from === null ? ': all of it is fetched' : '';
  const waits = to.published
    ? 'not made yet: fleet serve makes it, or says why it cannot'
    : 'made once it is published';
  return [
    `${host}: ${runs}${known}; next is ${target}${first}`,
    table([
      ['by NARs', formatBytes(nars.bytes), counted(nars.paths, 'path')],
      pack === null
        ? ['by pack', '-', areMade ? waits : 'packs are off (fleet.json)']
        : [
            'by pack',
            formatBytes(pack.bytes),
            `${pack.copied} renamed, ${pack.patched} patched, ${pack.whole} whole`,
          ],
      ...(upstream.paths === 0
        ? []
        : [['from upstreams', formatBytes(upstream.bytes), counted(upstream.paths, 'path')]]),
    ]),
    '',
    packageTable(packages),
  ].join('\n');
}

/** What costs nothing by pack was only renamed, and is counted. */
function packageTable(packages: readonly PackageCost[]): string {
  const shown = packages.filter(({ packBytes }) => packBytes !== 0);
  const rest = packages.length - shown.length;
  const rows = table([
    ['PACKAGE', 'BEFORE', 'AFTER', 'NARS', 'PACK'],
    ...shown.map(({ name, before, after, narBytes, packBytes }) => [
      name,
      versions(before),
      versions(after),
      formatBytes(narBytes),
      packBytes === null ? '-' : formatBytes(packBytes),
    ]),
  ]);
  if (rest === 0) return rows;
  const others = `${counted(rest, 'package')} with no new bytes`;
  return shown.length === 0 ? others : `${rows}\nand ${others}`;
}

function versions(all: readonly string[]): string {
  return all.map((version) => version || '-').join(', ') || '-';
}
