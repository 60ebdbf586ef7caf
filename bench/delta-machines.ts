// The machines of the delta benchmark: one with an agent of fleet's, and one where stock Nix fetches the same system from
// nginx. Both start from the same chroot store, both are checked when they are done: every path of the new closure is
// there and has the contents that were signed.
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Site } from './delta-site.ts';
import type { Line, Traffic } from './line.ts';
import { measureTree, type TreeMeasured } from './process-tree.ts';

export type Run = TreeMeasured & Traffic;

export type Machine = {
  readonly root: string;
  /** Brings `toplevel` there, over the machine's line. */
  readonly run: (toplevel: string) => Promise<Run>;
};

/** Longer than what the largest takes on the slowest line. */
const PATIENCE_SECONDS = 1200;

/** A chroot store that has this closure and nothing else, straight from nginx. */
export function makeStore(site: Site, name: string, toplevel: string): string {
  const root = join(site.dir, name);
  const [program = '', ...args] = realise(root, toplevel);
  execFileSync(program, args, {
    env: { ...process.env, ...stockNix(site, root, site.servers.nginx, 16) },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return root;
}

/** A machine whose agent is enrolled; with `store`, it has that store's contents and runs the system published for it. */
export async function agentMachine(
  site: Site,
  host: string,
  line: Line,
  store: string | null,
): Promise<Machine> {
  const root = copyOf(site, `${host}-agent`, store);
  mkdirSync(join(root, 'run'), { recursive: true });
  const agent = [site.fleet, 'agent', '--root', root];
  const [program = '', ...place] = agent;
  execFileSync(program, [...place, 'enroll', site.invite(host, line.url)], { stdio: 'pipe' });
  const once = [...agent, 'once', '--json'];
  if (store !== null) inSync(await measureTree(once, {}, PATIENCE_SECONDS));
  return {
    root,
    async run(toplevel) {
      const run = await over(line, once, {});
      inSync(run);
      checkClosure(root, toplevel);
      return run;
    },
  };
}

/**
 * A machine whose stock Nix has nginx as its only substituter, and defaults else.
 * @param atOnce how many paths it fetches at the same time: 1 is the default of Nix 2.8, which counts them as builds
 *   (max-jobs); 16 that of newer ones (max-substitution-jobs).
 */
export function stockMachine(
  site: Site,
  host: string,
  line: Line,
  store: string | null,
  atOnce: 1 | 16,
): Machine {
  const root = copyOf(site, `${host}-stock-${atOnce}`, store);
  return {
    root,
    async run(toplevel) {
      const env = stockNix(site, root, line.url, atOnce);
      const run = await over(line, realise(root, toplevel), env);
      checkClosure(root, toplevel);
      return run;
    },
  };
}

export function remove({ root }: Machine): void {
  execFileSync('chmod', ['-R', 'u+w', root]);
  rmSync(root, { recursive: true });
}

function copyOf(site: Site, name: string, store: string | null): string {
  const root = join(site.dir, name);
  if (store === null) mkdirSync(root);
  else execFileSync('cp', ['-a', '--reflink=auto', store, root]);
  // What Nix remembers of a cache it has never asked over this line.
  rmSync(join(root, 'home'), { recursive: true, force: true });
  return root;
}

const realise = (root: string, toplevel: string): string[] => [
  ...['nix-store', '--store', root, '--realise', toplevel],
];

function stockNix(site: Site, root: string, url: string, atOnce: number): Record<string, string> {
  const home = join(root, 'home');
  return {
    HOME: home,
    XDG_CACHE_HOME: join(home, 'cache'),
    NIX_CONF_DIR: join(home, 'none'),
    NIX_CONFIG: `build-users-group =
substituters = ${url}
trusted-public-keys = ${site.cacheKey}
max-jobs = ${atOnce}
`,
  };
}

async function over(
  line: Line,
  command: readonly string[],
  env: Record<string, string>,
): Promise<Run> {
  execFileSync('sync');
  await line.counts();
  const run = await measureTree(command, env, PATIENCE_SECONDS);
  return { ...run, ...(await line.counts()) };
}

function inSync({ stdout }: TreeMeasured): void {
  const { phase } = JSON.parse(stdout) as { phase: string };
  if (phase !== 'in-sync') throw new Error(`the agent is not in sync:\n${stdout}`);
}

/** Every path below the toplevel is valid, and its files are those that were signed. */
function checkClosure(root: string, toplevel: string): void {
  const nixStore = (...args: string[]): string =>
    execFileSync('nix-store', ['--store', root, ...args], {
      stdio: 'pipe',
      maxBuffer: 1e8,
    }).toString();
  const paths = nixStore('--query', '--requisites', toplevel).trim().split('\n');
  if (!paths.includes(toplevel)) throw new Error(`${toplevel} is not in ${root}`);
  nixStore('--check-validity', ...paths);
  nixStore('--verify-path', ...paths);
}
