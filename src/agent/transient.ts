// A command line → a transient unit of systemd's (systemd-run(1)): it has none of the agent's limits, is no child of it, and lives
// on, whatever becomes of the agent. It gets the clean environment and the words as they are.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { cleanEnvironment } from './inside.ts';

/**
 * Has systemd start `command` as NAME.service, which it forgets once that ended.
 * @throws Error that says why systemd does not take it; it may have taken it all the same.
 */
export async function startTransient(
  name: string,
  command: readonly string[],
  options: readonly string[] = [],
): Promise<void> {
  const env = Object.entries(cleanEnvironment()).map(([key, value]) => `--setenv=${key}=${value}`);
  // systemd would look for its own variables.
  const words = command.map((word) => word.replaceAll('$', '$$$$'));
  // Else it would have the whole command as its description, which systemd does not read again as it was when it has lines.
  const unit = [`--unit=${name}`, `--description=${name}`];
  const args = ['--quiet', '--collect', ...unit, ...env, ...options, '--', ...words];
  const limits = { timeout: 30_000, killSignal: 'SIGKILL' } as const;
  await promisify(execFile)('systemd-run', args, { ...limits, env: cleanEnvironment() });
}

/** What systemctl(1) prints. @throws Error where it fails, or systemd does not answer. */
export async function systemctl(...args: string[]): Promise<string> {
  const limits = { timeout: 20_000, killSignal: 'SIGKILL' } as const;
  const { stdout } = await promisify(execFile)('systemctl', args, {
    ...limits,
    env: cleanEnvironment(),
  });
  return stdout;
}
