// fleet verify FILE… --root ROOT.json: the auditor's command. Offline: reads the named files and the
// clock, and nothing else. Trust comes from the auditor's own root file. A FILE is a manifest's
// envelope, an offer as the server gives it, or a closure file that one of those beside it names.
// File names and contents are hostile: neither may drive the terminal or make it read without end.
import { createHash } from 'node:crypto';
import type { Command } from 'commander';
import { FleetError, isFleetError, messageOf } from '../src/errors.ts';
import { keyId } from '../src/keyfile.ts';
import { parseEnvelope } from '../src/manifest/dsse.ts';
import { parseManifest } from '../src/manifest/manifest.ts';
import { parseOffer } from '../src/manifest/offer.ts';
import { type Root, requireCurrentRoot, verifyInitialRoot } from '../src/manifest/root.ts';
import { formatTime, parseTime } from '../src/manifest/time.ts';
import { type VerifiedManifest, verifyClosure, verifyManifest } from '../src/manifest/verify.ts';
import {
  type TrustedRoot,
  verifyLogOffline,
  verifyOfferedManifest,
} from '../src/manifest/verify-offer.ts';
import { readInput } from './input.ts';
import { type Globals, globalsOf, paint, print, printable, tellAfterResult } from './output.ts';

type Options = { root: string; at?: string; host?: string };
type Input = { readonly file: string; readonly bytes: Buffer };
type Kind = 'manifest' | 'closure';

/** Where a manifest is in the log, and when that was its newest state. */
type Logged = {
  readonly origin: string;
  readonly size: number;
  readonly index: number;
  readonly freshAt: number | null;
};

/** `log`: null for a manifest that came without proof of it. */
type Checked = VerifiedManifest & { readonly log: Logged | null };

/** What one file turned out to be. */
type Verdict =
  | { readonly file: string; readonly kind: Kind; readonly verified: Checked }
  | { readonly file: string; readonly kind: Kind; readonly error: FleetError };

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
      const trusted = rootOf(await readInput(options.root), options.root, now);
      const { root } = trusted;
      const inputs: Input[] = [];
      for (const file of files) inputs.push({ file, bytes: await readInput(file) });
      const verdicts = judge(inputs, trusted, now, options.host);
      print(
        globals,
        { version: 1, at: now, root: rootDocument(root), results: verdicts.map(documentOf) },
        [
          `root: fleet ${root.fleet}, version ${root.version}, as of ${formatTime(now)}`,
          ...verdicts.map((verdict) => sentence(globals, verdict)),
        ].join('\n'),
      );
      const refused = verdicts.flatMap((verdict) => ('error' in verdict ? [verdict.error] : []));
      if (refused.length > 0) {
        const summary = `${refused.length} of ${verdicts.length} refused`;
        const hint = refused[0]?.hint ?? '';
        process.exitCode = tellAfterResult(globals, new FleetError('E_VERIFY', summary, { hint }));
      }
    });
}

/** The auditor's root, with its own file named in what is wrong with it. */
function rootOf(bytes: Buffer, file: string, now: number): TrustedRoot {
  try {
    const root = verifyInitialRoot(parseEnvelope(bytes));
    requireCurrentRoot(root, now);
    return { root, envelope: bytes.toString('utf8') };
  } catch (cause) {
    const { code, message, hint } = known(cause);
    const advice =
      code === 'E_ROOT_EXPIRED' ? 'to judge as of an earlier day, say so with --at TIME' : hint;
    throw new FleetError(code, `--root ${file}: ${message}`, { hint: advice, cause });
  }
}

function judge(
  inputs: readonly Input[],
  root: TrustedRoot,
  now: number,
  host: string | undefined,
): Verdict[] {
  const isClosure = ({ bytes }: Input): boolean =>
    bytes.subarray(0, 13).toString('latin1') === '1;/nix/store/';
  const found = new Map<string, string>();
  const verified: Checked[] = [];
  const manifests = inputs
    .filter((input) => !isClosure(input))
    .map((input) =>
      verdictOf(input, 'manifest', () => {
        const one = check(input.bytes, root, now);
        requireHost(one, host);
        requireSingle(one, found);
        verified.push(one);
        return one;
      }),
    );
  const closures = inputs
    .filter(isClosure)
    .map((input) => verdictOf(input, 'closure', () => ownerOf(input.bytes, verified)));
  return [...manifests, ...closures];
}

function verdictOf({ file }: Input, kind: Kind, check: () => Checked): Verdict {
  try {
    return { file, kind, verified: check() };
  } catch (error) {
    return { file, kind, error: known(error) };
  }
}

function requireHost({ manifest }: VerifiedManifest, host: string | undefined): void {
  const { id } = manifest.host;
  if (host === undefined || id === host) return;
  throw new FleetError('E_HOST_MISMATCH', `the manifest is for ${id}, not for ${host}`);
}

/** Two manifests of one number, both signed, are the proof of a director that cheats. */
function requireSingle({ manifest, digest }: VerifiedManifest, found: Map<string, string>): void {
  const name = `${manifest.host.id}, epoch ${manifest.epoch}, sequence ${manifest.sequence}`;
  const other = found.get(name) ?? digest;
  found.set(name, other);
  if (other === digest) return;
  throw new FleetError('E_SEQUENCE_CONFLICT', `another manifest here is ${name} as well, ${other}`);
}

/** The verified manifest that signs this closure file, which must also be well formed and whole. */
function ownerOf(bytes: Buffer, manifests: readonly Checked[]): Checked {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  for (const verified of manifests) {
    const { manifest } = verified;
    if (manifest.intent === 'decommission' || manifest.closure.sha256 !== sha256) continue;
    return { ...verified, closure: verifyClosure(manifest, bytes) };
  }
  throw new FleetError('E_CLOSURE_HASH', `no verified manifest here names a closure ${sha256}`, {
    hint: 'give the manifest of this closure in the same command',
  });
}

/** An offer with the log that it is in; anything that does not say it is an offer is taken for an envelope. */
function check(bytes: Buffer, trusted: TrustedRoot, now: number): Checked {
  const { root } = trusted;
  if (!bytes.includes('"offerVersion"') || bytes.includes('"payloadType":')) {
    return { ...verifyManifest({ envelope: bytes, root, now }), log: null };
  }
  const offer = parseOffer(bytes);
  const log = verifyLogOffline(offer, root);
  const { host } = parseManifest(parseEnvelope(offer.manifest).payload);
  const verified = verifyOfferedManifest(offer, trusted, log, { host: host.id }, now);
  const { origin, size } = log.checkpoint;
  return { ...verified, log: { origin, size, index: offer.logged.index, freshAt: log.freshAt } };
}

function known(error: unknown): FleetError {
  if (isFleetError(error)) return error;
  return new FleetError('E_INTERNAL', messageOf(error), { cause: error });
}

function sentence(globals: Globals, verdict: Verdict): string {
  const file = printable(verdict.file);
  if ('error' in verdict) {
    const { message, code } = verdict.error;
    return `${paint(globals, 'bad', 'REFUSED')}   ${file}: ${printable(message)} [${code}]`;
  }
  const authentic = paint(globals, 'good', 'authentic');
  const { manifest, signers, threshold, closure } = verdict.verified;
  const name = `${manifest.host.id} #${manifest.sequence}`;
  if (verdict.kind === 'closure') {
    return `${authentic} ${file}: closure of ${name}, ${closure?.paths.size} paths`;
  }
  const what =
    manifest.intent === 'decommission' ? 'is decommissioned' : `runs ${manifest.toplevel}`;
  const signed = `signed by ${signers.length} of ${threshold} director keys`;
  return [
    `${authentic} ${file}: manifest ${name} (epoch ${manifest.epoch}) ${what}`,
    `          issued ${formatTime(manifest.issuedAt)}, expires ${formatTime(manifest.expiresAt)}, ${signed}`,
    `          ${proofOf(verdict.verified.log)}`,
  ].join('\n');
}

function proofOf(log: Logged | null): string {
  if (log === null) return 'not shown to be in the log, nor to be the newest';
  const newest =
    log.freshAt === null ? 'the newest of that log' : `newest as of ${formatTime(log.freshAt)}`;
  return `entry ${log.index} of ${log.size} in ${log.origin}, ${newest}`;
}

function documentOf(verdict: Verdict): unknown {
  const { file, kind } = verdict;
  if ('error' in verdict) {
    const { code, message } = verdict.error;
    return { file, kind, verdict: 'refused', code, message };
  }
  const { manifest, digest, signers, threshold } = verdict.verified;
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
    log: verdict.verified.log,
  };
}

function rootDocument(root: Root): unknown {
  return { fleet: root.fleet, version: root.version, epoch: root.epoch, expiresAt: root.expiresAt };
}

function timeOf(text: string): number {
  try {
    return parseTime(text);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--at: ${messageOf(cause)}`, { cause });
  }
}
