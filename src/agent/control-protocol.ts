// The words of the control socket (SPEC §5.9): one line of JSON asks, one answers, and the connection ends. Strict on
// both sides; whoever may connect is of the local group, and nothing that is said names a path or a program.
import { ERRORS, type ErrorCode, FleetError, messageOf } from '../errors.ts';
import { oneOf, parsedBy, type Reader, string } from './record.ts';
import { parseWords } from './wishes.ts';

export const CONTROL_VERSION = 1;
/** Bytes of a question, its newline included. */
export const MAX_QUESTION = 4096;
/** Bytes of an answer: a status may list many packages. */
export const MAX_ANSWER = 1024 * 1024;

/** Bytes of a bundle; what there is room for is mostly less. */
export const MAX_BUNDLE = 2 ** 40;

export type Question =
  | { readonly verb: 'status' }
  | { readonly verb: 'news' }
  | { readonly verb: 'defer'; readonly seconds: number }
  | { readonly verb: 'apply' }
  /** So many bytes follow once the agent said that they may. */
  | { readonly verb: 'apply-bundle'; readonly bytes: number }
  | { readonly verb: 'rollback'; readonly reason: string }
  | { readonly verb: 'request'; readonly text: string };

export type Verb = Question['verb'];

/** What is said besides the verb. */
const FIELDS: { readonly [V in Verb]: ReadonlyMap<string, Reader<string | number>> } = {
  status: new Map(),
  news: new Map(),
  defer: new Map([['seconds', secondsOf]]),
  apply: new Map(),
  'apply-bundle': new Map([['bytes', bytesOf]]),
  rollback: new Map([['reason', parsedBy((text) => parseWords(text, 'reason'))]]),
  request: new Map([['text', parsedBy((text) => parseWords(text, 'request'))]]),
};

const VERBS = Object.keys(FIELDS) as Verb[];

/** A question without its newline. @throws FleetError E_LOCAL_PROTOCOL, E_LOCAL_WORDS */
export function parseQuestion(line: string): Question {
  try {
    const fields = fieldsOf(line);
    const verb = oneOf(VERBS)(fields.get('verb'));
    const wanted = FIELDS[verb];
    const question: Record<string, unknown> = { verb };
    for (const [name, read] of wanted) question[name] = read(fields.get(name));
    for (const name of fields.keys()) {
      if (name === 'verb' || name === 'version' || wanted.has(name)) continue;
      throw new TypeError(`unknown key ${JSON.stringify(name.slice(0, 64))}`);
    }
    return question as Question;
  } catch (cause) {
    if (cause instanceof FleetError) throw cause;
    throw protocol(messageOf(cause), cause);
  }
}

export function formatQuestion(question: Question): string {
  return `${JSON.stringify({ version: CONTROL_VERSION, ...question })}\n`;
}

/** `result`: what a verb gives. */
export function formatAnswer(result: object): string {
  return `${JSON.stringify({ version: CONTROL_VERSION, result })}\n`;
}

export function formatRefusal({ code, message, hint }: FleetError): string {
  return `${JSON.stringify({ version: CONTROL_VERSION, error: { code, message, hint } })}\n`;
}

/** The result in an answer, or the refusal thrown. @throws FleetError with the code of the refusal; E_LOCAL_PROTOCOL */
export function parseAnswer(line: string): unknown {
  let fields: Map<string, unknown>;
  try {
    fields = fieldsOf(line);
  } catch (cause) {
    throw protocol(messageOf(cause), cause);
  }
  const error = fields.get('error');
  if (error !== undefined) throw refusalOf(error);
  const result = fields.get('result');
  if (typeof result === 'object' && result !== null) return result;
  throw protocol('the answer has no result');
}

function fieldsOf(line: string): Map<string, unknown> {
  const json: unknown = JSON.parse(line);
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new TypeError('it is no JSON object');
  }
  const fields = new Map<string, unknown>(Object.entries(json));
  if (fields.get('version') !== CONTROL_VERSION) {
    throw new TypeError(`"version" must be ${CONTROL_VERSION}`);
  }
  return fields;
}

function secondsOf(value: unknown): number {
  const seconds = Number.isSafeInteger(value) ? Number(value) : 0;
  if (seconds >= 1 && seconds <= 366 * 86_400) return seconds;
  throw new TypeError('"seconds" must be a whole number from 1 to 31622400');
}

function bytesOf(value: unknown): number {
  const bytes = Number.isSafeInteger(value) ? Number(value) : 0;
  if (bytes >= 1 && bytes <= MAX_BUNDLE) return bytes;
  throw new TypeError(`"bytes" must be a whole number from 1 to ${MAX_BUNDLE}`);
}

function refusalOf(error: unknown): FleetError {
  const of = new Map(Object.entries(typeof error === 'object' && error !== null ? error : {}));
  const code = string(of.get('code') ?? '');
  const known = Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : 'E_LOCAL_PROTOCOL';
  const hint = of.get('hint');
  return new FleetError(
    known,
    String(of.get('message') ?? 'refused'),
    typeof hint === 'string' ? { hint } : {},
  );
}

function protocol(why: string, cause?: unknown): FleetError {
  return new FleetError(
    'E_LOCAL_PROTOCOL',
    `what came over the control socket is none of it: ${why}`,
    {
      cause,
    },
  );
}
