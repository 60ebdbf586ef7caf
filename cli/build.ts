// fleet build: evaluate, build, ingest and publish; then a table of what became of each host.
// Exit 4 when some hosts failed: the others were published all the same.
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import type { FleetBuildEvent } from '../src/server/build.ts';
import type { HostResult } from '../src/server/publish-built.ts';
import {
  type Globals,
  globalsOf,
  paint,
  print,
  printable,
  say,
  table,
  tellAfterResult,
} from './output.ts';
import { withStateDir } from './state.ts';
import { shortPath } from './status.ts';

type Options = {
  flake: string;
  dryRun?: boolean;
  publish: boolean;
  keepGoing?: boolean;
  emergency?: boolean;
  minimum?: boolean;
};

const CHANGES = {
  new: 'first manifest',
  system: 'new system',
  settings: 'new settings',
  closure: 'rebuilt',
  emergency: 'an emergency now',
  minimum: 'no way back behind it now',
  renewal: 'renewed',
  none: 'unchanged',
} as const;

export function registerBuild(program: Command): void {
  program
    .command('build')
    .argument('[hosts...]', 'which hosts (default: all of the flake)')
    .description('build the hosts of a flake and publish what changed')
    .option('--flake <ref>', 'the flake', '.')
    .option('--dry-run', 'evaluate, and say what would be published')
    .option('--no-publish', 'sign and store, and leave it waiting for fleet publish')
    .option('--emergency', 'hosts wait neither for windows nor for people; all checks stay')
    .option('--minimum', 'nobody at a machine may go back behind what is published now')
    .option('--keep-going', 'when a derivation fails, build what does not depend on it')
    .action(async (hosts: string[], options: Options, command: Command) => {
      const globals = globalsOf(command);
      const { buildFleet } = await import('../src/server/build.ts');
      const stop = new AbortController();
      const interrupt = (): void =>
        stop.abort(
          new FleetError('E_INTERRUPTED', 'interrupted; nothing half done is visible', {
            hint: 'run the same command again: it goes on from there',
          }),
        );
      process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
      const dryRun = options.dryRun === true;
      const emergency = options.emergency === true;
      const results = await withStateDir(globals, (dir) =>
        buildFleet(dir, {
          flake: options.flake,
          hosts,
          dryRun,
          noPublish: !options.publish,
          emergency,
          minimum: options.minimum === true,
          keepGoing: options.keepGoing === true,
          signal: stop.signal,
          onEvent: (event) => tell(globals, event),
        }),
      );
      process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
      print(
        globals,
        documentOf(results, dryRun, emergency),
        summary(globals, results, { dryRun, emergency }),
      );
      const failed = results.filter((result) => result.error !== null);
      if (failed.length > 0) {
        const names = failed.map(({ host }) => printable(host)).join(', ');
        const summary = `${failed.length} of ${countOf(results.length, 'host')} failed: ${names}`;
        process.exitCode = tellAfterResult(globals, new FleetError('E_SOME_HOSTS', summary));
      }
    });
}

function tell(globals: Globals, event: FleetBuildEvent): void {
  switch (event.kind) {
    case 'flake':
      say(
        globals,
        `hosts of ${event.flake.ref.replace(/[?].*/, '')}: ${event.hosts.map(printable).join(', ')}`,
      );
      break;
    case 'skipped':
      say(
        globals,
        event.why === 'removed'
          ? `${event.host}: skipped, it was removed from the fleet`
          : event.why === 'held'
            ? `${event.host}: skipped, it is held: fleet host release ${event.host}`
            : `${event.host}: skipped, its removal waits: fleet publish; to keep it, name it: fleet build ${event.host}`,
      );
      break;
    case 'evaluating':
      say(globals, `${printable(event.host)}: evaluating`);
      break;
    case 'building':
      if (event.event.type === 'building')
        say(globals, `${event.host}: building ${event.event.drv}`);
      else if (event.event.type === 'fetching') {
        say(globals, `${event.host}: fetching ${event.event.path}`);
      } else if (globals.verbose && event.event.type === 'log') {
        say(globals, `  | ${printable(event.event.line)}`);
      }
      break;
    case 'ingesting': {
      const { paths, totalPaths, narBytes } = event.progress;
      if (!isDue()) break;
      say(globals, `${event.host}: stored ${paths} of ${totalPaths} paths, ${mebibytes(narBytes)}`);
      break;
    }
    case 'upstream':
      say(
        globals,
        `${event.host}: ${event.error.message} [${event.error.code}]; stored here instead`,
      );
      break;
    case 'ready': {
      const { ingested, reused, upstream } = event.ingested;
      const left = upstream === 0 ? '' : `, ${upstream} left to upstreams`;
      say(globals, `${event.host}: ${ingested} new paths, ${reused} there already${left}`);
      break;
    }
    case 'failed':
      for (const line of event.error.details) say(globals, `  | ${printable(line)}`);
      say(
        globals,
        `${printable(event.host)}: ${printable(event.error.message)} [${event.error.code}]`,
      );
      say(globals, `  → ${printable(event.error.hint)}`);
      break;
    case 'waiting': {
      const who = event.holder === null ? 'another process' : `process ${event.holder.pid}`;
      say(globals, `everything is built; waiting for ${who}, which is publishing`);
      break;
    }
  }
}

const WAITS = (count: number): string =>
  `; ${countOf(count, 'manifest')} waiting: fleet publish, or for approval fleet publish --proposal FILE`;

const PROGRESS_MS = 2000;
let toldAt = performance.now();

/** A line every two seconds at most: a log of a build is read by people. */
function isDue(): boolean {
  if (performance.now() - toldAt < PROGRESS_MS) return false;
  toldAt = performance.now();
  return true;
}

function countOf(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

function summary(
  globals: Globals,
  results: readonly HostResult[],
  { dryRun, emergency }: { readonly dryRun: boolean; readonly emergency: boolean },
): string {
  const rows = results.map((result) => {
    if (result.error !== null)
      return [
        printable(result.host),
        paint(globals, 'bad', 'FAILED'),
        printable(result.error.message),
      ];
    const { host, change, manifest, toplevel, waits } = result;
    const number = manifest === null ? '' : `#${manifest.sequence} `;
    const what = waits ? `${CHANGES[change]}, waits` : CHANGES[change];
    return [host, what, `${number}${shortPath(toplevel)}`];
  });
  const done = results.filter((result) => result.error === null);
  const waiting = done.filter(({ waits }) => waits).length;
  const changed = done.filter(({ change }) => change !== 'none').length - waiting;
  const how = emergency && changed > 0 ? ', as an EMERGENCY' : '';
  const last = dryRun
    ? `${countOf(changed, 'manifest')} would be published${how}; nothing was built`
    : `${changed === 0 ? 'nothing' : countOf(changed, 'manifest')} published${how}${waiting === 0 ? '' : WAITS(waiting)}`;
  return `${table([['HOST', 'CHANGE', 'SYSTEM'], ...rows])}\n${last}`;
}

function documentOf(results: readonly HostResult[], dryRun: boolean, emergency: boolean): unknown {
  return {
    version: 1,
    dryRun,
    emergency,
    hosts: results.map((result) => {
      if (result.error !== null) {
        const { code, message, hint, details } = result.error;
        return { host: result.host, change: null, error: { code, message, hint, log: details } };
      }
      const { host, change, before, toplevel, manifest, waits } = result;
      const published =
        manifest === null
          ? null
          : { epoch: manifest.epoch, sequence: manifest.sequence, digest: manifest.digest };
      const [done, waiting] = waits ? [null, published] : [published, null];
      return { host, change, before, toplevel, published: done, waiting, error: null };
    }),
  };
}
