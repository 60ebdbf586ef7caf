// Programs of test/fixtures as processes of their own, which a test may kill.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export type Running = AsyncDisposable & {
  readonly pid: number;
  /** The next line that it prints; rejects when it ends first. */
  line(): Promise<string>;
  kill(signal: NodeJS.Signals): Promise<void>;
  ended(): Promise<number | null>;
};

/** Starts test/fixtures/`name` with `args`. */
export function startProgram(name: string, ...args: string[]): Running {
  const file = fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
  const child = spawn(process.execPath, [file, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const exit = once(child, 'exit');
  const kill = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal);
    await exit;
  };
  return {
    pid: child.pid ?? -1,
    async line() {
      const next = await lines.next();
      if (next.done) throw new Error(`${name} ended`);
      return next.value;
    },
    kill,
    ended: async () => (await exit)[0],
    [Symbol.asyncDispose]: () => kill('SIGKILL'),
  };
}
