// Who starts the agent that came with an update: systemd is asked for a unit that does, once the old one's run of the service ended.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { callSuccessor } from '../../src/agent/hand-over.ts';
import type { Host } from '../../src/agent/host.ts';
import { placeAt } from '../../src/agent/place.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const FILE = '/etc/systemd/system/fleet-agent.service';
const hostWith = (change: Partial<Host>): Host =>
  ({
    ...{ hasSystemd: true, place: placeAt(null), unit: { file: FILE, was: 'old' } },
    ...change,
  }) as Host;

// The service's run has the name that the file `invocation` says; the third `start` begins another.
const SYSTEMCTL = `#!/bin/sh
cd "\${0%/*}"
echo "$*" >>said
case $1 in
  show) cat invocation ;;
  start) if [ "$(grep -c ^start said)" = 3 ]; then echo new >invocation; fi ;;
esac
`;
const SYSTEMD_RUN = `#!/bin/sh
for word; do printf '%s\\0' "$word"; done >"\${0%/*}/unit"
`;

/** PATH with such programs; `sleep` takes no time. */
async function tools(dir: string): Promise<string> {
  const programs = { systemctl: SYSTEMCTL, 'systemd-run': SYSTEMD_RUN, sleep: '#!/bin/sh\n' };
  for (const [name, text] of Object.entries(programs)) {
    await writeFile(join(dir, name), text);
    await chmod(join(dir, name), 0o755);
  }
  await writeFile(join(dir, 'invocation'), 'old\n');
  return [dir, process.env['PATH'] ?? ''].join(delimiter);
}

test('the service is started until another run of it is there, and no longer', async () => {
  await using dir = await temporaryDirectory();
  const before = process.env['PATH'];
  const PATH = await tools(dir.path);
  try {
    process.env['PATH'] = PATH;
    await callSuccessor(hostWith({}));
  } finally {
    process.env['PATH'] = before;
  }
  const words = (await readFile(join(dir.path, 'unit'), 'utf8')).split('\0').slice(0, -1);
  assert.ok(words.some((word) => word.startsWith('--unit=fleet-hand-over-')));
  assert.ok(words.includes('--no-block'));
  // As systemd gives them to it.
  const [program = '', ...args] = words
    .slice(words.indexOf('--') + 1)
    .map((word) => word.replaceAll('$$', '$'));
  const { status } = spawnSync(program, args, { env: { PATH }, timeout: 20_000 });
  assert.equal(status, 0);
  const said = (await readFile(join(dir.path, 'said'), 'utf8')).split('\n').slice(1, -1);
  const show = 'show --property=InvocationID --value fleet-agent.service';
  const start = 'start --no-block fleet-agent.service';
  assert.deepEqual(said, [show, start, show, start, show, start, show]);
});

test('nobody is called where systemd is not the one that runs the agent', async () => {
  await using dir = await temporaryDirectory();
  const before = process.env['PATH'];
  try {
    process.env['PATH'] = dir.path;
    await callSuccessor(hostWith({ unit: null }));
    await callSuccessor(hostWith({ hasSystemd: false }));
    await callSuccessor(hostWith({ place: placeAt('/chroot') }));
    // The tools are missing: it would have been noticed.
    await assert.rejects(callSuccessor(hostWith({})));
  } finally {
    process.env['PATH'] = before;
  }
});
