// Who says that a clock is kept: timedatectl, or the file of systemd's own keeper where that cannot be asked.
import assert from 'node:assert/strict';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isClockSynchronised } from '../../src/agent/clock.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('the kernel’s word counts before the file, and the file where the kernel cannot be asked', async (t) => {
  const dir = await temporaryDir(t);
  const there = join(dir, 'synchronized');
  await writeFile(there, '');
  const program = async (name: string, body: string): Promise<string> => {
    const file = join(dir, name);
    await writeFile(file, `#!/bin/sh\n${body}\n`);
    await chmod(file, 0o755);
    return file;
  };
  const asked = 'test "$*" = "show --property=NTPSynchronized --value" || exit 9';
  for (const [name, body, withFile, withoutFile] of [
    ['yes', `${asked}; echo yes`, true, true],
    ['no', `${asked}; echo no`, false, false],
    ['failing', 'echo yes; exit 1', true, false],
    ['babbling', 'echo "yes, but"', true, false],
    ['flooding', 'yes yes', true, false],
    ['hanging', 'exec sleep 60', true, false],
    ['silent', 'exit 0', true, false],
  ] as const) {
    const patience = name === 'hanging' ? 300 : 60_000;
    const keepers = { program: await program(name, body), patience };
    const say = (file: string) => isClockSynchronised({ ...keepers, file });
    assert.equal(await say(there), withFile, name);
    assert.equal(await say(join(dir, 'none')), withoutFile, name);
  }
  const missing = { program: join(dir, 'missing'), patience: 1000 };
  assert.equal(await isClockSynchronised({ ...missing, file: there }), true);
  assert.equal(await isClockSynchronised({ ...missing, file: join(dir, 'none') }), false);
});
