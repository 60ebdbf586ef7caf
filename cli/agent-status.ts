// What an agent's status says to people.
import type { AgentStatus, Fetching, LocalStatus } from '../src/agent/status.ts';
import { formatTime } from '../src/manifest/time.ts';
import { waitText } from './agent-once.ts';
import { fetchingText, formatBytes, printable, table } from './output.ts';

/** So many packages are shown; --json has more of them. */
const SHOWN = 15;

export function statusText(status: AgentStatus): string {
  const { accepted, systems, last, underWay, fetching, rejected } = status;
  return table([
    ['host', `${status.host} (${status.system}) of fleet ${status.fleet}`],
    ['server', status.server],
    ['root', `version ${status.rootVersion}, expires ${formatTime(status.rootExpiresAt)}`],
    ['host key', status.fingerprint],
    [
      'accepted',
      accepted === null ? 'nothing yet' : `epoch ${accepted.epoch}, sequence ${accepted.sequence}`,
    ],
    ['current', systems.current ?? '-'],
    ['booted', systems.booted ?? '-'],
    ['profile', systems.profile ?? '-'],
    ['phase', last === null ? 'never ran' : `${last.phase}, since ${formatTime(last.at)}`],
    ...(last?.text == null ? [] : [['  why', printable(last.text)]]),
    ...(underWay === null ? [] : [['under way', `${underWay.step} ${underWay.target}`]]),
    ...(fetching === null
      ? []
      : [['fetching', `${fetching.toplevel}: ${fetchingText(fetching)}${lineText(fetching)}`]]),
    ...(rejected === null
      ? []
      : [
          [
            'rejected',
            `sequence ${rejected.manifest.sequence}: ${printable(rejected.reason.text)}`,
          ],
        ]),
    ...localRows(status.local),
    [
      'token',
      status.tokenRenewAt === null
        ? 'renewed when the server says so'
        : `renewed from ${formatTime(status.tokenRenewAt)} on`,
    ],
    ...(status.tokenProblem === null ? [] : [['  but', printable(status.tokenProblem)]]),
    ['receipts', status.queued === 0 ? 'all sent' : waitText(status.queued)],
  ]);
}

/** `; 1.0 MiB of 7.2 MiB of the update pack came` */
function lineText({ line }: Fetching): string {
  if (line === null) return '';
  return `; ${formatBytes(line.done)} of ${formatBytes(line.total)} of the update pack came`;
}

/** What is coming, what it changes, and what people here asked for. */
function localRows(local: LocalStatus): string[][] {
  const { coming, deferred, now, held, requests, wayBack, problem } = local;
  return [
    ...(coming === null ? [] : comingRows(coming)),
    ...(deferred === null
      ? []
      : [['  put off', `until ${formatTime(deferred.until)}, by ${deferred.who}`]]),
    ...(now === null ? [] : [['  at once', `wanted by ${now.who}`]]),
    ...(held === null
      ? []
      : [['held', `by ${held.who} since ${formatTime(held.at)}: ${printable(held.reason)}`]]),
    ['way back', wayBack.toplevel ?? `none: ${wayBack.problem}`],
    ...(requests === 0 ? [] : [['requests', `${requests} to be told`]]),
    ...(problem === null
      ? []
      : [['local.json', `${printable(problem)}; the next run sets it aside`]]),
  ];
}

function comingRows(coming: NonNullable<LocalStatus['coming']>): string[][] {
  const { toplevel, sequence, narBytes, reboot, latest, packages, morePackages } = coming;
  const restart = { true: 'needed', false: 'not needed', null: 'not known' }[`${reboot}`];
  const shown = (packages ?? []).slice(0, SHOWN);
  const more = (packages ?? []).length - shown.length + morePackages;
  return [
    ['coming', `${toplevel} (sequence ${sequence}, ${formatBytes(narBytes)} in all)`],
    ['  restart', restart],
    ['  put it off', latest === null ? 'not allowed' : `until ${formatTime(latest)} at the latest`],
    ...(packages === null ? [['  changes', 'not known before it is fetched']] : []),
    ...shown.map(({ name, before, after }) => [
      '  changes',
      `${printable(name)}: ${versions(before)} → ${versions(after)}`,
    ]),
    ...(more > 0 ? [['  changes', `and ${more} more (see --json)`]] : []),
  ];
}

function versions(all: readonly string[]): string {
  if (all.length === 0) return '-';
  return all.map((one) => (one === '' ? '(no version)' : printable(one))).join(', ');
}
