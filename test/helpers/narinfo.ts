// narinfo texts of which one line is another.
import assert from 'node:assert/strict';

/** `text` with the line of `key` replaced, or removed. */
export function withLine(text: string, key: string, line: string | null): string {
  const lines = text.split('\n');
  const index = lines.findIndex((each) => each.startsWith(`${key}:`));
  assert.ok(index >= 0);
  lines.splice(index, 1, ...(line === null ? [] : [line]));
  return lines.join('\n');
}
