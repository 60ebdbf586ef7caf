// A file of the command line → the approval in it.
import { FleetError, isFleetError } from '../src/errors.ts';
import type { ApprovalFile } from '../src/manifest/approval.ts';
import { parseApprovalFile } from '../src/manifest/approval-file.ts';
import { readInput } from './input.ts';

/** @throws FleetError E_APPROVAL_FORM, E_ENVELOPE, naming the file. */
export async function approvalFile(file: string): Promise<ApprovalFile> {
  const text = (await readInput(file)).toString('utf8');
  try {
    return parseApprovalFile(text);
  } catch (cause) {
    if (!isFleetError(cause)) throw cause;
    throw new FleetError(cause.code, `${file}: ${cause.message}`, { hint: cause.hint, cause });
  }
}
