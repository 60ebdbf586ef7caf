// An activation under way → something that undoes it if nobody confirms it in time, whatever became of the agent: a timer of
// systemd's that lives until the next boot, or, where no systemd runs, a process of its own; and over a boot a unit that the new
// system finds. Each runs the program of now (`fleet agent watchdog`), which lies in the old closure and so works as it did
// when it was armed. It does what the journal says: an activation that ended in the meantime is none of its business.
import { execFile, spawn } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { syncDirectory, writeDurable } from '../durable.ts';
import { errnoOf, FleetError, messageOf } from '../errors.ts';
import type { Host } from './host.ts';
import { cleanEnvironment, findProgram } from './inside.ts';
import type { Transaction } from './journal.ts';
import { memoryFiles } from './memory.ts';
import { SWITCH_GRACE_SECONDS } from './switch.ts';

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
 * Arms the watchdog of `transaction`, in the place of the one that it has.
 * @throws FleetError E_PREFLIGHT where none can be armed.
 */
export async function arm(host: Host, transaction: Transaction): Promise<void> {
  try {
    if (transaction.step === 'awaiting-boot') return await armForBoot(host, transaction);
    await disarm(host, transaction.id);
    const seconds = secondsFor(host, transaction);
    if (runsUnits(host)) await armTimer(host, transaction, seconds);
    else await armProcess(host, transaction, seconds);
  } catch (error) {
    const text = `no watchdog for the switch: ${messageOf(error)}`;
    throw new FleetError('E_PREFLIGHT', text, { cause: error });
  }
}

/** Throws nothing: one that goes off for nothing does nothing. */
export async function disarm(host: Host, id: string): Promise<void> {
  await rm(armedFile(host, id), { force: true }).catch(() => {});
  if (!runsUnits(host)) return;
  await systemctl('stop', `${nameOf(id)}.timer`).catch(() => {});
  for (const file of lastingFiles()) await rm(file, { force: true }).catch(() => {});
}

function secondsFor({ memory }: Host, { step, rules }: Transaction): number {
  const confirming = rules.confirmSeconds + SLACK_SECONDS;
  if (step !== 'activating') return confirming;
  return memory.config.switchSeconds + 2 * SWITCH_GRACE_SECONDS + confirming;
}

/** Systemd of this machine does not know what lies in a chroot store. */
function runsUnits({ hasSystemd, place }: Host): boolean {
  return hasSystemd && place.root === null;
}

async function armTimer(host: Host, { id }: Transaction, seconds: number): Promise<void> {
  const timer = [`--on-active=${seconds}s`, '--timer-property=AccuracySec=1s'];
  const path = [`--setenv=PATH=${process.env['PATH'] ?? ''}`];
  const args = ['--quiet', '--collect', `--unit=${nameOf(id)}`, ...timer, ...path, '--'];
  const limits = { timeout: 30_000, killSignal: 'SIGKILL' } as const;
  const command = [...args, ...watchdogCommand(host, id)];
  await promisify(execFile)('systemd-run', command, { ...limits, env: cleanEnvironment() });
}

async function armProcess(host: Host, { id }: Transaction, seconds: number): Promise<void> {
  const file = armedFile(host, id);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await writeFile(file, '', { mode: 0o600 });
  const args = ['-c', WAIT, 'fleet-watchdog', file, String(seconds), ...watchdogCommand(host, id)];
  const env = cleanEnvironment();
  const child = spawn(await findProgram('sh'), args, {
    cwd: '/',
    detached: true,
    env,
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
    await writeDurable(service, `[Service]\nType=oneshot\n${path}\nExecStart=${command}\n`);
    const text = `[Timer]\nOnBootSec=${seconds}s\nAccuracySec=1s\n[Install]\nWantedBy=timers.target\n`;
    await writeDurable(timer, text);
    // A link, as `systemctl enable` makes it, or a copy: systemd looks at the name alone.
    await writeDurable(wanted, text);
    await syncDirectory(LASTING);
  } catch (error) {
    // An /etc that nobody can write has no place for it; such a boot is confirmed by its own agent alone.
    if (errnoOf(error) !== 'EROFS' && errnoOf(error) !== 'EACCES') throw error;
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

function watchdogCommand({ memory, program }: Host, id: string): readonly string[] {
  return [...program, 'agent', 'watchdog', '--state', resolve(memory.dir), '--transaction', id];
}

function nameOf(id: string): string {
  return `fleet-watchdog-${id}`;
}

function armedFile({ memory }: Host, id: string): string {
  return join(memoryFiles(memory.dir).switches, `armed-${id}`);
}

/** As systemd reads a word of a command line. */
function quoted(word: string): string {
  const text = word.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('$', '$$$$');
  return `"${text.replaceAll('%', '%%')}"`;
}

async function systemctl(...args: string[]): Promise<void> {
  const limits = { timeout: 20_000, killSignal: 'SIGKILL' } as const;
  await promisify(execFile)('systemctl', args, { ...limits, env: cleanEnvironment() });
}
