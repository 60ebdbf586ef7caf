// An untyped value → the type of a schema, or one line that names the field and what is wrong with
// it; a misspelt field is told which word was meant. TypeBox's interpreting checker is used, not its
// compiler, which calls `new Function`: the root agent evaluates no generated code. (The threads of an audit use it.)
import type { Static, TSchema } from 'typebox';
import { Check, Errors } from 'typebox/schema';
import { nearestWord } from '../config.ts';
import { type ErrorCode, FleetError } from '../errors.ts';

/** Says whether values are of a schema. */
type Checker = (schema: TSchema, value: unknown) => boolean;
let isOf: Checker = Check;

/** Lets another checker decide from now on, in this thread: for one that looks at a hundred thousand documents. */
export function checkShapesBy(checker: Checker): void {
  isOf = checker;
}

type Problem = ReturnType<typeof Errors>[1][number];

/** `T` with every array and object in it read-only. */
export type Frozen<T> = T extends string
  ? T
  : T extends readonly (infer Item)[]
    ? readonly Frozen<Item>[]
    : T extends object
      ? { readonly [Key in keyof T]: Frozen<T[Key]> }
      : T;

/**
 * Returns `value` as the schema's type. `what` names it in the error's message.
 * @throws FleetError of `code` naming the first field that is wrong.
 */
export function requireShape<Schema extends TSchema>(
  schema: Schema,
  value: unknown,
  code: ErrorCode,
  what: string,
): Frozen<Static<Schema>> {
  if (isOf(schema, value)) return value as Frozen<Static<Schema>>;
  throw new FleetError(code, `${what}: ${describe(schema, Errors(schema, value)[1])}`);
}

function describe(schema: TSchema, problems: readonly Problem[]): string {
  // Of the branches of a union, the one that went deepest is the one that was meant.
  const told = problems.filter(({ keyword }) => keyword !== 'boolean' && keyword !== 'anyOf');
  const depth = (problem: Problem): number => problem.instancePath.split('/').length;
  const deepest = Math.max(...told.map(depth));
  const candidates = told.filter((problem) => depth(problem) === deepest);
  // A misspelt field is also a missing one; the misspelling says more.
  const problem =
    candidates.find(({ keyword }) => keyword === 'additionalProperties') ??
    candidates.find(({ keyword, params }) => !(keyword === 'type' && isNullType(params))) ??
    candidates[0];
  if (problem === undefined) return 'is not of the expected form';
  const at = problem.instancePath.slice(1).split('/').join('.');
  if (problem.keyword === 'additionalProperties') {
    return unknownField(at, problem.params.additionalProperties[0] ?? '', schema, problem);
  }
  if (problem.keyword === 'required') {
    return `${dotted(at, problem.params.requiredProperties[0] ?? '')} is missing`;
  }
  if (problem.keyword === 'enum') {
    return `${at} must be one of ${problem.params.allowedValues.join(', ')}`;
  }
  return `${at === '' ? 'it' : at} ${problem.message}`;
}

/** What the other half of a nullable field says. */
function isNullType(params: object): boolean {
  return 'type' in params && params.type === 'null';
}

function unknownField(at: string, name: string, schema: TSchema, problem: Problem): string {
  let node: unknown = schema;
  for (const step of problem.schemaPath.split('/').slice(1)) {
    node = typeof node === 'object' && node !== null ? Reflect.get(node, step) : undefined;
  }
  const known: unknown =
    typeof node === 'object' && node !== null ? Reflect.get(node, 'properties') : undefined;
  const meant = nearestWord(name, Object.keys(known ?? {}));
  const shown = JSON.stringify(dotted(at, name.slice(0, 60)));
  return `unknown field ${shown}${meant === null ? '' : `; did you mean "${meant}"?`}`;
}

function dotted(at: string, name: string): string {
  return at === '' ? name : `${at}.${name}`;
}
