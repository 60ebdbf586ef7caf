// What a run of the agent came to, for people and as JSON: of fleet agent once, apply and rollback.
import type { Command } from 'commander';
import type { Fetched } from '../src/agent/fetch-missing.ts';
import type { OnceResult } from '../src/agent/once-options.ts';
import { placedError } from './agent-place.ts';
import { counted, type Globals, print, printable, say, table, tellAfterResult } from './output.ts';

export function printOnce(globals: Globals, result: OnceResult, command: Command): void {
  const { outcome, fetched, receipts } = result;
  const { sent, queued, problem } = receipts;
  const error = result.error && placedError(result.error, command);
  const text = onceText({ outcome, error, fetched });
  // Where there is only an error to tell, that is told alone.
  if (text !== '' || globals.json)
    print(
      globals,
      {
        version: 1,
        phase: outcome?.phase ?? null,
        reason: outcome?.reason ?? null,
        manifest: outcome?.manifest ?? null,
        systems: outcome?.systems ?? null,
        exitCode: outcome?.exitCode ?? null,
        fetched,
        receipts: { sent, queued },
        next: result.next,
        error:
          error === null ? null : { code: error.code, message: error.message, hint: error.hint },
      },
      text,
    );
  if (queued > 0 && problem !== null && problem !== result.error) {
    say(globals, `${waitText(queued)}: ${printable(problem.message)}`);
  }
  if (error === null) return;
  process.exitCode = tellAfterResult(globals, error);
}

function onceText({ outcome, error, fetched }: Omit<OnceResult, 'receipts' | 'next'>): string {
  if (outcome === null) return error === null ? 'Nothing is published for this host yet.' : '';
  const { phase, reason, manifest, systems } = outcome;
  return table([
    ['phase', reason === null ? phase : `${phase}: ${printable(reason.text)}`],
    ...(manifest === null
      ? []
      : [['manifest', `epoch ${manifest.epoch}, sequence ${manifest.sequence}`]]),
    ['current', systems.current ?? '-'],
    ...(fetched === null ? [] : [['fetched', fetchedText(fetched)]]),
  ]);
}

function fetchedText({ paths, bytes, packed, fellBack }: Fetched): string {
  const from = packed.paths === 0 ? '' : `; ${packed.paths} of an update pack`;
  const not = fellBack === 0 ? '' : `; ${fellBack} that a pack was not good for`;
  return `${counted(paths, 'path')}, ${counted(bytes, 'byte')}${from}${not}`;
}

export function waitText(queued: number): string {
  return `${counted(queued, 'receipt')} ${queued === 1 ? 'waits' : 'wait'} to be sent`;
}
