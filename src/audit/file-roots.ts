// Roots among an auditor's files → the newest that follows from the auditor's own, one step at a time (SPEC §3.4).
import { FleetError } from '../errors.ts';
import { parseEnvelope, verifiedBy } from '../manifest/dsse.ts';
import { parseRoot, verifyRootUpdate } from '../manifest/root.ts';
import { rootDigest } from '../manifest/snapshot.ts';
import type { TrustedRoot } from '../manifest/verify-offer.ts';
import type { Input, Judge } from './file-verdicts.ts';

/** Judges each; those that do not follow count for nothing. */
export function judgeRoots(
  inputs: readonly Input[],
  trusted: TrustedRoot,
  judge: Judge,
): TrustedRoot {
  let newest = trusted;
  for (const input of inputs.toSorted((one, other) => versionOf(one) - versionOf(other))) {
    judge(input, () => {
      const envelope = parseEnvelope(input.bytes);
      if (rootDigest(envelope.payload) !== rootDigest(parseEnvelope(newest.envelope).payload)) {
        requireLater(parseRoot(envelope.payload).version, trusted.root.version);
        const root = verifyRootUpdate(newest.root, envelope);
        newest = { root, envelope: input.bytes.toString('utf8') };
      }
      const { keys, threshold } = newest.root.roles.root;
      const signers = verifiedBy(envelope, keys);
      const signed = { signers, of: keys.length, needed: threshold };
      return { kind: 'root', root: newest.root, signed };
    });
  }
  return newest;
}

/** What came before the auditor's own root cannot follow from it. */
function requireLater(version: number, own: number): void {
  if (version > own) return;
  const says = `root version ${version} is not the one of --root, and does not follow it`;
  throw new FleetError('E_ROOT_CHAIN', says, {
    hint: 'give the first root that you trust with --root, and later ones as files',
  });
}

/** What is no root comes first, and is refused. */
function versionOf({ bytes }: Input): number {
  try {
    return parseRoot(parseEnvelope(bytes).payload).version;
  } catch {
    return 0;
  }
}
