// fleet audit: replays a whole log under the auditor's own root, and says per host what it was told, what it ran, and
// whatever is irregular. Of a bundle (--bundle: no network code is loaded), of a server (--url), or of the state
// here. fleet audit export writes the bundle.
import { createReadStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Command } from 'commander';
import { type AuditReport, auditLog, type LogSource } from '../src/audit/audit.ts';
import { openFactsPool } from '../src/audit/facts-pool.ts';
import { AUDIT_LIMITS, openBundleSource } from '../src/audit/source.ts';
import { readBundle, writeBundle } from '../src/bundle/tar.ts';
import { parseBaseUrl } from '../src/config.ts';
import { syncDirectory, writeDurable } from '../src/durable.ts';
import { errnoOf, FleetError, isFleetError, messageOf } from '../src/errors.ts';
import { keyId } from '../src/keyfile.ts';
import { formatTime } from '../src/manifest/time.ts';
import { readInput } from './input.ts';
import {
  type Globals,
  globalsOf,
  paint,
  print,
  printable,
  table,
  tellAfterResult,
} from './output.ts';
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
    .option(
      '--since <file>',
      'it must go on from the checkpoint in this file, which is then renewed',
    )
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
    throw new FleetError('E_USAGE', 'give --bundle or --url');
  }
  const root = (await readInput(options.root)).toString('utf8');
  const seen = await readSeen(options.since);
  await using pool = openFactsPool();
  const { report, checkpoint } = await withSource(options, globals, async (source) => ({
    report: await auditLog(source, root, pool, seen),
    checkpoint: source.checkpoint,
  }));
  const count = report.irregularities.length;
  if (count === 0 && options.since !== undefined) await writeDurable(options.since, checkpoint);
  print(globals, documentOf(report, options.host), textOf(globals, report, options.host));
  if (count === 0) return;
  const summary = count === 1 ? '1 irregularity' : `${count} irregularities`;
  process.exitCode = tellAfterResult(globals, new FleetError('E_AUDIT', summary));
}

async function readSeen(file: string | undefined): Promise<string | null> {
  if (file === undefined) return null;
  try {
    return (await readInput(file)).toString('utf8');
  } catch (error) {
    // The first time there is none.
    if (isFleetError(error) && errnoOf(error.cause) === 'ENOENT') return null;
    throw error;
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
      if (errnoOf(isFleetError(cause) ? cause.cause : cause) === undefined) throw cause;
      throw new FleetError('E_USAGE', `cannot read ${bundle}: ${messageOf(cause)}`, { cause });
    } finally {
      stream.destroy();
    }
  }
  return await withStateDir(globals, async (dir) => {
    const { auditFiles } = await import('../src/server/audit-files.ts');
    return await use(await openBundleSource(auditFiles(dir, { closures: false })));
  });
}

/** Streamed to a name beside it, and then put in its place: half a bundle is never there. */
async function exportBundle(out: string, closures: boolean, globals: Globals): Promise<void> {
  const temporary = `${out}.part`;
  let bytes = 0;
  await withStateDir(globals, async (dir) => {
    const { auditFiles } = await import('../src/server/audit-files.ts');
    try {
      await using handle = await open(temporary, 'w');
      for await (const chunk of writeBundle(auditFiles(dir, { closures }))) {
        await handle.writeFile(chunk);
        bytes += chunk.length;
      }
      await handle.sync();
      await rename(temporary, out);
      await syncDirectory(dirname(out));
    } catch (cause) {
      await rm(temporary, { force: true }).catch(() => {});
      if (isFleetError(cause) || errnoOf(cause) === undefined) throw cause;
      throw new FleetError('E_USAGE', `cannot write ${out}: ${messageOf(cause)}`, { cause });
    }
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

function textOf(globals: Globals, report: AuditReport, host: string | undefined): string {
  const { log, hosts, irregularities, root } = report;
  const fresh = log.freshAt === null ? 'at an unknown time' : `as of ${formatTime(log.freshAt)}`;
  const { keys, threshold } = root.roles.director;
  const rows = hosts.map(({ host: name, told, ran, receipts, phase }) => {
    const last = told.at(-1);
    return [
      name,
      String(told.length),
      last === undefined ? '-' : `#${last.sequence} ${shortOf(last.toplevel)}`,
      ran.length === 0 ? '-' : shortOf(ran.at(-1)?.toplevel ?? null),
      phase ?? '-',
      String(receipts),
    ];
  });
  return [
    `fleet ${report.fleet}: log ${log.origin}, ${log.size} entries, newest ${fresh}`,
    `root version ${root.version} in force; ${threshold} of ${keys.length} director keys must sign`,
    '',
    table([['HOST', 'TOLD', 'LAST', 'RAN LAST', 'PHASE', 'RECEIPTS'], ...rows]),
    ...hosts.filter((one) => one.host === host).flatMap(historyOf),
    '',
    ...(irregularities.length === 0
      ? [paint(globals, 'good', 'Authentic and complete: nothing irregular.')]
      : irregularities.map(({ index, host: name, code, message }) => {
          const where = [index === null ? '' : `entry ${index}`, name ?? ''].filter(Boolean);
          const place = where.length === 0 ? '' : `${where.join(', ')}: `;
          return `${paint(globals, 'bad', 'IRREGULAR')} ${place}${printable(message)} [${code}]`;
        })),
  ].join('\n');
}

/** Of a system, enough to tell two apart: `9ab0dmia nixos-system-x`. */
function shortOf(path: string | null): string {
  const [, hash, name] = /^\/nix\/store\/(.{8})[^-]*-(.*)$/.exec(path ?? '') ?? [];
  return hash === undefined ? 'none' : `${hash} ${name}`;
}

function historyOf({ host, told, ran, keys }: AuditReport['hosts'][number]): string[] {
  return [
    '',
    `${host} was told:`,
    ...told.map(({ index, epoch, sequence, issuedAt, toplevel, approvals, emergency }) => {
      const more = approvals === 0 ? '' : `, ${approvals} approvals`;
      const what = `${toplevel ?? 'it is ended'}  (entry ${index}${more}${emergency ? ', EMERGENCY' : ''})`;
      return `  ${formatTime(issuedAt)}  ${epoch}.${sequence}  ${what}`;
    }),
    `${host} ran, as it says:`,
    ...ran.map(
      ({ from, to, toplevel }) => `  ${formatTime(from)} to ${formatTime(to)}  ${toplevel ?? '-'}`,
    ),
    `keys of ${host}: ${keys.map(({ key, index }) => `${keyId(key)} (entry ${index})`).join(', ') || '-'}`,
  ];
}

function documentOf(report: AuditReport, host: string | undefined): unknown {
  const { fleet, log, root, hosts, irregularities } = report;
  return {
    version: 1,
    fleet,
    root: { version: root.version, epoch: root.epoch, expiresAt: root.expiresAt },
    log,
    hosts: host === undefined ? hosts : hosts.filter((one) => one.host === host),
    irregularities,
  };
}

function urlOf(value: string): string {
  try {
    return parseBaseUrl(value);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--url ${value}: it ${messageOf(cause)}`, { cause });
  }
}
