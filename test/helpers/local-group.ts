// People at a test host's machine: processes of users and groups that need not exist, and an agent that stays and listens
// to them.
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isFleetError } from '../../src/errors.ts';
import { type Outcome, run, startFleet } from './cli.ts';
import { type TestHost, waitFor } from './hosts.ts';

/** A group of the machine that nobody of the tests is in by itself. */
export const GROUP = { name: 'games', gid: 60 };
const UID = 54_321;

export type Door = { readonly socket: string; readonly stderr: () => string };

/** Starts `fleet agent run` of `host`, and waits until it listens; it is stopped at the end of the test. */
export async function startDoor(
  t: TestContext,
  host: TestHost,
  args: readonly string[] = ['--poll', '3600', '--group', GROUP.name],
): Promise<Door & { readonly stop: () => Promise<Outcome> }> {
  // Below what others may not enter it would be of no use.
  const dir = join(host.root, 'run');
  await chmod(join(host.root, '..'), 0o755);
  await chmod(host.root, 0o755);
  await mkdir(dir, { recursive: true });
  const socket = join(dir, 'control.sock');
  const running = startFleet(['agent', 'run', '--state', host.state, '--socket', socket, ...args]);
  const stop = async (): Promise<Outcome> => {
    running.child.kill('SIGTERM');
    return await running.done;
  };
  t.after(stop);
  const { stderr } = running;
  await waitFor(async () => (await person('member', socket, ['status', '--json'])).code === 0);
  return { socket, stderr, stop };
}

/** A run beside an agent that stays, once that one has none of its own. */
export async function onceAlone(host: TestHost): ReturnType<TestHost['once']> {
  for (;;) {
    try {
      return await host.once();
    } catch (error) {
      if (!isFleetError(error, 'E_AGENT_BUSY')) throw error;
      await sleep(100);
    }
  }
}

/** `fleet agent VERB …` by somebody who is in the group, or by somebody who is not. */
export async function person(
  who: 'member' | 'outsider',
  socket: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Outcome> {
  const groups = who === 'member' ? `--groups=${GROUP.gid}` : '--clear-groups';
  const user = [`--reuid=${UID}`, `--regid=${UID}`, groups];
  const fleet = [process.execPath, resolve('cli/fleet.ts'), 'agent', ...args, '--socket', socket];
  return await run('setpriv', [...user, ...fleet], env);
}

/** Changes agent.json. */
export async function configure({ state }: TestHost, changes: object): Promise<void> {
  const file = join(state, 'agent.json');
  const config: object = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, ...changes }));
}
