// A piece of news with choices → what a person at a graphical session chose, by notify-send(1) of libnotify; null where they
// chose nothing, or where there is no session or no such program: then it has to be told as text.
import { spawn } from 'node:child_process';
import { once } from 'node:events';

export type Choice = { readonly name: string; readonly label: string };

/** How it was shown; `chosen`: the name of a choice, or null. */
export type Shown = { readonly isShown: boolean; readonly chosen: string | null };

const NOT_SHOWN: Shown = { isShown: false, chosen: null };

/** Stays until it is dealt with, or `signal` is aborted. Throws nothing. */
export async function showNotification(
  title: string,
  body: string,
  choices: readonly Choice[],
  signal: AbortSignal,
): Promise<Shown> {
  const actions = choices.map(({ name, label }) => `--action=${name}=${label}`);
  const args = ['--app-name=fleet', '--wait', ...actions, '--', title, unmarked(body)];
  let said = '';
  try {
    const child = spawn('notify-send', args, { stdio: ['ignore', 'pipe', 'ignore'], signal });
    child.stdout.setEncoding('utf8').on('data', (data: string) => {
      if (said.length < 256) said += data;
    });
    const [code] = (await once(child, 'close')) as [number | null];
    if (code !== 0) return NOT_SHOWN;
  } catch {
    return NOT_SHOWN;
  }
  const chosen = said.trim();
  return { isShown: true, chosen: choices.some(({ name }) => name === chosen) ? chosen : null };
}

/** A body is markup, and what somebody else typed is to be no link or picture in it. */
function unmarked(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
