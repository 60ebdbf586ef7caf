// Verdicts upon files → a sentence for people, and what --json says. Never "newest" without as of when: what is offline
// cannot know what came later.
import type { Head, Logged, Says, SignedBy, Verdict } from '../src/audit/file-verdicts.ts';
import { keyId, type PublicKey } from '../src/keyfile.ts';
import type { Root } from '../src/manifest/root.ts';
import { formatTime } from '../src/manifest/time.ts';
import { counted, type Globals, paint, printable } from './output.ts';

const INDENT = ' '.repeat(10);

export function sentence(globals: Globals, verdict: Verdict): string {
  const file = printable(verdict.file);
  if ('error' in verdict) {
    const { message, code } = verdict.error;
    return `${paint(globals, 'bad', 'REFUSED')}   ${file}: ${printable(message)} [${code}]`;
  }
  const [first = '', ...more] = words(verdict.says);
  const lines = more.map((line) => `\n${INDENT}${printable(line)}`);
  return `${paint(globals, 'good', 'authentic')} ${file}: ${printable(first)}${lines.join('')}`;
}

function words(says: Says): string[] {
  switch (says.kind) {
    case 'root': {
      const { version, fleet, expiresAt } = says.root;
      return [
        `root version ${version} of fleet ${fleet}, expires ${formatTime(expiresAt)}`,
        signed(says.signed, 'root'),
      ];
    }
    case 'manifest':
      return manifestWords(says.manifest);
    case 'closure': {
      const { manifest, closure } = says.manifest;
      return [`closure of ${manifest.host.id} #${manifest.sequence}, ${closure?.paths.size} paths`];
    }
    case 'approval': {
      const { count, issuedAt, expiresAt } = says.approval;
      const batch = says.hasBatch ? '' : '; which ones, its batch would say';
      return [
        `approval of ${counted(count, 'manifest')}${batch}`,
        `issued ${formatTime(issuedAt)}, good until ${formatTime(expiresAt)}, ${signed(says.signed, 'release')}`,
        entryWords(says.log),
      ];
    }
    case 'batch':
      return [`batch of ${counted(says.count, 'approved manifest')}`];
    case 'enrolment': {
      const { host, publicKey, replaces } = says.enrolment;
      const before = replaces === null ? '' : `, in place of ${keyId(replaces)}`;
      return [
        `enrolment of ${host} with key ${keyId(publicKey)}${before}, ${signed(says.signed, 'director')}`,
        entryWords(says.log),
      ];
    }
    case 'receipt': {
      const { host, counter, phase, current, times } = says.receipt;
      const about = says.hasManifest ? '' : '; its manifest is not among these files';
      return [
        `receipt ${counter} of ${host}: ${phase}, runs ${current ?? 'what is unknown'}`,
        `as the host says, at ${formatTime(times.finished)}; signed by its key ${keyId(says.key)}${about}`,
      ];
    }
    case 'receipts': {
      const { host, receipts, requests, isChain } = says;
      const more = requests === 0 ? '' : ` and ${counted(requests, 'request')} for tokens`;
      const chain = isChain ? 'each follows the one before it' : 'and they are not one chain';
      return [`${counted(receipts, 'receipt')}${more} of ${host}, signed by its keys`, chain];
    }
    case 'host-key':
      return [`the key ${keyId(says.key)} of ${says.host}`];
    case 'checkpoint':
      return [`checkpoint ${headWords(says.log)}`];
    case 'proof':
      return [`proof that ${says.entry} is entry ${says.log.index} ${headWords(says.log)}`];
    case 'bundle':
      return [
        `bundle ${headWords(says.log)}, under root version ${says.rootVersion}, with ${counted(says.receipts, 'receipt')}`,
        'whole, and just what the log signed; what its entries say is checked by: fleet audit --bundle',
      ];
  }
}

function manifestWords(verified: Extract<Says, { kind: 'manifest' | 'closure' }>['manifest']) {
  const { manifest, signers, of, threshold, approvers, approvals, rootVersion, log } = verified;
  const what =
    manifest.intent === 'decommission' ? 'is decommissioned' : `runs ${manifest.toplevel}`;
  const approved =
    approvals === 0
      ? ''
      : `; approved by ${counted(approvers.length, 'release key')}, ${approvals} must`;
  const by = signed({ signers, of, needed: threshold }, 'director');
  return [
    `manifest ${manifest.host.id} #${manifest.sequence} (epoch ${manifest.epoch}) ${what}`,
    `issued ${formatTime(manifest.issuedAt)}, expires ${formatTime(manifest.expiresAt)}`,
    `${by}${approved}, under root version ${rootVersion}`,
    log?.isNewest === true
      ? `authentic and logged, entry ${log.index} ${headWords(log)}`
      : entryWords(log),
  ];
}

function signed({ signers, of, needed }: SignedBy, role: string): string {
  return `signed by ${signers.length} of ${of} ${role} keys, ${needed} must`;
}

/** Of an entry that nothing shows to be the newest of its kind. */
function entryWords(log: Logged | null): string {
  if (log === null) return 'not shown to be in the log, nor to be the newest';
  const when = log.freshAt === null ? '' : ` as of ${formatTime(log.freshAt)}`;
  const place = `entry ${log.index} of ${log.size} in ${log.origin}${when}`;
  return `authentic and logged, ${place}; not shown to be the newest`;
}

function headWords({ origin, size, freshAt }: Head): string {
  const when = freshAt === null ? 'an unknown time' : formatTime(freshAt);
  return `of ${size} in ${origin}, newest as of ${when}`;
}

export function documentOf(verdict: Verdict): unknown {
  const { file, kind } = verdict;
  if ('error' in verdict) {
    const { code, message } = verdict.error;
    return { file, kind, verdict: 'refused', code, message };
  }
  return { file, kind, verdict: 'authentic', ...fieldsOf(verdict.says) };
}

function fieldsOf(says: Says): object {
  switch (says.kind) {
    case 'root':
      return { ...rootDocument(says.root), ...signedFields(says.signed) };
    case 'manifest':
    case 'closure': {
      const { manifest, digest, signers, of, threshold } = says.manifest;
      const { approvers, approvals, rootVersion, log } = says.manifest;
      return {
        host: manifest.host.id,
        epoch: manifest.epoch,
        sequence: manifest.sequence,
        digest,
        intent: manifest.intent,
        toplevel: manifest.intent === 'decommission' ? null : manifest.toplevel,
        issuedAt: manifest.issuedAt,
        expiresAt: manifest.expiresAt,
        rootVersion,
        ...signedFields({ signers, of, needed: threshold }),
        approvers: approvers.map(keyId),
        approvals,
        log,
      };
    }
    case 'approval': {
      const { count, batch, issuedAt, expiresAt } = says.approval;
      const { hasBatch, log } = says;
      return { count, batch, hasBatch, issuedAt, expiresAt, ...signedFields(says.signed), log };
    }
    case 'batch':
      return { count: says.count };
    case 'enrolment': {
      const { host, publicKey, replaces } = says.enrolment;
      return { host, publicKey, replaces, ...signedFields(says.signed), log: says.log };
    }
    case 'receipt': {
      const { receipt, digest, key, hasManifest } = says;
      const { host, counter, previous, manifest, phase, reason, current, times } = receipt;
      return {
        ...{ host, counter, digest, previous, manifest, hasManifest, phase, reason, current },
        finishedAt: times.finished,
        key,
      };
    }
    case 'receipts': {
      const { host, receipts, requests, isChain } = says;
      return { host, receipts, requests, isChain };
    }
    case 'host-key':
      return { host: says.host, publicKey: says.key };
    case 'checkpoint': {
      const { origin, size, freshAt } = says.log;
      return { log: { origin, size, freshAt } };
    }
    case 'proof':
      return { entry: says.entry, log: says.log };
    case 'bundle':
      return { log: says.log, rootVersion: says.rootVersion, receipts: says.receipts };
  }
}

function signedFields({ signers, of, needed }: SignedBy): object {
  const ids = signers.map((key: PublicKey) => keyId(key));
  return { signers: ids, keys: of, threshold: needed };
}

export function rootDocument(root: Root): object {
  return { fleet: root.fleet, version: root.version, epoch: root.epoch, expiresAt: root.expiresAt };
}
