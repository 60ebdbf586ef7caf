// The root of the command line: registers every verb, turns errors into exit codes.
// 0 done, 1 failed, 2 usage, 3 verification refused, 4 some hosts failed.
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { FleetError } from '../src/errors.ts';
import { registerAgent } from './agent.ts';
import { registerApprove } from './approve.ts';
import { registerAudit } from './audit.ts';
import { registerBuild } from './build.ts';
import { registerCache } from './cache.ts';
import { registerDiff } from './diff.ts';
import { registerHost } from './host.ts';
import { registerInit } from './init.ts';
import { registerKey } from './key.ts';
import { tellError, withGlobals } from './output.ts';
import { registerPublish } from './publish.ts';
import { registerRoot } from './root.ts';
import { registerServe } from './serve.ts';
import { registerStatus } from './status.ts';
import { registerToken } from './token.ts';
import { registerVerify } from './verify.ts';

/** The version of the package this file belongs to. */
function packageVersion(): string {
  // From cli/ the package is one level up, from dist/cli/ two.
  for (const up of ['../package.json', '../../package.json']) {
    try {
      const text = readFileSync(new URL(up, import.meta.url), 'utf8');
      return (JSON.parse(text) as { version: string }).version;
    } catch {}
  }
  return 'unknown';
}

export function makeProgram(): Command {
  const program = withGlobals(new Command('fleet'))
    .description('Keeps NixOS machines up to date wherever they are.')
    .version(packageVersion(), '-V, --version')
    // Errors are told by tellError, in one style with all others; help goes where it goes.
    .configureOutput({ outputError: () => {} });
  registerInit(program);
  registerBuild(program);
  registerPublish(program);
  registerApprove(program);
  registerServe(program);
  registerStatus(program);
  registerDiff(program);
  registerHost(program);
  registerToken(program);
  registerRoot(program);
  registerKey(program);
  registerCache(program);
  registerVerify(program);
  registerAudit(program);
  registerAgent(program);
  for (const command of withDescendants(program)) {
    command.exitOverride();
    if (command !== program && isVerb(command)) withGlobals(command);
  }
  return program;
}

/** True for what does something itself, and is not only a group; `audit` is both. */
export function isVerb(command: Command): boolean {
  return command.commands.length === 0 || command.name() === 'audit';
}

function withDescendants(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withDescendants)];
}

/** Runs the command line and returns its exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  const program = makeProgram();
  try {
    await program.parseAsync(argv, { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) {
      // Help and version are thrown too, and have been printed.
      if (error.exitCode === 0) return 0;
      if (error.code === 'commander.help') return 2;
    }
    const flags = new Set(argv);
    return tellError(asUsageError(error), {
      json: flags.has('--json'),
      verbose: flags.has('-v') || flags.has('--verbose'),
    });
  }
}

/** What commander refuses, as an error of ours: `error: unknown command 'buld'\n(Did you mean build?)`. */
function asUsageError(error: unknown): unknown {
  if (!(error instanceof CommanderError)) return error;
  const [what = '', suggestion] = error.message.replace(/^error: /, '').split('\n');
  const meant = /^\((Did you mean .*)\)$/.exec(suggestion ?? '')?.[1];
  return new FleetError('E_USAGE', what, meant === undefined ? {} : { hint: meant });
}

if (import.meta.main) {
  // Words that nobody reads any more (a closed terminal, `2>&1 | head`) must not end the work.
  process.stderr.on('error', () => {});
  // A reader that goes away (`fleet status | head`) is no fault of ours.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    process.stderr.write(`fleet: cannot write the result: ${error.message}\n`);
    process.exit(1);
  });
  process.exitCode = await main(process.argv.slice(2));
}
