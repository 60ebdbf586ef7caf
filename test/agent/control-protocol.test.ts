// Lines of the control socket: what is understood, what is refused, and how often anything may be asked.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatAnswer,
  formatQuestion,
  formatRefusal,
  parseAnswer,
  parseQuestion,
  type Question,
} from '../../src/agent/control-protocol.ts';
import { Rates } from '../../src/agent/control-rate.ts';
import { FleetError } from '../../src/errors.ts';

test('every question is understood as it was meant', () => {
  const questions: Question[] = [
    { verb: 'status' },
    { verb: 'news' },
    { verb: 'defer', seconds: 14_400 },
    { verb: 'apply' },
    { verb: 'apply-bundle', bytes: 1_000_000 },
    { verb: 'rollback', reason: 'the screen is black' },
    { verb: 'request', text: 'please install gimp' },
  ];
  for (const question of questions) {
    assert.deepEqual(parseQuestion(formatQuestion(question).trimEnd()), question);
  }
});

test('what is no question is refused', () => {
  const refused = [
    '',
    'status',
    '[]',
    'null',
    '{}',
    '{"verb":"status"}',
    '{"version":2,"verb":"status"}',
    '{"version":1}',
    '{"version":1,"verb":"shell"}',
    '{"version":1,"verb":"__proto__"}',
    '{"version":1,"verb":"constructor"}',
    '{"version":1,"verb":["status"]}',
    '{"version":1,"verb":"status","path":"/etc/shadow"}',
    '{"version":1,"verb":"apply","who":"root"}',
    '{"version":1,"verb":"defer"}',
    '{"version":1,"verb":"defer","seconds":"4h"}',
    '{"version":1,"verb":"defer","seconds":0}',
    '{"version":1,"verb":"defer","seconds":1e99}',
    '{"version":1,"verb":"apply-bundle"}',
    '{"version":1,"verb":"apply-bundle","bytes":0}',
    '{"version":1,"verb":"apply-bundle","bytes":1e15}',
    '{"version":1,"verb":"apply-bundle","bytes":9,"path":"/etc/shadow"}',
    '{"version":1,"verb":"rollback"}',
    '{"version":1,"verb":"rollback","reason":7}',
  ];
  for (const line of refused) {
    assert.throws(() => parseQuestion(line), { code: 'E_LOCAL_PROTOCOL' }, line);
  }
  const words = '{"version":1,"verb":"request","text":"a\\nb"}';
  assert.throws(() => parseQuestion(words), { code: 'E_LOCAL_WORDS' });
});

test('answers and refusals arrive as they were given', () => {
  assert.deepEqual(parseAnswer(formatAnswer({ until: 7 })), { until: 7 });
  const refusal = new FleetError('E_LOCAL_DEFERRAL', 'no', { hint: 'wait' });
  assert.throws(() => parseAnswer(formatRefusal(refusal)), {
    code: 'E_LOCAL_DEFERRAL',
    message: 'no',
    hint: 'wait',
  });
  // An agent of another version may have other codes.
  const other = '{"version":1,"error":{"code":"E_NEW","message":"m","hint":"h"}}';
  assert.throws(() => parseAnswer(other), { code: 'E_LOCAL_PROTOCOL', message: 'm', hint: 'h' });
  for (const line of ['', 'x', '{}', '{"version":1}', '{"version":1,"result":7}']) {
    assert.throws(() => parseAnswer(line), { code: 'E_LOCAL_PROTOCOL' }, line);
  }
});

test('each verb may be asked for so often in its time, and again once that is over', () => {
  const rates = new Rates();
  for (let i = 0; i < 6; i++) rates.take('request', i * 1000);
  const refuse = () => rates.take('request', 60_000);
  assert.throws(refuse, { code: 'E_RATE_LIMITED', hint: /in 59 min/ });
  // What was refused does not count, and other verbs are not held up.
  rates.take('status', 60_000);
  rates.take('request', 3_600_000);
  assert.throws(() => rates.take('request', 3_600_000), { code: 'E_RATE_LIMITED' });
});
