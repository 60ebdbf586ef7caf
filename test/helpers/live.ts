// The real server and real agents in one process, at times that the test sets: for what happens to hosts over months.
// Requests and answers can be lost on the way.
import { mkdir, writeFile } from 'node:fs/promises';
import type { AddressInfo, Server } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { enroll } from '../../src/agent/enroll.ts';
import { runOnce } from '../../src/agent/once.ts';
import type { OnceResult } from '../../src/agent/once-options.ts';
import { renewCheckpoint } from '../../src/manifest/append.ts';
import { formatEnrolFile } from '../../src/manifest/enrol-file.ts';
import { buildApp } from '../../src/server/app.ts';
import { openLogWriter } from '../../src/server/log-writer.ts';
import { openStateDir, type StateDir } from '../../src/server/statedir.ts';
import { generateEnrolSecret, hashToken } from '../../src/server/tokens.ts';
import { PROGRAM } from './hosts.ts';
import { makeState } from './state.ts';
import { SYSTEM } from './systems.ts';
import { temporaryDir } from './temporary.ts';

export const DAY = 86_400;

export type LiveAgent = {
  readonly state: string;
  /** What it said to people in its last run. */
  readonly said: string[];
  /** `clock`: what the machine believes. */
  readonly once: (clock?: number) => Promise<OnceResult>;
};

export type Live = {
  readonly top: string;
  readonly dir: StateDir;
  readonly url: string;
  /** The HTTP server of now. */
  server(): Server;
  /** The server's clock, POSIX seconds, and what agents believe unless they are told otherwise. */
  now: number;
  /** Paths whose requests never arrive, and whose answers are lost after they were acted upon. */
  lose: { request: RegExp | null; answer: RegExp | null };
  /** Bodies of what was sent to the server, with path and token. */
  readonly sent: { readonly path: string; readonly token: string; readonly body: string }[];
  /** An enrolment file for `host`, as `fleet host enroll` makes it. */
  invite(host: string): Promise<string>;
  /** An agent on a machine of its own, enrolled as `host`. */
  agent(host: string, machine?: string): Promise<LiveAgent>;
  /** The agent whose state is in `state`. */
  agentAt(state: string): LiveAgent;
  /** Has the log say that it is the newest, at the time of now. */
  freshen(): Promise<void>;
  /** Stops the server, does `work` to its closed state, and starts it again at the same address. */
  without(work: () => Promise<void>): Promise<void>;
};

export async function live(t: TestContext, now = Math.floor(Date.now() / 1000)): Promise<Live> {
  const top = await temporaryDir(t);
  let dir = await makeState(top, now);
  let port = 0;
  const start = async () => {
    const app = buildApp(dir, { now: () => made.now });
    // Makes no update packs: closures here have files that nobody wrote.
    await app.packs.run(AbortSignal.abort());
    app.addHook('onRequest', async (request, reply) => {
      if (made.lose.request?.test(request.url) !== true) return;
      reply.hijack();
      request.raw.socket.destroy();
    });
    app.addHook('preHandler', async ({ url, headers, body }) => {
      if (!(body instanceof Uint8Array)) return;
      const token = String(headers.authorization).replace('Bearer ', '');
      made.sent.push({ path: url, token, body: Buffer.from(body).toString() });
    });
    app.addHook('onSend', async (request) => {
      if (made.lose.answer?.test(request.url)) request.raw.socket.destroy();
    });
    await app.listen({ port, host: '127.0.0.1' });
    port = (app.server.address() as AddressInfo).port;
    return app;
  };
  const made: Live = {
    top,
    get dir() {
      return dir;
    },
    get url() {
      return `http://127.0.0.1:${port}`;
    },
    server: () => app.server,
    now,
    lose: { request: null, answer: null },
    sent: [],
    async invite(host) {
      const secret = generateEnrolSecret();
      const expiresAt = made.now + DAY;
      await dir.state.invite({ secretHash: hashToken(secret), host, expiresAt });
      const root = dir.roots.at(-1)?.envelope ?? '';
      return formatEnrolFile({
        ...{ server: made.url, fleet: dir.root.fleet, host, root, secret, expiresAt },
      });
    },
    async agent(host, machine = host) {
      const root = join(top, machine);
      const state = join(root, 'state');
      const file = await made.invite(host);
      const { config } = await enroll({
        ...{ dir: state, file, host, system: SYSTEM, root, now: made.now },
      });
      const quick = { version: 1, ...config, patienceSeconds: 2 };
      await writeFile(join(state, 'agent.json'), JSON.stringify(quick));
      await mkdir(join(root, 'run'), { recursive: true });
      return made.agentAt(state);
    },
    agentAt(state) {
      const said: string[] = [];
      return {
        state,
        said,
        once: async (clock = made.now) => {
          said.length = 0;
          const say = (line: string) => void said.push(line);
          const program = PROGRAM;
          return await runOnce({ dir: state, program, clock: () => clock, bootId: 'boot', say });
        },
      };
    },
    async freshen() {
      await renewCheckpoint(await openLogWriter(dir), made.now);
    },
    async without(work) {
      await app.close();
      await dir[Symbol.asyncDispose]();
      await work();
      dir = await openStateDir(join(top, 'state'), { writer: 'inline' });
      app = await start();
    },
  };
  let app = await start();
  t.after(async () => {
    await app.close();
    await dir[Symbol.asyncDispose]();
  });
  return made;
}
