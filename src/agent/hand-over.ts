// An update that brought another agent → that agent is started, once this one ended: not every service is started again by itself
// (one of a timer's waits for the timer), and the watchdog does not wait. Systemd does it, as no process of the old agent is to.
import { randomBytes } from 'node:crypto';
import { basename } from 'node:path';
import { type Host, runsUnits } from './host.ts';
import { findProgram } from './inside.ts';
import { startTransient, systemctl } from './transient.ts';

// While the old one runs, to start the service does nothing. It is another run of it that ends this, not that it is up: a new
// agent that fails is the watchdog's.
const CALL = `
unit=$1 was=$2 left=60
while [ "$left" -gt 0 ]; do
  now=$(systemctl show --property=InvocationID --value "$unit")
  if [ -n "$now" ] && [ "$now" != "$was" ]; then exit 0; fi
  systemctl start --no-block "$unit"
  sleep 2
  left=$((left - 1))
done
`;

/** @throws Error where systemd does not take it: then the service's own rules say when it is started. */
export async function callSuccessor(host: Host): Promise<void> {
  const { unit } = host;
  if (!runsUnits(host) || unit === null) return;
  const name = basename(unit.file);
  const was = await systemctl('show', '--property=InvocationID', '--value', name).catch(
    () => process.env['INVOCATION_ID'] ?? '',
  );
  const command = [await findProgram('sh'), '-c', CALL, 'fleet-hand-over', name, was.trim()];
  await startTransient(`fleet-hand-over-${randomBytes(6).toString('hex')}`, command, [
    '--no-block',
  ]);
}
