// A program and all that it starts, measured from outside: time from spawn to exit, CPU time of all (as the shell's `times`
// has it, of those that were waited for), and what Node's processes alone took of memory and CPU. Memory is the sum of
// their resident sets, looked at every 20 ms, what they share counted for each; or the kernel's high-water mark of
// one of them where that is more.
import { spawn } from 'node:child_process';
import { readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import type { Readable } from 'node:stream';

export type TreeMeasured = {
  readonly seconds: number;
  /** User and system time of all processes, seconds. */
  readonly cpu: number;
  /** Of Node's processes. */
  readonly nodeCpu: number;
  readonly nodePeakMiB: number;
  /** Of Nix's processes. */
  readonly nixPeakMiB: number;
  readonly stdout: string;
};

const INTERVAL_MS = 20;
const TICKS_PER_SECOND = 100;

/** @throws Error when the program fails, or takes longer than `patience` seconds. */
export async function measureTree(
  command: readonly string[],
  env: Record<string, string | undefined>,
  patience: number,
): Promise<TreeMeasured> {
  const start = performance.now();
  const script = '"$@" 3>&-; code=$?; times >&3; exit $code';
  const shell = spawn('/bin/sh', ['-c', script, 'sh', ...command], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    detached: true,
  });
  const texts = ['', '', '', ''];
  for (const fd of [1, 2, 3]) {
    (shell.stdio[fd] as Readable).on('data', (data) => (texts[fd] += data));
  }
  const watched = new Watch(shell.pid ?? 0);
  const timer = setInterval(() => watched.look(), INTERVAL_MS);
  let late = false;
  const deadline = setTimeout(() => {
    late = true;
    process.kill(-(shell.pid ?? 0), 'SIGKILL');
  }, patience * 1000);
  const code = await new Promise((resolve, reject) => {
    shell.once('error', reject);
    shell.once('close', resolve);
  });
  clearInterval(timer);
  clearTimeout(deadline);
  const seconds = (performance.now() - start) / 1000;
  const [, stdout = '', stderr = '', times = ''] = texts;
  if (code !== 0) {
    const why = late ? `took longer than ${patience} s` : `failed (${code})`;
    throw new Error(`${command.join(' ')} ${why}:\n${stdout}${stderr}`);
  }
  return { seconds, cpu: childrenCpu(times), ...watched.result(), stdout };
}

/** The second line of `times` is of children: `0m0.31s 0m0.05s`. */
function childrenCpu(text: string): number {
  const times = [...(text.trim().split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g)];
  return times.reduce(
    (sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds),
    0,
  );
}

class Watch {
  readonly #root: number;
  /** What each process last had; those seen once may be a fork that is about to become something else. */
  readonly #seen = new Map<number, { program: string; cpu: number }>();
  readonly #peak = new Map<string, number>();

  constructor(root: number) {
    this.#root = root;
  }

  look(): void {
    const sums = new Map<string, number>();
    for (const pid of [...descendantsOf(this.#root)]) {
      try {
        const program = kindOf(pid);
        const before = this.#seen.get(pid);
        this.#seen.set(pid, { program, cpu: cpuOf(pid) });
        if (before?.program !== program) continue;
        const status = readFileSync(`/proc/${pid}/status`, 'utf8');
        const of = (name: string): number =>
          Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1] ?? 0) / 1024;
        sums.set(program, (sums.get(program) ?? 0) + of('VmRSS'));
        this.#atLeast(program, of('VmHWM'));
      } catch {
        // It has just ended.
      }
    }
    for (const [program, sum] of sums) this.#atLeast(program, sum);
  }

  result(): Pick<TreeMeasured, 'nodeCpu' | 'nodePeakMiB' | 'nixPeakMiB'> {
    const node = [...this.#seen.values()].filter(({ program }) => program === 'node');
    return {
      nodeCpu: node.reduce((sum, { cpu }) => sum + cpu, 0),
      nodePeakMiB: this.#peak.get('node') ?? 0,
      nixPeakMiB: this.#peak.get('nix') ?? 0,
    };
  }

  #atLeast(program: string, value: number): void {
    this.#peak.set(program, Math.max(this.#peak.get(program) ?? 0, value));
  }
}

function* descendantsOf(pid: number): Generator<number> {
  let text = '';
  try {
    text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  } catch {
    return;
  }
  for (const child of text.split(' ').filter((word) => word !== '')) {
    yield Number(child);
    yield* descendantsOf(Number(child));
  }
}

/** `node`, `nix` for any of its programs, or something else. */
function kindOf(pid: number): string {
  const name = basename(readlinkSync(`/proc/${pid}/exe`));
  return name.startsWith('nix') ? 'nix' : name;
}

/** User and system time of a process so far, seconds. */
export function cpuOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // After the name, which may hold anything, the third field comes first.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
