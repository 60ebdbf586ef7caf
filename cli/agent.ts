// fleet agent enroll|once|status|reset-trust: what runs on each host. Nothing of the server is loaded here.
import type { Command } from 'commander';
import type { OnceResult } from '../src/agent/once.ts';
import type { AgentStatus } from '../src/agent/status.ts';
import { formatTime } from '../src/manifest/time.ts';
import {
  ownProgram,
  placed,
  placedError,
  placeOptions,
  requireRoot,
  requireSuperuser,
  rootOf,
  stateOf,
} from './agent-place.ts';
import { registerReset } from './agent-reset.ts';
import { registerRun } from './agent-run.ts';
import { registerWatchdog } from './agent-watchdog.ts';
import { readInput } from './input.ts';
import {
  counted,
  type Globals,
  globalsOf,
  print,
  printable,
  say,
  table,
  tellAfterResult,
} from './output.ts';

type EnrollOptions = { host?: string; system?: string };
type OnceOptions = { retry?: boolean; acceptAge?: boolean; unit?: string };

export function registerAgent(program: Command): void {
  const agent = program
    .command('agent')
    .description('what runs on each host')
    .option('--root <dir>', 'a chroot store with its own profile, instead of this machine');
  agent
    .command('enroll')
    .argument('<file>', 'the one-time file that "fleet host enroll" wrote')
    .description('make this machine a host of a fleet')
    .option('--host <id>', 'what this machine is called; the file must agree')
    .option('--system <system>', 'Nix system of this machine, such as x86_64-linux')
    .action(
      placed(async (file: string, options: EnrollOptions, command: Command) => {
        const globals = globalsOf(command);
        const { enroll } = await import('../src/agent/enroll.ts');
        const { config, ...key } = await enroll({
          dir: stateOf(command),
          file: (await readInput(file, 'give the file that "fleet host enroll" wrote')).toString(),
          host: options.host ?? null,
          system: options.system ?? null,
          root: rootOf(command),
          now: now(),
        });
        const { fleet, host, system, server, root } = config;
        print(
          globals,
          { version: 1, fleet, host, system, server, root, ...key },
          [
            `This machine is ${host} of fleet ${fleet}.`,
            `Compare its key with "fleet host show ${host}" on the server:`,
            `  ${key.fingerprint}`,
            `Next:  fleet agent once${placeOptions(command)}`,
          ].join('\n'),
        );
      }),
    );
  agent
    .command('once')
    .description('ask, verify, fetch, switch, report; then end')
    .option('--retry', 'try a manifest again that was rolled back')
    .option('--accept-age', 'accept a log that was last heard of longer ago than the root allows')
    .option('--unit <file>', 'the unit of this service: one that an update brings anew confirms it')
    .action(
      placed(async (options: OnceOptions, command: Command) => {
        const globals = globalsOf(command);
        const dir = stateOf(command);
        await requireRoot(dir, command);
        if (options.acceptAge === true) await requireSuperuser(dir, '--accept-age');
        const { runOnce } = await import('../src/agent/once.ts');
        const result = await runOnce({
          dir,
          clock: now,
          program: ownProgram(),
          ...(options.unit === undefined ? {} : { unitFile: options.unit }),
          retry: options.retry === true,
          acceptAge: options.acceptAge === true,
          say: (line) => say(globals, line),
        });
        printOnce(globals, result, command);
      }),
    );
  agent
    .command('status')
    .description('show what this host runs, trusts and has told')
    .action(
      placed(async (_options: unknown, command: Command) => {
        const globals = globalsOf(command);
        const dir = stateOf(command);
        await requireRoot(dir, command);
        const { agentStatus } = await import('../src/agent/status.ts');
        const status = await agentStatus(dir);
        print(globals, { version: 1, ...status }, statusText(status));
      }),
    );
  registerRun(agent);
  registerWatchdog(agent);
  registerReset(agent);
}

function printOnce(globals: Globals, result: OnceResult, command: Command): void {
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
    ...(fetched === null
      ? []
      : [['fetched', `${counted(fetched.paths, 'path')}, ${counted(fetched.bytes, 'byte')}`]]),
  ]);
}

function statusText(status: AgentStatus): string {
  const { accepted, systems, last, underWay, rejected } = status;
  return table([
    ['host', `${status.host} (${status.system}) of fleet ${status.fleet}`],
    ['server', status.server],
    ['root', `version ${status.rootVersion}, expires ${formatTime(status.rootExpiresAt)}`],
    ['host key', status.fingerprint],
    [
      'accepted',
      accepted === null ? 'nothing yet' : `epoch ${accepted.epoch}, sequence ${accepted.sequence}`,
    ],
    ['current', systems.current ?? '-'],
    ['booted', systems.booted ?? '-'],
    ['profile', systems.profile ?? '-'],
    ['phase', last === null ? 'never ran' : `${last.phase}, since ${formatTime(last.at)}`],
    ...(last?.text == null ? [] : [['  why', printable(last.text)]]),
    ...(underWay === null ? [] : [['under way', `${underWay.step} ${underWay.target}`]]),
    ...(rejected === null
      ? []
      : [
          [
            'rejected',
            `sequence ${rejected.manifest.sequence}: ${printable(rejected.reason.text)}`,
          ],
        ]),
    [
      'token',
      status.tokenRenewAt === null
        ? 'renewed when the server says so'
        : `renewed from ${formatTime(status.tokenRenewAt)} on`,
    ],
    ...(status.tokenProblem === null ? [] : [['  but', printable(status.tokenProblem)]]),
    ['receipts', status.queued === 0 ? 'all sent' : waitText(status.queued)],
  ]);
}

function waitText(queued: number): string {
  return `${counted(queued, 'receipt')} ${queued === 1 ? 'waits' : 'wait'} to be sent`;
}

function now(): number {
  return Math.floor(Date.now() / 1000);
}
