// fleet serve: the binary cache, the hosts' offers and reports, over HTTP or HTTPS, until it is told
// to stop (SIGTERM, SIGINT).
import type { AddressInfo } from 'node:net';
import type { Command } from 'commander';
import { formatListen, parseListen } from '../src/config.ts';
import { FleetError, isFleetError, messageOf } from '../src/errors.ts';
import { readInput } from './input.ts';
import { globalsOf, print, say } from './output.ts';
import { withStateDir } from './state.ts';

type Options = { listen?: string; tlsCert?: string; tlsKey?: string; accessLog?: boolean };

export function registerServe(program: Command): void {
  program
    .command('serve')
    .description('serve the binary cache and the manifests')
    .option('--listen <host:port>', 'address to listen on (default: from fleet.json)')
    .option('--tls-cert <file>', 'certificate chain, PEM; with --tls-key, serve HTTPS')
    .option('--tls-key <file>', 'private key of the certificate, PEM')
    .option('--access-log', 'log every request, as JSON lines on stderr')
    .action(async (options: Options, command: Command) => {
      const globals = globalsOf(command);
      const tls = await readTls(options);
      const { buildApp } = await import('../src/server/app.ts');
      const { collectRegularly } = await import('../src/server/collect.ts');
      const { Bell, keepLog } = await import('../src/server/log-keeper.ts');
      const { openLogWriter } = await import('../src/server/log-writer.ts');
      await withStateDir(
        globals,
        async (dir) => {
          const { host, port } = listenOf(options.listen ?? dir.config.listen);
          // Before it listens: whoever sees it listening may stop it at once.
          const stopped = toldToStop();
          // What it will have to sign with is there: found out now, not in an hour.
          await openLogWriter(dir);
          const bell = new Bell();
          let isClosed = false;
          const app = buildApp(dir, {
            onEnrolled: () => bell.ring(),
            ...(tls === undefined ? {} : { tls }),
            version: program.version() ?? '',
            ...(options.accessLog === true
              ? { accessLog: (line: string) => process.stderr.write(`${line}\n`) }
              : {}),
            // What was cut off fails for want of the database, and was acknowledged to nobody.
            onError: (error, id) => {
              if (!isClosed) process.stderr.write(`${formatFault(error, id)}\n`);
            },
          });
          try {
            await app.listen({ host, port });
          } catch (cause) {
            await app.close();
            throw new FleetError(
              'E_LISTEN',
              `cannot listen on ${host}:${port}: ${messageOf(cause)}`,
              {
                cause,
              },
            );
          }
          const at = app.server.address() as AddressInfo;
          const shown = formatListen({ host: at.address, port: at.port });
          const url = `${tls === undefined ? 'http' : 'https'}://${shown}`;
          print(
            globals,
            { version: 1, url, pid: process.pid },
            `serving fleet ${dir.config.fleet} at ${url}`,
          );
          const ending = new AbortController();
          const onError = (error: unknown) => process.stderr.write(`${formatFault(error)}\n`);
          const kept = keepLog(
            async () => {
              await dir.refreshRoots();
              return await openLogWriter(dir);
            },
            {
              publishLock: dir.layout.publishLock,
              state: dir.state,
              now: () => Math.floor(Date.now() / 1000),
              onError,
              bell,
            },
            ending.signal,
          );
          const collected = collectRegularly(dir, ending.signal, {
            onDone: ({ paths, blobBytes }) => app.metrics.onSweep(paths, blobBytes),
            onError,
          });
          const packed = app.packs.run(ending.signal);
          await stopped;
          say(globals, 'stopping');
          ending.abort();
          try {
            await Promise.all([collected, kept, packed]);
          } finally {
            await app.close();
            isClosed = true;
          }
        },
        'thread',
      );
    });
}

async function readTls(options: Options): Promise<{ cert: string; key: string } | undefined> {
  const { tlsCert, tlsKey } = options;
  if (tlsCert === undefined && tlsKey === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined) {
    throw new FleetError('E_USAGE', '--tls-cert and --tls-key go together');
  }
  // Read before the process becomes the owner of STATE, who may not be allowed to.
  const [cert, key] = [await readInput(tlsCert), await readInput(tlsKey)];
  const tls = { cert: cert.toString(), key: key.toString() };
  // Here, because this file is loaded for every verb, and auditors' load no network code.
  const { createSecureContext } = await import('node:tls');
  try {
    createSecureContext(tls);
  } catch (cause) {
    const files = `${tlsCert} and ${tlsKey}`;
    throw new FleetError(
      'E_USAGE',
      `${files} are no certificate and its key: ${messageOf(cause)}`,
      {
        hint: 'give the certificate chain and its private key, both in PEM',
        cause,
      },
    );
  }
  return tls;
}

/** One JSON line, as the access log's are. */
function formatFault(error: unknown, id: number | null = null): string {
  const code = isFleetError(error) ? error.code : 'E_INTERNAL';
  const stack = error instanceof Error ? error.stack : undefined;
  return JSON.stringify({ level: 50, time: Date.now(), id, code, msg: messageOf(error), stack });
}

function listenOf(text: string) {
  try {
    return parseListen(text);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--listen ${text}: ${messageOf(cause)}`, { cause });
  }
}

function toldToStop(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
}
