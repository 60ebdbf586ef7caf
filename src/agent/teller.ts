// What a run of the agent came to, and what people asked for meanwhile → receipts on disk, and from there to the server. The
// chain here is the one on disk, at every moment; where there is no room for a receipt, the next run has the same news.
import { type FleetError, isFleetError } from '../errors.ts';
import type { Exception } from '../manifest/receipt.ts';
import { tellRequests, toldBefore } from './at-machine.ts';
import type { Client } from './client.ts';
import type { Host } from './host.ts';
import type { ManifestId, Memory } from './memory.ts';
import type { Attempt, Outcome } from './outcome.ts';
import { readSystems } from './place.ts';
import {
  type Chain,
  owe,
  type Sent,
  sendQueued,
  type TellContext,
  tell,
  tellRequest,
} from './receipts.ts';
import type { RunTime } from './time.ts';

export class Teller {
  /** A checkpoint that contradicts the one that was accepted, or the proof of time. */
  conflict: string | null = null;
  readonly onOther = (checkpoint: string): void => {
    this.conflict = checkpoint;
  };
  readonly #host: Host;
  readonly #time: RunTime;
  readonly #say: (line: string) => void;
  #chain: Chain;
  /** Why an outcome could not be kept to be told. */
  #untold: FleetError | null = null;

  constructor(host: Host, time: RunTime, chain: Chain, say: (line: string) => void) {
    this.#host = host;
    this.#time = time;
    this.#chain = chain;
    this.#say = say;
  }

  get chain(): Chain {
    return this.#chain;
  }

  /** @throws FleetError E_DISK_FULL: what is not written is not done. */
  async owe(dir: string, deed: Exception): Promise<void> {
    this.#chain = await owe(dir, this.#chain, deed);
  }

  async tell(memory: Memory, attempt: Attempt, manifest: ManifestId | null): Promise<Outcome> {
    const systems = await readSystems(this.#host.place);
    const outcome: Outcome = { ...attempt, manifest, systems };
    await this.#keep(memory, async (context) => {
      this.#chain = await tell(memory, this.#chain, outcome, context);
    });
    return outcome;
  }

  /** What people asked for; `outcome`: what the run came to, null where it has nothing to tell. */
  async tellRequests(memory: Memory, outcome: Outcome | null): Promise<void> {
    const how = outcome ?? toldBefore(this.#chain, await readSystems(this.#host.place));
    if (how === null) return;
    await this.#keep(memory, async (context) => {
      await tellRequests(memory.dir, this.#chain, async (chain, request) => {
        this.#chain = await tellRequest(memory, chain, request, how, context);
        return this.#chain;
      });
    });
  }

  /** Sends what waits; `error`: what the run ended with. */
  async send(client: Client, memory: Memory, error: FleetError | null): Promise<Sent> {
    const problem = isFleetError(error, 'E_SERVER_UNREACHABLE') ? error : this.#untold;
    if (problem !== null) return { sent: 0, queued: this.#chain.queue.length, problem };
    const { chain, report } = await sendQueued(client, memory, this.#chain);
    this.#chain = chain;
    return report;
  }

  async #keep(memory: Memory, make: (context: TellContext) => Promise<void>): Promise<void> {
    const span = this.#time.span(memory.trust);
    try {
      await make({ bootId: this.#host.bootId, ...span, conflict: this.conflict });
    } catch (error) {
      if (!isFleetError(error, 'E_DISK_FULL')) throw error;
      this.#untold = error;
      this.#say(`not told: ${error.message}`);
    }
  }
}
