// `npm run bench -- NAME [--json] [--check] [OPTION…]`: runs bench/NAME.ts and prints its figures.
// --json: one document on stdout. --check: exit 1 when a figure misses its target in targets.json

import { existsSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Benchmark, Figure } from './figures.ts';

type Target = { readonly max?: number; readonly min?: number };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
  },
});
const [name = ''] = positionals;
const file = new URL(`./${name}.ts`, import.meta.url);
if (positionals.length !== 1 || !/^[a-z-]+$/.test(name) || !existsSync(file)) {
  console.error('usage: npm run bench -- NAME [--json] [--check] [--quick]');
  process.exit(2);
}

const targets: Record<string, Record<string, Target>> = JSON.parse(
  readFileSync(new URL('./targets.json', import.meta.url), 'utf8'),
);
const wanted = new Map(Object.entries(targets[name] ?? {}));
const { benchmark }: { benchmark: Benchmark } = await import(file.href);
const figures = await benchmark({ quick: values.quick, log: (line) => console.error(line) });

const rows = figures.map((figure) => ({ ...figure, target: targetOf(figure) }));
const missed = rows.filter((row) => row.target !== null && !row.target.met);
if (values.json) console.log(JSON.stringify({ benchmark: name, figures: rows }, null, 2));
else {
  for (const { name, value, unit, target } of rows) {
    const verdict = target === null ? '' : `   ${target.met ? 'meets' : 'MISSES'} ${target.text}`;
    console.log(`${name.padEnd(34)} ${value.toFixed(2).padStart(10)} ${unit.padEnd(4)}${verdict}`);
  }
}
for (const key of wanted.keys()) {
  if (!values.quick && !figures.some((figure) => figure.name === key))
    throw new Error(`no figure named ${key}`);
}
if (values.check && missed.length > 0) process.exitCode = 1;

function targetOf({ name, value }: Figure): { text: string; met: boolean } | null {
  const target = wanted.get(name);
  if (target === undefined) return null;
  const { max = Number.POSITIVE_INFINITY, min = Number.NEGATIVE_INFINITY } = target;
  const text = target.max === undefined ? `≥ ${min}` : `≤ ${max}`;
  return { text, met: value <= max && value >= min };
}
