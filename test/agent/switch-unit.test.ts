// A switch as a unit of systemd's that is started late: where its agent is gone and another one switched meanwhile, it does nothing.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod, mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { tryLock } from '../../src/agent/lock.ts';
import { runInUnit } from '../../src/agent/switch-unit.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const skip = process.geteuid?.() === 0 ? false : 'for root: /run is written to';

// Takes the first unit and is too busy to say so; starts the others at once.
const SYSTEMD_RUN = `#!${process.execPath}
const { spawn } = require('node:child_process');
const { existsSync, writeFileSync } = require('node:fs');
const late = __dirname + '/late';
const words = process.argv.slice(process.argv.indexOf('--') + 1).map((word) => word.replaceAll('$$', '$'));
if (!existsSync(late)) {
  writeFileSync(late, JSON.stringify(words));
  process.exit(1);
}
spawn(words[0], words.slice(1), { detached: true, stdio: 'ignore' }).unref();
`;

test('a unit that systemd starts late does not switch any more', { skip }, async () => {
  await using dir = await temporaryDirectory();
  const switches = join(dir.path, 'switch');
  await mkdir(switches);
  await writeFile(join(dir.path, 'systemd-run'), SYSTEMD_RUN);
  await chmod(join(dir.path, 'systemd-run'), 0o755);
  const before = process.env['PATH'];
  const done = join(dir.path, 'done');
  const run = async (word: string): Promise<number | null> => {
    const lock = await tryLock(join(switches, 'lock'));
    assert.ok(lock);
    await using output = await open('/dev/null', 'r+');
    const command = ['/bin/sh', '-c', `echo ${word} >>${done}`];
    return await runInUnit(command, { dir: switches, lock, output, patience: 10_000 });
  };
  process.env['PATH'] = [dir.path, before ?? ''].join(delimiter);
  try {
    await assert.rejects(run('target'), { code: 'E_PREFLIGHT' });
    assert.equal(await run('previous'), 0);
    const late = JSON.parse(await readFile(join(dir.path, 'late'), 'utf8')) as string[];
    const [program = '', ...args] = late;
    assert.equal(spawnSync(program, args, { timeout: 20_000 }).status, 0);
  } finally {
    process.env['PATH'] = before;
  }
  assert.equal(await readFile(done, 'utf8'), 'previous\n');
});
