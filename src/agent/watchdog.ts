// An activation under way → something that undoes it if nobody confirms it in time, whatever became of the agent: a timer of
// systemd's that lives until the next boot, or, where no systemd runs, a process of its own; and over a boot a unit that the new
// system finds. Each runs the program of now (`fleet agent watchdog`), which lies in the old closure and so works as it did
// when it was armed. It does what the journal says: an activation that ended in the meantime is none of its business.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { syncDirectory, writeDurable } from '../durable.ts';
import { errnoOf, FleetError, isFleetError, messageOf } from '../errors.ts';
import { type Host, runsUnits } from './host.ts';
import { cleanEnvironment, findProgram } from './inside.ts';
import type { Transaction } from './journal.ts';
import { memoryFiles } from './memory.ts';
import { SWITCH_GRACE_SECONDS } from './switch.ts';
import { startTransient, systemctl } from './transient.ts';

/** For what comes between the limits of switch and confirmation: an agent that is started anew, a busy machine. */
const SLACK_SECONDS = 60;
/** How long a boot may take until the agent is there. */
const BOOT_SECONDS = 300;

/**
 * Units that outlive a boot and that no configuration of a system replaces (systemd.unit(5)): there a system that was just booted
 * finds the watchdog of the one before it.
 */
const LASTING = '/etc/systemd/system.control';
const BOOT_UNIT = 'fleet-watchdog-boot';

// It ends by itself once it was disarmed.
const WAIT = `
file=$1; left=$2; shift 2
while [ "$left" -gt 0 ]; do sleep 1; [ -e "$file" ] || exit 0; left=$((left - 1)); done
exec "$@"
`;

/**
 * Arms the watchdog of `transaction`, in the place of those that it has. They go last: at no moment is there none.
 * @throws FleetError E_PREFLIGHT where none can be armed.
 */
export async function arm(host: Host, transaction: Transaction): Promise<void> {
  const { id, step } = transaction;
  try {
    const before = await armed(host, id);
    if (step === 'setting' || step === 'awaiting-boot') await armForBoot(host, transaction);
    else if (runsUnits(host)) await armTimer(host, transaction);
    else await armProcess(host, transaction);
    await stop(host, before);
  } catch (error) {
    const text = `no watchdog for the switch: ${messageOf(error)}`;
    throw new FleetError('E_PREFLIGHT', text, { cause: error });
  }
}

/** Throws nothing: one that goes off for nothing does nothing. */
export async function disarm(host: Host, id: string): Promise<void> {
  await stop(host, await armed(host, id));
  if (!runsUnits(host)) return;
  for (const file of lastingFiles()) await rm(file, { force: true }).catch(() => {});
}

/** Those that wait in this boot: timers of systemd's, or the files of processes. */
async function armed(host: Host, id: string): Promise<readonly string[]> {
  if (!runsUnits(host)) {
    const dir = memoryFiles(host.memory.dir).switches;
    const names = await readdir(dir).catch(() => []);
    return names.filter((name) => name.startsWith(`armed-${id}-`)).map((name) => join(dir, name));
  }
  const args = ['--all', '--plain', '--full', '--no-legend', '--no-pager'];
  const which = [`${nameOf(id)}-*.timer`, `${BOOT_UNIT}.timer`];
  const text = await systemctl('list-units', ...args, ...which).catch(() => '');
  return text.match(/fleet-watchdog-[a-z0-9-]+\.timer/g) ?? [];
}

async function stop(host: Host, before: readonly string[]): Promise<void> {
  if (!runsUnits(host)) {
    for (const file of before) await rm(file, { force: true }).catch(() => {});
  } else if (before.length > 0) {
    await systemctl('stop', ...before).catch(() => {});
  }
}

function secondsFor({ memory }: Host, { step, rules }: Transaction): number {
  const confirming = rules.confirmSeconds + SLACK_SECONDS;
  if (step !== 'activating') return confirming;
  return memory.config.switchSeconds + 2 * SWITCH_GRACE_SECONDS + confirming;
}

async function armTimer(host: Host, transaction: Transaction): Promise<void> {
  const { id } = transaction;
  const seconds = secondsFor(host, transaction);
  const timer = [`--on-active=${seconds}s`, '--timer-property=AccuracySec=1s'];
  const name = `${nameOf(id)}-${randomBytes(4).toString('hex')}`;
  await startTransient(name, watchdogCommand(host, id), timer);
}

async function armProcess(host: Host, transaction: Transaction): Promise<void> {
  const { id } = transaction;
  const { switches } = memoryFiles(host.memory.dir);
  const file = join(switches, `armed-${id}-${randomBytes(4).toString('hex')}`);
  await mkdir(switches, { recursive: true, mode: 0o700 });
  await writeFile(file, '', { mode: 0o600 });
  const wait = ['-c', WAIT, 'fleet-watchdog', file, `${secondsFor(host, transaction)}`];
  const child = spawn(await findProgram('sh'), [...wait, ...watchdogCommand(host, id)], {
    cwd: '/',
    detached: true,
    env: cleanEnvironment(),
    stdio: 'ignore',
  });
  await new Promise((started, failed) => child.once('spawn', started).once('error', failed));
  child.unref();
}

async function armForBoot(host: Host, { id, rules }: Transaction): Promise<void> {
  if (!runsUnits(host)) return;
  const [service, timer, wanted] = lastingFiles();
  const seconds = BOOT_SECONDS + rules.confirmSeconds;
  const command = watchdogCommand(host, id).map(quoted).join(' ');
  const path = `Environment=${quoted(`PATH=${process.env['PATH'] ?? ''}`)}`;
  try {
    await mkdir(dirname(wanted), { recursive: true });
    await writeDurable(service, `[Service]\nType=exec\n${path}\nExecStart=${command}\n`);
    const text = `[Timer]\nOnBootSec=${seconds}s\nAccuracySec=1s\n[Install]\nWantedBy=timers.target\n`;
    await writeDurable(timer, text);
    await rm(wanted, { force: true });
    await symlink(timer, wanted);
    for (const dir of [dirname(wanted), LASTING]) await syncDirectory(dir);
  } catch (error) {
    // An /etc that nobody can write has no place for it; such a boot is confirmed by its own agent alone.
    const isReadOnly = isFleetError(error, 'E_STATE_ACCESS') || errnoOf(error) === 'EROFS';
    if (!isReadOnly && errnoOf(error) !== 'EACCES') throw error;
  }
}

function lastingFiles(): readonly [string, string, string] {
  const timer = `${BOOT_UNIT}.timer`;
  return [
    join(LASTING, `${BOOT_UNIT}.service`),
    join(LASTING, timer),
    join(LASTING, 'timers.target.wants', timer),
  ];
}

function watchdogCommand({ memory, program, unit }: Host, id: string): readonly string[] {
  const which = ['--state', resolve(memory.dir), '--transaction', id];
  const service = unit === null ? [] : ['--unit', unit.file];
  return [...program, 'agent', 'watchdog', ...which, ...service];
}

function nameOf(id: string): string {
  return `fleet-watchdog-${id}`;
}

/** As systemd reads a word of a command line. */
function quoted(word: string): string {
  const text = word.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('$', '$$$$');
  return `"${text.replaceAll('%', '%%')}"`;
}
