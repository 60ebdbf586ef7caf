// fleet root show|rotate|sign|import: which keys and rules the fleet trusts, and how they change. What needs a
// key that is kept elsewhere goes by files, in and out: `rotate` writes a draft, `sign` adds a signature
// wherever the key is (or takes one that openssl made), `import` puts the signed root in force.
import type { Command } from 'commander';
import { writeDurable } from '../src/durable.ts';
import { FleetError, isFleetError } from '../src/errors.ts';
import { keyId, type PublicKey, parsePublicKeyFile } from '../src/keyfile.ts';
import { type Envelope, pae, verifiedBy } from '../src/manifest/dsse.ts';
import { parseRoot, type Root, roleOfKey } from '../src/manifest/root.ts';
import { keyUses } from '../src/manifest/root-form.ts';
import {
  DRAFT_ADVICE,
  type KeyedRole,
  openDraft,
  parseCacheKey,
  ROLES,
  SINGLE_ROLES,
} from '../src/manifest/rotate.ts';
import { formatTime } from '../src/manifest/time.ts';
import { writeDraft } from './draft.ts';
import { readInput } from './input.ts';
import { writeNew } from './new-file.ts';
import { counted, type Globals, globalsOf, placedText, print, table } from './output.ts';
import { withSignature } from './signature.ts';
import { withStateDir } from './state.ts';

type Rotate = {
  out: string;
  days: string;
  key: string[];
  threshold: string[];
  revoke: string[];
  newEpoch?: boolean;
  newLog?: boolean;
  anchor?: boolean;
};
type Sign = { out?: string; key?: string; signature?: string; publicKey?: string; pae?: string };

const collect = (value: string, all: string[]): string[] => [...all, value];

export function registerRoot(program: Command): void {
  const root = program.command('root').description('the keys and rules that the fleet trusts');
  root
    .command('show')
    .argument('[file]', 'a root or a draft (default: the newest root of the state)')
    .description('show a root: version, keys, thresholds, groups, log')
    .action(async (file: string | undefined, _options, command: Command) => {
      const globals = globalsOf(command);
      if (file !== undefined) return show(globals, openNamed(file, await readInput(file)));
      await withStateDir(globals, async ({ roots }) => {
        show(globals, openDraft(roots.at(-1)?.envelope ?? ''));
      });
    });
  root
    .command('rotate')
    .requiredOption('--out <file>', 'where to write the draft')
    .option('--days <n>', 'valid for so many days', '365')
    .option(
      '--key <role=file>',
      'a public key of a role, in place of all it had; repeat',
      collect,
      [],
    )
    .option(
      '--threshold <role=n>',
      'how many keys of root, release or director must sign',
      collect,
      [],
    )
    .option('--revoke <key-id>', 'take a key its role, and name it as revoked; repeat', collect, [])
    .option('--new-epoch', 'hosts forget the sequence numbers of before')
    .option('--new-log', 'begin another log, after a restore from a backup')
    .option('--anchor', 'every log shown to hosts must go on from the one of now')
    .description('write a draft of the next root, to be signed')
    .action(async (options: Rotate, command: Command) => await rotate(options, command));
  root
    .command('sign')
    .argument('<file>', 'a draft, or a root that others signed before')
    .option('--out <file>', 'where to write the signed root (default: back to FILE)')
    .option('--key <file>', 'sign with this secret key, PEM')
    .option('--signature <file>', 'add this signature, 64 bytes, made by another program')
    .option('--public-key <file>', 'whose signature it is')
    .option('--pae <file>', 'write the bytes that are to be signed, and sign nothing')
    .description('add a signature to a root; needs no state')
    .action(async (file: string, options: Sign, command: Command) => {
      await signFile(file, options, globalsOf(command));
    });
  root
    .command('import')
    .argument('<file>', 'the root, signed by enough keys of the last one and its own')
    .description('put a root in force, and issue every manifest again under it')
    .action(async (file: string, _options, command: Command) => {
      const globals = globalsOf(command);
      const bytes = await readInput(file);
      openNamed(file, bytes);
      const text = bytes.toString('utf8');
      const { importRoot } = await import('../src/server/import-root.ts');
      await withStateDir(globals, async (dir) => {
        const done = await importRoot(dir, text, Math.floor(Date.now() / 1000));
        const hosts = done.reissued.map(({ host }) => host);
        const waiting = done.waiting.map(({ host }) => host);
        const { removed, isNew } = done;
        const { version, expiresAt } = done.root;
        print(
          globals,
          { version: 1, rootVersion: version, isNew, reissued: hosts, waiting, removed },
          [
            `Root version ${version} is ${isNew ? 'now' : 'already'} in force, until ${formatTime(expiresAt)}.`,
            `${counted(hosts.length, 'manifest')} ${hosts.length === 1 ? 'was' : 'were'} issued again under it.`,
            ...(removed.length === 0
              ? []
              : [`Removed, since no approval is wanted for it any more: ${removed.join(', ')}`]),
            ...(waiting.length === 0
              ? []
              : [
                  placedText(
                    globals,
                    `Waiting for approval: ${waiting.join(', ')} (fleet publish --proposal FILE)`,
                  ),
                ]),
          ].join('\n'),
        );
      });
    });
}

async function rotate(options: Rotate, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const days = Number(options.days);
  if (!(Number.isInteger(days) && days >= 1 && days <= 3650)) {
    throw new FleetError('E_USAGE', '--days wants a whole number from 1 to 3650');
  }
  const keys = new Map<KeyedRole, PublicKey[]>();
  const cacheKeys: string[] = [];
  for (const [role, file] of options.key.map(pairOf)) {
    const text = (await readInput(file)).toString('utf8').trim();
    if (role === 'cache') cacheKeys.push(parseCacheKey(text));
    else keys.set(roleOf(role), [...(keys.get(roleOf(role)) ?? []), parsePublicKeyFile(text)]);
  }
  const thresholds = new Map(
    options.threshold.map(pairOf).map(([role, n]) => {
      const known = ROLES.find((one) => one === role);
      if (known === undefined || !/^[1-9]\d?$/.test(n)) {
        throw new FleetError(
          'E_USAGE',
          `--threshold wants one of ${ROLES.join(', ')}, = and a number`,
        );
      }
      return [known, Number(n)] as const;
    }),
  );
  await writeDraft(globals, options.out, {
    days,
    keys,
    cacheKeys: cacheKeys.length === 0 ? null : cacheKeys,
    thresholds,
    revoke: options.revoke,
    newEpoch: options.newEpoch === true,
    newLog: options.newLog === true,
    anchor: options.anchor === true,
  });
}

async function signFile(file: string, options: Sign, globals: Globals): Promise<void> {
  const envelope = openNamed(file, await readInput(file));
  const chosen = [options.key, options.signature, options.pae].filter((one) => one !== undefined);
  if (
    chosen.length !== 1 ||
    (options.signature === undefined) !== (options.publicKey === undefined)
  ) {
    throw new FleetError('E_USAGE', 'give --key, or --pae, or --signature and --public-key');
  }
  if (options.pae !== undefined) {
    await writeNew(options.pae, pae(envelope.payloadType, envelope.payload));
    const text = `The bytes to be signed are in ${options.pae}.`;
    return print(globals, { version: 1, file: options.pae }, text);
  }
  const root = parseRoot(envelope.payload);
  const { keys, threshold } = root.roles.root;
  const { key, text } = await withSignature(envelope, options);
  requireRootKey(root, key);
  const out = options.out ?? file;
  await writeDurable(out, text);
  const own = verifiedBy(openDraft(text), keys).length;
  print(
    globals,
    { version: 1, file: out, rootVersion: root.version, signedBy: keyId(key), ownSignatures: own },
    [
      `Signed by ${keyId(key)}: ${out}`,
      `Of its own root keys ${own} of ${threshold} have signed. (Those of the version before are counted on import.)`,
      ...(keys.includes(key)
        ? []
        : [`${keyId(key)} is none of them: it counts only as a root key of the version before.`]),
    ].join('\n'),
  );
}

/**
 * A key that has another role in it is no root key; that one of before takes another role is not foreseen. Of keys that
 * have none, only the root before it could say more, and that is not here. @throws FleetError E_KEY_ROLE.
 */
function requireRootKey(root: Root, key: PublicKey): void {
  const role = roleOfKey(root, key);
  if (role === null || role === 'root') return;
  const what = `${keyId(key)} is a ${role} key of this root, and no root key`;
  const may = root.roles.root.keys.map(keyId).join(', ');
  throw new FleetError('E_KEY_ROLE', what, {
    hint: `these may sign it: ${may}, and the root keys of the version before`,
  });
}

/** What is wrong with it is told with its name. */
function openNamed(file: string, bytes: Buffer): Envelope {
  try {
    return openDraft(bytes.toString('utf8'));
  } catch (cause) {
    if (!isFleetError(cause)) throw cause;
    const { code, message, hint } = cause;
    const isOther = code === 'E_ENVELOPE' || code === 'E_PAYLOAD_FORM';
    const advice = isOther ? DRAFT_ADVICE : hint;
    throw new FleetError(code, `${file}: ${message}`, { hint: advice, cause });
  }
}

function show(globals: Globals, { payload }: Envelope): void {
  const root = parseRoot(payload);
  const uses = keyUses(root);
  const ids = (role: string): string =>
    uses
      .filter((use) => use.role === role)
      .map(({ key }) => keyId(key))
      .join(', ');
  const rows = [...ROLES, ...SINGLE_ROLES, 'cache'].map((role) => {
    const named = ROLES.find((one) => one === role);
    return [role, named === undefined ? '' : String(root.roles[named].threshold), ids(role)];
  });
  const { anchor, origin } = root.log;
  print(
    globals,
    { version: 1, root: documentOf(root) },
    [
      `fleet ${root.fleet}, root version ${root.version}, epoch ${root.epoch}`,
      `issued ${formatTime(root.issuedAt)}, expires ${formatTime(root.expiresAt)}`,
      '',
      table([['ROLE', 'NEEDS', 'KEYS'], ...rows]),
      '',
      `log ${origin}, from entry ${anchor.size} on; checkpoints are good for ${root.maxAge} s`,
      ...root.groups.map(
        ({ name, hosts, approvals }) =>
          `group ${name}: ${hosts.join(', ')}; ${counted(approvals, 'approval')}`,
      ),
      ...root.revoked.map(
        ({ key, notAfterIndex }) => `revoked ${keyId(key)} after entry ${notAfterIndex}`,
      ),
    ].join('\n'),
  );
}

function documentOf(root: Root): unknown {
  const keys = keyUses(root).map(({ key, role }) => ({ role, keyId: keyId(key), publicKey: key }));
  return { ...root, keys };
}

function pairOf(text: string): readonly [string, string] {
  const at = text.indexOf('=');
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)];
  throw new FleetError('E_USAGE', `"${text}" is not of the form ROLE=VALUE`);
}

function roleOf(text: string): KeyedRole {
  const role = [...ROLES, ...SINGLE_ROLES].find((one) => one === text);
  if (role !== undefined) return role;
  const all = [...ROLES, ...SINGLE_ROLES, 'cache'].join(', ');
  throw new FleetError('E_USAGE', `there is no role ${text}`, { hint: `the roles are: ${all}` });
}
