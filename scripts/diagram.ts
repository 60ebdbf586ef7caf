// The table of an activation (src/agent/machine.ts) → the diagram and the table in docs/AGENT.md, between their marks.
// `npm run diagram` writes them; a test compares.
import { readFileSync, writeFileSync } from 'node:fs';
import { type Row, STEPS, TABLE } from '../src/agent/machine.ts';

const FILE = new URL('../docs/AGENT.md', import.meta.url);
const MARKS = /(<!-- table -->\n)[\s\S]*(<!-- end -->)/;

/** The text with the diagram of now. */
export function withDiagram(text: string): string {
  return text.replace(MARKS, (_all, begin: string, end: string) => `${begin}${diagram()}${end}`);
}

function diagram(): string {
  const rows = STEPS.flatMap((step) =>
    Object.entries<Row>(TABLE[step]).map(([event, row]) => ({ step, event, ...row })),
  );
  const name = (step: string): string => step.replace('-', '_');
  const arrows = rows.map(({ step, event, to }) => `  ${name(step)} --> ${name(to)}: ${event}`);
  const lines = rows.map(({ step, event, to, effects, tells }) => {
    const cells = [step, event, to, effects.join(', '), tells.join(', ')];
    return `| ${cells.join(' | ')} |`;
  });
  return [
    '```mermaid',
    'stateDiagram-v2',
    '  [*] --> idle',
    ...arrows,
    '```',
    '',
    '| step | what happened | step then | what is done | what the run ends with |',
    '|---|---|---|---|---|',
    ...lines,
    '',
  ].join('\n');
}

if (import.meta.main) writeFileSync(FILE, withDiagram(readFileSync(FILE, 'utf8')));
