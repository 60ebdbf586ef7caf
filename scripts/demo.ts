// npm run demo: the whole road on this machine, in a temporary place: a build box, a server, three
// hosts in chroot stores, an update, and an attack. Every step checks what it tells; the first one that
// is not as told ends the demo with exit code 1. --keep leaves it running until Ctrl-C.
import { type ChildProcess, spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readlink, rm, writeFile } from 'node:fs/promises';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const HOSTS = ['lantern', 'gateway', 'archive'];
const FLEET = resolve('cli/fleet.ts');
const keep = process.argv.includes('--keep');

type Outcome = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

// The make-believe builds run no program, so they need no sandbox, which not every machine allows.
const env = { ...process.env, NIX_CONFIG: `${process.env['NIX_CONFIG'] ?? ''}\nsandbox = false` };
const place = await mkdtemp(join(tmpdir(), 'fleet-demo-'));
const state = join(place, 'state');
const flake = join(place, 'flake');
const started = performance.now();
let server: ChildProcess | undefined;
let line: Line | undefined;
let ending = false;

process.once('SIGINT', () => void end(130));
process.once('SIGTERM', () => void end(143));
try {
  await tell();
  if (keep) await new Promise(() => {});
  await end(0);
} catch (error) {
  // Ctrl-C reaches the children too, and what they say then is no news.
  if (ending) await new Promise(() => {});
  process.stderr.write(`\ndemo: ${error instanceof Error ? error.message : error}\n`);
  await end(1);
}

async function tell(): Promise<void> {
  title('1. A build box makes a fleet');
  // The flake is copied, so that the demo can change it.
  await cp('examples/demo', flake, { recursive: true });
  if (process.arch === 'arm64') await writeFile(join(flake, 'system.nix'), '"aarch64-linux"\n');
  const made = JSON.parse(
    await fleet('init', '--state', state, '--origin', 'demo.fleet.example', '--json'),
  );
  note(`fleet ${made.fleet}, with keys of its own and a signed root, in ${state}`);
  const first = await build();
  expect(
    first.length === 3 && first.every((host) => host.published?.sequence === 1),
    'three hosts published',
  );

  title('2. It serves them: a Nix cache, and a signed manifest per host');
  const origin = await serve();
  // All hosts reach the server over a line that is in other hands.
  line = await openLine(origin);
  note(`fleet serve listens on ${origin}; the hosts reach it over ${line.url}`);

  title('3. Three machines enrol with a one-time file each, and take their systems');
  for (const host of HOSTS) {
    const file = join(place, `${host}.enroll.json`);
    await fleet('host', 'enroll', host, '--state', state, '--server', line.url, '--output', file);
    await mkdir(join(place, host));
    await fleet('agent', 'enroll', file, '--root', join(place, host));
    await once(host);
  }
  await status(first);

  title('4. The release changes; the build box publishes; the hosts follow');
  await writeFile(join(flake, 'release/nixos-version'), '26.11.demo-2 (Yarara)\n');
  const second = await build();
  expect(
    second.every((host) => host.published?.sequence === 2),
    'three hosts published again',
  );
  expect(
    second.every((host, i) => host.toplevel !== first[i]?.toplevel),
    'new systems',
  );
  for (const host of HOSTS) await once(host);
  await status(second);
  const third = await build();
  expect(
    third.every((host) => host.change === 'none'),
    'nothing is published where nothing changed',
  );

  title('5. An auditor checks what was served, offline, with the root alone');
  const lantern = join(place, 'lantern.offer.json');
  await writeFile(lantern, line.lastOffer.get('lantern') ?? '');
  const verdict = await fleet('verify', lantern, '--root', join(state, 'root/1.root.json'));
  process.stdout.write(indent(verdict));
  expect(verdict.includes('authentic'), 'the manifest is authentic');
  expect(verdict.includes('newest as of'), 'it is in the log, and was the newest');

  title('6. Someone on the line names another system in the manifest of lantern');
  const evil = second.find(({ host }) => host === 'gateway')?.toplevel ?? '';
  const before = await systemOf('lantern');
  line.replaceToplevel(before, evil);
  const refused = await run('agent', 'once', '--root', join(place, 'lantern'));
  process.stdout.write(indent(refused.stderr));
  note(`exit code ${refused.code}; lantern still runs what it ran before`);
  expect(refused.code === 3, 'the agent refuses, with exit code 3');
  expect(refused.stderr.includes('E_MANIFEST_WITHHELD'), 'because the log names another manifest');
  expect((await systemOf('lantern')) === before, 'lantern runs what it ran before');
  await writeFile(lantern, line.lastOffer.get('lantern') ?? '');
  const audit = await run('verify', lantern, '--root', join(state, 'root/1.root.json'));
  process.stdout.write(indent(audit.stdout));
  expect(audit.code === 3, 'the auditor refuses it too');
  line.replaceToplevel('', '');
  const told = await fleet('status', '--state', state);
  process.stdout.write(indent(told.replace(/^!.*\n/gm, '')));
  expect(/lantern.*refused/.test(told), 'fleet status tells of it');
  await once('lantern');

  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stdout.write(`\nAll as told, in ${seconds} s.\n\n`);
  process.stdout.write(keep ? nextWithState(origin) : nextWithout());
}

type BuiltHost = {
  readonly host: string;
  readonly change: string;
  readonly toplevel: string;
  readonly published: { readonly sequence: number } | null;
};

async function build(): Promise<BuiltHost[]> {
  const text = await fleet('build', '--state', state, '--flake', `path:${flake}`, '--json');
  const { hosts } = JSON.parse(text) as { hosts: BuiltHost[] };
  for (const { host, change, toplevel, published } of hosts) {
    const number = published === null ? '' : `manifest #${published.sequence}, `;
    note(`${host.padEnd(8)} ${change === 'none' ? 'unchanged' : number + toplevel}`);
  }
  return hosts;
}

async function once(host: string): Promise<void> {
  const root = join(place, host);
  const result = JSON.parse(await fleet('agent', 'once', '--root', root, '--json'));
  const { paths, bytes } = result.fetched ?? { paths: 0, bytes: 0 };
  note(`${host.padEnd(8)} fetched ${paths} paths, ${bytes} bytes: ${result.phase}`);
  expect(result.phase === 'in-sync', `${host} is in sync`);
}

async function status(built: readonly BuiltHost[]): Promise<void> {
  process.stdout.write(indent((await fleet('status', '--state', state)).replace(/^!.*\n/gm, '')));
  for (const { host, toplevel } of built) {
    expect((await systemOf(host)) === toplevel, `${host} runs ${toplevel}`);
  }
}

/** What /run/current-system of a host names. */
async function systemOf(host: string): Promise<string> {
  return await readlink(join(place, host, 'run/current-system'));
}

async function serve(): Promise<string> {
  server = spawn(
    process.execPath,
    [FLEET, 'serve', '--state', state, '--listen', '127.0.0.1:0', '--json', '--quiet'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const child = server;
  return await new Promise((settle, reject) => {
    let text = '';
    child.stdout?.on('data', (chunk) => {
      text += chunk;
      const found = /"url": "([^"]+)"/.exec(text)?.[1];
      if (found !== undefined) settle(found);
    });
    child.once('exit', (code) => reject(new Error(`fleet serve ended with ${code}`)));
  });
}

type Line = {
  readonly url: string;
  readonly server: Server;
  /** Host → the last offer that went over the line, as it arrived. */
  readonly lastOffer: Map<string, string>;
  /** From now on, `from` in a manifest becomes `to`; empty: the line is honest. */
  replaceToplevel(from: string, to: string): void;
};

/** A proxy in front of the server: the network between it and the hosts, which nobody trusts. */
async function openLine(origin: string): Promise<Line> {
  const lastOffer = new Map<string, string>();
  let swap = { from: '', to: '' };
  const proxy = createServer((incoming, outgoing) => {
    const host = /^\/v1\/hosts\/([^/]+)\/offer/.exec(incoming.url ?? '')?.[1];
    const headers = { ...incoming.headers };
    // So that the server always says the whole offer.
    if (host !== undefined) delete headers['if-none-match'];
    const upstream = request(
      `${origin}${incoming.url}`,
      { method: incoming.method, headers },
      (answer) => {
        if (host === undefined || answer.statusCode !== 200) {
          outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.pipe(outgoing);
          return;
        }
        let text = '';
        answer.setEncoding('utf8').on('data', (chunk) => {
          text += chunk;
        });
        answer.on('end', () => {
          if (swap.from !== '') text = tamper(text, swap.from, swap.to);
          lastOffer.set(host, text);
          const length = String(Buffer.byteLength(text));
          outgoing.writeHead(200, { 'content-type': 'application/json', 'content-length': length });
          outgoing.end(text);
        });
      },
    );
    upstream.on('error', () => outgoing.destroy());
    incoming.pipe(upstream);
  });
  await new Promise<void>((settle) => proxy.listen(0, '127.0.0.1', settle));
  return {
    url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    server: proxy,
    lastOffer,
    replaceToplevel: (from, to) => {
      swap = { from, to };
    },
  };
}

function tamper(offer: string, from: string, to: string): string {
  const document = JSON.parse(offer) as { manifest: string };
  const envelope = JSON.parse(document.manifest) as { payload: string };
  const payload = Buffer.from(envelope.payload, 'base64').toString('utf8').replaceAll(from, to);
  envelope.payload = Buffer.from(payload).toString('base64');
  return JSON.stringify({ ...document, manifest: JSON.stringify(envelope) });
}

async function fleet(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(...args);
  if (code !== 0) throw new Error(`fleet ${args.join(' ')} ended with ${code}\n${stdout}${stderr}`);
  return stdout;
}

function run(...args: string[]): Promise<Outcome> {
  const shown = args
    .join(' ')
    .replaceAll(place, '$DEMO')
    .replace(/ --json\b/g, '');
  process.stdout.write(`  $ fleet ${shown}\n`);
  const child = spawn(process.execPath, [FLEET, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  return new Promise((settle, reject) => {
    child.once('error', reject);
    child.once('close', (code) => settle({ code, stdout, stderr }));
  });
}

function title(text: string): void {
  process.stdout.write(`\n${text}\n`);
}

function note(text: string): void {
  process.stdout.write(`    ${text.replaceAll(place, '$DEMO')}\n`);
}

function indent(text: string): string {
  return text.replaceAll(place, '$DEMO').replace(/^(?=.)/gm, '    ');
}

function expect(holds: boolean, what: string): void {
  if (!holds) throw new Error(`not as told: ${what}`);
}

function nextWithState(origin: string): string {
  return [
    `It goes on running (server: ${origin}). In another terminal:`,
    '',
    `  export DEMO=${place}`,
    '  ./bin/fleet status --state $DEMO/state',
    '  ./bin/fleet agent status --root $DEMO/lantern',
    '  echo "hello" > $DEMO/flake/hosts/lantern/tree/etc/motd',
    '  ./bin/fleet build --state $DEMO/state --flake path:$DEMO/flake',
    '  ./bin/fleet agent once --root $DEMO/lantern',
    '',
    'Ctrl-C ends it and removes everything.',
    '',
  ].join('\n');
}

function nextWithout(): string {
  return [
    'Next:',
    '  npm run demo -- --keep       the same, and leaves it running for you to play with',
    '  ./bin/fleet --help           all commands; README.md shows how to use them for real hosts',
    '',
  ].join('\n');
}

async function end(code: number): Promise<never> {
  ending = true;
  server?.kill('SIGTERM');
  line?.server.close();
  line?.server.closeAllConnections();
  await rm(place, { recursive: true, force: true, maxRetries: 5 });
  process.exit(code);
}
