// fleet agent status|defer|apply|rollback|request: what people at the machine may see and ask for. Whoever owns the
// agent's state acts on it directly; members of the local group ask the agent, over its control socket.
import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import type { Question } from '../src/agent/control-protocol.ts';
import type { Local } from '../src/agent/local.ts';
import type { OnceOptions } from '../src/agent/once-options.ts';
import type { AgentStatus } from '../src/agent/status.ts';
import { ERRORS, type ErrorCode, FleetError, isFleetError } from '../src/errors.ts';
import { formatTime } from '../src/manifest/time.ts';
import { printOnce } from './agent-once.ts';
import { type Door, doorOf, ownProgram, placed, requireSuperuser, stateOf } from './agent-place.ts';
import { statusText } from './agent-status.ts';
import { type Globals, globalsOf, print, say } from './output.ts';

type ApplyOptions = {
  force?: boolean;
  acceptAge?: boolean;
  unit?: string;
  forGroup?: boolean;
};
type RollbackOptions = { reason: string };

const SOCKET = [
  '--socket <file>',
  'the control socket of the agent, instead of its usual one',
] as const;
const WHO = 'root';

export function registerLocal(agent: Command): void {
  agent
    .command('status')
    .description('show what this host runs, trusts and has told, and what is coming')
    .option(...SOCKET)
    .action(placed(status));
  agent
    .command('defer')
    .argument('<time>', 'for how long: 30m, 4h, 2d')
    .description('put the update off that waits, for as long as the rules of this host allow')
    .option(...SOCKET)
    .action(placed(deferFor));
  agent
    .command('apply')
    .argument('[what]', '"now": the update that waits; or the file that "fleet host bundle" wrote')
    .description('apply the update that waits, or one from a file, at once')
    .option(
      '--force',
      'root: pass over windows, deferrals, holds, and what was tried and failed; never over a check',
    )
    .option('--accept-age', 'root, of a file: accept one that is older than the fleet allows')
    .option('--unit <file>', 'of a file: the unit of this service, as of once')
    .option('--for-group', 'of a file: it is the local group that brought it')
    .option(...SOCKET)
    .action(placed(apply));
  agent
    .command('rollback')
    .description(
      'go back to the system that ran before, and stay there until something newer is published',
    )
    .requiredOption('--reason <text>', 'why, for the admin: one line')
    .option(...SOCKET)
    .action(placed(rollback));
  agent
    .command('request')
    .argument('<text>', 'one line, such as "please install gimp"')
    .description('tell the admin something, with the next report')
    .option(...SOCKET)
    .action(placed(request));
}

async function status(_options: unknown, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const found = await statusBehind(await doorOf(command));
  print(globals, { version: 1, ...found }, statusText(found));
}

async function statusBehind(door: Door): Promise<AgentStatus> {
  if (door.kind === 'state') {
    const { agentStatus } = await import('../src/agent/status.ts');
    return await agentStatus(door.dir);
  }
  const document = (await ask(door.socket, { verb: 'status' })) as Partial<AgentStatus> & {
    error?: { code: string; message: string; hint: string };
  };
  const { error } = document;
  if (error === undefined) return document as AgentStatus;
  const code = Object.hasOwn(ERRORS, error.code) ? (error.code as ErrorCode) : 'E_INTERNAL';
  throw new FleetError(code, error.message, { hint: error.hint });
}

async function deferFor(text: string, _options: unknown, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const { defer, parseDuration } = await import('../src/agent/wishes.ts');
  const seconds = parseDuration(text);
  const door = await doorOf(command);
  const until =
    door.kind === 'socket'
      ? ((await ask(door.socket, { verb: 'defer', seconds })) as { until: number }).until
      : ((await change(door.dir, (local) => defer(local, seconds, WHO, now()))).deferred?.until ??
        0);
  print(globals, { version: 1, until }, `Put off until ${formatTime(until)}.`);
}

async function apply(
  what: string | undefined,
  options: ApplyOptions,
  command: Command,
): Promise<void> {
  const globals = globalsOf(command);
  const { force = false, acceptAge = false } = options;
  if (what !== undefined && what !== 'now') {
    return await applyFile(globals, what, options, command);
  }
  if ((what === undefined) !== force || acceptAge) {
    throw new FleetError('E_USAGE', 'give "now", or a file, or --force', {
      hint: 'fleet agent apply now; as root, after a failure: fleet agent apply --force',
    });
  }
  if (force) {
    const dir = stateOf(command);
    await requireSuperuser(dir, '--force');
    return await runHere(globals, dir, command, { retry: true });
  }
  const door = await doorOf(command);
  if (door.kind === 'socket') {
    await ask(door.socket, { verb: 'apply' });
    return accepted(globals, 'The agent applies it now; see: fleet agent status');
  }
  const { applyNow } = await import('../src/agent/wishes.ts');
  await change(door.dir, (local) => applyNow(local, WHO));
  await runHere(globals, door.dir, command);
}

/** Of who brings it. A path such as ./now is a file in any case. */
async function applyFile(
  globals: Globals,
  file: string,
  { force = false, acceptAge = false, unit, forGroup = false }: ApplyOptions,
  command: Command,
): Promise<void> {
  const door = await doorOf(command);
  const { streamInput } = await import('./input.ts');
  await using input = await streamInput(file, 'give the path of what "fleet host bundle" wrote');
  if (door.kind === 'socket') {
    if (force || acceptAge) {
      const what = force ? '--force' : '--accept-age';
      throw new FleetError('E_STATE_ACCESS', `${what} is for root alone`, {
        hint: 'run it as root',
      });
    }
    const { bringBundle } = await import('../src/agent/control-client.ts');
    await bringBundle(door.socket, input.bytes, input.chunks);
    return accepted(globals, 'The agent applies it now; see: fleet agent status');
  }
  await requireSuperuser(door.dir, 'an update from a file');
  const bundle = { chunks: input.chunks, who: forGroup ? 'local group' : WHO } as const;
  await runHere(globals, door.dir, command, {
    ...{ retry: force, acceptAge, bundle },
    ...(unit === undefined ? {} : { unitFile: unit }),
  });
}

async function rollback({ reason }: RollbackOptions, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const { goBack, parseWords } = await import('../src/agent/wishes.ts');
  const words = parseWords(reason, 'reason');
  const door = await doorOf(command);
  const { wayBack } = (await statusBehind(door)).local;
  if (wayBack.toplevel === null) {
    throw new FleetError('E_NO_WAY_BACK', wayBack.problem ?? 'there is no way back');
  }
  if (door.kind === 'socket') {
    await ask(door.socket, { verb: 'rollback', reason: words });
    return accepted(globals, `The agent goes back to ${wayBack.toplevel}; see: fleet agent status`);
  }
  await change(door.dir, (local) => goBack(local, words, WHO, now()));
  await runHere(globals, door.dir, command);
}

async function request(text: string, _options: unknown, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const { parseWords, plead } = await import('../src/agent/wishes.ts');
  const words = parseWords(text, 'request');
  const door = await doorOf(command);
  if (door.kind === 'socket') await ask(door.socket, { verb: 'request', text: words });
  else {
    const id = randomBytes(8).toString('hex');
    await change(door.dir, (local) => plead(local, { id, text: words, who: WHO }, now()));
  }
  accepted(globals, 'Kept; the admin reads it once this host has told its server.');
}

async function ask(socket: string, question: Question): Promise<unknown> {
  const { askAgent } = await import('../src/agent/control-client.ts');
  return await askAgent(socket, question);
}

async function change(dir: string, make: (local: Local) => Local): Promise<Local> {
  // A directory that is no agent's gets no local.json.
  const { readWaiting } = await import('../src/agent/waiting.ts');
  await readWaiting(dir);
  const { changeLocal } = await import('../src/agent/local.ts');
  return await changeLocal(dir, make);
}

/** A run that does what was asked for. Where another one is at work, that wish is the next one's. */
async function runHere(
  globals: Globals,
  dir: string,
  command: Command,
  options: Pick<OnceOptions, 'retry' | 'acceptAge' | 'bundle' | 'unitFile'> = {},
): Promise<void> {
  const { runOnce } = await import('../src/agent/once.ts');
  try {
    const run = {
      dir,
      clock: now,
      program: ownProgram(),
      say: (line: string) => say(globals, line),
      ...options,
    };
    printOnce(globals, await runOnce(run), command);
  } catch (error) {
    const isKept = options.retry !== true && options.bundle === undefined;
    if (!isFleetError(error, 'E_AGENT_BUSY') || !isKept) throw error;
    throw new FleetError(error.code, error.message, {
      hint: 'what you asked for is kept: the next run does it, at the latest fleet agent once',
      cause: error,
    });
  }
}

function accepted(globals: Globals, text: string): void {
  print(globals, { version: 1, accepted: true }, text);
}

function now(): number {
  return Math.floor(Date.now() / 1000);
}
