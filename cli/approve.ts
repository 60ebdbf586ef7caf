// fleet approve PROPOSAL: shows what is proposed (host, old and new system, packages that change, where it comes
// from), and signs it, on a machine that has a release key and no state. A second key signs the same
// approval (--approval), and openssl alone will do (--pae, --signature). Trust comes from --root.
import { Readable } from 'node:stream';
import type { Command } from 'commander';
import { readBundle } from '../src/bundle/tar.ts';
import { writeDurable } from '../src/durable.ts';
import { FleetError } from '../src/errors.ts';
import { keyId } from '../src/keyfile.ts';
import { type ApprovalFile, makeApproval } from '../src/manifest/approval.ts';
import { formatApprovalFile } from '../src/manifest/approval-file.ts';
import { type ClosureDiff, diffClosures } from '../src/manifest/closure-diff.ts';
import { pae, parseEnvelope, signEnvelope, verifiedBy } from '../src/manifest/dsse.ts';
import {
  openProposal,
  PROPOSAL_LIMITS,
  type Proposal,
  type Proposed,
} from '../src/manifest/proposal.ts';
import type { Root } from '../src/manifest/root.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../src/manifest/statement.ts';
import { formatTime } from '../src/manifest/time.ts';
import { approvalFile } from './approval-file.ts';
import { confirm } from './confirm.ts';
import { readInput } from './input.ts';
import { writeNew } from './new-file.ts';
import { counted, type Globals, globalsOf, print, printable } from './output.ts';
import { readOwnRoot } from './own-root.ts';
import { withSignature } from './signature.ts';

type Options = {
  root: string;
  out?: string;
  approval?: string;
  key?: string;
  signature?: string;
  publicKey?: string;
  pae?: string;
  host: string[];
  yes?: boolean;
};

/** So many packages of a host are shown; --json has them all. */
const SHOWN = 30;

export function registerApprove(program: Command): void {
  program
    .command('approve')
    .argument('<file>', 'what fleet publish --proposal wrote')
    .requiredOption('--root <file>', 'a root that you trust, such as 1.root.json')
    .option('--out <file>', 'where to write the approval')
    .option('--approval <file>', 'sign this one too, that somebody else signed before')
    .option('--key <file>', 'sign with this release key, PEM')
    .option('--pae <file>', 'write the bytes that are to be signed, and sign nothing')
    .option('--signature <file>', 'add this signature, 64 bytes, made by another program')
    .option('--public-key <file>', 'whose signature it is')
    .option(
      '--host <host>',
      'approve this host only; repeat',
      (value: string, all: string[]) => [...all, value],
      [],
    )
    .option('--yes', 'do not ask')
    .description('look at what waits to be published, and sign it; needs no state')
    .action(async (file: string, options: Options, command: Command) => {
      await approve(file, options, globalsOf(command));
    });
}

async function approve(file: string, options: Options, globals: Globals): Promise<void> {
  const means = [options.key, options.signature, options.pae].filter((one) => one !== undefined);
  const isPaired = (options.signature === undefined) === (options.publicKey === undefined);
  if (means.length > 1 || !isPaired) {
    throw new FleetError('E_USAGE', 'give --key, or --pae, or --signature and --public-key');
  }
  const out = options.out ?? options.approval;
  if (means.length === 1 && out === undefined) {
    throw new FleetError('E_USAGE', 'where is the approval to be written?', {
      hint: 'add --out FILE',
    });
  }
  const now = Math.floor(Date.now() / 1000);
  const { root: trusted } = await readOwnRoot(options.root);
  const all = openProposal(await filesOf(file), trusted, now);
  const given = options.approval === undefined ? null : await approvalFile(options.approval);
  const chosen = choose(all, options.host, given);
  const approval = given ?? newApproval(chosen, all.root, now);
  const asDocument = { version: 1, ...documentOf(all.root, chosen) };
  if (means.length === 0 || out === undefined) {
    return print(globals, { ...asDocument, approval: null }, shown(all.root, chosen));
  }
  if (options.yes !== true) {
    const these = chosen.length === 1 ? 'this' : `these ${chosen.length}`;
    await confirm(globals, shown(all.root, chosen), `Approve ${these}?`, {
      hint: 'look at it without --key first; then add --yes',
      unchanged: 'nothing was signed',
    });
  }
  if (options.pae !== undefined) {
    const { payloadType, payload } = parseEnvelope(approval.envelope);
    if (given === null) await writeNew(out, formatApprovalFile(approval));
    await writeNew(options.pae, pae(payloadType, payload));
    const document = { ...asDocument, approval: out, pae: options.pae };
    return print(
      globals,
      document,
      `The bytes to be signed are in ${options.pae}; add the signature to ${out}.`,
    );
  }
  const { key, text: envelope } = await withSignature(parseEnvelope(approval.envelope), options);
  if (!all.root.roles.release.keys.includes(key)) {
    throw new FleetError(
      'E_SIGNATURE_UNKNOWN_KEY',
      `${keyId(key)} is no release key of root version ${all.root.version}`,
    );
  }
  const text = formatApprovalFile({ ...approval, envelope });
  if (given === null) await writeNew(out, text);
  else await writeDurable(out, text);
  const signers = verifiedBy(parseEnvelope(envelope), all.root.roles.release.keys);
  const needed = Math.max(...chosen.map(({ approvals }) => approvals));
  print(
    globals,
    { ...asDocument, approval: out, signedBy: keyId(key), signers: signers.map(keyId), needed },
    [
      `Signed by ${keyId(key)}: ${out}`,
      signers.length >= needed
        ? `That is enough. On the server: fleet publish --approval ${out}`
        : `${signers.length} of ${needed} keys have signed. The next one: fleet approve ${file} --root ROOT --approval ${out} --key KEY`,
    ].join('\n'),
  );
}

async function filesOf(file: string): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  const bytes = await readInput(file);
  for await (const { name, data } of readBundle(Readable.from([bytes]), PROPOSAL_LIMITS)) {
    files.set(name, data);
  }
  return files;
}

/** What is to be approved: what --host names, or just what an approval that exists is about. */
function choose(
  { changes }: Proposal,
  hosts: readonly string[],
  given: ApprovalFile | null,
): readonly Proposed[] {
  if (given !== null) {
    const of = changes.filter(({ digest }) => given.batch.includes(digest));
    if (of.length === given.batch.length && hosts.length === 0) return of;
    throw new FleetError(
      'E_APPROVAL_PROOF',
      'the approval is about other manifests than the proposal',
    );
  }
  const unknown = hosts.filter((host) =>
    changes.every(({ manifest }) => manifest.host.id !== host),
  );
  if (unknown.length > 0) {
    throw new FleetError('E_USAGE', `the proposal has nothing for ${unknown.join(', ')}`);
  }
  return changes.filter(({ manifest }) => hosts.length === 0 || hosts.includes(manifest.host.id));
}

/** Good for as long as any of its manifests is. */
function newApproval(changes: readonly Proposed[], root: Root, now: number): ApprovalFile {
  const expiresAt = Math.max(...changes.map(({ manifest }) => manifest.expiresAt));
  const digests = changes.map(({ digest }) => digest);
  const { payload, batch } = makeApproval(digests, { issuedAt: now, expiresAt }, root);
  return { envelope: signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, []), batch };
}

function shown(root: Root, changes: readonly Proposed[]): string {
  return [
    `fleet ${root.fleet}, root version ${root.version}`,
    ...changes.flatMap((change) => ['', ...linesOf(change)]),
  ].join('\n');
}

function linesOf(change: Proposed): string[] {
  const { before, approvals, digest } = change;
  const { host, sequence, expiresAt, emergency } = change.manifest;
  const head = [
    `${host.id} #${sequence}  (${digest})`,
    `  from    ${before?.manifest.toplevel ?? '-'}`,
  ];
  const valid = `  valid   until ${formatTime(expiresAt)}${emergency ? '; EMERGENCY' : ''}; needs ${counted(approvals, 'approval')}`;
  if (change.closure === null) return [...head, '  to      NOTHING: it removes the host', valid];
  const { manifest, closure } = change;
  const { provenance } = manifest;
  const diff = diffClosures(before?.closure ?? null, closure);
  const source = provenance.rev ?? 'no revision: uncommitted changes';
  return [
    ...head,
    `  to      ${manifest.toplevel}`,
    `  source  ${printable(provenance.flakeRef)} (${source})`,
    `  built   by ${printable(provenance.builder.id)}, Nix ${printable(provenance.builder.nixVersion)}, from ${provenance.drvPath}`,
    valid,
    `  paths   ${diff.added.length} new, ${diff.removed.length} gone, ${closure.paths.size} in all`,
    ...packagesOf(diff),
  ];
}

function packagesOf({ packages }: ClosureDiff): string[] {
  const lines = packages
    .slice(0, SHOWN)
    .map(
      ({ name, before, after, bytes }) =>
        `    ${printable(name)}: ${versions(before)} → ${versions(after)}  (${bytes < 0 ? '-' : '+'}${(Math.abs(bytes) / 1024).toFixed(1)} KiB)`,
    );
  const more = packages.length - lines.length;
  return more > 0 ? [...lines, `    and ${more} more: --json has them all`] : lines;
}

function versions(all: readonly string[]): string {
  if (all.length === 0) return '-';
  return all.map((one) => (one === '' ? '(no version)' : printable(one))).join(', ');
}

function documentOf(root: Root, changes: readonly Proposed[]) {
  return {
    root: { fleet: root.fleet, version: root.version, epoch: root.epoch },
    hosts: changes.map((change) => ({
      host: change.manifest.host.id,
      epoch: change.manifest.epoch,
      sequence: change.manifest.sequence,
      digest: change.digest,
      intent: change.manifest.intent,
      before: change.before?.manifest.toplevel ?? null,
      emergency: change.manifest.emergency,
      expiresAt: change.manifest.expiresAt,
      approvals: change.approvals,
      ...systemOf(change),
    })),
  };
}

function systemOf({ manifest, before, closure }: Proposed) {
  if (closure === null) {
    return { toplevel: null, provenance: null, added: [], removed: [], packages: [] };
  }
  const { toplevel, provenance } = manifest;
  return { toplevel, provenance, ...diffClosures(before?.closure ?? null, closure) };
}
