// fleet host list|show|enroll: the hosts of the fleet, and the one-time file that enrols one. (host-remove.ts ends one.)
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { Command } from 'commander';
import { parseBaseUrl } from '../src/config.ts';
import { createDurable, makeDirectoryDurable, writeDurable } from '../src/durable.ts';
import { errnoOf, FleetError, isFleetError, messageOf } from '../src/errors.ts';
import { fingerprint, parsePublicKey } from '../src/keyfile.ts';
import { formatEnrolFile } from '../src/manifest/enrol-file.ts';
import { isHostId } from '../src/manifest/fields.ts';
import { formatTime } from '../src/manifest/time.ts';
import type { StateDir } from '../src/server/statedir.ts';
import { exceptionsIn, type HostStatus, hostStatus, requestsIn } from '../src/server/status.ts';
import { generateEnrolSecret, hashToken } from '../src/server/tokens.ts';
import type { PublishedManifest } from '../src/storage/state.ts';
import { registerHostBundle } from './host-bundle.ts';
import { exportRecords } from './host-export.ts';
import { registerHostHold } from './host-hold.ts';
import { registerHostRemove } from './host-remove.ts';
import { fetchingText, globalsOf, print, printable, say, table } from './output.ts';
import { withStateDir } from './state.ts';
import { heldText, waitingText } from './status.ts';

type EnrollOptions = { output?: string; server?: string; hours?: string; replace?: boolean };

const DEFAULT_HOURS = 24;

export function registerHost(program: Command): void {
  const host = program.command('host').description('the hosts of the fleet');
  host
    .command('list')
    .description('list all hosts')
    .action(async (_options, command: Command) => {
      const globals = globalsOf(command);
      await withStateDir(globals, async ({ state }) => {
        const rows = (await state.status()).map(({ record, manifest }) => ({
          host: record.host,
          enrolled: record.publicKey !== null,
          published: manifest !== null,
          removed: manifest !== null && manifest.toplevel === null,
        }));
        const yes = (value: boolean): string => (value ? 'yes' : 'no');
        print(
          globals,
          { version: 1, hosts: rows },
          table([
            ['HOST', 'PUBLISHED', 'ENROLLED'],
            ...rows.map((row) => [
              row.host,
              row.removed ? 'removed' : yes(row.published),
              yes(row.enrolled),
            ]),
          ]),
        );
      });
    });
  host
    .command('show')
    .argument('<host>')
    .option('--export <dir>', 'write its manifest, closure file and the root there, for an auditor')
    .description('show all that is known of one host')
    .action(async (name: string, options: { export?: string }, command: Command) => {
      const globals = globalsOf(command);
      const { waitingOf } = await import('../src/server/waiting.ts');
      await withStateDir(globals, async (dir) => {
        const { state } = dir;
        const row = (await state.status()).find(({ record }) => record.host === name);
        if (row === undefined) {
          throw new FleetError('E_HOST_UNKNOWN', `there is no host named ${printable(name)}`);
        }
        if (options.export !== undefined) {
          await exportManifest(dir, row.manifest, options.export);
          await exportRecords(dir, name, options.export);
        }
        const now = Math.floor(Date.now() / 1000);
        const waiting = (await waitingOf(dir, now)).get(name) ?? null;
        const status = { ...hostStatus(row, now), waiting };
        const receipts = await state.receipts(name);
        const told = exceptionsIn(receipts);
        const requests = requestsIn(receipts);
        const key = row.record.publicKey === null ? null : parsePublicKey(row.record.publicKey);
        const time = (at: number | null | undefined): string => (at == null ? '-' : formatTime(at));
        print(
          globals,
          {
            version: 1,
            ...status,
            allExceptions: told,
            requests,
            publicKey: key,
            fingerprint: key && fingerprint(key),
          },
          table([
            ['phase', status.phase],
            ['why', printable(status.why?.text ?? '-')],
            ...(status.fetching === null
              ? []
              : [
                  [
                    '  so far',
                    `${fetchingText(status.fetching)} (${time(status.fetching.toldAt)})`,
                  ],
                ]),
            ['desired', desiredOf(status)],
            ['  sequence', String(status.desired?.sequence ?? '-')],
            ['  issued', time(status.desired?.issuedAt)],
            ['  expires', time(status.desired?.expiresAt)],
            ...(status.desired?.emergency ? [['  EMERGENCY', 'it waits for nothing']] : []),
            ...(waiting === null ? [] : [['waiting', printable(waitingText(waiting))]]),
            ...(status.held === null ? [] : [['held', printable(heldText(status.held))]]),
            ['current', status.actual?.current ?? '-'],
            ['booted', status.actual?.booted ?? '-'],
            ['profile', status.actual?.profile ?? '-'],
            ['last seen', time(status.lastSeen)],
            ...(status.conflict === null
              ? []
              : [['CLONED?', `${status.conflict.text} (since ${time(status.conflict.since)})`]]),
            ...told.map(({ exception, counter, at }) => [
              'root there',
              `${exception} (receipt ${counter}, ${time(at)})`,
            ]),
            ...requests.map(({ number, text, who, at }) => [
              'asks',
              `${printable(text)} (${who}, number ${number}, ${time(at)})`,
            ]),
            ['enrolled', time(row.record.enrolledAt)],
            ['host key', key === null ? '-' : fingerprint(key)],
          ]),
        );
      });
    });
  host
    .command('enroll')
    .argument('<host>')
    .description('write the one-time file that enrols a machine as this host')
    .option('-o, --output <file>', 'where to write it (default: HOST.enroll.json; - for stdout)')
    .option('--server <url>', 'where the host reaches the server (default: url of fleet.json)')
    .option('--hours <n>', `how long the file is good for (default: ${DEFAULT_HOURS})`)
    .option('--replace', 'the host is enrolled already: its key will be replaced')
    .action(async (name: string, options: EnrollOptions, command: Command) => {
      const globals = globalsOf(command);
      if (!isHostId(name)) {
        throw new FleetError('E_USAGE', `"${printable(name)}" cannot be a host's name`, {
          hint: 'a host has 1 to 63 of: a-z, 0-9, hyphen',
        });
      }
      const hours = Number(options.hours ?? DEFAULT_HOURS);
      if (!(Number.isInteger(hours) && hours >= 1 && hours <= 24 * 365)) {
        throw new FleetError('E_USAGE', '--hours wants a whole number from 1 to 8760');
      }
      await withStateDir(globals, async ({ state, config, root, roots }) => {
        if ((await state.currentManifest(name))?.toplevel === null) {
          throw new FleetError('E_DECOMMISSIONED', `${name} was removed from the fleet`);
        }
        const known = await state.host(name);
        if (known?.publicKey != null && options.replace !== true) {
          throw new FleetError('E_ENROLLED', `${name} is enrolled already`, {
            hint: `if its machine lost its key or is replaced, say so with --replace`,
          });
        }
        const server = serverUrl(options.server, config.url);
        const secret = generateEnrolSecret();
        const expiresAt = Math.floor(Date.now() / 1000) + hours * 3600;
        const text = formatEnrolFile({
          server,
          fleet: root.fleet,
          host: name,
          root: roots.at(-1)?.envelope ?? '',
          secret,
          expiresAt,
          ...(config.upstreams.length === 0
            ? {}
            : { upstreams: config.upstreams.map(({ url }) => url) }),
        });
        const file = options.output ?? `${name}.enroll.json`;
        // The file first: an invitation that nobody holds would only replace one that somebody has.
        if (file !== '-') await writeSecretFile(file, text);
        await state.invite({ secretHash: hashToken(secret), host: name, expiresAt });
        if (file === '-') process.stdout.write(text);
        else {
          print(
            globals,
            { version: 1, host: name, file, server, expiresAt },
            `${file} enrols one machine as ${name}, until ${formatTime(expiresAt)}.\nBring it there and run:  fleet agent enroll ${file}`,
          );
        }
        if ((await state.currentManifest(name)) === null) {
          const others = (await state.currentManifests()).map((manifest) => manifest.host);
          const known = others.length === 0 ? '' : `; there are manifests for ${others.join(', ')}`;
          say(globals, `note: nothing is published for ${name} yet${known}`);
        }
      });
    });
  registerHostBundle(host);
  registerHostRemove(host);
  registerHostHold(host);
}

/** Writes what `fleet verify` needs: the manifest as it was published, its proofs, its closure file, the roots. */
async function exportManifest(
  dir: StateDir,
  manifest: PublishedManifest | null,
  to: string,
): Promise<void> {
  const { blobs, roots } = dir;
  if (manifest === null) throw new FleetError('E_NO_MANIFEST', 'nothing is published for it yet');
  const { host, sequence, envelope, closure } = manifest;
  const name = `${host}-${sequence}.manifest.json`;
  const { proofFiles } = await import('./host-proof.ts');
  const proofs = await proofFiles(dir, manifest, name);
  // One that ends the host has none.
  const stream = closure === null ? null : await blobs.get(closure);
  if (stream === null && closure !== null) {
    throw new FleetError('E_CACHE_INCOMPLETE', `its closure file is missing`);
  }
  try {
    await makeDirectoryDurable(to);
    await writeDurable(join(to, name), envelope);
    for (const [file, text] of proofs) await writeDurable(join(to, file), text);
    if (stream !== null) {
      await writeDurable(join(to, `${host}-${sequence}.closure.fp`), await buffer(stream));
    }
    for (const { root, envelope: text } of roots) {
      await writeDurable(join(to, `${root.version}.root.json`), text);
    }
  } catch (cause) {
    const why = isFleetError(cause) ? cause.message : `cannot write to ${to}: ${errnoOf(cause)}`;
    throw new FleetError('E_USAGE', why, { hint: 'choose another place with --export', cause });
  }
}

function desiredOf({ desired }: HostStatus): string {
  return desired === null ? '-' : (desired.toplevel ?? 'nothing: it is removed');
}

function serverUrl(given: string | undefined, configured: string | null): string {
  if (given === undefined && configured !== null) return configured;
  if (given === undefined) {
    throw new FleetError('E_USAGE', 'no server URL is known that the host could use', {
      hint: 'give it with --server URL, or set "url" in fleet.json',
    });
  }
  try {
    return parseBaseUrl(given);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--server ${given}: it ${messageOf(cause)}`, { cause });
  }
}

async function writeSecretFile(file: string, text: string): Promise<void> {
  try {
    await createDurable(file, text, 0o600);
  } catch (cause) {
    const why = isFleetError(cause) ? cause.message : `cannot write ${file}: ${errnoOf(cause)}`;
    const hint = isFleetError(cause, 'E_STATE_EXISTS')
      ? 'remove it (making a new one makes it worthless), or choose another place with --output'
      : 'choose another place with --output';
    throw new FleetError('E_USAGE', why, { hint, cause });
  }
}
