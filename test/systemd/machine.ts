// A Debian with systemd that boots in a container: its own processes, mounts and /run, this machine's network and
// clock. What it writes goes over a cached image and is thrown away at the end. A cut of its power kills every process at
// once; what they had written stays, also what was not synced: only real hardware forgets that.
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

/** Outlives checkouts; on a real disk, as an overlay wants. */
const IMAGE = '/var/cache/fleet-test/debian-12';
const PROJECT = resolve('.');
const BOOT_SECONDS = 60;
/** Exit status of systemd-nspawn for a machine that is to be started anew. */
const REBOOTS = 133;

/** Starts what the boot loader would: the entry that `switch-to-configuration boot` wrote. */
const BOOT_UNIT = `[Unit]
After=basic.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'top=$$(cat /boot/entry) || exit 0; ln -sfn $$top /run/booted-system; exec $$top/bin/switch-to-configuration start'
[Install]
WantedBy=multi-user.target
`;

let answer: Promise<string | null> | undefined;

/** Why no machine can be booted here; null where one was. Makes the image the first time. */
export function whyNot(): Promise<string | null> {
  answer ??= findOut();
  return answer;
}

async function findOut(): Promise<string | null> {
  for (const program of ['debootstrap', 'systemd-nspawn', 'nsenter', 'setpriv', 'mount']) {
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) return `no ${program}`;
  }
  const made = spawnSync('sh', [resolve('test/systemd/image.sh'), IMAGE], { encoding: 'utf8' });
  if (made.status !== 0) return `no image of Debian: ${made.stderr.trim().split('\n').at(-1)}`;
  try {
    await using machine = new Machine();
    await machine.boot();
    return null;
  } catch (error) {
    return `no machine boots: ${error instanceof Error ? error.message : error}`;
  }
}

const DIRS = '/var/tmp/fleet-test-';

/** What tests left that were killed. */
function removeLeft(): void {
  for (const dir of globSync(`${DIRS}*-*`)) {
    const pid = /-(\d+)-\w+$/.exec(dir)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) remove(dir);
  }
}

function remove(dir: string): void {
  // Lazily: what was killed may take a moment to let go of it.
  spawnSync('umount', ['--lazy', join(dir, 'root')]);
  rmSync(dir, { recursive: true });
}

function mountOver(dir: string): string | null {
  for (const name of ['root', 'upper', 'work']) mkdirSync(join(dir, name));
  const layers = `lowerdir=${IMAGE}/root,upperdir=${dir}/upper,workdir=${dir}/work`;
  const args = ['-t', 'overlay', 'overlay', '-o', layers, join(dir, 'root')];
  const run = spawnSync('mount', args, { encoding: 'utf8' });
  return run.status === 0 ? null : `no overlay mounts: ${run.stderr.trim()}`;
}

export type Result = {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
};

export class Machine implements AsyncDisposable {
  readonly #dir: string;
  #nspawn: ChildProcess | null = null;

  constructor() {
    removeLeft();
    this.#dir = mkdtempSync(`${DIRS}${process.pid}-`);
    const problem = mountOver(this.#dir);
    if (problem !== null) {
      rmSync(this.#dir, { recursive: true });
      throw new Error(problem);
    }
    try {
      this.write('/etc/systemd/system/fleet-boot.service', BOOT_UNIT);
      execFileSync('systemctl', ['--root', this.path('/'), 'enable', '-q', 'fleet-boot.service']);
      mkdirSync(this.path('/fleet'));
    } catch (error) {
      remove(this.#dir);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cut();
    remove(this.#dir);
  }

  /** Where a file of the machine is for this process, whether it runs or not; but for /run and its like. */
  path(file: string): string {
    return join(this.#dir, 'root', file);
  }

  write(file: string, text: string): void {
    writeFileSync(this.path(file), text);
  }

  /** Starts it, and waits until nothing is being started any more. */
  async boot(): Promise<void> {
    this.#start();
    await this.up();
  }

  #start(): void {
    const args = ['-q', '-D', this.path('/'), '--boot', '--register=no', '--keep-unit'];
    const binds = [`--bind-ro=${PROJECT}:/fleet`, '--console=pipe'];
    // It does not outlive this process.
    const command = ['--pdeathsig', 'KILL', 'systemd-nspawn', ...args, ...binds];
    const nspawn = spawn('setpriv', command, { stdio: 'ignore' });
    this.#nspawn = nspawn;
    // The machine boots itself anew: whoever keeps its unit is to start it.
    nspawn.once('exit', (code) => {
      if (code === REBOOTS && this.#nspawn === nspawn) this.#start();
    });
  }

  /** Waits until it is up: it may be booting itself anew. */
  async up(): Promise<void> {
    for (const deadline = performance.now() + BOOT_SECONDS * 1000; ; await sleep(100)) {
      if (performance.now() > deadline) throw new Error(`not up in ${BOOT_SECONDS} s`);
      const exit = this.#nspawn?.exitCode;
      if (typeof exit === 'number' && exit !== REBOOTS)
        throw new Error(`systemd-nspawn ended with ${exit}`);
      const leader = this.#leader();
      if (leader === 0 || !existsSync(`/proc/${leader}/root/run/systemd/system`)) continue;
      const state = (await this.run('systemctl', 'is-system-running')).stdout.trim();
      if (state === 'running' || state === 'degraded') return;
    }
  }

  /** The machine's first process, as it is seen from here; 0: there is none. */
  #leader(): number {
    return childOf(this.#nspawn?.pid ?? 0);
  }

  /** Takes the power away. */
  async cut(): Promise<void> {
    const nspawn = this.#nspawn;
    if (nspawn === null || nspawn.exitCode !== null || nspawn.signalCode !== null) return;
    const ended = new Promise((done) => nspawn.once('exit', done));
    // The first process of its PID namespace: the kernel kills all others with it.
    const leader = this.#leader();
    if (leader !== 0) process.kill(leader, 'SIGKILL');
    nspawn.kill('SIGKILL');
    await ended;
    this.#nspawn = null;
  }

  /** Runs a command in there; this process, which may be the server that it asks, goes on. */
  async run(...command: string[]): Promise<Result> {
    const args = ['-t', String(this.#leader()), '-a', '--', ...command];
    const child = spawn('nsenter', args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root' },
    });
    const code = new Promise<number | null>((done) => child.once('close', done));
    const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
    return { code: await code, stdout, stderr };
  }

  /** Runs a command that must succeed; returns what it printed. */
  async ok(...command: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...command);
    if (code !== 0) throw new Error(`${command.join(' ')}: exit ${code}\n${stdout}${stderr}`);
    return stdout.trim();
  }
}

function childOf(pid: number): number {
  try {
    const child = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')[0];
    // Another one comes first, which is not in there yet.
    const isInside = readlinkSync(`/proc/${child}/ns/pid`) !== readlinkSync('/proc/self/ns/pid');
    return isInside ? Number(child) : 0;
  } catch {
    return 0;
  }
}
