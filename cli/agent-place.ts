// Which agent is meant by --state and --root, and who may act for it.
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { errnoOf, FleetError, isFleetError } from '../src/errors.ts';

/** The options that say which agent is meant, as they were given, to be repeated. */
export function placeOptions(command: Command): string {
  const given = command.optsWithGlobals();
  return ['state', 'root']
    .filter((name) => typeof given[name] === 'string')
    .map((name) => ` --${name} ${given[name]}`)
    .join('');
}

/** What is advised, of this very agent: `fleet agent once` → `fleet agent once --root DIR`. */
export function placedHint(hint: string, command: Command): string {
  const place = placeOptions(command);
  return hint.replace(
    /\bfleet agent (enroll|once|run|status|defer|apply|rollback|request|notify|reset-trust)\b/g,
    (verb) => verb + place,
  );
}

/** An action of an agent's: what it throws advises commands for the agent that was meant. */
export function placed<Given extends [...unknown[], Command]>(
  action: (...given: Given) => Promise<void>,
): (...given: Given) => Promise<void> {
  return async (...given) => {
    try {
      await action(...given);
    } catch (error) {
      throw isFleetError(error) ? placedError(error, given.at(-1) as Command) : error;
    }
  };
}

export function placedError(error: FleetError, command: Command): FleetError {
  const { code, message, details } = error;
  const hint = placedHint(error.hint, command);
  return hint === error.hint
    ? error
    : new FleetError(code, message, { hint, details, cause: error });
}

/** The command line that started this program, without its verb. */
export function ownProgram(): readonly string[] {
  return [process.execPath, ...process.execArgv, resolve(process.argv[1] ?? '')];
}

/** --state; else below --root, so that many agents live on one machine; else /var/lib/fleet-agent. */
export function stateOf(command: Command): string {
  // Not $FLEET_STATE, which is the server's.
  const given: unknown = command.optsWithGlobals()['state'];
  if (typeof given === 'string') return resolve(given);
  return join(rootOf(command) ?? '/', 'var/lib/fleet-agent');
}

export function rootOf(command: Command): string | null {
  const given: unknown = command.optsWithGlobals()['root'];
  if (given === '') throw new FleetError('E_USAGE', '--root wants a directory');
  return typeof given === 'string' ? resolve(given) : null;
}

/** An agent's place is fixed when it is enrolled; --root may repeat it, not change it. */
export async function requireRoot(dir: string, command: Command): Promise<void> {
  const given = rootOf(command);
  if (given === null) return;
  const { readIdentity } = await import('../src/agent/memory.ts');
  const { root } = (await readIdentity(dir)).config;
  if (root === given) return;
  throw new FleetError(
    'E_USAGE',
    `the agent in ${dir} was enrolled for ${root ?? 'this machine'}`,
    {
      hint: `leave --root out, or name the --state of the agent of ${given}`,
    },
  );
}

/** What overrides a rule, on the machine itself, is root's to say; a chroot store is its owner's. */
export async function requireSuperuser(dir: string, what: string): Promise<void> {
  const { readIdentity } = await import('../src/agent/memory.ts');
  const { root } = (await readIdentity(dir)).config;
  if (root !== null || process.geteuid?.() === 0) return;
  throw new FleetError('E_STATE_ACCESS', `${what} is for root alone`, { hint: 'run it as root' });
}

/** What a verb works on: the state itself, as its owner, or the agent behind its control socket. */
export type Door =
  | { readonly kind: 'state'; readonly dir: string }
  | { readonly kind: 'socket'; readonly socket: string };

/** Whoever may use the state uses it; anybody else has to ask the agent, as --socket always does. */
export async function doorOf(command: Command): Promise<Door> {
  const { socketPath } = await import('../src/agent/control-place.ts');
  const given: unknown = command.optsWithGlobals()['socket'];
  if (typeof given === 'string') return { kind: 'socket', socket: resolve(given) };
  const dir = stateOf(command);
  const isOurs = await access(join(dir, 'agent.json'), constants.R_OK | constants.W_OK).then(
    () => true,
    (error) => !['EACCES', 'EPERM'].includes(errnoOf(error) ?? ''),
  );
  if (!isOurs) return { kind: 'socket', socket: socketPath(rootOf(command)) };
  await requireRoot(dir, command);
  return { kind: 'state', dir };
}
