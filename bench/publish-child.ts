// Publishes all hosts of a large fleet (large-fleet.ts) as `fleet build` does after the last of them was built,
// in a process that did nothing before. Arguments: state, Nix store, how many hosts, and the file that says what
// their closures are stored as. Prints the seconds that each phase took, and
// those of CPU that all of them took together, without Nix's.
import { readFileSync } from 'node:fs';
import { symlink } from 'node:fs/promises';
import type { StoredClosure } from '../src/manifest/publish.ts';
import { openGcRoots } from '../src/server/gcroots.ts';
import { type PreparedHost, publishBuilt } from '../src/server/publish-built.ts';
import { openStateDir } from '../src/server/statedir.ts';
import { builtHost } from './large-fleet.ts';

const [top = '', root = '', hosts = '', file = ''] = process.argv.slice(2);
const stored = JSON.parse(readFileSync(file, 'utf8')) as StoredClosure[];
const prepared: PreparedHost[] = [];
for (let i = 0; i < Number(hosts); i++) {
  const { built } = builtHost(i);
  prepared.push({ host: built.host, built, stored: stored[i] as StoredClosure });
}

await using dir = await openStateDir(top, { writer: 'inline' });
const gcroots = await openGcRoots(dir.layout.gcroots, { root });
for (const { host, built } of prepared) {
  await gcroots.building(host, (link) => symlink(built.toplevel, link));
}
const before = process.cpuUsage();
const marks = [performance.now()];
const mark = (): void => void marks.push(performance.now());
const results = await publishBuilt(
  dir,
  prepared,
  {
    keep: async (...args) => {
      mark();
      const lost = await gcroots.keep(...args);
      mark();
      return lost;
    },
  },
  { noPublish: false, named: false },
);
mark();
await gcroots[Symbol.asyncDispose]();
mark();
const published = results.filter(
  (one) => one.error === null && one.manifest !== null && !one.waits,
);
if (published.length !== prepared.length) throw new Error(`${published.length} were published`);
const { user, system } = process.cpuUsage(before);
const names = ['check and sign', 'gc roots', 'append', 'release of builds'];
const phases = names.map((name, i) => [name, ((marks[i + 1] ?? 0) - (marks[i] ?? 0)) / 1000]);
console.log(JSON.stringify({ phases: Object.fromEntries(phases), cpu: (user + system) / 1e6 }));
