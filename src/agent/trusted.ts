// trust.json ↔ the root in it, which only ever moves on. Every run writes through here; what begins anew
// on root's word (enrolment, reset-trust) does not.
// Refuses to put a root in the place of a newer one (SPEC §3.4).
import { FleetError, messageOf } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseRoot, type Root } from '../manifest/root.ts';
import { type Memory, memoryFiles, readTrust, type Trust, writeTrust } from './memory.ts';
import { corrupt } from './record.ts';

/** The root that the agent trusts. @throws FleetError E_AGENT_STATE_CORRUPT */
export function trustedRoot({ dir, trust }: Pick<Memory, 'dir' | 'trust'>): Root {
  try {
    return parseRoot(parseEnvelope(trust.root).payload);
  } catch (cause) {
    throw corrupt(memoryFiles(dir).trust, messageOf(cause), cause);
  }
}

/** Makes `trust` what this host trusts. @throws FleetError E_TRUST_BACKWARDS, E_AGENT_STATE_CORRUPT, E_DISK_FULL */
export async function advanceTrust(dir: string, trust: Trust): Promise<void> {
  const kept = await readTrust(dir);
  // Most writes leave the root as it is.
  if (kept !== null && kept.root !== trust.root) {
    const from = trustedRoot({ dir, trust: kept }).version;
    const to = trustedRoot({ dir, trust }).version;
    if (to <= from) {
      const message = `${memoryFiles(dir).trust} trusts root version ${from}; version ${to} may not follow it`;
      throw new FleetError('E_TRUST_BACKWARDS', message);
    }
  }
  await writeTrust(dir, trust);
}
