// An audit's report → what people read of it, and the document of --json.
import type { AuditReport } from '../src/audit/audit.ts';
import { keyId } from '../src/keyfile.ts';
import { formatTime } from '../src/manifest/time.ts';
import { counted, type Globals, paint, printable, table } from './output.ts';

/** `host`: the one of which all is shown. */
export function textOf(globals: Globals, report: AuditReport, host: string | undefined): string {
  const { log, hosts, irregularities, moreIrregularities, settled, root } = report;
  const fresh = log.freshAt === null ? 'at an unknown time' : `as of ${formatTime(log.freshAt)}`;
  const { keys, threshold } = root.roles.director;
  const rows = hosts.map(({ host: name, told, last, ran, receipts, earlier, phase }) => [
    name,
    String(told.length),
    last === null ? '-' : `#${last.sequence} ${shortOf(last.toplevel)}`,
    ran.length === 0 ? '-' : shortOf(ran.at(-1)?.toplevel ?? null),
    phase ?? '-',
    earlier === 0 ? String(receipts) : `${receipts}, ${earlier} of an earlier log`,
  ]);
  const read = log.from === 0 ? '' : `; entries before ${log.from} were audited earlier`;
  return [
    `fleet ${report.fleet}: log ${log.origin}, ${log.size} ${log.size === 1 ? 'entry' : 'entries'}, newest ${fresh}${read}`,
    ...(log.earlier === null
      ? []
      : [
          `log ${log.earlier.origin} was audited up to entry ${log.earlier.size}; what came after was not read`,
        ]),
    `root version ${root.version} in force; ${threshold} of ${keys.length} director keys must sign`,
    '',
    table([['HOST', 'TOLD', 'LAST', 'RAN LAST', 'PHASE', 'RECEIPTS'], ...rows]),
    ...hosts.filter((one) => one.host === host).flatMap((one) => historyOf(one, log.from)),
    '',
    ...settled.map(({ host: name, code, message, saidAt, endedBy }) => {
      const when = saidAt === null ? '' : ` (${formatTime(saidAt)}, as it says)`;
      const by = endedBy === null ? 'of an earlier log' : `that key ended with entry ${endedBy}`;
      return `settled ${name}: ${printable(message)}${when}; ${by} [${code}]`;
    }),
    ...(irregularities.length === 0
      ? [paint(globals, 'good', 'Authentic and complete: nothing irregular.')]
      : irregularities.map(({ index, host: name, code, message }) => {
          const where = [index === null ? '' : `entry ${index}`, name ?? ''].filter(Boolean);
          const place = where.length === 0 ? '' : `${where.join(', ')}: `;
          return `${paint(globals, 'bad', 'IRREGULAR')} ${place}${printable(message)} [${code}]`;
        })),
    ...(moreIrregularities === 0 ? [] : [`… and ${moreIrregularities} more`]),
  ].join('\n');
}

/** Of a system, enough to tell two apart: `9ab0dmia nixos-system-x`. */
function shortOf(path: string | null): string {
  const [, hash, name] = /^\/nix\/store\/(.{8})[^-]*-(.*)$/.exec(path ?? '') ?? [];
  return hash === undefined ? 'none' : `${hash} ${name}`;
}

/** `from`: the first entry that was read: of what came before it, the last is known. */
function historyOf(
  { host, told, ran, keys, last, lastKey }: AuditReport['hosts'][number],
  from: number,
): string[] {
  const before = from === 0 ? '' : `; those before entry ${from} were audited earlier`;
  const allKeys = keys.length === 0 && lastKey !== null ? [lastKey] : keys;
  return [
    '',
    `${host} was told:`,
    ...(last === null || told.length > 0
      ? []
      : [
          `  nothing since entry ${from}; before it ${last.epoch}.${last.sequence} (entry ${last.index})`,
        ]),
    ...told.map(({ index, epoch, sequence, issuedAt, toplevel, approvals, emergency }) => {
      const more = approvals === 0 ? '' : `, ${counted(approvals, 'approval')}`;
      const what = `${toplevel ?? 'it is ended'}  (entry ${index}${more}${emergency ? ', EMERGENCY' : ''})`;
      return `  ${formatTime(issuedAt)}  ${epoch}.${sequence}  ${what}`;
    }),
    `${host} ran, as it says:`,
    ...ran.map(
      ({ from, to, toplevel }) => `  ${formatTime(from)} to ${formatTime(to)}  ${toplevel ?? '-'}`,
    ),
    `keys of ${host}: ${allKeys.map(({ key, index }) => `${keyId(key)} (entry ${index})`).join(', ') || '-'}${before}`,
  ];
}

export function documentOf(
  report: AuditReport,
  host: string | undefined,
): Readonly<Record<string, unknown>> {
  const { fleet, log, root, hosts, irregularities, moreIrregularities, settled } = report;
  return {
    version: 1,
    fleet,
    root: { version: root.version, epoch: root.epoch, expiresAt: root.expiresAt },
    log,
    hosts: host === undefined ? hosts : hosts.filter((one) => one.host === host),
    irregularities,
    moreIrregularities,
    settled,
  };
}
