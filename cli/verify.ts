// fleet verify FILE… --root ROOT.json: the auditor's command. Offline: reads the named files and the
// clock, and nothing else. Trust comes from the auditor's own root file. A FILE is a manifest's
// envelope, an offer as the server gives it, or a closure file of one of the manifests beside it.
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { errnoOf, FleetError, isFleetError, messageOf } from '../src/errors.ts';
import { parseEnvelope } from '../src/manifest/dsse.ts';
import { keyId } from '../src/manifest/keyfile.ts';
import { parseOffer } from '../src/manifest/offer.ts';
import { type Root, requireCurrentRoot, verifyInitialRoot } from '../src/manifest/root.ts';
import { formatTime, parseTime } from '../src/manifest/time.ts';
import { type VerifiedManifest, verifyClosure, verifyManifest } from '../src/manifest/verify.ts';
import { globalsOf, print, printable, tellAfterResult } from './output.ts';

type Options = { root: string; at?: string; host?: string };

/** What one file turned out to be. */
type Verdict = {
  readonly file: string;
  readonly kind: 'manifest' | 'closure';
  readonly verified: VerifiedManifest | null;
  readonly error: FleetError | null;
};

/** Larger than any closure file that a root's limits allow by default. */
const MAX_FILE = 128 * 2 ** 20;

export function registerVerify(program: Command): void {
  program
    .command('verify')
    .argument('<files...>', 'manifests or offers, and closure files that they name')
    .requiredOption('--root <file>', 'the root that you trust, such as 1.root.json')
    .option('--host <host>', 'refuse manifests of any other host')
    .option('--at <time>', 'as of this time, such as 2026-01-31T23:59:59Z (default: now)')
    .description('check manifests offline, with public keys alone')
    .action(async (files: string[], options: Options, command: Command) => {
      const globals = globalsOf(command);
      const now = options.at === undefined ? Math.floor(Date.now() / 1000) : timeOf(options.at);
      const root = verifyInitialRoot(parseEnvelope(await read(options.root)));
      requireCurrentRoot(root, now);
      const inputs = await Promise.all(
        files.map(async (file) => ({ file, bytes: await read(file) })),
      );
      const verdicts = judge(inputs, root, now, options.host);
      print(
        globals,
        { version: 1, at: now, root: rootDocument(root), results: verdicts.map(documentOf) },
        [
          `root: fleet ${root.fleet}, version ${root.version}, as of ${formatTime(now)}`,
          ...verdicts.map(sentence),
        ].join('\n'),
      );
      const refused = verdicts.filter(({ error }) => error !== null);
      if (refused.length > 0) {
        const summary = `${refused.length} of ${verdicts.length} files refused`;
        const hint = refused[0]?.error?.hint ?? '';
        process.exitCode = tellAfterResult(globals, new FleetError('E_VERIFY', summary, { hint }));
      }
    });
}

function judge(
  inputs: readonly { file: string; bytes: Buffer }[],
  root: Root,
  now: number,
  host: string | undefined,
): Verdict[] {
  const isClosure = ({ bytes }: { bytes: Buffer }): boolean =>
    bytes.subarray(0, 13).toString('latin1') === '1;/nix/store/';
  const manifests = inputs
    .filter((input) => !isClosure(input))
    .map(({ file, bytes }): Verdict => {
      try {
        const verified = verifyManifest({ envelope: envelopeOf(bytes), root, now });
        const { id } = verified.manifest.host;
        if (host !== undefined && id !== host) {
          throw new FleetError('E_HOST_MISMATCH', `the manifest is for ${id}, not for ${host}`);
        }
        return { file, kind: 'manifest', verified, error: null };
      } catch (error) {
        return { file, kind: 'manifest', verified: null, error: known(error) };
      }
    });
  const closures = inputs.filter(isClosure).map(({ file, bytes }): Verdict => {
    try {
      return { file, kind: 'closure', verified: closureOwner(bytes, manifests), error: null };
    } catch (error) {
      return { file, kind: 'closure', verified: null, error: known(error) };
    }
  });
  return [...manifests, ...closures];
}

/** The verified manifest that signs this closure file, which must also be well formed and whole. */
function closureOwner(bytes: Buffer, manifests: readonly Verdict[]): VerifiedManifest {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  for (const { verified } of manifests) {
    if (verified === null || verified.manifest.intent === 'decommission') continue;
    if (verified.manifest.closure.sha256 !== sha256) continue;
    return { ...verified, closure: verifyClosure(verified.manifest, bytes) };
  }
  throw new FleetError('E_CLOSURE_HASH', `no verified manifest here names a closure ${sha256}`, {
    hint: 'give the manifest of this closure in the same command',
  });
}

/** An offer's manifest; anything else is taken for an envelope. */
function envelopeOf(bytes: Buffer): Buffer | string {
  try {
    return parseOffer(bytes).manifest;
  } catch {
    return bytes;
  }
}

function known(error: unknown): FleetError {
  if (isFleetError(error)) return error;
  return new FleetError('E_INTERNAL', messageOf(error), { cause: error });
}

function sentence({ file, kind, verified, error }: Verdict): string {
  if (verified === null)
    return `REFUSED   ${file}: ${printable(error?.message ?? '')} [${error?.code}]`;
  const { manifest, signers, threshold } = verified;
  const name = `${manifest.host.id} #${manifest.sequence}`;
  if (kind === 'closure')
    return `authentic ${file}: closure of ${name}, ${verified.closure?.paths.size} paths`;
  const what =
    manifest.intent === 'decommission' ? 'is decommissioned' : `runs ${manifest.toplevel}`;
  return [
    `authentic ${file}: ${name} (epoch ${manifest.epoch}) ${what}`,
    `          issued ${formatTime(manifest.issuedAt)}, expires ${formatTime(manifest.expiresAt)}, signed by ${signers.length} of ${threshold} director keys`,
    '          authentic, and not proven to be the newest: that needs a transparency log',
  ].join('\n');
}

function documentOf({ file, kind, verified, error }: Verdict): unknown {
  if (verified === null) {
    return { file, kind, verdict: 'refused', code: error?.code, message: error?.message };
  }
  const { manifest, digest, signers, threshold } = verified;
  return {
    file,
    kind,
    verdict: 'authentic',
    host: manifest.host.id,
    epoch: manifest.epoch,
    sequence: manifest.sequence,
    digest,
    intent: manifest.intent,
    toplevel: manifest.intent === 'decommission' ? null : manifest.toplevel,
    issuedAt: manifest.issuedAt,
    expiresAt: manifest.expiresAt,
    signers: signers.map(keyId),
    threshold,
  };
}

function rootDocument(root: Root): unknown {
  return { fleet: root.fleet, version: root.version, epoch: root.epoch, expiresAt: root.expiresAt };
}

async function read(file: string): Promise<Buffer> {
  try {
    const { size } = await stat(file);
    if (size > MAX_FILE) throw new FleetError('E_USAGE', `${file} is too large to be one of ours`);
    return await readFile(file);
  } catch (cause) {
    if (isFleetError(cause)) throw cause;
    throw new FleetError('E_USAGE', `cannot read ${file}: ${errnoOf(cause) ?? messageOf(cause)}`, {
      hint: 'give the path of a file that you may read',
      cause,
    });
  }
}

function timeOf(text: string): number {
  try {
    return parseTime(text);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--at: ${messageOf(cause)}`, { cause });
  }
}
