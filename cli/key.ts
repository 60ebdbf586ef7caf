// fleet key list|generate|export|revoke: the secret keys of the server and of those who sign for the fleet,
// each for one purpose. `generate --out` and files work on any machine; the others look into the state.
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { createDurable, removeDurable } from '../src/durable.ts';
import { generateSecretKey } from '../src/ed25519.ts';
import { FleetError } from '../src/errors.ts';
import {
  formatSecretKey,
  keyId,
  type PublicKey,
  parsePublicKeyFile,
  parseSecretKey,
  publicKeyOfSecret,
} from '../src/keyfile.ts';
import { type Root, roleOfKey } from '../src/manifest/root.ts';
import { keyUses } from '../src/manifest/root-form.ts';
import { parseCacheKey, ROLES, SINGLE_ROLES } from '../src/manifest/rotate.ts';
import {
  formatNixPublicKey,
  formatNixSecretKey,
  generateNixKey,
  nixPublicKeyOf,
} from '../src/nix/signature.ts';
import type { StateDir } from '../src/server/statedir.ts';
import { NO_CHANGES, writeDraft } from './draft.ts';
import { readInput } from './input.ts';
import { writeNew } from './new-file.ts';
import { globalsOf, print, table } from './output.ts';
import { withStateDir } from './state.ts';

const KINDS = [...ROLES, ...SINGLE_ROLES, 'cache'] as const;
type Kind = (typeof KINDS)[number];

export function registerKey(program: Command): void {
  const key = program.command('key').description('secret keys, each for one purpose');
  key
    .command('list')
    .description('show which keys the root names, and where they are')
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      await withStateDir(globals, async (dir) => {
        const rows = await keysOf(dir);
        print(
          globals,
          { version: 1, keys: rows },
          table([
            ['ROLE', 'KEY', 'IN THE ROOT', 'FILE'],
            ...rows.map(({ role, keyId: id, isNamed, file }) => [
              ...[role, id, isNamed ? 'yes' : 'no', file ?? 'not on this server'],
            ]),
          ]),
        );
      });
    });
  key
    .command('generate')
    .argument('<role>', `what it is for: ${KINDS.join(', ')}`)
    .option('--out <file>', 'write it there, and its public key beside it; needs no state')
    .description('make a new secret key')
    .action(async (text: string, options: { out?: string }, command: Command) => {
      const globals = globalsOf(command);
      const role = kindOf(text);
      if (options.out !== undefined) {
        const made = makeKey(role, 'cache-1');
        await writeNew(options.out, made.secret, 0o600);
        await writeNew(`${options.out}.pub`, `${made.publicKey}\n`);
        const files = { file: options.out, publicKeyFile: `${options.out}.pub` };
        return print(
          globals,
          { version: 1, role, keyId: made.id, publicKey: made.publicKey, ...files },
          `${role} key ${made.id} is in ${options.out}; the root needs ${options.out}.pub`,
        );
      }
      if (role === 'root' || role === 'release') {
        throw new FleetError('E_USAGE', `a ${role} key has no place on the server`, {
          hint: `run it where the key is to be: fleet key generate ${role} --out FILE`,
        });
      }
      await withStateDir(globals, async ({ layout, config }) => {
        const stamp = Date.now().toString(36);
        const made = makeKey(role, `${config.fleet}-${stamp}`);
        const name = `${role}-${made.id}.${role === 'cache' ? 'sec' : 'pem'}`;
        const file = layout.key(name);
        await createDurable(file, made.secret, 0o600);
        await createDurable(`${file}.pub`, `${made.publicKey}\n`);
        print(
          globals,
          { version: 1, role, keyId: made.id, publicKey: made.publicKey, file },
          [
            `${role} key ${made.id} is in ${file}.`,
            `It counts once a root names it: fleet root rotate${globals.stateOption} --key ${role}=${file}.pub --out DRAFT`,
          ].join('\n'),
        );
      });
    });
  key
    .command('export')
    .argument('<role>', 'which key of the server: root, release, …')
    .requiredOption('--out <file>', 'where to write it, such as a USB stick')
    .option('--move', 'and remove it from the server once it is written and read back')
    .description('copy or move a secret key off the server')
    .action(async (text: string, options: { out: string; move?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const role = kindOf(text);
      if (role === 'cache') throw new FleetError('E_USAGE', 'a cache key stays on the server');
      const { SERVER_ROLES } = await import('../src/server/statedir.ts');
      await withStateDir(globals, async ({ layout, root }) => {
        const file = layout.key(`${role}.pem`);
        if (!(await isThere(file))) {
          throw new FleetError('E_USAGE', `the ${role} key is not on this server: no ${file}`, {
            hint: 'it is where it was moved to, or was made; fleet key list says which keys are here',
          });
        }
        const secret = parseSecretKey((await readInput(file)).toString('utf8'));
        const inUse = roleOfKey(root, publicKeyOfSecret(secret));
        if (options.move === true && SERVER_ROLES.some((one) => one === inUse)) {
          throw new FleetError('E_USAGE', `the server signs with ${file} all the time`, {
            hint: 'copy it without --move; it can be moved once a root names another in its place',
          });
        }
        await writeNew(options.out, formatSecretKey(secret), 0o600);
        const copy = parseSecretKey((await readInput(options.out)).toString('utf8'));
        if (publicKeyOfSecret(copy) !== publicKeyOfSecret(secret)) {
          throw new FleetError('E_KEY_FILE', `${options.out} was not written as it should be`);
        }
        if (options.move === true) await removeDurable(file);
        const id = keyId(publicKeyOfSecret(secret));
        const isMoved = options.move === true;
        print(
          globals,
          { version: 1, role, keyId: id, file: options.out, moved: isMoved },
          isMoved
            ? `${role} key ${id} is in ${options.out}, and no more on this server. Keep a second copy elsewhere.`
            : `${role} key ${id} is in ${options.out}, and still in ${file}: --move removes it there`,
        );
      });
    });
  key
    .command('revoke')
    .argument('<key-id>', 'see: fleet key list')
    .requiredOption('--out <file>', 'where to write the draft of a root without the key')
    .option('--successor <file>', 'the public key that takes its place')
    .description('draft a root that revokes a key')
    .action(async (id: string, options: { out: string; successor?: string }, command: Command) => {
      const globals = globalsOf(command);
      const { successor } = options;
      const text = successor === undefined ? null : (await readInput(successor)).toString('utf8');
      const { role, key, others } = await withStateDir(globals, async ({ root }) =>
        useOf(root, id),
      );
      const changes = { ...NO_CHANGES, revoke: [key] };
      if (text === null) {
        if (others.length === 0) throw onlyKey(role, id);
        return writeDraft(globals, options.out, changes);
      }
      await writeDraft(
        globals,
        options.out,
        role === 'cache'
          ? { ...changes, cacheKeys: [...others, parseCacheKey(text.trim())] }
          : {
              ...changes,
              keys: new Map([[role, [...(others as PublicKey[]), parsePublicKeyFile(text)]]]),
            },
      );
    });
}

type Row = { role: string; keyId: string; isNamed: boolean; file: string | null };

/** Every key that the newest root names or that lies in the state, by role. */
async function keysOf({ layout, root, cacheKeys }: StateDir): Promise<Row[]> {
  const rows: Row[] = [];
  const here = new Set<PublicKey>();
  for (const name of (await readdir(layout.keys)).filter((one) => one.endsWith('.pem')).sort()) {
    const file = join(layout.keys, name);
    const key = publicKeyOfSecret(parseSecretKey((await readInput(file)).toString('utf8')));
    here.add(key);
    const role = roleOfKey(root, key);
    rows.push({ role: role ?? roleOfName(name), keyId: keyId(key), isNamed: role !== null, file });
  }
  const named = new Set(cacheKeys.map((key) => formatNixPublicKey(nixPublicKeyOf(key))));
  for (const text of new Set([...root.cache.keys, ...named])) {
    const isNamed = root.cache.keys.includes(text);
    const file = named.has(text) ? layout.keys : null;
    rows.push({ role: 'cache', keyId: text.split(':')[0] ?? '', isNamed, file });
  }
  for (const { key, role } of keyUses(root)) {
    if (role === 'cache' || here.has(key)) continue;
    rows.push({ role, keyId: keyId(key), isNamed: true, file: null });
  }
  const order = (role: string): number => KINDS.indexOf(role as Kind);
  return rows.sort((a, b) => order(a.role) - order(b.role));
}

/** A key that the root names, and the other keys of its role as the root writes them. */
function useOf(root: Root, id: string): { role: Kind; key: PublicKey; others: readonly string[] } {
  const uses = keyUses(root);
  const cacheKey = root.cache.keys.find((text) => text.split(':')[0] === id)?.split(':')[1];
  const use = uses.find(({ key }) => keyId(key) === id || key === (cacheKey ?? id));
  if (use === undefined) {
    throw new FleetError('E_USAGE', `root version ${root.version} has no key ${id}`, {
      hint: 'see: fleet key list',
    });
  }
  const role = kindOf(use.role);
  const { key } = use;
  const others =
    role === 'cache'
      ? root.cache.keys.filter((text) => text.split(':')[1] !== key)
      : uses.filter((one) => one.role === role && one.key !== key).map((one) => one.key);
  return { role, key, others };
}

/** What has no other key is revoked by naming another. */
function onlyKey(role: Kind, id: string): FleetError {
  const place = role === 'root' || role === 'release' ? ' --out FILE' : '';
  return new FleetError('E_USAGE', `${id} is the only ${role} key, and there must be one`, {
    hint: `make another with fleet key generate ${role}${place}, and add --successor FILE.pub`,
  });
}

async function isThere(file: string): Promise<boolean> {
  return (await stat(file).catch(() => null)) !== null;
}

function roleOfName(name: string): string {
  return /^([a-z]+)[-.]/.exec(name)?.[1] ?? '';
}

function makeKey(role: Kind, cacheName: string): { secret: string; publicKey: string; id: string } {
  if (role === 'cache') {
    const key = generateNixKey(cacheName);
    const publicKey = formatNixPublicKey(nixPublicKeyOf(key));
    return { secret: `${formatNixSecretKey(key)}\n`, publicKey, id: cacheName };
  }
  const secret = generateSecretKey();
  const publicKey = publicKeyOfSecret(secret);
  return { secret: formatSecretKey(secret), publicKey, id: keyId(publicKey) };
}

function kindOf(text: string): Kind {
  const kind = KINDS.find((one) => one === text);
  if (kind !== undefined) return kind;
  throw new FleetError('E_USAGE', `there is no role ${text}`, {
    hint: `the roles are: ${KINDS.join(', ')}`,
  });
}
