// An approval as a file ↔ the envelope and the batch that it is about, as JSON (SPEC §10.1).
import { FleetError } from '../errors.ts';
import { type ApprovalFile, openApproval } from './approval.ts';

/** @throws FleetError E_APPROVAL_FORM, E_ENVELOPE, E_PAYLOAD_FORM. */
export function parseApprovalFile(text: string): ApprovalFile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FleetError('E_APPROVAL_FORM', 'it is not JSON', { cause });
  }
  const fields = typeof json === 'object' && json !== null ? json : {};
  const envelope: unknown = Reflect.get(fields, 'envelope');
  const batch: unknown = Reflect.get(fields, 'batch');
  const isBatch = Array.isArray(batch) && batch.every((one) => typeof one === 'string');
  if (Reflect.get(fields, 'version') !== 1 || typeof envelope !== 'string' || !isBatch) {
    throw new FleetError('E_APPROVAL_FORM', 'it is no approval file of version 1');
  }
  openApproval({ envelope, batch });
  return { envelope, batch };
}

export function formatApprovalFile({ envelope, batch }: ApprovalFile): string {
  return `${JSON.stringify({ version: 1, envelope, batch }, null, 2)}\n`;
}
