// What an update costs over a line, beside stock Nix with nginx and the very same NARs: when only glibc changed, and every
// path got another name by it; when all packages got a newer build; and when a machine is installed. And what a file
// of 1 GiB of which little changed costs an agent. Its times hold what Nix's do not: it verifies, activates and reports.
// Left out: TLS, with which Nix would ask over one connection (HTTP/2), and Nix's that are newer than this machine's.
import { buildSystems, exportNars, makeCorpus, type SystemName } from './delta-corpus.ts';
import { compare, type Trio, told } from './delta-figures.ts';
import { largeFile } from './delta-large.ts';
import { agentMachine, type Machine, makeStore, remove, stockMachine } from './delta-machines.ts';
import { hundredHosts, stepOf, waitForPack } from './delta-packs.ts';
import { type Lines, openLines, runAll } from './delta-runs.ts';
import { openSite, type Site } from './delta-site.ts';
import { type Benchmark, type Figure, need } from './figures.ts';
import type { LineKind } from './line.ts';

const CACHE = '/var/cache/fleet-bench/delta';
const PROGRAMS = ['nix-store=nix-bin', 'nginx=nginx-light', 'dpkg-deb=dpkg', 'unshare=util-linux'];

const LINES: readonly LineKind[] = [
  { name: '50 Mbit/s', delay: 20, rate: 50e6 },
  { name: '8 Mbit/s', delay: 150, rate: 8e6 },
];
type Case = { readonly name: string; readonly from: SystemName | null; readonly to: SystemName };

const CASES: readonly Case[] = [
  { name: 'glibc', from: 'old', to: 'glibc' },
  { name: 'all', from: 'old', to: 'new' },
  { name: 'install', from: null, to: 'new' },
];

type Trial = {
  readonly host: string;
  readonly name: string;
  readonly of: Case;
  readonly lines: Lines;
};

export const benchmark: Benchmark = async ({ quick, rounds, log }) => {
  need(...PROGRAMS);
  const corpus = makeCorpus(CACHE, log);
  await using stack = new AsyncDisposableStack();
  const site = stack.use(await openSite(corpus));
  const trials: Trial[] = [];
  for (const kind of quick ? LINES.slice(0, 1) : LINES) {
    const lines = await openLines(site, kind, stack);
    for (const of of CASES) {
      for (let round = 0; round < rounds; round++) {
        const host = `${of.name}-${kind.delay}-${round}`;
        trials.push({ host, name: `${of.name}, ${kind.name}`, of, lines });
      }
    }
  }
  const { store, agents } = await startingPoints(site, trials, log);
  const figures = await publishNew(site, trials, agents, log);

  const trios = new Map<string, Trio[]>();
  for (const [index, { host, name, of, lines }] of trials.entries()) {
    const before = of.from === null ? null : store;
    const machines = {
      ours: agents.get(host) ?? (await agentMachine(site, host, lines.fleet, null)),
      theirs: stockMachine(site, host, lines.nginx, before, 1),
      parallel: stockMachine(site, host, lines.nginx, before, 16),
    };
    const trio = await runAll(machines, site.toplevelOf(host), index % 2 === 0);
    trios.set(name, [...(trios.get(name) ?? []), trio]);
    log(`  ${name}: ${told(trio)}`);
    // The agent of the first is asked with later.
    for (const machine of Object.values(machines)) {
      if (machine !== [...agents.values()][0]) remove(machine);
    }
  }
  for (const { name, of } of trials) {
    const found = trios.get(name);
    if (found !== undefined) figures.push(...compare(name, found, of.from === null));
    trios.delete(name);
  }
  if (!quick) {
    figures.push(...(await largeFile(site, stack, log)));
    const [agent] = agents.values();
    if (agent !== undefined) figures.push(...(await hundredHosts(site, agent, log)));
  }
  const peaks = figures.filter(({ name }) => name.endsWith('peak memory, agent'));
  const value = Math.max(...peaks.map((figure) => figure.value));
  return [...figures, { name: 'peak memory of an agent', value, unit: 'MiB' }];
};

/** `--prepare-only DIR`: the corpus alone, and where it lies. */
export async function prepare(dir: string, log: (line: string) => void): Promise<void> {
  need(...PROGRAMS);
  const corpus = makeCorpus(dir, log);
  const systems = Object.fromEntries(buildSystems(corpus));
  const nars = exportNars(corpus, Object.values(systems));
  console.log(JSON.stringify({ ...corpus, systems, nars }, null, 2));
}

/** Machines whose agents run what their update starts from, by host, and a store for those of stock Nix. */
async function startingPoints(
  site: Site,
  trials: readonly Trial[],
  log: (line: string) => void,
): Promise<{ store: string; agents: Map<string, Machine> }> {
  const updated = trials.filter(({ of }) => of.from !== null);
  const from = updated.map(({ host, of }): [string, SystemName] => [host, of.from ?? 'old']);
  await site.publish(Object.fromEntries(from));
  const { paths, bytes, level } = await site.mirror();
  log(`${paths} paths, ${(bytes / 1e6).toFixed(1)} MB as zstd, level ${level}`);
  const store = makeStore(site, 'store', site.toplevelOf(updated[0]?.host ?? ''));
  const agents = new Map<string, Machine>();
  for (const { host, lines } of updated) {
    agents.set(host, await agentMachine(site, host, lines.fleet, store));
  }
  log(`${agents.size} machines run the old system`);
  return { store, agents };
}

/** Publishes what all hosts are to run, case by case. */
async function publishNew(
  site: Site,
  trials: readonly Trial[],
  agents: ReadonlyMap<string, Machine>,
  log: (line: string) => void,
): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const one of CASES) {
    const hosts = trials.filter(({ of }) => of === one).map(({ host }) => host);
    const { seconds } = await site.publish(Object.fromEntries(hosts.map((host) => [host, one.to])));
    log(`${one.name}: built and published for ${hosts.length} hosts in ${seconds.toFixed(1)} s`);
    // A machine that is to be installed has no agent yet that could ask.
    const agent = agents.get(hosts[0] ?? '') ?? [...agents.values()][0];
    if (agent === undefined) throw new Error('no machine has an agent');
    const packs = await waitForPack(site, agent, stepOf(site, hosts[0] ?? ''));
    figures.push(
      { name: `${one.name}, packs after publication`, value: packs.seconds, unit: 's' },
      { name: `${one.name}, packs, CPU of the server`, value: packs.cpu, unit: 's' },
    );
  }
  await site.mirror();
  return figures;
}
