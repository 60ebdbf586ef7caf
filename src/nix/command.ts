// A nix program and its arguments → its standard output, or a FleetError that says what Nix said. The
// only place that starts one. Output is bounded, an abort ends the program with all it started, and
// what is left running when this process exits is ended with it. Arguments never hold secrets: they
// are visible to every user of the machine.
// Refuses relative roots, output over the cap; E_NIX_MISSING when there is no such program.
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { isAbsolute } from 'node:path';
import type { Readable } from 'node:stream';
import { errnoOf, FleetError } from '../errors.ts';
import { type Environment, openNixEnvironment } from './environment.ts';
import { readLines, stripAnsi } from './lines.ts';

export type NixProgram = 'nix' | 'nix-store' | 'nix-env' | 'nix-instantiate';

export type NixOptions = {
  /** Directory of a chroot store: `/nix/store/X` then lies at `ROOT/nix/store/X`. */
  readonly root?: string;
  /** Lines for NIX_CONFIG; they win over all others. */
  readonly settings?: ReadonlyMap<string, string>;
  /** True: nothing of this machine's or user's Nix configuration counts. */
  readonly isolated?: boolean;
  /** With `isolated`: where the program may write besides the store (environment.ts). */
  readonly scratch?: string;
  readonly env?: Environment;
  readonly cwd?: string;
  /** A command line that the program is started by, such as nice(1)'s; its own program has to be there. */
  readonly through?: readonly string[];
  /** Ends the program; the call then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called with each line of standard error, without its end. */
  readonly onLine?: (line: string) => void;
};

const MAX_STDOUT = 256 * 1024 * 1024;
const TAIL_LINES = 20;
const GRACE_MS = 5_000;

/**
 * Runs a nix program to its end.
 * @throws FleetError E_NIX_MISSING, E_NIX_FAILED (`details`: the last lines it wrote), E_NIX_OUTPUT,
 *   E_DISK_FULL; or the reason of `signal`.
 */
export async function runNix(
  program: NixProgram,
  args: readonly string[],
  options: NixOptions = {},
): Promise<{ stdout: string }> {
  options.signal?.throwIfAborted();
  await using environment = await openNixEnvironment(options);
  const store = options.root === undefined ? [] : ['--store', storeOf(options.root)];
  const [file = program, ...rest] = [...(options.through ?? []), program, ...args, ...store];
  const child = spawn(file, rest, {
    cwd: options.cwd,
    env: Object.fromEntries(environment.variables),
    stdio: ['ignore', 'pipe', 'pipe'],
    // A process group of its own, so that an abort reaches builders and fetchers too.
    detached: true,
  });
  const called = `${program} ${args.find((arg) => /^(--)?[a-z]/.test(arg)) ?? ''}`.trim();
  using group = new ProcessGroup(child, options.signal);
  const tail: string[] = [];
  const [end, stdout] = await Promise.all([
    ended(child, program),
    collect(child.stdout, () => group.end()),
    readLines(child.stderr, (line) => {
      if (!line.startsWith('@nix ')) {
        tail.push(stripAnsi(line));
        if (tail.length > TAIL_LINES) tail.shift();
      }
      options.onLine?.(line);
    }),
  ]).catch((error: unknown) => {
    // Output that was cut off by an abort is no error of its own.
    options.signal?.throwIfAborted();
    throw error;
  });
  options.signal?.throwIfAborted();
  if (stdout === null) {
    throw new FleetError('E_NIX_OUTPUT', `${called} wrote more than ${MAX_STDOUT} bytes`);
  }
  if (end.code !== 0) throw failure(called, end, tail);
  return { stdout };
}

/** Which Nix this is, such as `2.8.0` or `Lix 2.93.3`. */
export async function nixVersion(): Promise<string> {
  const { stdout } = await runNix('nix', ['--version']);
  const found = /^nix \((?<kind>[^)]*)\) (?<version>[0-9][0-9A-Za-z.+_-]*)\s*$/.exec(stdout);
  const version = found?.groups?.['version'];
  if (version === undefined) {
    throw new FleetError('E_NIX_OUTPUT', `nix --version says ${JSON.stringify(stdout)}`);
  }
  return found?.groups?.['kind']?.startsWith('Lix') === true ? `Lix ${version}` : version;
}

const MACHINES = new Map([
  ['x64', 'x86_64'],
  ['arm64', 'aarch64'],
  ['arm', 'armv7l'],
  ['ia32', 'i686'],
  ['riscv64', 'riscv64'],
  ['loong64', 'loongarch64'],
  ['ppc64', 'powerpc64le'],
]);

/** This machine as Nix names it, such as `x86_64-linux`. */
export function currentSystem(): string {
  return `${MACHINES.get(process.arch) ?? process.arch}-${process.platform}`;
}

// A store reference in full, because Nix would split a bare directory at its first question mark.
function storeOf(root: string): string {
  if (!isAbsolute(root)) throw new RangeError(`a chroot store needs an absolute path: ${root}`);
  return `local?root=${root.split('/').map(encodeURIComponent).join('/')}`;
}

type End = { readonly code: number | null; readonly signal: NodeJS.Signals | null };

function ended(child: Child, program: NixProgram): Promise<End> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) => {
      reject(
        errnoOf(error) === 'ENOENT'
          ? new FleetError('E_NIX_MISSING', `there is no ${program} in PATH`, { cause: error })
          : error,
      );
    });
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
}

async function collect(stream: Readable, tooMuch: () => void): Promise<string | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size <= MAX_STDOUT) chunks.push(chunk);
    else tooMuch();
  }
  return size <= MAX_STDOUT ? Buffer.concat(chunks).toString('utf8') : null;
}

function failure(called: string, end: End, details: readonly string[]): FleetError {
  const how = end.signal === null ? `failed (exit ${end.code})` : `was ended by ${end.signal}`;
  if (details.some((line) => /No space left on device|Disk quota exceeded/.test(line))) {
    return new FleetError('E_DISK_FULL', `${called} ${how}: no space left`, { details });
  }
  const said = details.findLast((line) => /^\s*error:/.test(line)) ?? details.at(-1);
  const what = said === undefined ? '' : `: ${said.trim().replace(/^error:\s*/, '')}`;
  return new FleetError('E_NIX_FAILED', `${called} ${how}${what}`, { details });
}

type Child = ChildProcessByStdio<null, Readable, Readable>;

const running = new Set<ProcessGroup>();

// Nothing runs on unwatched after this process, unless it was killed outright.
process.on('exit', () => {
  for (const group of running) group.kill('SIGKILL');
});

/** A child that leads its process group, ended on abort: asked first, killed when it does not heed. */
class ProcessGroup implements Disposable {
  readonly #child: Child;
  readonly #signal: AbortSignal | undefined;
  readonly #abort = (): void => this.end();
  #closed = false;
  #patience: NodeJS.Timeout | undefined;

  constructor(child: Child, signal: AbortSignal | undefined) {
    this.#child = child;
    this.#signal = signal;
    running.add(this);
    child.once('close', () => {
      this.#closed = true;
    });
    signal?.addEventListener('abort', this.#abort, { once: true });
    if (signal?.aborted === true) this.end();
  }

  end(): void {
    if (this.#patience !== undefined) return;
    this.kill('SIGTERM');
    this.#patience = setTimeout(() => {
      this.kill('SIGKILL');
      // Whoever left the group may hold the pipes open for ever; nobody waits for it.
      this.#child.stdout.destroy();
      this.#child.stderr.destroy();
    }, GRACE_MS);
  }

  kill(signal: NodeJS.Signals): void {
    // Until the pipes are closed the group has members, though its leader may be gone.
    if (this.#child.pid === undefined || this.#closed) return;
    try {
      process.kill(-this.#child.pid, signal);
    } catch {
      // The last of them ended in this very moment.
    }
  }

  [Symbol.dispose](): void {
    this.kill('SIGKILL');
    clearTimeout(this.#patience);
    this.#signal?.removeEventListener('abort', this.#abort);
    running.delete(this);
  }
}
