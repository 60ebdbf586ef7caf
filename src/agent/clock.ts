// Whether this machine's clock is kept by somebody who knows what time it is (SPEC §5.3). The kernel knows
// (adjtimex(2)), whichever program keeps the clock, and timedatectl asks it; where that cannot be asked, systemd's
// own keeper leaves a file. Who cannot tell has not been synchronised: then a question to the server is the price.
import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';

export type ClockKeepers = {
  readonly program: string;
  /** How long it may take, in milliseconds: it waits for a service that is started for it. */
  readonly patience: number;
  /** On a file system that every boot begins anew. */
  readonly file: string;
};

const KEEPERS: ClockKeepers = {
  program: 'timedatectl',
  patience: 5000,
  file: '/run/systemd/timesync/synchronized',
};

/** Throws nothing. */
export async function isClockSynchronised(keepers: ClockKeepers = KEEPERS): Promise<boolean> {
  const said = await askProgram(keepers);
  if (said === 'yes') return true;
  if (said === 'no') return false;
  return await access(keepers.file).then(
    () => true,
    () => false,
  );
}

/** What it prints, or null where it fails. */
async function askProgram({ program, patience }: ClockKeepers): Promise<string | null> {
  const { promise, resolve } = Promise.withResolvers<string | null>();
  const args = ['show', '--property=NTPSynchronized', '--value'];
  const limits = { timeout: patience, killSignal: 'SIGKILL', maxBuffer: 4096 } as const;
  execFile(program, args, limits, (error, stdout) => {
    resolve(error === null ? stdout.trim() : null);
  });
  return await promise;
}
