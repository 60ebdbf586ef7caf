// What is handed to notify-send(1), with another program in its place.
import assert from 'node:assert/strict';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { showNotification } from '../../src/agent/desktop.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('words that people typed are shown as they are, and are no markup', async (t) => {
  const dir = await temporaryDir(t);
  const program = join(dir, 'notify-send');
  await writeFile(program, `#!/bin/sh\nprintf '%s\\n' "$@" >"$0.log"\n`);
  await chmod(program, 0o755);
  const path = process.env['PATH'];
  process.env['PATH'] = `${dir}:${path}`;
  t.after(() => {
    process.env['PATH'] = path;
  });
  const { signal } = new AbortController();
  const text = 'because: <img src="file:///x"> & <a href="http://x">more</a>';
  const { isShown } = await showNotification('fleet', text, [], signal);
  assert.equal(isShown, true);
  const body = (await readFile(`${program}.log`, 'utf8')).trimEnd().split('\n').at(-1);
  const shown =
    'because: &lt;img src="file:///x"&gt; &amp; &lt;a href="http://x"&gt;more&lt;/a&gt;';
  assert.equal(body, shown);
});
