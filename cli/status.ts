// fleet status: a table of hosts: what each should run, what it runs, in which phase, and why.
import { stat } from 'node:fs/promises';
import type { Command } from 'commander';
import type { Phase } from '../src/manifest/receipt.ts';
import { formatTime } from '../src/manifest/time.ts';
import { hashPartOf, nameOf, type StorePath } from '../src/nix/storepath.ts';
import type { StateDir } from '../src/server/statedir.ts';
import { type HostStatus, hostStatus, requestsIn } from '../src/server/status.ts';
import type { Waiting } from '../src/server/waiting.ts';
import {
  counted,
  fetchingText,
  type Globals,
  globalsOf,
  paint,
  placedText,
  print,
  printable,
  table,
} from './output.ts';
import { withStateDir } from './state.ts';

const DAY = 86_400;
/** Warnings start this long before something expires. */
const WARN_DAYS = 14;
/** What people at hosts asked for is shown for so long; `fleet host show` has all of it. */
const REQUEST_DAYS = 14;

export function registerStatus(program: Command): void {
  program
    .command('status')
    .description('show what every host should run, what it runs, and why')
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      const { waitingOf } = await import('../src/server/waiting.ts');
      await withStateDir(globals, async (dir) => {
        const now = Math.floor(Date.now() / 1000);
        const waiting = await waitingOf(dir, now);
        const hosts = (await dir.state.status()).map((row) => {
          const status = hostStatus(row, now);
          return { ...status, waiting: waiting.get(status.host) ?? null };
        });
        const requests = (await dir.state.requests(now - REQUEST_DAYS * DAY)).flatMap(
          ({ host, receivedAt, envelope }) =>
            requestsIn([envelope]).map((request) => ({ host, ...request, receivedAt })),
        );
        const warnings = (await warningsOf(dir, hosts, now)).map((text) =>
          placedText(globals, text),
        );
        print(
          globals,
          { version: 1, fleet: dir.config.fleet, now, hosts, requests, warnings },
          [
            hosts.length === 0
              ? placedText(globals, 'No hosts yet. Publish some: fleet build --flake REF')
              : hostTable(globals, hosts, now),
            ...requests.map(
              ({ host, number, text, who, receivedAt }) =>
                `? ${host}, ${ago(now - receivedAt)} ago, ${who} (${number}): ${printable(text)}`,
            ),
            ...warnings.map((warning) => `! ${warning}`),
          ].join('\n'),
        );
      });
    });
}

const BAD: readonly Phase[] = [
  'failed',
  'in-sync-degraded',
  'preflight-failed',
  'refused',
  'rolled-back',
];

function paintPhase(globals: Globals, phase: Phase): string {
  const color = phase === 'in-sync' ? 'good' : BAD.includes(phase) ? 'bad' : 'waiting';
  return paint(globals, color, phase);
}

type Row = HostStatus & { readonly waiting: Waiting | null };

function hostTable(globals: Globals, hosts: readonly Row[], now: number): string {
  return table([
    ['HOST', 'DESIRED', 'ACTUAL', 'PHASE', 'LAST SEEN', 'WHY'],
    ...hosts.map((host) => [
      host.host,
      desiredOf(host),
      host.actual?.current == null ? '-' : shortPath(host.actual.current),
      paintPhase(globals, host.phase),
      host.lastSeen === null ? 'never' : `${ago(now - host.lastSeen)} ago`,
      whyOf(host, now),
    ]),
  ]);
}

function desiredOf({ desired }: HostStatus): string {
  if (desired === null) return '-';
  const { sequence, toplevel, emergency } = desired;
  return `#${sequence} ${toplevel === null ? 'removed' : shortPath(toplevel)}${emergency ? ', EMERGENCY' : ''}`;
}

function whyOf({ why, fetching, conflict, waiting, exceptions, held }: Row, now: number): string {
  const reasons = [
    fetching === null
      ? undefined
      : `${fetchingText(fetching)}, it said ${ago(now - fetching.toldAt)} ago`,
    why?.text,
    conflict === null ? undefined : 'cloned? see below',
    waiting === null ? undefined : waitingText(waiting),
    held === null ? undefined : heldText(held),
    exceptions.length === 0 ? undefined : `root there: ${exceptions.join(', ')}`,
  ];
  return reasons.flatMap((text) => (text === undefined ? [] : [printable(text)])).join('; ');
}

/** `held by the admin since 2026-01-31T23:59:59Z: the show is on`. */
export function heldText({ since, reason }: NonNullable<HostStatus['held']>): string {
  return `held by the admin since ${formatTime(since)}${reason === null ? '' : `: ${reason}`}`;
}

/** `#2 9ab0dmia nixos-system-x waits for 2 approvals`. */
export function waitingText({ sequence, toplevel, approvals, stale, emergency }: Waiting): string {
  const name = toplevel === null ? 'removes the host' : shortPath(toplevel);
  const what = `#${sequence} ${name}${emergency ? ', EMERGENCY,' : ''}`;
  if (stale !== null) return `${what} waits, and will not be published: it ${stale}`;
  return `${what} waits ${approvals === 0 ? 'to be published' : `for ${counted(approvals, 'approval')}`}`;
}

/** Enough of a store path to tell two apart: `9ab0dmia nixos-system-x`. */
export function shortPath(path: StorePath): string {
  return `${hashPartOf(path).slice(0, 8)} ${nameOf(path)}`;
}

/** `90` → `1 min`. */
export function ago(seconds: number): string {
  if (seconds < 60) return `${Math.max(0, seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * DAY) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / DAY)} days`;
}

async function warningsOf(
  { layout, root }: StateDir,
  hosts: readonly Row[],
  now: number,
): Promise<string[]> {
  const warnings: string[] = [];
  const until = (at: number): string => (at <= now ? 'has expired' : `expires in ${ago(at - now)}`);
  if (root.expiresAt - now < WARN_DAYS * DAY) {
    warnings.push(
      `root version ${root.version} ${until(root.expiresAt)}: fleet root rotate --out DRAFT`,
    );
  }
  for (const { host, conflict } of hosts) {
    if (conflict === null) continue;
    const since = formatTime(conflict.since);
    warnings.push(
      `${host}, since ${since}: ${conflict.text}: fleet host enroll ${host} --replace, and its file to the machine that is to stay`,
    );
  }
  for (const { host, desired } of hosts) {
    if (
      desired !== null &&
      desired.toplevel !== null &&
      desired.expiresAt - now < WARN_DAYS * DAY
    ) {
      warnings.push(
        `the manifest of ${host} ${until(desired.expiresAt)}: run fleet build to renew it`,
      );
    }
  }
  const open = hosts.flatMap(({ waiting }) => (waiting?.stale === null ? [waiting] : []));
  const unapproved = open.filter(({ approvals }) => approvals > 0).length;
  if (unapproved > 0) {
    warnings.push(
      `${counted(unapproved, 'manifest')} to be approved: fleet publish --proposal FILE, fleet approve`,
    );
  }
  if (open.length > unapproved) {
    const rest = counted(open.length - unapproved, 'manifest');
    warnings.push(`${rest} to be published: fleet publish`);
  }
  for (const name of ['root', 'release']) {
    if ((await stat(layout.key(`${name}.pem`)).catch(() => null)) !== null) {
      warnings.push(
        `the ${name} key lies on this server: fleet key export ${name} --move --out /SOME/STICK/${name}.pem`,
      );
    }
  }
  return warnings;
}
