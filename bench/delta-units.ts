// About as many units as a NixOS machine has, as texts with marks for what they name: @PACKAGE@ for the store path of a
// package, @UNIT@ for that of a unit before it. The same in every run.
import { PACKAGES } from './delta-packages.ts';

export type Unit = {
  readonly name: string;
  readonly text: string;
  /** Units that it names; all before it. */
  readonly after: readonly string[];
};

const COUNT = 400;
const WORDS =
  'network storage session backup mail cache index login device volume key time log print scan sync proxy route user audio'.split(
    ' ',
  );
const PROGRAMS = new Map([
  ['glibc', 'bin/getent'],
  ['bash', 'bin/bash'],
  ['perl', 'bin/perl'],
  ['openssl', 'bin/openssl'],
  ['curl', 'bin/curl'],
  ['python3', 'bin/python3.11'],
  ['systemd', 'bin/systemctl'],
  ['nginx', 'sbin/nginx'],
  ['openssh', 'sbin/sshd'],
  ['git', 'bin/git'],
  ['postgresql', 'lib/postgresql/15/bin/postgres'],
]);
const HARDENING = [
  'PrivateTmp=true',
  'ProtectHome=true',
  'ProtectSystem=strict',
  'NoNewPrivileges=true',
  'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6',
  'SystemCallFilter=@system-service',
  'CapabilityBoundingSet=',
  'LockPersonality=true',
  'MemoryDenyWriteExecute=true',
  'RestrictNamespaces=true',
];

export function makeUnits(): Unit[] {
  const random = generator(2463534242);
  const below = (limit: number): number => random() % limit;
  const some = <T>(from: readonly T[], count: number): T[] => {
    const rest = [...from];
    return Array.from({ length: Math.min(count, rest.length) }, () =>
      rest.splice(below(rest.length), 1),
    ).flat();
  };
  const units: Unit[] = [];
  const packages = PACKAGES.map(({ name }) => name);
  for (let index = 0; index < COUNT; index++) {
    const words = some(WORDS, 2);
    const name = `${words.join('-')}-${index}.service`;
    const named = some(packages, 1 + below(4));
    const after = some(
      units.slice(-40).map((unit) => unit.name),
      below(3),
    );
    const program = `@${named[0]}@/${PROGRAMS.get(named[0] ?? '') ?? 'bin/sh'}`;
    const options = Array.from(
      { length: 1 + below(24) },
      () => `--${some(WORDS, 2).join('-')}=${random().toString(36)}`,
    );
    const lines = [
      '[Unit]',
      `Description=${words.join(' ')} service, number ${index}`,
      `After=network.target ${after.join(' ')}`.trimEnd(),
      ...after.map((unit) => `X-Restart-Triggers=@${unit}@/${unit}`),
      '',
      '[Service]',
      `Environment="PATH=${named.map((one) => `@${one}@/bin:@${one}@/sbin`).join(':')}"`,
      'Environment="TZDIR=/etc/zoneinfo"',
      `ExecStart=${program} ${options.join(' ')}`,
      ...named.slice(1, 2).map((one) => `ExecStartPre=@${one}@/${PROGRAMS.get(one)}`),
      'Restart=on-failure',
      `RestartSec=${1 + below(60)}`,
      `User=${words[0]}`,
      `StateDirectory=${words.join('-')}`,
      ...some(HARDENING, below(HARDENING.length)),
      '',
      '[Install]',
      'WantedBy=multi-user.target',
      '',
    ];
    units.push({ name, text: lines.join('\n'), after });
  }
  return units;
}

/** Marsaglia's xorshift: 32 bits at a time. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}
