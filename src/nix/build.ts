// A derivation → its output in the store, kept from garbage collection by a link. What happens
// meanwhile becomes events; a failure names the derivation that failed, which is seldom the one that was
// asked for, and shows the end of its log.
import { readlink } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { FleetError, isFleetError } from '../errors.ts';
import { type BuildEvent, BuildLog } from './build-log.ts';
import { type NixOptions, runNix } from './command.ts';
import { parseStorePath, type StorePath } from './storepath.ts';

export type BuildOptions = Pick<NixOptions, 'root' | 'settings' | 'signal'> & {
  /** Absolute path of the symlink to make: a garbage collector root. Replaced when it is one already. */
  readonly outLink: string;
  readonly onEvent?: (event: BuildEvent) => void;
};

/**
 * Builds output `out` of `drvPath`, or fetches it where a substituter has it.
 * @throws FleetError E_BUILD (`details`: the last lines of the failed derivation's log), and what
 *   runNix throws.
 */
export async function buildDerivation(
  drvPath: StorePath,
  options: BuildOptions,
): Promise<StorePath> {
  if (!isAbsolute(options.outLink)) throw new RangeError(`not absolute: ${options.outLink}`);
  const { outLink, onEvent, ...rest } = options;
  const log = new BuildLog();
  const args = ['--realise', `${drvPath}!out`, '--add-root', outLink];
  try {
    await runNix('nix-store', [...args, '--log-format', 'internal-json'], {
      ...rest,
      onLine: (line) => {
        const event = log.push(line);
        if (event !== null) onEvent?.(event);
      },
    });
  } catch (error) {
    throw isFleetError(error, 'E_NIX_FAILED') ? asBuildError(drvPath, log, error) : error;
  }
  // The link, not what Nix prints: some versions print the link, some the path.
  return parseStorePath(await readlink(outLink));
}

function asBuildError(asked: StorePath, log: BuildLog, cause: FleetError): FleetError {
  const { drv, lines } = log.failure();
  const failed = drv ?? asked;
  const forWhom = failed === asked ? '' : `, which ${asked} needs`;
  const details = lines.length > 0 ? lines : cause.details;
  // Nix removes the build's own directory, but keeps its log.
  if (details.some((line) => /No space left on device|Disk quota exceeded/.test(line))) {
    return new FleetError('E_DISK_FULL', `no space left while building ${failed}`, {
      cause,
      details,
    });
  }
  return new FleetError('E_BUILD', `${failed} failed to build${forWhom}`, {
    hint: `its last lines are above; all of them: nix log ${failed}`,
    cause,
    details,
  });
}
