// Since when an update could begin, and what is asked before a reboot. (Fetches and switches: test/e2e/agent-policy.test.ts.)
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Update, waitBeforeReboot } from '../../src/agent/begin.ts';
import type { Host } from '../../src/agent/host.ts';
import { EMPTY_JOURNAL, writeJournal } from '../../src/agent/journal.ts';
import { NO_WISHES } from '../../src/agent/policy.ts';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { withPrograms } from '../helpers/programs-on-path.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;
const HOUR = 3600;
const MANIFEST = { epoch: 1, sequence: 2, sha256: 'a'.repeat(64) };

const login = (sessions: string, locks: string): string => `case "$*" in
  *ListSessions) echo '{"type":"a(susso)","data":[[${sessions}]]}';;
  *ListInhibitors) echo '{"type":"a(ssssuu)","data":[[${locks}]]}';;
  *Class*) echo '{"type":"s","data":"user"}'; echo '{"type":"s","data":"active"}';; *) exit 9;; esac`;
const NOBODY = login('', '');
const SOMEBODY = login('["c1",1000,"alice","seat0","/org/freedesktop/login1/session/c1"]', '');
const BACKUP = login('', '["sleep","backup","x","block",0,7]');

async function reboot(
  dir: string,
  script: string,
  rules: Partial<Activation>,
  update: Update | null = null,
): Promise<string> {
  const host = { memory: { dir }, now: () => NOW } as Pick<Host, 'memory' | 'now'>;
  const given = { ...DEFAULT_ACTIVATION, reboot: 'allowed' as const, ...rules };
  const ask = () => waitBeforeReboot(host, given, update);
  const wait = await withPrograms({ busctl: script }, ask);
  if (wait !== null) assert.equal(wait.attempt.phase, 'reboot-pending');
  return wait?.attempt.reason?.code ?? 'go';
}

test('a reboot: only while nobody is logged in and nothing blocks it, and that is known', async (t) => {
  const dir = await temporaryDir(t);
  await writeJournal(dir, EMPTY_JOURNAL);
  assert.equal(await reboot(dir, NOBODY, {}), 'go');
  assert.equal(await reboot(dir, NOBODY, { reboot: 'never' }), 'reboot-never');
  assert.equal(await reboot(dir, SOMEBODY, {}), 'logged-in');
  assert.equal(await reboot(dir, BACKUP, {}), 'inhibited');
  assert.equal(await reboot(dir, 'exit 1', {}), 'inhibitors-unknown');
  const half = NOBODY.replace(/.*ListSessions.*\n/, '');
  assert.equal(await reboot(dir, half, {}), 'sessions-unknown');
  // An emergency goes on all the same, but where the host is never rebooted.
  const deployment = { activation: DEFAULT_ACTIVATION, emergency: true };
  const urgent = { manifest: MANIFEST, deployment, wishes: NO_WISHES };
  assert.equal(await reboot(dir, SOMEBODY, {}, urgent), 'go');
  assert.equal(await reboot(dir, NOBODY, { reboot: 'never' }, urgent), 'reboot-never');
});

test('a reboot: the time to put it off counts from when the system was there, not anew', async (t) => {
  const dir = await temporaryDir(t);
  const rules = { ask: true, deferral: { maxHours: 8 } };
  const deployment = { activation: DEFAULT_ACTIVATION, emergency: false };
  const update = { manifest: MANIFEST, deployment, wishes: NO_WISHES };
  for (const [at, code] of [
    [NOW - 7 * HOUR, 'asked'],
    [NOW - 8 * HOUR, 'go'],
  ] as const) {
    await writeJournal(dir, { ...EMPTY_JOURNAL, ready: { sha256: MANIFEST.sha256, at } });
    assert.equal(await reboot(dir, NOBODY, rules, update), code);
  }
  await writeJournal(dir, { ...EMPTY_JOURNAL, ready: { sha256: MANIFEST.sha256, at: NOW } });
  const told = { ...update, wishes: { ...NO_WISHES, applyNow: true } };
  assert.equal(await reboot(dir, NOBODY, rules, told), 'go');
  assert.equal(await reboot(dir, SOMEBODY, rules, told), 'logged-in');
  // Nobody was asked before its switch.
  await writeJournal(dir, EMPTY_JOURNAL);
  assert.equal(await reboot(dir, NOBODY, rules, update), 'go');
});
