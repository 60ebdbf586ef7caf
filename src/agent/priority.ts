// Work that can wait → done at low priority: this process leaves the processor to others for as long, and Nix is started by
// programs that make it leave them processor and disk. A process that might not get its priority back keeps the one it has, as a
// switch would inherit it.
import { readFileSync } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { getPriority, setPriority } from 'node:os';
import { delimiter, join } from 'node:path';

/** nice(1)'s own step. */
const NICE = 10;
/** linux/capability.h: CAP_SYS_NICE. */
const CAP_SYS_NICE = 23n;

/** Does it at low priority; `work` is given the command line that children are to be started by. */
export async function atLowPriority<T>(
  work: (through: readonly string[]) => Promise<T>,
): Promise<T> {
  const before = getPriority();
  const mayGoBack = before < NICE && mayRaise();
  // The least of what everybody gets. In the idle class a disk that is always busy would keep an update away for good.
  const last = (await isOnPath('ionice')) ? ['ionice', '-c', '2', '-n', '7'] : [];
  // Of its own accord where this process is not lowered, whose priority they would inherit.
  const steps = mayGoBack ? 0 : NICE - before;
  const nice = steps > 0 && (await isOnPath('nice')) ? ['nice', '-n', String(steps)] : [];
  if (!mayGoBack) return await work([...nice, ...last]);
  setPriority(NICE);
  try {
    return await work(last);
  } finally {
    setPriority(before);
  }
}

function mayRaise(): boolean {
  try {
    const status = readFileSync('/proc/self/status', 'latin1');
    const [, effective] = /^CapEff:\s*([0-9a-f]+)$/m.exec(status) ?? [];
    return effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_SYS_NICE) & 1n) === 1n;
  } catch {
    return false;
  }
}

async function isOnPath(program: string): Promise<boolean> {
  for (const dir of (process.env['PATH'] ?? '').split(delimiter)) {
    const found = await access(join(dir, program), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found && dir !== '') return true;
  }
  return false;
}
