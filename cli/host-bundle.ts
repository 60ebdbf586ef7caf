// fleet host bundle HOST: all that a host needs and has not, as one file to be carried there (SPEC §8.2).
import type { Command } from 'commander';
import { writeMembers } from '../src/bundle/tar.ts';
import { FleetError } from '../src/errors.ts';
import { requireNew, streamNew } from './new-file.ts';
import { counted, globalsOf, print, say } from './output.ts';
import { withStateDir } from './state.ts';
import { pathArgument } from './store-argument.ts';

type Options = { out: string; from?: string; base?: string; all?: boolean };

export function registerHostBundle(host: Command): void {
  host
    .command('bundle')
    .argument('<host>')
    .description('write its update as one file, to be carried there: fleet agent apply FILE')
    .requiredOption('--out <file>', 'where to write it')
    .option('--from <size>', 'how many entries of the log it has seen (default: as it said last)')
    .option('--base <path>', 'leave out what this system has (default: what it runs, as it said)')
    .option('--all', 'leave nothing out')
    .action(async (name: string, options: Options, command: Command) => {
      const globals = globalsOf(command);
      const { out, all = false } = options;
      if (all && options.base !== undefined) {
        throw new FleetError('E_USAGE', 'give one of --all and --base, not both');
      }
      const from = options.from === undefined ? null : sizeOf(options.from);
      const base = options.base === undefined ? null : await pathArgument(options.base);
      await requireNew('--out', out);
      const { makeHostBundle } = await import('../src/server/host-bundle.ts');
      await withStateDir(globals, async (dir) => {
        const made = await makeHostBundle(dir, name, {
          from,
          base: base ?? (all ? 'nothing' : 'reported'),
          now: Math.floor(Date.now() / 1000),
        });
        const bytes = await streamNew('--out', out, writeMembers(made.members));
        const { sequence, toplevel, size, bases, paths, ofPaths } = made;
        print(
          globals,
          {
            ...{ version: 1, host: name, file: out, bytes, sequence, toplevel },
            ...{ from: made.from, size, bases, paths, ofPaths },
          },
          [
            `${out} brings ${name} to #${sequence} (${counted(paths, 'path')} of ${ofPaths}, ${(bytes / 2 ** 20).toFixed(1)} MiB).`,
            `Bring it there and run:  fleet agent apply ${out}`,
          ].join('\n'),
        );
        for (const system of bases) say(globals, `left out: what ${system} has`);
      });
    });
}

function sizeOf(text: string): number {
  if (/^(0|[1-9]\d{0,14})$/.test(text)) return Number(text);
  throw new FleetError('E_USAGE', '--from wants a number of entries');
}
