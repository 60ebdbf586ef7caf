// What every verb shares: the global options, where its words go, and how an error is told.
// Results go to stdout (one JSON document with --json); progress and errors go to stderr.
import { once } from 'node:events';
import { stripVTControlCharacters } from 'node:util';
import type { Command } from 'commander';
import { FleetError, isFleetError, messageOf } from '../src/errors.ts';

export type Globals = {
  /** --state, or $FLEET_STATE, or undefined: each verb knows its own default. */
  readonly state: string | undefined;
  /** ` --state DIR` where it was given to a verb of the server's, for advice to repeat; else nothing. */
  readonly stateOption: string;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly verbose: boolean;
  readonly color: boolean;
};

/** Adds the global options to a verb, so that they may stand before or behind it. */
export function withGlobals(command: Command): Command {
  return command
    .option(
      '--state <dir>',
      'state directory (default: /var/lib/fleet; agent: /var/lib/fleet-agent)',
    )
    .option('--json', 'print one JSON document on stdout')
    .option('-q, --quiet', 'no progress')
    .option('-v, --verbose', 'more detail; stacks of errors')
    .option('--no-color', 'plain text');
}

export function globalsOf(command: Command): Globals {
  const options = command.optsWithGlobals();
  if (options['state'] === '') throw new FleetError('E_USAGE', '--state wants a directory');
  return {
    // An empty variable is none.
    state: options['state'] ?? (process.env['FLEET_STATE'] || undefined),
    stateOption:
      options['state'] === undefined || isAgents(command) ? '' : ` --state ${options['state']}`,
    json: options['json'] === true,
    quiet: options['quiet'] === true,
    verbose: options['verbose'] === true,
    // https://no-color.org
    color:
      options['color'] !== false &&
      (process.env['NO_COLOR'] ?? '') === '' &&
      process.stdout.isTTY === true,
  };
}

/** An agent's state is another one, and it advises for itself. */
function isAgents(command: Command): boolean {
  for (let at: Command | null = command; at !== null; at = at.parent) {
    if (at.name() === 'agent') return true;
  }
  return false;
}

/** Verbs that look into the server's state. */
const OF_STATE =
  /\bfleet (build|publish|status|diff|host (list|show|enroll|remove|hold|release)|token (create|list|revoke)|root (rotate|import)|key (list|generate|export|revoke)|cache (info|verify|gc|pin|unpin)|audit export)\b(?! --state)/g;

/** What is advised, for the state that was named: `fleet build` → `fleet build --state DIR`. */
export function placedText({ stateOption }: Pick<Globals, 'stateOption'>, text: string): string {
  return text.replace(OF_STATE, (verb) => verb + stateOption);
}

/** The server's state directory: --state, else $FLEET_STATE, else /var/lib/fleet. */
export function serverState(globals: Globals): string {
  return globals.state ?? '/var/lib/fleet';
}

/** A line of progress for people, on stderr; silent with --quiet. */
export function say(globals: Globals, line: string): void {
  if (!globals.quiet) process.stderr.write(`${line}\n`);
}

/** The verb's result: `document` with --json, else `text` (without its final newline). */
export function print(globals: Globals, document: unknown, text: string): void {
  process.stdout.write(globals.json ? `${JSON.stringify(document, null, 2)}\n` : `${text}\n`);
}

/**
 * As `print`, for a document with long lists: it is written piece by piece, as fast as it is read, and neither it nor
 * the text (asked for only where it is wanted) is ever whole in memory twice.
 */
export async function printLong(
  globals: Globals,
  document: Readonly<Record<string, unknown>>,
  text: () => string,
): Promise<void> {
  if (!globals.json) {
    process.stdout.write(`${text()}\n`);
    return;
  }
  for (const piece of piecesOf(document)) {
    if (!process.stdout.write(piece)) await once(process.stdout, 'drain');
  }
}

/** `JSON.stringify(document, null, 2)` and a newline, in pieces: its fields, and the items of those that are lists. */
export function* piecesOf(document: Readonly<Record<string, unknown>>): Generator<string> {
  const written = (value: unknown, indent: string): string =>
    JSON.stringify(value, null, 2).replaceAll('\n', `\n${indent}`);
  let before = '{';
  for (const [name, value] of Object.entries(document)) {
    yield `${before}\n  ${JSON.stringify(name)}: `;
    before = ',';
    if (!Array.isArray(value) || value.length === 0) {
      yield written(value, '  ');
      continue;
    }
    for (const [i, item] of value.entries()) {
      yield `${i === 0 ? '[' : ','}\n    ${written(item, '    ')}`;
    }
    yield '\n  ]';
  }
  yield `${before === '{' ? '{' : '\n'}}\n`;
}

const COLORS = { good: 32, bad: 31, waiting: 33 } as const;

/** `text` in a colour, where results go to a terminal that wants it. */
export function paint(globals: Globals, color: keyof typeof COLORS, text: string): string {
  return globals.color ? `\u001b[${COLORS[color]}m${text}\u001b[0m` : text;
}

/** Columns of text, each as wide as its widest cell; the last one is not padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, widthOf(cell));
    });
  }
  return rows
    .map((row) =>
      row
        .map((cell, i) => pad(cell, widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function widthOf(cell: string): number {
  return stripVTControlCharacters(cell).length;
}

function pad(cell: string, width: number): string {
  return cell + ' '.repeat(width - widthOf(cell));
}

/**
 * Tells an error on stderr, one line what is wrong and one what to do, and with --json also as
 * `{"error": …}` on stdout. Returns the exit code.
 */
export function tellError(error: unknown, options: { json: boolean; verbose: boolean }): number {
  const known = isFleetError(error)
    ? error
    : new FleetError('E_INTERNAL', messageOf(error), { cause: error });
  const message = printable(known.message);
  for (const line of known.details) process.stderr.write(`  | ${printable(line)}\n`);
  process.stderr.write(`fleet: ${message} [${known.code}]\n`);
  process.stderr.write(`  → ${printable(known.hint)}\n`);
  if (options.verbose) {
    for (let at: unknown = known; at instanceof Error; at = at.cause) {
      process.stderr.write(`${at.stack ?? at.message}\n`);
    }
  }
  if (options.json) {
    const document = { error: { code: known.code, message: known.message, hint: known.hint } };
    process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
  }
  return known.exitCode;
}

/** The error, with advice for the state that was named. */
export function placedError(globals: Globals, error: FleetError): FleetError {
  const hint = placedText(globals, error.hint);
  if (hint === error.hint) return error;
  const { code, message, details } = error;
  return new FleetError(code, message, { hint, details, cause: error });
}

/** Tells an error of a verb that has printed its result already: that was its one JSON document. */
export function tellAfterResult(globals: Globals, error: FleetError): number {
  return tellError(placedError(globals, error), { json: false, verbose: globals.verbose });
}

/** `text` as one line without control characters: what a host or a server says must not drive a terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
  return text.replace(/\s*\n\s*/g, ' ').replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}

/** `1 receipt`, `2 receipts`. */
export function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** `3 of 415 paths, 1.5 MiB of 200.0 MiB unpacked, about 40 s left`. */
export function fetchingText({
  paths,
  bytes,
  secondsLeft,
}: {
  readonly paths: { readonly done: number; readonly total: number };
  readonly bytes: { readonly done: number; readonly total: number };
  readonly secondsLeft: number | null;
}): string {
  const left = secondsLeft === null ? '' : `, about ${secondsLeft} s left`;
  const size = `${formatBytes(bytes.done)} of ${formatBytes(bytes.total)} unpacked`;
  return `${paths.done} of ${counted(paths.total, 'path')}, ${size}${left}`;
}

/** Bytes as people read them: `17 B`, `1.5 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
