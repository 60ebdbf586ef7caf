import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SwitchResult } from '../../src/agent/switch.ts';
import { hasNoCheck } from '../../src/agent/verdict.ts';

const PATH = `/nix/store/${'a'.repeat(32)}`;

function said(line: string, code = 1): SwitchResult {
  return { code, timedOut: false, log: '/log', lastLines: ['before', line, 'after'], words: line };
}

test('whether a program knows check is read from the verbs of its usage, not from its path', () => {
  const program = 'bin/switch-to-configuration';
  const old = '[switch|boot|test|dry-activate]';
  const recent = '[check|switch|boot|test|dry-activate]';
  for (const name of ['nixos-system', 'nixos-system-health-check-24.05']) {
    assert.equal(hasNoCheck(said(`Usage: ${PATH}-${name}/${program} ${old}`)), true, name);
    assert.equal(hasNoCheck(said(`Usage: ${PATH}-${name}/${program} ${recent}`)), false, name);
  }
});

test('what is no usage, or another status, is a check that failed', () => {
  const usage = 'Usage: switch-to-configuration [switch|boot|test]';
  assert.equal(hasNoCheck(said(usage)), true);
  assert.equal(hasNoCheck(said(usage, 2)), false);
  assert.equal(hasNoCheck(said('pre-switch check failed: [switch|boot|test]')), false);
  assert.equal(hasNoCheck(said('Usage: something else [a|b]')), false);
  assert.equal(hasNoCheck(said('Usage: switch-to-configuration test')), false);
});
