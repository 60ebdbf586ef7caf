// `npm run bench -- NAME [--json] [--check] [OPTION…]`: runs bench/NAME.ts and prints its figures.
// --prepare-only DIR: where a benchmark can, only makes what it measures with, and says where that is.
// --json: one document on stdout. --check: exit 1 when a figure misses its target in targets.json

import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { Benchmark, Figure, Prepare } from './figures.ts';

type Target = { readonly max?: number; readonly min?: number };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '1' },
    'prepare-only': { type: 'string' },
  },
});
const [name = ''] = positionals;
const file = new URL(`./${name}.ts`, import.meta.url);
const rounds = Number(values.rounds);
const isKnown = positionals.length === 1 && /^[a-z-]+$/.test(name) && existsSync(file);
if (!isKnown || !Number.isInteger(rounds) || rounds < 1) {
  console.error(
    'usage: npm run bench -- NAME [--json] [--check] [--quick] [--rounds N] [--prepare-only DIR]',
  );
  process.exit(2);
}

const targets: Record<string, Record<string, Target>> = JSON.parse(
  readFileSync(new URL('./targets.json', import.meta.url), 'utf8'),
);
const wanted = new Map(Object.entries(targets[name] ?? {}));
const { benchmark, prepare }: { benchmark: Benchmark; prepare?: Prepare } = await import(file.href);
const log = (line: string): void => console.error(line);
if (values['prepare-only'] !== undefined) {
  if (prepare === undefined) {
    console.error(`${name} has nothing to prepare`);
    process.exit(2);
  }
  await prepare(resolve(values['prepare-only']), log);
  process.exit();
}
const figures = await benchmark({ quick: values.quick, rounds, log });

const rows = figures.map((figure) => ({ ...figure, target: targetOf(figure) }));
const missed = rows.filter((row) => row.target !== null && !row.target.met);
if (values.json) console.log(JSON.stringify({ benchmark: name, figures: rows }, null, 2));
else {
  const width = Math.max(34, ...rows.map(({ name }) => name.length));
  for (const { name, value, unit, target } of rows) {
    const verdict = target === null ? '' : `   ${target.met ? 'meets' : 'MISSES'} ${target.text}`;
    console.log(
      `${name.padEnd(width)} ${value.toFixed(2).padStart(10)} ${unit.padEnd(4)}${verdict}`,
    );
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
