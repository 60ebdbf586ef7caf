// fleet audit: replays a whole log under the auditor's own root, and says per host what it was told, what it ran, and
// whatever is irregular. Of a bundle (--bundle: no network code is loaded), of a server (--url), or of the state
// here. fleet audit export writes the bundle.
import { createReadStream } from 'node:fs';
import type { Command } from 'commander';
import { type AuditReport, auditLog, type LogSource, type Seen } from '../src/audit/audit.ts';
import { openFactsPool } from '../src/audit/facts-pool.ts';
import { formatKept, isKept, parseKept } from '../src/audit/kept.ts';
import { AUDIT_LIMITS, openBundleSource } from '../src/audit/source.ts';
import { readBundle, writeBundle } from '../src/bundle/tar.ts';
import { parseBaseUrl } from '../src/config.ts';
import { writeDurable } from '../src/durable.ts';
import { errnoOf, FleetError, isFleetError, messageOf } from '../src/errors.ts';
import { parseCheckpoint } from '../src/tlog/checkpoint.ts';
import { parseNote } from '../src/tlog/note.ts';
import { documentOf, textOf } from './audit-report.ts';
import { readInput } from './input.ts';
import { requireDirectoryOf, requireNew, streamNew } from './new-file.ts';
import { type Globals, globalsOf, print, printLong, say, tellAfterResult } from './output.ts';
import { readOwnRoot } from './own-root.ts';
import { withStateDir } from './state.ts';
import { tokenOf } from './token-file.ts';

type Options = {
  root?: string;
  bundle?: string;
  url?: string;
  tokenFile?: string;
  since?: string;
  host?: string;
};

export function registerAudit(program: Command): void {
  const audit = program
    .command('audit')
    .description('replay a whole log: what each host was told and ran, and what is irregular')
    .option('--root <file>', 'the first root of the fleet, 1.root.json, as you trust it')
    .option('--bundle <file>', 'what fleet audit export wrote (default: the state here)')
    .option('--url <url>', 'follow the log of a server')
    .option('--token-file <file>', 'a token that may read, or a netrc (default: $FLEET_TOKEN)')
    .option('--since <file>', 'go on from what the last audit kept in this file, and renew it')
    .option('--host <host>', 'show all of this host')
    .action(async (options: Options, command: Command) => await run(options, globalsOf(command)));
  audit
    .command('export')
    .description('write the log of the state, and what belongs to it, as one file')
    .requiredOption('--out <file>', 'where to write it')
    .option('--closures', 'also the closure file of every manifest')
    .action(async (options: { out: string; closures?: boolean }, command: Command) => {
      await exportBundle(options.out, options.closures === true, globalsOf(command));
    });
}

async function run(options: Options, globals: Globals): Promise<void> {
  if (options.root === undefined) {
    throw new FleetError('E_USAGE', 'an audit needs --root: a root that you trust', {
      hint: 'the first root of the fleet, 1.root.json, as it came to you; never the one in a bundle',
    });
  }
  if (options.bundle !== undefined && options.url !== undefined) {
    throw new FleetError('E_USAGE', 'give one of --bundle and --url, not both');
  }
  if (options.since !== undefined) await requireDirectoryOf('--since', options.since);
  const { envelope: root } = await readOwnRoot(options.root);
  const seen = await readSeen(options.since, root, globals);
  await using pool = openFactsPool();
  // A copy may be as old as it is; what a server shows is what hosts are shown, too.
  const now = options.url === undefined ? null : Math.floor(Date.now() / 1000);
  const report = await withSource(options, globals, (source) =>
    auditLog(source, root, pool, seen, now),
  );
  if (options.host !== undefined) requireHost(options.host, report);
  const count = report.irregularities.length + report.moreIrregularities;
  // What is irregular is told again by the next one, which begins where this one did.
  if (count === 0 && options.since !== undefined) {
    await writeDurable(options.since, formatKept(report.kept()));
  }
  await printLong(globals, documentOf(report, options.host), () =>
    textOf(globals, report, options.host),
  );
  if (count === 0) return;
  const summary = count === 1 ? '1 irregularity' : `${count} irregularities`;
  process.exitCode = tellAfterResult(globals, new FleetError('E_AUDIT', summary));
}

function requireHost(host: string, { hosts }: AuditReport): void {
  if (hosts.some((one) => one.host === host)) return;
  const names = hosts.map((one) => one.host);
  const some = names.length > 20 ? `${names.slice(0, 20).join(', ')}, …` : names.join(', ');
  throw new FleetError('E_HOST_UNKNOWN', `the log tells of no host ${host}`, {
    hint: `it tells of: ${some === '' ? 'none' : some}`,
  });
}

/** What an earlier audit kept, or a checkpoint that was kept otherwise. */
async function readSeen(
  file: string | undefined,
  root: string,
  globals: Globals,
): Promise<Seen | null> {
  if (file === undefined) return null;
  let text: string;
  try {
    text = (await readInput(file)).toString('utf8');
  } catch (error) {
    // The first time there is none.
    if (!isFleetError(error) || errnoOf(error.cause) !== 'ENOENT') throw error;
    say(globals, `note: ${file} is not there yet: the whole log is replayed`);
    return null;
  }
  if (isKept(text)) return parseKept(text, root);
  try {
    parseCheckpoint(parseNote(text).text);
    return { checkpoint: text };
  } catch (cause) {
    const what = `${file} is neither what an audit keeps nor a checkpoint`;
    throw new FleetError('E_AUDIT_STATE', what, { cause });
  }
}

async function withSource<T>(
  { bundle, url, tokenFile }: Options,
  globals: Globals,
  use: (source: LogSource) => Promise<T>,
): Promise<T> {
  if (url !== undefined) {
    const { openRemoteSource } = await import('../src/audit/remote.ts');
    const base = urlOf(url);
    const token = await tokenOf(tokenFile, new URL(base).hostname);
    await using source = await openRemoteSource({ url: base, token });
    return await use(source);
  }
  if (bundle !== undefined) {
    const stream = createReadStream(bundle);
    try {
      return await use(await openBundleSource(readBundle(stream, AUDIT_LIMITS)));
    } catch (cause) {
      if (isFleetError(cause) || errnoOf(cause) === undefined) throw cause;
      throw new FleetError('E_USAGE', `cannot read ${bundle}: ${errnoOf(cause)}`, {
        hint: 'give the path of a file that fleet audit export wrote',
        cause,
      });
    } finally {
      stream.destroy();
    }
  }
  return await withStateDir(globals, async (dir) => {
    const { auditFiles } = await import('../src/server/audit-files.ts');
    return await use(await openBundleSource(auditFiles(dir, { closures: false })));
  });
}

async function exportBundle(out: string, closures: boolean, globals: Globals): Promise<void> {
  await requireNew('--out', out);
  let bytes = 0;
  await withStateDir(globals, async (dir) => {
    const { auditFiles } = await import('../src/server/audit-files.ts');
    bytes = await streamNew('--out', out, writeBundle(auditFiles(dir, { closures })));
  });
  print(
    globals,
    { version: 1, file: out, bytes },
    [
      `The log and what belongs to it is in ${out} (${(bytes / 2 ** 20).toFixed(1)} MiB).`,
      `Whoever has the fleet's first root checks it with: fleet audit --bundle ${out} --root 1.root.json`,
    ].join('\n'),
  );
}

function urlOf(value: string): string {
  try {
    return parseBaseUrl(value);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--url ${value}: it ${messageOf(cause)}`, { cause });
  }
}
