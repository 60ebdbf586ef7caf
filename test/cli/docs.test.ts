// docs/CLI.md, docs/CONFIG.md and docs/ERRORS.md list what the code has, and nothing else: compared in
// both directions.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Command } from 'commander';
import { isVerb, makeProgram } from '../../cli/fleet.ts';
import { AGENT_CONFIG_KEYS } from '../../src/agent/memory.ts';
import { CONFIG_KEYS } from '../../src/config.ts';
import { ERRORS } from '../../src/errors.ts';

/** First cells of the tables of a page that are code. */
function firstCells(page: string): string[] {
  return [...readFileSync(page, 'utf8').matchAll(/^\| (`[^|]*?) \|/gm)].map(
    ([, cell]) => cell ?? '',
  );
}

function descendants(command: Command): Command[] {
  return [command, ...command.commands.flatMap(descendants)];
}

test('docs/CLI.md has every option, and no other', () => {
  const commands = descendants(makeProgram());
  const flags = commands.flatMap(({ options }) => options.map(({ long }) => long ?? ''));
  const has = new Set(flags.filter((flag) => flag !== '--version'));
  const documented = firstCells('docs/CLI.md').flatMap((cell) => cell.match(/--[a-z-]+/g) ?? []);
  assert.deepEqual([...new Set(documented)].sort(), [...has].sort());
});

test('docs/CLI.md has every command, and no other', () => {
  const page = readFileSync('docs/CLI.md', 'utf8');
  const documented = [...page.matchAll(/^## fleet (.*)$/gm)].flatMap(([, title]) => {
    const [verb = '', ...rest] = (title ?? '')
      .replace(/ ?\[?(HOST|FILE|NAME|ROLE|KEY-ID)…?\]?/g, '')
      .split(' ');
    const subverbs = rest.filter((word) => word !== '|');
    return subverbs.length === 0
      ? [verb]
      : subverbs.map((sub) => (sub === verb ? verb : `${verb} ${sub}`));
  });
  const has = makeProgram().commands.flatMap((command) => [
    // `audit` is a verb itself, and has verbs below it.
    ...(isVerb(command) ? [command.name()] : []),
    ...command.commands.map((sub) => `${command.name()} ${sub.name()}`),
  ]);
  assert.deepEqual(documented.sort(), has.sort());
});

for (const [file, keys] of [
  ['fleet.json', CONFIG_KEYS],
  ['agent.json', AGENT_CONFIG_KEYS],
] as const) {
  test(`docs/CONFIG.md has every key of ${file}, and no other`, () => {
    const page = readFileSync('docs/CONFIG.md', 'utf8').split(`## ${file}`)[1]?.split('\n## ')[0];
    const documented = [...(page ?? '').matchAll(/^\| `([^`]+)` \|/gm)].map(([, key]) => key);
    assert.deepEqual(documented.sort(), [...keys].sort());
  });
}

test('docs/ERRORS.md has every error code with its exit code and advice, and no other', () => {
  const rows = [
    ...readFileSync('docs/ERRORS.md', 'utf8').matchAll(
      /^\| `(E_[A-Z0-9_]+)` \| (\d) \| (.+) \|$/gm,
    ),
  ];
  const documented = rows.map(
    ([, code, exit, text]) => `${code} ${exit} ${text?.split(' → ').at(-1)}`,
  );
  const has = Object.entries(ERRORS).map(([code, { exit, advice }]) => {
    const sentence = `${advice[0]?.toUpperCase()}${advice.slice(1)}`;
    return `${code} ${exit} ${/[.?]$/.test(sentence) ? sentence : `${sentence}.`}`;
  });
  assert.deepEqual(documented.sort(), has.sort());
});

/** Titles of a file's tests; a variable in one stands for anything. */
function titlesOf(file: string): string[] {
  const quoted = /\b(?:test|it)\(\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|`([^`]*)`)/g;
  return [...readFileSync(file, 'utf8').matchAll(quoted)].map(([, single, double, template]) =>
    (single ?? double ?? template ?? '').replace(/\\(.)/g, '$1'),
  );
}

test('docs/THREAT-MODEL.md names tests that exist, for each threat, and all threats of TUF and Uptane', () => {
  const page = readFileSync('docs/THREAT-MODEL.md', 'utf8').replace(/\n +/g, ' ');
  const cited = [...page.matchAll(/`(test\/[\w/.-]+\.test\.ts)`((?: “[^”]+”)+)/g)].flatMap(
    ([, file = '', titles = '']) =>
      [...titles.matchAll(/“([^”]+)”/g)].map(([, title = '']) => ({ file, title })),
  );
  for (const { file, title } of cited) {
    assert.ok(existsSync(file), file);
    assert.ok(titlesOf(file).includes(title), `${file} has no test “${title}”`);
  }
  // None was missed for the way it is written.
  assert.equal(cited.length, page.split('“').length - 1);
  const [, ...sections] = page.split(/^### /m);
  const threats = sections.map((section) => section.split('\n')[0]?.toLowerCase());
  for (const threat of [
    // TUF §1.5.2
    ...['arbitrary installation', 'endless data', 'extraneous dependencies', 'fast-forward'],
    ...['indefinite freeze', 'malicious mirrors preventing updates', 'mix-and-match', 'rollback'],
    ...['slow retrieval', 'vulnerability to key compromises', 'wrong software installation'],
    // Uptane §4.3
    ...['eavesdrop', 'drop-request', 'partial bundle installation', 'mixed bundles'],
    'arbitrary software',
  ]) {
    assert.ok(threats.includes(threat), threat);
  }
  for (const section of sections) {
    if (!section.includes(', above.')) assert.match(section, /`test\//, section.slice(0, 40));
  }
});
