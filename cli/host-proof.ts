// What fleet host show --export writes beside a manifest, so that an auditor can tell offline that it is in the log, and
// that it was its host's newest as of when: log proofs, and the approval that it needed.
import { proveLogged } from '../src/server/log-proof.ts';
import type { StateDir } from '../src/server/statedir.ts';
import type { PublishedManifest } from '../src/storage/state.ts';

/** Names and texts; `name`: of the manifest's own file. @throws FleetError E_LOG_DAMAGED, E_TILE. */
export async function proofFiles(
  dir: StateDir,
  manifest: PublishedManifest,
  name: string,
): Promise<[string, string][]> {
  const proofs = await proveLogged(dir, manifest);
  // A log that was begun anew after a restore does not have what came before it.
  if (proofs === null) return [];
  const own: [string, string] = [`${name}.tlog-proof`, proofs.manifest];
  if (proofs.approval === null) return [own];
  const { file, proof } = proofs.approval;
  const approval = `${manifest.host}-${manifest.sequence}.approval.json`;
  return [own, [approval, file], [`${approval}.tlog-proof`, proof]];
}
