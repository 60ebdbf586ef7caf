// The table of an activation: what has to hold of it whatever happens, and that docs/AGENT.md shows it as it is.
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { withDiagram } from '../../scripts/diagram.ts';
import { USER_ROLLBACK } from '../../src/agent/go-back.ts';
import {
  EFFECTS,
  type Effect,
  EVENTS,
  type Event,
  type Row,
  STEPS,
  type Step,
  TABLE,
  transition,
} from '../../src/agent/machine.ts';
import { WAITS } from '../../src/agent/policy.ts';
import { PHASES } from '../../src/manifest/receipt.ts';

/** These find something out: an event follows. */
const ASKS: ReadonlySet<Effect> = new Set<Effect>([
  'check',
  'test',
  'prove',
  'commit',
  'ask-boot',
  'boot',
  'undo',
  'close',
]);
const ROWS = STEPS.flatMap((step) =>
  Object.entries<Row>(TABLE[step]).map(([event, row]) => ({ step, event: event as Event, ...row })),
);

test('a row either asks for the next event, last of all it does, or ends the run', () => {
  for (const { step, event, effects, tells } of ROWS) {
    const at = `${step}, ${event}`;
    const asks = effects.filter((effect) => ASKS.has(effect));
    const isEnd = tells.length > 0 || event === 'forgotten';
    assert.equal(asks.length, isEnd ? 0 : 1, at);
    if (!isEnd) assert.ok(ASKS.has(effects.at(-1) as Effect), at);
  }
});

test('a step is in the journal before anything of it is done', () => {
  for (const { step, event, to, effects } of ROWS) {
    // `close` was the writing.
    if (to === step || event === 'closed') continue;
    assert.ok(effects[0] === 'write' || effects[0] === 'note', `${step}, ${event}`);
  }
});

test('every step, event and effect is used; an event that cannot happen is a fault', () => {
  assert.deepEqual(new Set(ROWS.map(({ to }) => to)), new Set(STEPS));
  assert.deepEqual(new Set(ROWS.map(({ event }) => event)), new Set(EVENTS));
  assert.deepEqual(new Set(ROWS.flatMap(({ effects }) => effects)), new Set(EFFECTS));
  assert.throws(() => transition('idle', 'committed'), /committed cannot happen while idle/);
});

test('from every step there is a way back to rest', () => {
  const rests = new Set<Step>(['idle']);
  for (let before = 0; before !== rests.size; ) {
    before = rests.size;
    for (const { step, to } of ROWS) if (rests.has(to)) rests.add(step);
  }
  assert.deepEqual(rests, new Set(STEPS));
});

test('every step that is not at rest can be gone on with by a run that finds it', () => {
  for (const step of STEPS) {
    if (step === 'idle') continue;
    const goesOn = (['resumed', 'deploy', 'abandoned'] as const).some(
      (event) => TABLE[step][event],
    );
    assert.ok(goesOn, step);
  }
});

test('whatever happens: nothing is committed that was not healthy, and no switch without a watchdog', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(), { maxLength: 60 }), (choices) => {
      let step: Step = 'idle';
      const so: { last: Event | null; armed: boolean } = { last: null, armed: false };
      for (const choice of choices) {
        const rows = ROWS.filter((row) => row.step === step);
        const row = rows[choice % rows.length];
        if (row === undefined) return;
        for (const effect of row.effects) {
          if (effect === 'arm') so.armed = true;
          if (effect === 'disarm') so.armed = false;
          if (effect === 'test') assert.ok(so.armed);
          if (effect === 'commit') {
            const isAllowed = ['healthy', 'boot-only', 'resumed'].includes(row.event);
            assert.ok(isAllowed, `${step}, ${row.event}`);
            if (row.event === 'resumed') assert.ok(step === 'committing' || step === 'setting');
          }
          if (effect === 'boot') assert.equal(row.event, 'may-boot');
        }
        if (row.to === 'committing') {
          assert.ok(row.event === 'healthy' || step === 'committing', `${step}, ${row.event}`);
        }
        so.last = row.event;
        step = row.to;
      }
    }),
    { numRuns: 2000 },
  );
});

test('docs/AGENT.md shows the table as it is (npm run diagram)', () => {
  const text = readFileSync('docs/AGENT.md', 'utf8');
  assert.equal(withDiagram(text), text);
});

test('docs/AGENT.md has every phase, and every reason that is no error', () => {
  const text = readFileSync('docs/AGENT.md', 'utf8');
  const rows = [...text.matchAll(/^\| `([a-z-]+)` \| .* \|(.*)\|$/gm)];
  assert.deepEqual(rows.map(([, phase]) => phase).sort(), [...PHASES].sort());
  const documented = new Set(
    rows
      .flatMap(([, , cell = '']) => [...cell.matchAll(/`([a-z-]+)`/g)].map(([, code]) => code))
      .filter((code) => !(PHASES as readonly string[]).includes(code ?? '')),
  );
  const sources = globSync('src/agent/*.ts')
    .map((file) => readFileSync(file, 'utf8'))
    .join('');
  const made = [...sources.matchAll(/(?:makeReason|rebootPending)\(\s*'([a-z-]+)'/g)];
  const codes = [...made.map(([, code]) => code), ...Object.keys(WAITS), USER_ROLLBACK];
  assert.deepEqual(documented, new Set(codes));
});
