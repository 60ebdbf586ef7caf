// fleet cache verify: hashes what is stored, takes what is wrong out of service and stores it anew from
// the local Nix store where that has the same bytes.
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import { globalsOf, print, say, tellAfterResult } from './output.ts';
import { withStateDir } from './state.ts';

type Options = { all?: boolean; sample?: string };

const DEFAULT_SAMPLE = 5;

export function registerCacheVerify(cache: Command): void {
  cache
    .command('verify')
    .option('--all', 'check everything')
    .option('--sample <percent>', `check so many percent, at random (default: ${DEFAULT_SAMPLE})`)
    .description(
      'hash what is stored; set aside what is wrong, and store it anew where that can be',
    )
    .action(async (options: Options, command: Command) => {
      const globals = globalsOf(command);
      const part = partOf(options);
      const { checkCache } = await import('../src/server/check-cache.ts');
      await withStateDir(globals, async (dir) => {
        const report = await checkCache(dir, {
          part,
          onChecked: (checked) => {
            if (checked % 1000 === 0) say(globals, `${checked} paths checked`);
          },
        });
        const { faults } = report;
        const lines = faults.map(
          ({ name, what, healed }) => `${name}: ${what}; ${healed ? 'healed' : 'NOT healed'}`,
        );
        lines.push(
          `checked ${report.checked} paths and ${report.files} other files: ${faults.length} wrong`,
        );
        print(globals, { version: 1, ...report }, lines.join('\n'));
        const left = faults.filter(({ healed }) => !healed).length;
        if (left > 0) {
          const error = new FleetError(
            'E_CACHE_DAMAGED',
            `${left} of them could not be healed here`,
          );
          process.exitCode = tellAfterResult(globals, error);
        }
      });
    });
}

function partOf({ all, sample }: Options): number {
  if (all === true) {
    if (sample === undefined) return 1;
    throw new FleetError('E_USAGE', '--all and --sample exclude each other');
  }
  const percent = Number(sample ?? DEFAULT_SAMPLE);
  if (percent > 0 && percent <= 100) return percent / 100;
  throw new FleetError('E_USAGE', '--sample wants a number above 0 and up to 100');
}
