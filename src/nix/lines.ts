// A child's standard error → its lines, with a bound on their length: what is beyond it is cut off,
// never kept. Bytes that are no UTF-8 become replacement characters.
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';

/** Longest line that is kept whole, in characters. */
export const MAX_LINE = 64 * 1024;

/** Calls `onLine` with each line, without its end (LF, CRLF); the last needs none. */
export async function readLines(stream: Readable, onLine: (line: string) => void): Promise<void> {
  const decoder = new StringDecoder('utf8');
  let pending = '';
  const take = (text: string): void => {
    let from = 0;
    for (;;) {
      const end = text.indexOf('\n', from);
      const piece = text.slice(from, end === -1 ? undefined : end);
      if (pending.length < MAX_LINE) pending += piece.slice(0, MAX_LINE - pending.length);
      if (end === -1) return;
      onLine(pending.endsWith('\r') ? pending.slice(0, -1) : pending);
      pending = '';
      from = end + 1;
    }
  };
  for await (const chunk of stream) take(decoder.write(chunk));
  take(decoder.end());
  if (pending !== '') onLine(pending);
}

// ECMA-48 control sequences and the operating-system commands (links, titles) that programs emit.
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const ANSI = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g;

/** `text` without colours and other terminal commands: it may come from a build, so from anyone. */
export function stripAnsi(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal must not obey a build log
  return text.replace(ANSI, '').replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '');
}
