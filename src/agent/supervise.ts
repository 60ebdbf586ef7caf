// What systemd wants to hear of a long-lived service (sd_notify(3)): ready, what it does, that it lives. Node cannot
// speak to a datagram socket of the file system, so systemd-notify(1) does it. Without NOTIFY_SOCKET, nothing is said.
import { spawn } from 'node:child_process';

export type Supervisor = Disposable & {
  /** Says that the service is there. */
  ready(): void;
  /** A line for `systemctl status`. */
  status(text: string): void;
  stopping(): void;
};

/** `isAlive` is asked before each sign of life: a loop that hangs is to be ended. */
export function openSupervisor(
  isAlive: () => boolean,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Supervisor {
  const isWatched = (env['NOTIFY_SOCKET'] ?? '') !== '';
  const say = (...words: string[]): void => {
    if (!isWatched) return;
    const child = spawn('systemd-notify', words, { stdio: 'ignore' });
    // Where it is missing, systemd's time runs out and says so.
    child.on('error', () => {});
    child.unref();
  };
  const limit = Number(env['WATCHDOG_USEC'] ?? 0) / 1000;
  const isOurs = env['WATCHDOG_PID'] === undefined || env['WATCHDOG_PID'] === String(process.pid);
  const beating =
    limit > 0 && isOurs
      ? setInterval(() => {
          if (isAlive()) say('WATCHDOG=1');
        }, limit / 3)
      : undefined;
  beating?.unref();
  return {
    ready: () => say('--ready'),
    status: (text) => say(`--status=${text}`),
    stopping: () => say('STOPPING=1'),
    [Symbol.dispose]: () => clearInterval(beating),
  };
}
