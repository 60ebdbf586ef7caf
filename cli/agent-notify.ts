// fleet agent notify: tells whoever is at the machine what is coming, with choices where there is a graphical session, and
// as a line of text where there is none. Runs as that person, who is of the local group; asks the agent over its socket.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { Choice } from '../src/agent/desktop.ts';
import type { News } from '../src/agent/news.ts';
import { isFleetError } from '../src/errors.ts';
import { formatTime } from '../src/manifest/time.ts';
import { placed, rootOf } from './agent-place.ts';
import { formatBytes, type Globals, globalsOf, print, printable, say } from './output.ts';

type Options = { once?: boolean; socket?: string };

/** A choice, and the command that does the same. */
type Named = Choice & { readonly command: string };

const POLL_MS = 60_000;
/** What "Later" means, in seconds, where the rules of the host allow so much. */
const LATER = 4 * 3600;

export function registerNotify(agent: Command): void {
  agent
    .command('notify')
    .description('show whoever is at the machine what is coming, and let them choose')
    .option('--once', 'look once, and end')
    .option('--socket <file>', 'the control socket of the agent, instead of its usual one')
    .action(placed(notify));
}

async function notify(options: Options, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const { socketPath } = await import('../src/agent/control-place.ts');
  const socket = options.socket ?? socketPath(rootOf(command));
  const stopping = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => stopping.abort());
  }
  const { signal } = stopping;
  let told = '';
  while (!signal.aborted) {
    try {
      told = await look(globals, socket, told, signal);
    } catch (error) {
      // It may be starting, or being replaced; what keeps this person out stays so.
      const passes = isFleetError(error, 'E_LOCAL_NO_AGENT', 'E_RATE_LIMITED');
      if (options.once === true || !passes) throw error;
    }
    if (options.once === true) return;
    await sleep(POLL_MS, undefined, { signal }).catch(() => {});
  }
}

/** Tells what is not `told` yet; returns what is told then. */
async function look(
  globals: Globals,
  socket: string,
  told: string,
  signal: AbortSignal,
): Promise<string> {
  const { askAgent } = await import('../src/agent/control-client.ts');
  const { coming, held } = (await askAgent(socket, { verb: 'news' })) as News;
  // What somebody put off is shown again once that is over.
  const isOpen = coming !== null && coming.deferredUntil === null;
  const news = JSON.stringify([isOpen ? [coming.sequence, coming.toplevel] : null, held]);
  if (news === told) return told;
  if (isOpen) await offer(globals, socket, coming, signal);
  else if (held !== null) {
    const text = `This machine was taken back to the system of before: ${printable(held.reason)}`;
    await tell(globals, text, [], signal);
  }
  return news;
}

async function offer(
  globals: Globals,
  socket: string,
  { narBytes, latest }: NonNullable<News['coming']>,
  signal: AbortSignal,
): Promise<void> {
  const { askAgent } = await import('../src/agent/control-client.ts');
  const now = Math.floor(Date.now() / 1000);
  const seconds = latest === null ? 0 : Math.min(LATER, latest - now - 60);
  const time = seconds % 3600 === 0 ? `${seconds / 3600}h` : `${Math.floor(seconds / 60)}m`;
  const later =
    seconds < 60 ? [] : [{ name: 'later', label: 'Later', command: `fleet agent defer ${time}` }];
  const until = seconds < 60 || latest === null ? '' : `, and may wait until ${formatTime(latest)}`;
  const text = `An update of this machine is ready (${formatBytes(narBytes)} in all)${until}.`;
  const choices = [
    { name: 'apply', label: 'Apply now', command: 'fleet agent apply now' },
    ...later,
  ];
  const chosen = await tell(globals, text, choices, signal);
  try {
    if (chosen === 'apply') await askAgent(socket, { verb: 'apply' });
    if (chosen === 'later') await askAgent(socket, { verb: 'defer', seconds });
  } catch (error) {
    // It was applied, or replaced by another one, while it was on the screen.
    if (!isFleetError(error, 'E_LOCAL_NOTHING', 'E_LOCAL_DEFERRAL')) throw error;
    say(globals, `${error.message} [${error.code}]`);
  }
}

/** On the screen, or as text with the commands that do the same; returns what was chosen. */
async function tell(
  globals: Globals,
  text: string,
  choices: readonly Named[],
  signal: AbortSignal,
): Promise<string | null> {
  const { showNotification } = await import('../src/agent/desktop.ts');
  const { isShown, chosen } = await showNotification('fleet', text, choices, signal);
  if (signal.aborted) return null;
  if (!isShown) {
    const commands = choices.map(({ label, command }) => `${label}: ${command}`);
    print(globals, { version: 1, text, choices }, [text, ...commands].join('\n  '));
  }
  return chosen;
}
