// Systems for machines with systemd, built by the real Nix: their switch program stops, starts and replaces real units.
// It is a stand-in for NixOS's own, in the order that facts give for it; what it does not prove is what NixOS does.
import { join } from 'node:path';
import { type BuiltSystem, buildFrom } from '../helpers/systems.ts';

const SWITCH = `#!/bin/sh
PATH=/usr/bin:/bin
top=\${0%/bin/*}; action=$1; units=/run/systemd/system
# Time enough to take the power away.
[ ! -e "$top/slow" ] || [ "$action" = start ] || sleep 1
case $action in
  check) exit 0 ;;
  dry-activate) echo "would start $(ls "$top/units" | tr '\\n' ' ')"; exit 0 ;;
  boot)
    echo "$top" >/boot/entry.new && sync /boot/entry.new && mv /boot/entry.new /boot/entry
    [ ! -e "$top/boot-fails" ] || exit 1
    exit ;;
  start) old= ;;
  test)
    echo "test \${top#*-}" >>/var/log/switches
    old=$(readlink /run/current-system) ;;
esac
mkdir -p "$units"
# What keeps its unit as it is keeps running; some may not be touched by a switch at all.
mayTouch() { ! grep -qs '^X-RestartIfChanged=false' "$units/$1"; }
changed=
for unit in $([ -z "$old" ] || ls "$old/units"); do
  cmp -s "$old/units/$unit" "$top/units/$unit" && continue
  mayTouch "$unit" && { systemctl stop "$unit"; changed="$changed $unit"; }
  [ -e "$top/units/$unit" ] || rm -f "$units/$unit"
done
for unit in $(ls "$top/units"); do cp "$top/units/$unit" "$units/$unit"; done
ln -sfn "$top" /run/current-system
systemctl daemon-reload
code=0
for unit in $(ls "$top/units"); do systemctl start "$unit" || code=4; done
exit "$code"
`;

/** `units`: by name, what their files say; `more`: other files of the system. */
export function systemdSystem(
  dir: string,
  name: string,
  units: Readonly<Record<string, string>>,
  more: Readonly<Record<string, string>> = {},
): Promise<BuiltSystem> {
  const files = Object.entries(units).map(([unit, text]) => [join('units', unit), text] as const);
  const all = [['bin/switch-to-configuration', SWITCH] as const, ...files, ...Object.entries(more)];
  return buildFrom(dir, name, new Map(all));
}

/** A unit that runs `script` and stays. */
export function service(script: string): string {
  return `[Service]\nExecStart=/bin/sh -c '${script}'\n`;
}

/** A unit that fails where `script` does, and has nothing more to do. */
export function oneshot(script: string): string {
  return `[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '${script}'\n`;
}

/** The agent's own unit, as nix/agent.nix has it. */
export function agentUnit(extra = '', program = '/fleet/bin/fleet'): string {
  return `[Unit]
X-RestartIfChanged=false
X-StopOnRemoval=false
[Service]
Type=notify
NotifyAccess=all
WatchdogSec=10
Restart=always
RestartSec=1
KillMode=process
ExecStart=${program} agent run --state /var/lib/fleet-agent --poll 1 --unit /run/systemd/system/fleet-agent.service
${extra}`;
}

/** The same where a timer starts it. */
export function timedAgent(extra = ''): Readonly<Record<string, string>> {
  return {
    'fleet-agent.service': `[Unit]
X-RestartIfChanged=false
X-StopOnRemoval=false
[Service]
Type=exec
KillMode=process
ExecStart=/fleet/bin/fleet agent once --state /var/lib/fleet-agent --unit /run/systemd/system/fleet-agent.service
${extra}`,
    'fleet-agent.timer': `[Timer]
OnBootSec=1s
OnUnitInactiveSec=15min
`,
  };
}
