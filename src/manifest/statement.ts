// in-toto Statement v1 ↔ its subjects and predicate (SPEC §4.1): the frame of a
// manifest. Each kind of ours has a predicateType of its own, a pinned URN.
// Unknown fields of the Statement are ignored, as in-toto asks; the predicate is the caller's to check.
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { type ErrorCode, FleetError } from '../errors.ts';
import { Sha256 } from './fields.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { type Frozen, requireShape } from './shape.ts';

export const STATEMENT_PAYLOAD_TYPE = 'application/vnd.in-toto+json';
const STATEMENT_TYPE = 'https://in-toto.io/Statement/v1';

/** Open, unlike our predicates: the Statement is not ours to close. */
export const StatementSchema = Type.Object({
  _type: Type.String(),
  predicateType: Type.String(),
  subject: Type.Array(
    Type.Object({ name: Type.String(), digest: Type.Object({ sha256: Sha256 }) }),
    { minItems: 1, maxItems: 2 },
  ),
  predicate: Type.Unknown(),
});

/** What a Statement is about: a name and the SHA-256, in hex, of what bears it. */
export type Subject = { readonly name: string; readonly sha256: string };

export type Statement = { readonly subjects: readonly Subject[]; readonly predicate: unknown };

/**
 * Parses a payload that must be a Statement with this predicateType. `what` names it in errors.
 * @throws FleetError E_PAYLOAD_FORM, or `code`.
 */
export function parseStatement(
  payload: Uint8Array,
  predicateType: string,
  code: ErrorCode,
  what: string,
): Statement {
  const statement: Frozen<Static<typeof StatementSchema>> = requireShape(
    StatementSchema,
    parseCanonical(payload),
    code,
    what,
  );
  if (statement._type !== STATEMENT_TYPE) {
    throw new FleetError(code, `${what}: it is not an in-toto Statement v1`);
  }
  if (statement.predicateType !== predicateType) {
    throw new FleetError(code, `${what}: its predicateType is not ${predicateType}`);
  }
  return {
    subjects: statement.subject.map(({ name, digest }) => ({ name, sha256: digest.sha256 })),
    predicate: statement.predicate,
  };
}

/** The canonical bytes of a Statement. */
export function formatStatement(predicateType: string, statement: Statement): Uint8Array {
  return canonicalBytes({
    _type: STATEMENT_TYPE,
    predicateType,
    subject: statement.subjects.map(({ name, sha256 }) => ({ name, digest: { sha256 } })),
    predicate: statement.predicate,
  });
}

/** @throws FleetError of `code` unless `actual` has exactly these subjects, in this order. */
export function requireSubjects(
  actual: readonly Subject[],
  expected: readonly Subject[],
  code: ErrorCode,
  what: string,
): void {
  const same =
    actual.length === expected.length &&
    expected.every(
      ({ name, sha256 }, i) => actual[i]?.name === name && actual[i]?.sha256 === sha256,
    );
  if (!same) throw new FleetError(code, `${what}: its subject is not what its predicate names`);
}
