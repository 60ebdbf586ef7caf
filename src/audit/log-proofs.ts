// `.tlog-proof` files among an auditor's files → the entries that they prove (SPEC §9.6), found by trying: a file's name
// says nothing. Each leads to a checkpoint that the root's log signed.
import { FleetError } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyCheckpoint } from '../manifest/log-view.ts';
import { type Newest, parseNewest, requireNewest } from '../manifest/newest.ts';
import { rootDigest } from '../manifest/snapshot.ts';
import type { VerifiedManifest } from '../manifest/verify.ts';
import type { TrustedRoot } from '../manifest/verify-offer.ts';
import type { Checkpoint } from '../tlog/checkpoint.ts';
import { hashLeaf, verifyInclusion } from '../tlog/merkle.ts';
import { type LogProof, parseLogProof } from '../tlog/proof.ts';
import { type Input, type Judge, known, type Logged } from './file-verdicts.ts';

type Proof = Pick<LogProof, 'index' | 'hashes'> & {
  readonly input: Input;
  readonly checkpoint: Checkpoint;
  readonly freshAt: number | null;
  readonly newest: Newest | null;
};

export class LogProofs {
  readonly #proofs: Proof[] = [];
  readonly #refused = new Map<Input, FleetError>();
  readonly #taken = new Map<Input, { readonly entry: string; readonly log: Logged }>();
  readonly #inputs: readonly Input[];
  readonly #root: { readonly version: number; readonly sha256: string };

  constructor(inputs: readonly Input[], { root, envelope }: TrustedRoot) {
    this.#inputs = inputs;
    this.#root = {
      version: root.version,
      sha256: rootDigest(parseEnvelope(envelope).payload),
    };
    for (const input of inputs) {
      try {
        const { extra, index, hashes, checkpoint } = parseLogProof(input.bytes.toString('utf8'));
        const newest = extra === null ? null : parseNewest(extra);
        this.#proofs.push({ input, index, hashes, newest, ...verifyCheckpoint(checkpoint, root) });
      } catch (error) {
        this.#refused.set(input, known(error));
      }
    }
  }

  /**
   * The place of an entry in the log, or null where no proof of it is here; of the longest log where there are several.
   * `manifest`: what the entry holds, which a proof may show to be the newest of its host; one that says that it does
   * and does not is refused, and proves nothing.
   */
  take(input: Input, entry: Uint8Array | string, manifest?: VerifiedManifest): Logged | null {
    const leafHash = hashLeaf(typeof entry === 'string' ? Buffer.from(entry) : entry);
    const fitting = this.#proofs.filter(({ index, hashes: proof, checkpoint: { size, root } }) =>
      verifyInclusion({ index, size, leafHash, root, proof }),
    );
    let best: Logged | null = null;
    for (const { input: file, index, checkpoint, freshAt, newest } of fitting) {
      if (manifest !== undefined && newest !== null) {
        const { host, epoch, sequence } = manifest.manifest;
        const said = { host: host.id, epoch, sequence, sha256: manifest.digest };
        try {
          requireNewest(newest, said, checkpoint, this.#root);
        } catch (error) {
          // Whoever can put a file beside the others must not make them look wrong: it is refused by itself.
          this.#refused.set(file, known(error));
          continue;
        }
      }
      const isNewest = manifest !== undefined && newest !== null;
      const { origin, size } = checkpoint;
      const log = { origin, size, index, freshAt, isNewest };
      this.#taken.set(file, { entry: input.file, log });
      if (best === null || size > best.size) best = log;
    }
    return best;
  }

  /** What became of the proofs themselves, once every entry was asked for. */
  judge(judge: Judge): void {
    for (const input of this.#inputs) {
      judge(input, () => {
        const refusal = this.#refused.get(input);
        if (refusal !== undefined) throw refusal;
        const taken = this.#taken.get(input);
        if (taken !== undefined) return { kind: 'proof', ...taken };
        throw new FleetError('E_NOT_LOGGED', 'no verified file here is the entry that it proves', {
          hint: 'give the file that it belongs to in the same command',
        });
      });
    }
  }
}
