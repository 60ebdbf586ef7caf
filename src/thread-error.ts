// Thrown values on their way from one thread to another: structured cloning keeps neither an error's class
// nor its code.
import { type ErrorCode, FleetError } from './errors.ts';

/** A thrown value in a form that structured cloning keeps; `code` null: not a FleetError. */
export type ThreadError = {
  readonly code: ErrorCode | null;
  readonly hint: string;
  readonly message: string;
  readonly cause: unknown;
};

/** The form in which a thrown value crosses the threads. */
export function threadError(error: unknown): ThreadError {
  const fleet = error instanceof FleetError ? error : null;
  return {
    code: fleet?.code ?? null,
    hint: fleet?.hint ?? '',
    message: error instanceof Error ? error.message : String(error),
    // Structured cloning keeps name, message and stack of an Error; what cannot be cloned is text.
    cause: (fleet ? fleet.cause : error) instanceof Error ? (fleet ? fleet.cause : error) : null,
  };
}

/** What is thrown on the other side. */
export function thrownBy({ code, hint, message, cause }: ThreadError): Error {
  const options = cause === null ? {} : { cause };
  return code === null
    ? new Error(message, options)
    : new FleetError(code, message, { hint, ...options });
}
