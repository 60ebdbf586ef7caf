// The agent that is there all day, with another program in the place of "fleet agent once": when it is started next.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { askAgent, bringBundle } from '../../src/agent/control-client.ts';
import { runAgent } from '../../src/agent/run.ts';
import { DUE_SPREAD } from '../../src/agent/schedule.ts';
import { waitFor } from '../helpers/hosts.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('a run that waits until a moment is followed by one at that moment', async (t) => {
  const dir = await temporaryDir(t);
  // Nobody is there to give hints.
  await writeFile(join(dir, 'agent.json'), '{"server":"http://127.0.0.1:1","host":"alpha"}');
  const log = join(dir, 'log');
  const script = `date +%s.%N >>${log}; [ $(wc -l <${log}) = 1 ] && next=$(($(date +%s) + 12)) || next=null
    echo "{\\"phase\\":\\"awaiting-window\\",\\"reason\\":{\\"text\\":\\"closed\\"},\\"next\\":$next}"`;
  const stop = new AbortController();
  const said: string[] = [];
  const running = runAgent({
    dir,
    command: ['/bin/sh', '-c', script],
    say: (line) => said.push(line),
    signal: stop.signal,
  });
  const runs = async () =>
    (await readFile(log, 'utf8').catch(() => '')).trim().split('\n').map(Number);
  await waitFor(async () => (await runs()).length === 2, 12_000 + DUE_SPREAD + 5000);
  stop.abort();
  await running;
  const [first = 0, second = 0] = await runs();
  // The pace is a quarter of an hour.
  const seconds = second - first;
  assert.ok(seconds >= 11 && seconds < 12 + DUE_SPREAD / 1000 + 5, `after ${seconds} s`);
  assert.ok(said.includes('awaiting-window: closed'), said.join());
});

for (const what of ['bundle', 'request'] as const) {
  test(`a member who asks for a run all the time (${what}) does not keep the agent from asking its server`, async (t) => {
    const dir = await temporaryDir(t);
    await writeFile(join(dir, 'agent.json'), '{"server":"http://127.0.0.1:1","host":"alpha"}');
    const log = join(dir, 'log');
    const socket = join(dir, 'control.sock');
    const logging = (word: string, code: number) => [
      ...['/bin/sh', '-c', `echo ${word} >>${log}; exit ${code}`, 'run'],
    ];
    const stop = new AbortController();
    t.after(() => stop.abort());
    const running = runAgent({
      dir,
      command: logging('server', 0),
      say: () => {},
      signal: stop.signal,
      pollSeconds: 4,
      control: { socket, statusCommand: [], bundleCommand: logging('bundle', 1) },
    });
    const count = async (word: string) =>
      (await readFile(log, 'utf8').catch(() => '')).split('\n').filter((line) => line === word)
        .length;
    await waitFor(async () => (await count('server')) === 1);
    for (let time = 0; time < 6; time++) {
      await sleep(1000);
      if (what === 'bundle') await bringBundle(socket, 1, Readable.from([Buffer.alloc(1)]));
      else await askAgent(socket, { verb: 'request', text: 'again' });
    }
    // Those that were asked for, and one whose time had come.
    const least = what === 'bundle' ? 2 : 8;
    await waitFor(async () => (await count('server')) >= least, 3000);
    await waitFor(async () => (await count('bundle')) === (what === 'bundle' ? 6 : 0), 3000);
    stop.abort();
    await running;
  });
}
