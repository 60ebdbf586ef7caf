// Questions of people at the machine, over the control socket (SPEC §5.9), → answers. It is part of the process that
// waits all day, so no client can do more than be refused: lines are short and must come soon, connections are few,
// verbs have rates, and whatever a client does ends with its own connection. Loads no library: run.ts.
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import type { Intake } from './control-intake.ts';
import { listenAt } from './control-place.ts';
import {
  formatAnswer,
  formatRefusal,
  MAX_QUESTION,
  parseQuestion,
  type Question,
} from './control-protocol.ts';
import { Rates } from './control-rate.ts';
import type { StatusSource } from './control-status.ts';
import { changeLocal, readLocal } from './local.ts';
import { newsOf } from './news.ts';
import { applyNow, defer, goBack, plead } from './wishes.ts';

// Not imported: see hints.ts.
const { createServer } = process.getBuiltinModule('node:net');

export type ControlOptions = {
  /** State directory. */
  readonly dir: string;
  readonly socket: string;
  /** Who may connect besides root; null: nobody. */
  readonly group: string | null;
  /** What `fleet agent status --json` prints. */
  readonly status: StatusSource;
  /** Takes the bundles that are brought. */
  readonly intake: Intake;
  /** Something was asked for that a run has to do. */
  readonly onWish: () => void;
  readonly limits?: Partial<Limits>;
};

type Limits = {
  /** Connections at a time. */
  readonly connections: number;
  /** Until a question must be there, and until an answer must be taken, in milliseconds. */
  readonly patience: number;
};

const LIMITS: Limits = { connections: 16, patience: 5000 };
const WHO = 'local group';

/** @throws FleetError E_LOCAL_SOCKET */
export async function openControl(options: ControlOptions): Promise<AsyncDisposable> {
  const limits = { ...LIMITS, ...options.limits };
  const rates = new Rates();
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
    socket.on('error', () => socket.destroy());
    socket.setTimeout(limits.patience, () => socket.destroy());
    // Also of one that sends a byte from time to time.
    const late = setTimeout(() => socket.destroy(), limits.patience);
    questionOf(socket)
      .then(async (line) => {
        clearTimeout(late);
        socket.setTimeout(0);
        const answer = await answered(options, rates, line, socket);
        socket.setTimeout(limits.patience);
        socket.end(answer);
      })
      .catch(() => socket.destroy())
      .finally(() => clearTimeout(late));
  });
  server.maxConnections = limits.connections;
  // A full table of files is nothing that would end the agent.
  server.on('error', () => {});
  await listenAt(server, options.socket, options.group);
  return {
    async [Symbol.asyncDispose]() {
      await rm(options.socket, { force: true });
      const { promise, resolve } = Promise.withResolvers<void>();
      server.close(() => resolve());
      for (const socket of open) socket.destroy();
      await promise;
    },
  };
}

/** The first line that a client sends, or what it sends until there is too much of it. */
async function questionOf(socket: Socket): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let bytes = Buffer.alloc(0);
  socket.on('close', () => reject(new Error('gone')));
  socket.on('end', () => reject(new Error('no question')));
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk]);
    const end = bytes.indexOf(0x0a);
    const isOver = bytes.length > MAX_QUESTION;
    if (end < 0 && !isOver) return;
    socket.removeAllListeners('data').pause();
    resolve(isOver ? '' : bytes.subarray(0, end).toString());
  });
  return await promise;
}

async function answered(
  options: ControlOptions,
  rates: Rates,
  line: string,
  socket: Socket,
): Promise<string> {
  try {
    const question = parseQuestion(line);
    rates.take(question.verb, performance.now());
    return formatAnswer(await act(options, question, socket));
  } catch (error) {
    const known = isFleetError(error)
      ? error
      : new FleetError('E_INTERNAL', messageOf(error), { cause: error });
    return formatRefusal(known);
  }
}

async function act(
  { dir, status, intake, onWish }: ControlOptions,
  question: Question,
  socket: Socket,
): Promise<object> {
  const now = Math.floor(Date.now() / 1000);
  switch (question.verb) {
    case 'status':
      return await status.ask();
    case 'news':
      return newsOf(await readLocal(dir), now);
    case 'defer': {
      status.forget();
      const { deferred } = await changeLocal(dir, (local) =>
        defer(local, question.seconds, WHO, now),
      );
      return { until: deferred?.until ?? null };
    }
    case 'apply':
      await changeLocal(dir, (local) => applyNow(local, WHO));
      break;
    case 'apply-bundle':
      await intake.take(socket, question.bytes);
      break;
    case 'rollback':
      await changeLocal(dir, (local) => goBack(local, question.reason, WHO, now));
      break;
    case 'request': {
      const id = randomBytes(8).toString('hex');
      await changeLocal(dir, (local) => plead(local, { id, text: question.text, who: WHO }, now));
      break;
    }
  }
  status.forget();
  onWish();
  return { accepted: true };
}
