// The command line as a real process, and a real server to talk to.
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { resolve } from 'node:path';

const FLEET = resolve('cli/fleet.ts');

export type Outcome = {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
};

export type Running = {
  readonly child: ChildProcess;
  readonly done: Promise<Outcome>;
  /** What it has written to standard error so far. */
  readonly stderr: () => string;
};

/** The environment for child processes: as ours, without what would change a fleet's behaviour. */
function environment(extra: Record<string, string> = {}): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    NO_COLOR: '1',
    // Test flakes are built by /bin/sh, which a sandbox need not have.
    NIX_CONFIG: 'sandbox = false\nsubstitute = false',
    ...extra,
  };
  delete env['FLEET_STATE'];
  delete env['NODE_TEST_CONTEXT'];
  return env;
}

/** Starts a program and collects what it writes. */
export function start(
  program: string,
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Running {
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: options.cwd,
    env: environment(options.env),
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const done = new Promise<Outcome>((settle, reject) => {
    child.once('error', reject);
    child.once('close', (code) => settle({ code, stdout, stderr }));
  });
  return { child, done, stderr: () => stderr };
}

/** Starts `fleet ARGS`. */
export function startFleet(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Running {
  return start(process.execPath, [FLEET, ...args], options);
}

/** Runs `fleet ARGS` to its end. */
export async function fleet(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Outcome> {
  return await startFleet(args, options).done;
}

/** Runs `fleet ARGS`, which must succeed; returns its standard output. */
export async function fleetOk(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<string> {
  const { code, stdout, stderr } = await fleet(args, options);
  if (code !== 0) throw new Error(`fleet ${args.join(' ')}: exit ${code}\n${stdout}${stderr}`);
  return stdout;
}

/** Runs any program to its end. */
export async function run(
  program: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Outcome> {
  return await start(program, args, { env }).done;
}

export type Server = { readonly url: string; readonly stop: () => Promise<Outcome> };

/** Starts `fleet serve` on a free port of 127.0.0.1; it is stopped at the end of the test. */
export async function serve(
  t: { after: (done: () => Promise<void>) => void },
  state: string,
  args: readonly string[] = [],
): Promise<Server> {
  const running = startFleet([
    'serve',
    '--state',
    state,
    '--json',
    '--listen',
    '127.0.0.1:0',
    ...args,
  ]);
  const stop = async (): Promise<Outcome> => {
    running.child.kill('SIGTERM');
    // One that does not heed it has no exit code.
    const patience = setTimeout(() => running.child.kill('SIGKILL'), 60_000);
    return await running.done.finally(() => clearTimeout(patience));
  };
  t.after(async () => {
    await stop();
  });
  const url = await new Promise<string>((settle, reject) => {
    let text = '';
    running.child.stdout?.on('data', (chunk: string) => {
      text += chunk;
      const found = /"url": "([^"]+)"/.exec(text)?.[1];
      if (found !== undefined) settle(found);
    });
    running.done.then(({ code, stderr }) => reject(new Error(`serve ended: ${code} ${stderr}`)));
  });
  return { url, stop };
}

/** A port of 127.0.0.1 that is free now, for a server that has to come back to the same one. */
export async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}
