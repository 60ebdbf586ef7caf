// What a benchmark is and what it gives back; and how a child process is measured from outside.
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

export type Figure = { readonly name: string; readonly value: number; readonly unit: string };

export type BenchmarkOptions = {
  /** Fewer repetitions and no long parts; the figures are then only a hint. */
  readonly quick: boolean;
  /** How often what is compared is repeated, where a benchmark lets one choose. */
  readonly rounds: number;
  readonly log: (line: string) => void;
};

/** Every bench/NAME.ts exports one as `benchmark`. */
export type Benchmark = (options: BenchmarkOptions) => Promise<Figure[]>;

/** Of a benchmark with `--prepare-only DIR`: makes there what it measures with, and prints where that is. */
export type Prepare = (dir: string, log: (line: string) => void) => Promise<void>;

/** Makes sure of programs that npm does not bring: `program=package` each. */
export function need(...pairs: readonly string[]): void {
  execFileSync('sh', ['scripts/need.sh', ...pairs], { stdio: 'inherit' });
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (index: number): number => sorted[Math.floor(index)] ?? Number.NaN;
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? at(middle) : (at(middle - 1) + at(middle)) / 2;
}

export type Measured = {
  readonly seconds: number;
  /** Peak resident set, MiB. */
  readonly peakMiB: number;
  readonly stdout: string;
};

/** Runs a program to its end: wall time from spawn to exit, and the kernel's VmHWM of its process. */
export async function measure(
  program: string,
  args: readonly string[],
  env: Record<string, string>,
): Promise<Measured> {
  const start = performance.now();
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data) => (stdout += data));
  child.stderr.on('data', (data) => (stderr += data));
  // The mark only grows, so that the last reading misses at most one interval's growth.
  let peakKiB = 0;
  const watch = setInterval(() => {
    peakKiB = Math.max(peakKiB, highWaterMark(child.pid));
  }, 10);
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  }).finally(() => clearInterval(watch));
  const seconds = (performance.now() - start) / 1000;
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} failed (${code}):\n${stderr}`);
  return { seconds, peakMiB: peakKiB / 1024, stdout };
}

function highWaterMark(pid: number | undefined): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0);
  } catch {
    return 0; // it has just ended
  }
}
