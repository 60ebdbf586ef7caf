// A flake → its hosts, and what each is to run: the derivation of `config.system.build.toplevel`, its
// output path, and the host's own settings. `nix flake metadata` and `nix eval` only, both with the lock
// file as it is (--no-update-lock-file): what is published comes from inputs that someone locked.
// Refuses names that are no host names, references with a password in them (they are published),
// and toplevels that are no derivation.
import { FleetError, isFleetError } from '../errors.ts';
import { runNix } from './command.ts';
import { parseStorePath, type StorePath } from './storepath.ts';

/** Where hosts come from. Evaluations of one FlakeSource agree, unless it is dirty. */
export type FlakeSource = {
  /** The reference to evaluate: locked to a revision or a NAR hash where Nix can. */
  readonly ref: string;
  /** Commit, 40 or 64 hex digits; null for a bare directory or a dirty tree. */
  readonly rev: string | null;
  /** True when the version-controlled tree has changes that no commit has. */
  readonly dirty: boolean;
  /** SRI hash of the source tree. */
  readonly narHash: string | null;
  /** SHA-256 of flake.lock, lowercase hex; null when there is none. */
  readonly lockSha256: string | null;
};

export type EvaluatedHost = {
  readonly host: string;
  /** Attribute path within the flake, quoted as Nix wants it. */
  readonly attribute: string;
  readonly drvPath: StorePath;
  readonly toplevel: StorePath;
  readonly system: string;
  /** `config.services.fleet.agent.settings` as JSON, `{}` where the host has none; not yet validated. */
  readonly settings: unknown;
};

export type EvaluateOptions = {
  readonly signal?: AbortSignal;
  /** Lines that Nix writes while it works. */
  readonly onLine?: (line: string) => void;
};

const LOCKED = '--no-update-lock-file';

/**
 * Resolves a flake reference (`.`, a directory, `github:…`).
 * @throws FleetError E_FLAKE, and what runNix throws.
 */
export async function describeFlake(
  reference: string,
  options: EvaluateOptions = {},
): Promise<FlakeSource> {
  if (reference === '' || reference.startsWith('-') || reference.includes('#')) {
    const [flake, host] = reference.split('#');
    throw new FleetError(
      'E_FLAKE',
      `not a flake reference: ${JSON.stringify(reference)}`,
      flake && host ? { hint: `hosts are named apart: fleet build --flake ${flake} ${host}` } : {},
    );
  }
  if (holdsSecret(reference)) {
    throw new FleetError('E_FLAKE', 'the flake reference holds a password, and it is published', {
      hint: 'give the password to Nix by netrc-file or access-tokens instead',
    });
  }
  const what = `cannot read flake ${reference}`;
  const metadata = await asking('E_FLAKE', what, () =>
    evalJson(['flake', 'metadata', '--json', LOCKED, reference], options),
  );
  const { locked: lockedReference, url: ref } = asObject(metadata, 'flake metadata');
  const locked = asObject(lockedReference, 'flake metadata');
  if (typeof ref !== 'string') throw unknownOutput('flake metadata', 'url');
  const rev = stringOrNull(locked['rev']);
  // Newer Nix (2.36) names a store path that it has not made yet: only an evaluation can read the lock.
  // Impure only in that an unlocked reference (a dirty tree) is let in.
  const expression = sourceExpression(ref, locked['dir']);
  const found = await asking('E_FLAKE', what, () =>
    evalJson(['eval', '--json', '--impure', '--expr', expression], options),
  );
  const source = asObject(found, 'eval');
  return {
    ref,
    rev,
    dirty: rev === null && (locked['type'] === 'git' || locked['type'] === 'hg'),
    narHash: stringOrNull(source['narHash']),
    lockSha256: stringOrNull(source['lock']),
  };
}

/** True for a password, or a token in a password's or a user's place, or in a parameter named so. */
function holdsSecret(reference: string): boolean {
  const isSecretUser = /:\/\/[^/@?]*:[^/@?]*@|(^|\+)https?:\/\/[^/@?]*@/.test(reference);
  return isSecretUser || /[?&][^=&]*(token|passw|secret|api[_-]?key)[^=&]*=/i.test(reference);
}

/**
 * The names in `nixosConfigurations`, sorted bytewise, as the flake has them: one that cannot be a host's
 * is refused by `evaluateHost`, so that it stops no other.
 * @throws FleetError E_NO_HOSTS, E_EVAL, and what runNix throws.
 */
export async function listHosts(
  flake: FlakeSource,
  options: EvaluateOptions = {},
): Promise<string[]> {
  const names = await evaluate(flake, 'builtins.attrNames', options);
  if (!Array.isArray(names)) throw unknownOutput('eval', 'nixosConfigurations');
  if (names.length === 0) {
    throw new FleetError('E_NO_HOSTS', `nixosConfigurations of ${flake.ref} is empty`);
  }
  return names.map(String).sort();
}

/**
 * What `host` is to run.
 * @throws FleetError E_EVAL, E_HOST_NAME, and what runNix throws.
 */
export async function evaluateHost(
  flake: FlakeSource,
  host: string,
  options: EvaluateOptions = {},
): Promise<EvaluatedHost> {
  const name = parseHostName(host);
  // The name was parsed: it needs no escaping within a Nix string.
  const select = `all: let
      config = all."${name}".config;
      toplevel = config.system.build.toplevel;
    in {
      inherit (toplevel) drvPath system;
      toplevel = toplevel.outPath;
      output = toplevel.outputName or "out";
      settings = config.services.fleet.agent.settings or { };
    }`;
  const found = await evaluate(flake, select, options, `host ${name}`);
  const { drvPath, toplevel, output, system, settings } = asObject(found, 'eval');
  if (output !== 'out') {
    throw new FleetError('E_EVAL', `the toplevel of ${name} is an output "${output}", not "out"`, {
      hint: 'config.system.build.toplevel must be the output "out" of its derivation',
    });
  }
  if (typeof drvPath !== 'string' || typeof toplevel !== 'string' || typeof system !== 'string') {
    throw unknownOutput('eval', 'toplevel');
  }
  return {
    host: name,
    attribute: `nixosConfigurations.${/^[a-z]/.test(name) ? name : `"${name}"`}`,
    drvPath: parseStorePath(drvPath),
    toplevel: parseStorePath(toplevel),
    system,
    settings,
  };
}

/** `text` when it can name a host (SPEC §1.5); else E_HOST_NAME. */
function parseHostName(text: unknown): string {
  if (typeof text === 'string' && /^[a-z0-9-]{1,63}$/.test(text)) return text;
  throw new FleetError('E_HOST_NAME', `not a host name: ${JSON.stringify(text)}`);
}

async function evaluate(
  flake: FlakeSource,
  apply: string,
  options: EvaluateOptions,
  what = `flake ${flake.ref}`,
): Promise<unknown> {
  try {
    return await asking('E_EVAL', `cannot evaluate ${what}`, () =>
      evalJson(
        ['eval', '--json', LOCKED, `${flake.ref}#nixosConfigurations`, '--apply', apply],
        options,
      ),
    );
  } catch (error) {
    const absent = /does not provide attribute .*'nixosConfigurations'/;
    if (!isFleetError(error, 'E_EVAL') || !absent.test(error.message)) throw error;
    throw new FleetError('E_NO_HOSTS', `${flake.ref} provides no nixosConfigurations`, {
      cause: error,
    });
  }
}

const ADVICE: readonly (readonly [RegExp, string])[] = [
  [/requires lock file changes/, 'lock its inputs first: nix flake lock'],
  [
    /-source\/.*(No such file|does not exist)|flake\.nix.*does not exist/,
    'in a git repository, first: git add the new files',
  ],
];

/** Narrows E_NIX_FAILED of what Nix was asked for to a code that says whose fault it is. */
async function asking<T>(
  code: 'E_EVAL' | 'E_FLAKE',
  what: string,
  ask: () => Promise<T>,
): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!isFleetError(error, 'E_NIX_FAILED')) throw error;
    const said = error.details.findLast((line) => /^\s*error:/.test(line)) ?? error.message;
    const why = said.trim().replace(/^error:\s*/, '');
    const advice = ADVICE.find(([pattern]) => pattern.test(why))?.[1];
    throw new FleetError(code, why === '' ? what : `${what}: ${why}`, {
      cause: error,
      // What the message has is not told twice.
      details: error.details.filter((line) => line !== said),
      ...(advice === undefined ? {} : { hint: advice }),
    });
  }
}

async function evalJson(args: readonly string[], options: EvaluateOptions): Promise<unknown> {
  const { stdout } = await runNix('nix', args, options);
  try {
    return JSON.parse(stdout);
  } catch (error) {
    throw new FleetError('E_NIX_OUTPUT', `nix ${args[0]} printed no JSON`, { cause: error });
  }
}

function sourceExpression(ref: string, dir: unknown): string {
  const below = typeof dir === 'string' && dir !== '' ? `/${dir}` : '';
  // `sourceInfo`, because what `outPath` of a flake in a subdirectory is has changed over time.
  return `let
      source = (builtins.getFlake ${nixString(ref)}).sourceInfo;
      lock = source.outPath + ${nixString(`${below}/flake.lock`)};
    in {
      narHash = source.narHash or null;
      lock = if builtins.pathExists lock then builtins.hashFile "sha256" lock else null;
    }`;
}

function nixString(text: string): string {
  return `"${text.replace(/[\\"$]/g, '\\$&')}"`;
}

function asObject(value: unknown, command: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw unknownOutput(command, 'object');
}

function stringOrNull(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function unknownOutput(command: string, what: string): FleetError {
  return new FleetError('E_NIX_OUTPUT', `nix ${command} printed no ${what} that fleet knows`);
}
