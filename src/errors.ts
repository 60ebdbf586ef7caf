// One error type for everything that fleet refuses or fails at, and the closed list of its codes.
// Each code has an exit status (1 failed, 2 usage, 3 verification refused, 4 some hosts
// failed) and one line of advice, used unless the place that throws knows better.
// docs/ERRORS.md explains every code; test/cli/docs.test.ts compares it with this list both ways.

export type ExitCode = 1 | 2 | 3 | 4;

type Entry = { readonly exit: ExitCode; readonly advice: string };

const entry = (exit: ExitCode, advice: string): Entry => ({ exit, advice });

/** Every error code, by area. Keep sorted within an area. */
export const ERRORS = {
  // usage and configuration
  E_CONFIG: entry(2, 'correct the named field in the configuration file'),
  E_INTERNAL: entry(1, 'this is a fault in fleet; run again with -v and report what it prints'),
  E_USAGE: entry(2, 'see --help'),

  // state directory
  E_DISK_FULL: entry(1, 'free some space and run the same command again; finished work is kept'),
  E_STATE_ACCESS: entry(1, 'run as the owner of the state directory, or as root'),
  E_STATE_BUSY: entry(1, 'try again in a moment'),
  E_STATE_DAMAGED: entry(1, 'restore it from a backup; nothing is repaired by guessing'),
  E_STATE_EXISTS: entry(1, 'choose another --state directory, or use the one that is there'),
  E_STATE_INCOMPLETE: entry(
    1,
    'restore the missing file from a backup; nothing is made up in its place',
  ),
  E_STATE_MISSING: entry(1, 'create it with: fleet init --state DIR'),
  E_STATE_NEWER: entry(1, 'use the fleet version that wrote this state, or a newer one'),

  // what the state holds
  E_CACHE_DAMAGED: entry(
    1,
    'run fleet build again, or push the path again: both store anew what could not be healed',
  ),
  E_CACHE_INCOMPLETE: entry(1, 'run fleet build again: it stores what is missing'),
  E_CLOSURE_LIMIT: entry(
    1,
    'make the system smaller, or raise the limits that stand in the root: fleet root rotate --out DRAFT',
  ),
  E_DECOMMISSIONED: entry(
    1,
    'use another name: the name of a host that was removed is never used again',
  ),
  E_GC_INTERRUPTED: entry(1, 'run fleet cache gc again; what it removed by then was not needed'),
  E_HOST_HELD: entry(1, 'end the hold: fleet host release HOST'),
  E_HOST_NOT_IN_FLAKE: entry(2, 'name one of the nixosConfigurations of the flake'),
  E_HOST_UNKNOWN: entry(1, 'see: fleet host list'),
  E_LEASE_LOST: entry(1, 'another process publishes now; run the same command again'),
  E_PATH_UNKNOWN: entry(1, 'store it with: fleet cache push PATH'),
  E_REBUILT: entry(1, 'build all hosts in one run: fleet build, without naming any'),
  E_SEQUENCE: entry(1, 'run the same command again; if it persists, the state is an old copy'),
  E_UPSTREAM: entry(1, 'check "upstreams" in fleet.json, and that the upstream can be reached'),

  // uploads
  E_PUSH: entry(1, 'run the same command again; what was uploaded is kept'),
  E_REALISATION: entry(1, 'send what Nix itself writes'),
  E_UPLOAD_CA: entry(1, 'the content address is not that of these bytes; upload without it'),
  E_UPLOAD_COMPRESSION: entry(1, 'use compression zstd, xz or none: ?compression=zstd in the URL'),
  E_UPLOAD_CONFLICT: entry(1, 'the first bytes of a path stay; build it again until they agree'),
  E_UPLOAD_LIMIT: entry(1, 'raise uploadMaxBytes in fleet.json, or upload less'),
  E_UPLOAD_MISMATCH: entry(1, 'upload the NAR that the narinfo is about'),
  E_UPLOAD_NAR: entry(1, 'send the NAR again, as nix-store --dump writes it'),
  E_UPLOAD_NO_NAR: entry(1, 'upload the NAR first, then the narinfo'),
  E_UPLOAD_REFERENCES: entry(
    1,
    'list what the NAR refers to; or set uploadReferences to "declared" in fleet.json',
  ),
  E_UPLOAD_REFERENCES_MISSING: entry(1, 'upload what it refers to first: nix copy does'),
  E_UPLOAD_UNSIGNED: entry(1, 'sign it with a key of uploadKeys: nix store sign'),

  // what Nix defines
  E_BASE32: entry(1, 'give the hash in Nix base-32'),
  E_CLOSURE_FORM: entry(3, 'the closure file was not written by fleet, or was changed on the way'),
  E_CLOSURE_MISSING: entry(3, 'the closure leaves a path out; publish the host again'),
  E_CLOSURE_UNREACHABLE: entry(
    3,
    'the closure names a path that the system does not need; do not trust its source',
  ),
  E_HASH: entry(1, 'a hash is sha256:<52 nix32>, sha256:<64 hex> or sha256-<base64>'),
  E_NARINFO: entry(1, 'the narinfo was not written by a Nix cache, or was changed on the way'),
  E_NAR_BAD: entry(1, 'fetch or dump the archive again'),
  E_NAR_CHANGED: entry(1, 'something writes to the store path while it is read; find and stop it'),
  E_NAR_EXISTS: entry(1, 'unpack to a path that does not exist'),
  E_NAR_LIMIT: entry(1, 'the archive is larger than it said; do not trust its source'),
  E_NAR_MISMATCH: entry(3, 'the archive is not the one that was signed; fetch it from elsewhere'),
  E_NAR_TRUNCATED: entry(1, 'the archive ends too early; fetch it again'),
  E_NIX_KEY: entry(
    1,
    'a Nix key is NAME:BASE64, as nix-store --generate-binary-cache-key writes it',
  ),
  E_PACK_BAD: entry(
    3,
    'the server made it wrong or it was changed on the way; NARs are fetched instead',
  ),
  E_PACK_VERSION: entry(1, 'update this host; until then it fetches NARs'),
  E_PATCH_BAD: entry(3, 'the patch is not for what this host has; the NAR is fetched instead'),
  E_STORE_CORRUPT: entry(
    1,
    'check it with: nix-store --verify-path PATH; mend it with: nix-store --repair-path PATH',
  ),
  E_STORE_PATH: entry(1, 'a store path is /nix/store/<32 characters>-<name>'),

  // the nix programs
  E_BUILD: entry(1, 'read the last lines of its log above; nix log DRV shows it all'),
  E_EVAL: entry(1, 'correct the flake; nix eval with --show-trace says more'),
  E_FLAKE: entry(1, 'check --flake: nix flake metadata REF must work'),
  E_HOST_NAME: entry(1, 'rename it in nixosConfigurations: 1 to 63 of a-z, 0-9 and dashes'),
  E_NIX_FAILED: entry(1, 'run the named command by hand to see what Nix says'),
  E_NIX_MISSING: entry(1, 'install Nix (Debian: apt-get install nix-bin)'),
  E_NIX_OUTPUT: entry(1, 'this Nix prints what fleet does not know; report nix --version with it'),
  E_NO_HOSTS: entry(1, 'the flake must provide nixosConfigurations.HOST'),
  E_SOME_HOSTS: entry(4, 'mend the hosts named above and run the command again'),

  // keys, manifests, roots, receipts: what trust is made of
  E_APPROVAL_EXPIRED: entry(3, 'have it approved again: fleet publish --proposal FILE'),
  E_APPROVAL_FORM: entry(3, 'correct the named field; fleet approve makes it'),
  E_APPROVAL_MISSING: entry(3, 'have it approved: fleet publish --proposal FILE, fleet approve'),
  E_APPROVAL_PROOF: entry(3, 'this approval is of other manifests; approve this one'),
  E_APPROVAL_SIGNATURE: entry(3, 'a release key of the newest root must sign: fleet approve'),
  E_APPROVAL_THRESHOLD: entry(3, 'more release keys must sign: fleet approve --approval FILE'),
  E_AUDIT: entry(3, 'each irregularity is named above; ask the admin what it is'),
  E_AUDIT_ENROLMENT: entry(3, 'ask the admin whether this host was enrolled anew'),
  E_AUDIT_LOG: entry(
    3,
    'get the log again; if it stays so, its server does not keep it as it signed it',
  ),
  E_AUDIT_PREVIOUS: entry(3, 'a manifest between the two is not in the log; ask the admin for it'),
  E_AUDIT_RECEIPT: entry(3, 'compare with what the host itself says: fleet agent status'),
  E_AUDIT_REVOKED: entry(3, 'whoever has that key signed this; look at what it told the host'),
  E_AUDIT_SNAPSHOT: entry(3, 'the server did not tell hosts what its log says; keep this log'),
  E_AUDIT_STATE: entry(1, 'move the file of --since away: then the whole log is replayed'),
  E_BUNDLE_FORM: entry(3, 'ask its source for it again; it is read by nothing else than fleet'),
  E_CHECKPOINT: entry(3, 'this is no checkpoint of a log; ask its source for the one of /tlog/'),
  E_CHECKPOINT_OLDER: entry(3, 'the server shows an old log; this host stays on what it has'),
  E_CHECKPOINT_UNSIGNED: entry(3, 'is this the log of this fleet, and the root current?'),
  E_CLOSURE_HASH: entry(3, 'fetch the closure file again; if it stays so, do not trust its source'),
  E_CLOSURE_MISMATCH: entry(
    3,
    'closure file and manifest do not belong together; fetch both again',
  ),
  E_CLOSURE_SIZE: entry(3, 'the closure file has not the signed size; do not trust its source'),
  E_CONSISTENCY: entry(
    3,
    'keep both checkpoints and ask the admin: history was changed, or shown in two forms',
  ),
  E_ENROL_EXPIRED: entry(3, 'ask for a new one: fleet host enroll HOST'),
  E_ENROL_FORM: entry(3, 'ask for a new one: fleet host enroll HOST'),
  E_ENVELOPE: entry(3, 'this is no DSSE envelope of ours, or it was changed on the way'),
  E_EPOCH: entry(3, 'issue the manifests again under the newest root: fleet build'),
  E_FLEET_MISMATCH: entry(3, 'it belongs to another fleet; check which server this host talks to'),
  E_FORK: entry(3, 'keep both checkpoints and ask the admin: this proves two histories'),
  E_FRESHNESS_FUTURE: entry(3, 'correct the clock, here or on the server'),
  E_FRESHNESS_MISSING: entry(
    3,
    'the server must renew the checkpoint: is fleet serve of this version running?',
  ),
  E_HOST_MISMATCH: entry(3, 'it belongs to another host; check the host name on both sides'),
  E_HOST_SETTINGS: entry(1, 'correct services.fleet.agent.settings of that host in the flake'),
  E_HOST_UNGROUPED: entry(
    3,
    'the root must name a group for it; the root of fleet init has one for all hosts',
  ),
  E_KEY_FILE: entry(
    1,
    'a secret key is a PEM file as openssl genpkey -algorithm ed25519 writes it',
  ),
  E_KEY_ROLE: entry(3, 'one key holds one role; use a key of its own'),
  E_LOG_DAMAGED: entry(
    1,
    'restore log/ and fleet.db from one backup; nothing is repaired by guessing',
  ),
  E_LOG_ORIGIN: entry(3, 'fetch the newest root; the log of an older one does not count'),
  E_LOG_PROOF: entry(3, 'this is no .tlog-proof, or it was changed on the way; fetch it again'),
  E_MANIFEST_EXPIRED: entry(3, 'publish anew: fleet build; the host keeps running until then'),
  E_MANIFEST_FORM: entry(3, 'the manifest was signed in a form this version does not know'),
  E_MANIFEST_NOT_YET: entry(3, 'wait until then, or correct the clock'),
  E_MANIFEST_WITHHELD: entry(
    3,
    'it is an old one, or was changed on the way; this host stays on what it has',
  ),
  E_NONCE_CHECKPOINT: entry(
    3,
    'run fleet agent once again; if it stays so, the server does not show its newest log',
  ),
  E_NONCE_FORM: entry(
    3,
    'the server sent no proof of time of the agreed form; is it a fleet server?',
  ),
  E_NONCE_MISSING: entry(
    3,
    'have this clock synchronised (NTP), or set "clock": "trusted" in agent.json if it is right',
  ),
  E_NONCE_OLD: entry(3, 'correct the clock of the server; this host stays on what it has'),
  E_NONCE_OTHER: entry(3, 'an old answer was shown again; do not trust what lies between'),
  E_NONCE_SLOW: entry(3, 'run fleet agent once again on a better line'),
  E_NOTE: entry(3, 'a signed note is a text, a blank line, and lines of signatures'),
  E_NOTE_SIGNATURE: entry(3, 'it was changed on the way, or badly signed; fetch it again'),
  E_NOT_LOGGED: entry(3, 'what is not in the log counts for nothing; do not trust its source'),
  E_OFFER_FORM: entry(3, 'the server sent no offer of the agreed form; is it a fleet server?'),
  E_OFFER_VERSION: entry(3, 'upgrade fleet on this host'),
  E_PAYLOAD_FORM: entry(3, 'signed data must be canonical JSON (RFC 8785) with whole numbers only'),
  E_PUBLIC_KEY: entry(3, 'give 32 bytes of an Ed25519 public key in standard base64'),
  E_RECEIPT_FORM: entry(3, 'the receipt is not of a form this version knows'),
  E_PROPOSAL_FORM: entry(3, 'have it written again: fleet publish --proposal FILE'),
  E_PROPOSAL_STALE: entry(1, 'run fleet build again, and have that approved'),
  E_ROOT_CHAIN: entry(
    3,
    'fetch every root in turn; each is signed by the one before it and itself',
  ),
  E_ROOT_CONFLICT: entry(3, 'two roots bear one version; keep both and ask the admin'),
  E_ROOT_EPOCH: entry(3, 'make it anew: fleet root rotate, with --new-epoch for the next epoch'),
  E_ROOT_EXPIRED: entry(
    3,
    'hosts keep running, and switch again once a newer root is in force: fleet root rotate, sign, import',
  ),
  E_ROOT_FORM: entry(3, 'correct the named field of the root'),
  E_ROOT_OWN_SIGNATURE: entry(3, 'holders of the root keys that it names must sign it too'),
  E_ROOT_SIGNATURE: entry(
    3,
    'holders of the root keys before it must sign it; if they would not, somebody tries to take over',
  ),
  E_ROOT_VERSION: entry(3, 'fetch the newest root, or issue the manifests again under it'),
  E_ROOT_WITHHELD: entry(3, 'the server must offer every root; do not trust one that does not'),
  E_SEQUENCE_CONFLICT: entry(3, 'two manifests bear one number; keep both and ask the admin'),
  E_SEQUENCE_OLDER: entry(3, 'the server shows an old manifest; this host stays on what it has'),
  E_SIGNATURE: entry(3, 'it was changed on the way, or badly signed; fetch it again'),
  E_SIGNATURE_THRESHOLD: entry(3, 'more holders of these keys must sign it'),
  E_SIGNATURE_UNKNOWN_KEY: entry(
    3,
    'none of the keys that count has signed it; is the root current?',
  ),
  E_SNAPSHOT_ENTRY: entry(3, 'the server mixes two states of the log; do not trust its answers'),
  E_SNAPSHOT_FORM: entry(3, 'the log was written in a form this version does not know'),
  E_SNAPSHOT_PROOF: entry(3, 'the server mixes two states of the log; do not trust its answers'),
  E_STALE: entry(
    3,
    'this host keeps running, and switches again once the server can be heard; is fleet serve running?',
  ),
  E_SYSTEM_MISMATCH: entry(3, 'build the host for the system it is'),
  E_TILE: entry(3, 'the log is damaged or was changed on the way; fetch it again'),
  E_TIME: entry(3, 'times are written as 2026-01-31T23:59:59Z'),
  E_TOKEN_REQUEST: entry(3, 'the request was not made by a fleet agent of this fleet'),
  E_VERIFY: entry(3, 'do not trust the refused files'),
  E_WINDOW: entry(
    3,
    'write activation.windows of the host as "Mon..Fri 22:00-05:00 Europe/Berlin", and publish it again',
  ),

  // the agent on a host
  E_AGENT_BUSY: entry(1, 'another fleet agent is at work in this state directory; wait for it'),
  E_AGENT_NOT_ENROLLED: entry(
    1,
    'enrol this host first: fleet agent enroll FILE; if it is enrolled, run as root',
  ),
  E_AGENT_STATE_CORRUPT: entry(
    1,
    'see what would be given up, and repair it: fleet agent reset-trust',
  ),
  E_BODY_LIMIT: entry(
    3,
    'the server sends more than is signed or sensible; do not trust its answers',
  ),
  E_BUNDLE_FROM: entry(
    1,
    'have it made from where this host is: fleet host bundle HOST --from SIZE --out FILE',
  ),
  E_FETCH: entry(1, 'run fleet agent once again; what was fetched is kept'),
  E_HEALTH: entry(
    1,
    'read what the check said; publish a system that passes, or correct activation.health of the host',
  ),
  E_INTERRUPTED: entry(1, 'run the same command again'),
  E_LOCAL_ACCESS: entry(
    1,
    'ask the admin to put you into the group that localGroup of agent.json names; then log in anew',
  ),
  E_LOCAL_DEFERRAL: entry(1, 'put it off for less, or have it applied: fleet agent apply now'),
  E_LOCAL_NOTHING: entry(1, 'see what this host does: fleet agent status'),
  E_LOCAL_NO_AGENT: entry(1, 'start it: systemctl start fleet-agent; or, as root: fleet agent run'),
  E_LOCAL_PROTOCOL: entry(1, 'use the fleet program of the version that the agent has'),
  E_LOCAL_SOCKET: entry(
    1,
    'correct it and start the agent anew; updates go on, only the local group cannot ask for anything',
  ),
  E_LOCAL_WORDS: entry(2, 'write one line of printable text, at most 1024 bytes'),
  E_NAMESPACE: entry(
    1,
    'run as root, or allow unprivileged user namespaces; the machine needs an (empty) /nix directory',
  ),
  E_NARINFO_MISMATCH: entry(3, 'the cache holds another build than the signed one; publish again'),
  E_NARINFO_REFUSED: entry(3, 'the server sends no narinfo of a Nix cache; do not trust it'),
  E_NARINFO_UNSIGNED: entry(3, 'the cache must sign with a key that the root names'),
  E_NAR_REFUSED: entry(3, 'the server sends other bytes than the signed ones; do not trust it'),
  E_NOT_NIXOS: entry(1, 'publish a NixOS system: its toplevel has bin/switch-to-configuration'),
  E_NOT_BOOTED: entry(
    1,
    'find out why the machine did not boot it (its console, the boot menu); publish one that boots',
  ),
  E_NOT_CONFIRMED: entry(
    1,
    'the new system’s own agent has to start and work; publish a system whose agent does',
  ),
  E_NO_WAY_BACK: entry(1, 'ask the admin for another system: fleet agent request TEXT'),
  E_PREFLIGHT: entry(
    1,
    'do what the message asks for, or read the log it names; nothing was changed',
  ),
  E_RECEIPT_REFUSED: entry(1, 'enrol this host again with: fleet host enroll HOST --replace'),
  E_ROLLED_BACK: entry(
    1,
    'publish a newer manifest, or try this one again: fleet agent apply --force',
  ),
  E_SERVER_ANSWER: entry(1, 'check that the URL is that of fleet serve, and its version'),
  E_SERVER_AUTH: entry(1, 'the token is not (or no longer) valid; enrol this host again'),
  E_SERVER_BUSY: entry(1, 'try again later'),
  E_SERVER_LOST: entry(
    1,
    'it is tried again by itself; find out whether the new system, or the line, keeps the host from its server',
  ),
  E_SERVER_SLOW: entry(1, 'try again on a better line, or lower leastBytesPerSecond in agent.json'),
  E_SERVER_UNREACHABLE: entry(1, 'check the network, the URL, and that fleet serve runs'),
  E_STORE_DIVERGES: entry(
    3,
    'set "repair": true in agent.json to have those paths replaced by the signed ones',
  ),
  E_SWITCH_FAILED: entry(1, 'read the switch log named above; publish a system that activates'),
  E_SWITCH_LOCKED: entry(1, 'another switch is going on; run fleet agent once again later'),
  E_SWITCH_TIMEOUT: entry(
    1,
    'find out what hung in the switch log; switchSeconds is in agent.json',
  ),
  E_TOOL_MISSING: entry(1, 'install util-linux, and have its programs on PATH'),
  E_TRUST_BACKWARDS: entry(1, 'run fleet agent once again: what this host trusts is as it was'),
  E_PROXY: entry(1, 'write it as http://HOST:PORT, or unset it'),

  // the server's answers
  E_ENROLLED: entry(1, 'to replace its key: fleet host enroll HOST --replace'),
  E_ENROL_REFUSED: entry(1, 'make a new enrolment file on the server: fleet host enroll HOST'),
  E_FORBIDDEN: entry(1, 'use a token that may do this: fleet token list'),
  E_LISTEN: entry(1, 'choose another --listen HOST:PORT, or stop what uses it'),
  E_NOT_ENROLLED: entry(1, 'enrol it: fleet host enroll HOST'),
  E_NOT_FOUND: entry(1, 'check the address'),
  E_NONCE_USED: entry(
    1,
    'ask with 32 new random bytes; a machine that repeats them may be a clone',
  ),
  E_NO_MANIFEST: entry(1, 'build and publish it on the server: fleet build HOST'),
  E_RATE_LIMITED: entry(1, 'wait a minute and try again'),
  E_RECEIPT_CHAIN: entry(1, 'if the machine was cloned or restored, enrol it anew'),
  E_REQUEST: entry(1, 'correct the request'),
  E_TOKEN_SUCCESSOR: entry(
    1,
    'on the machine that is to stay, enrol anew: fleet host enroll HOST --replace',
  ),
  E_UNAUTHORIZED: entry(1, 'use a token: fleet token create NAME'),
} as const satisfies Record<string, Entry>;

export type ErrorCode = keyof typeof ERRORS;

/**
 * An error with a code that docs/ERRORS.md explains and a hint that says what to do next.
 * The message says in one line what is wrong and names the offending thing.
 */
export class FleetError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  /** Lines that belong to the message, such as the end of a build's log; usually none. */
  readonly details: readonly string[];

  constructor(
    code: ErrorCode,
    message: string,
    options: { hint?: string; cause?: unknown; details?: readonly string[] } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'FleetError';
    this.code = code;
    this.hint = options.hint ?? ERRORS[code].advice;
    this.details = options.details ?? [];
  }

  get exitCode(): ExitCode {
    return ERRORS[this.code].exit;
  }
}

/** True when `error` is a FleetError, of one of `codes` when any are given. */
export function isFleetError(error: unknown, ...codes: ErrorCode[]): error is FleetError {
  return error instanceof FleetError && (codes.length === 0 || codes.includes(error.code));
}

/** The `code` of a Node system error (`ENOENT`, `ENOSPC`, …), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : undefined;
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
