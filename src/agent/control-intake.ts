// A bundle that somebody of the local group brings over the control socket (SPEC §5.9) → a file of the agent's own, whole, and
// one at a time until a run was done with it. The bytes are looked at by that run. Refuses more than was announced or there is room
// for, a second one meanwhile, and one that does not get on. Loads no library: run.ts.
import { open, rm, statfs } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { asDiskFull } from '../durable.ts';
import { FleetError } from '../errors.ts';
import { formatAnswer } from './control-protocol.ts';

export type IntakeLimits = {
  /** Milliseconds without a byte. */
  readonly standstill: number;
  /** As slow as a stick may be, on the whole. */
  readonly leastBytesPerSecond: number;
};

const LIMITS: IntakeLimits = { standstill: 30_000, leastBytesPerSecond: 64 * 1024 };
/** It is unpacked beside itself, and something is to be left. */
const COPIES = 2;
const SPARE_BYTES = 64 * 2 ** 20;

export class Intake implements AsyncDisposable {
  readonly #dir: string;
  readonly #file: string;
  readonly #limits: IntakeLimits;
  #state: 'free' | 'filling' | 'full' = 'free';

  private constructor(dir: string, limits: Partial<IntakeLimits>) {
    this.#dir = dir;
    this.#file = join(dir, 'brought.tar');
    this.#limits = { ...LIMITS, ...limits };
  }

  /** What an agent left that was killed is removed. `dir`: the state directory. */
  static async open(dir: string, limits: Partial<IntakeLimits> = {}): Promise<Intake> {
    const intake = new Intake(dir, limits);
    await intake.done();
    return intake;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.done();
  }

  /** The file that a run is to apply; null: there is none. */
  get file(): string | null {
    return this.#state === 'full' ? this.#file : null;
  }

  /** A run is over that was to apply it. */
  async done(): Promise<void> {
    await rm(this.#file, { force: true }).catch(() => {});
    this.#state = 'free';
  }

  /** Says that the bytes may come, and takes them. @throws FleetError E_AGENT_BUSY, E_PREFLIGHT, E_DISK_FULL, E_LOCAL_PROTOCOL */
  async take(socket: Socket, bytes: number): Promise<void> {
    if (this.#state !== 'free') {
      throw new FleetError('E_AGENT_BUSY', 'a bundle was brought already, and is at work', {
        hint: 'wait for it; see: fleet agent status',
      });
    }
    this.#state = 'filling';
    const { standstill, leastBytesPerSecond } = this.#limits;
    const most = standstill + (bytes / leastBytesPerSecond) * 1000;
    const late = setTimeout(() => socket.destroy(), Math.min(most, 2 ** 31 - 1));
    try {
      await this.#requireRoom(bytes);
      socket.setTimeout(standstill);
      socket.write(formatAnswer({ send: bytes }));
      await this.#write(socket, bytes);
      this.#state = 'full';
    } catch (error) {
      await this.done();
      throw asDiskFull(error, this.#file);
    } finally {
      clearTimeout(late);
      socket.setTimeout(0);
    }
  }

  async #requireRoom(bytes: number): Promise<void> {
    const { blocks, bavail, bsize } = await statfs(this.#dir);
    if (blocks === 0 || bavail * bsize >= COPIES * bytes + SPARE_BYTES) return;
    const mebibytes = (count: number): string => `${(count / 2 ** 20).toFixed(1)} MiB`;
    const needed = mebibytes(COPIES * bytes + SPARE_BYTES);
    const free = `${this.#dir} has ${mebibytes(bavail * bsize)} free`;
    throw new FleetError('E_PREFLIGHT', `${free}, and the bundle needs ${needed}`, {
      hint: 'ask the admin to free some space; nothing was changed',
    });
  }

  async #write(socket: Socket, bytes: number): Promise<void> {
    // A name of ours, in a directory of ours: no client names any.
    await rm(this.#file, { force: true });
    await using handle = await open(this.#file, 'wx', 0o600);
    let got = 0;
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      got += (chunk as Buffer).length;
      if (got > bytes) throw new FleetError('E_LOCAL_PROTOCOL', 'more bytes came than were told');
      await handle.writeFile(chunk as Buffer);
      if (got === bytes) return;
    }
    throw new FleetError('E_LOCAL_PROTOCOL', `only ${got} of ${bytes} bytes came`);
  }
}
