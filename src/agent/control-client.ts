// One question to the agent that stays, over its control socket (SPEC §5.9) → its answer. For people of the local group:
// what keeps them out, or keeps the agent away, is told with what to do about it.
import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { errnoOf, FleetError } from '../errors.ts';
import { groupName } from './control-place.ts';
import { formatQuestion, MAX_ANSWER, parseAnswer, type Question } from './control-protocol.ts';

/** A status asks Nix about two closures, on a machine that may be slow. */
const PATIENCE_MS = 90_000;

/** @throws FleetError E_LOCAL_ACCESS, E_LOCAL_NO_AGENT, E_LOCAL_PROTOCOL, and what the agent refuses with. */
export async function askAgent(socket: string, question: Question): Promise<unknown> {
  using line = new Line(socket);
  line.connection.write(formatQuestion(question));
  return parseAnswer(await line.next());
}

/**
 * Brings a bundle: `chunks`, of `bytes` in all, once the agent has said that they may come.
 * @throws FleetError as askAgent does, and what `chunks` throw
 */
export async function bringBundle(
  socket: string,
  bytes: number,
  chunks: AsyncIterable<Uint8Array>,
): Promise<unknown> {
  using line = new Line(socket);
  const { connection } = line;
  connection.write(formatQuestion({ verb: 'apply-bundle', bytes }));
  parseAnswer(await line.next());
  const answer = line.next();
  answer.catch(() => {});
  for await (const chunk of chunks) {
    // An answer before the end is a refusal, or that nobody is there any more.
    const wait = connection.write(chunk) ? null : once(connection, 'drain').catch(() => {});
    if (wait !== null && (await Promise.race([wait.then(() => 'on'), answer])) !== 'on') break;
  }
  return parseAnswer(await answer);
}

/** A connection to the agent, which says a line at a time. */
class Line implements Disposable {
  readonly connection: Socket;
  readonly #socket: string;
  #text = '';
  #failure: Error | null = null;
  #wake: () => void = () => {};

  constructor(socket: string) {
    this.#socket = socket;
    this.connection = connect(socket);
    const fail = (error: Error): void => {
      this.#failure ??= error;
      this.#wake();
    };
    this.connection.setEncoding('utf8').setTimeout(PATIENCE_MS, () => {
      fail(new FleetError('E_LOCAL_NO_AGENT', `the agent at ${socket} says nothing`));
    });
    this.connection.on('data', (data: string) => {
      this.#text += data;
      if (this.#text.length > MAX_ANSWER) {
        fail(new FleetError('E_LOCAL_PROTOCOL', 'its answer has no end'));
      }
      this.#wake();
    });
    this.connection.on('error', fail);
    this.connection.on('close', () => {
      fail(
        new FleetError('E_LOCAL_NO_AGENT', `the agent at ${socket} ended the connection`, {
          hint: 'try again in a moment: others may be asking as well',
        }),
      );
    });
  }

  async next(): Promise<string> {
    while (!this.#text.includes('\n')) {
      if (this.#failure !== null) throw await asLocal(this.#failure, this.#socket);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const end = this.#text.indexOf('\n') + 1;
    const line = this.#text.slice(0, end);
    this.#text = this.#text.slice(end);
    return line;
  }

  [Symbol.dispose](): void {
    this.connection.destroy();
  }
}

async function asLocal(error: Error, socket: string): Promise<Error> {
  switch (errnoOf(error)) {
    case 'EACCES':
    case 'EPERM': {
      // By number: not every user has a name.
      const who = `user ${process.geteuid?.()} may not use ${socket}`;
      const group = await groupName((await stat(socket)).gid).catch(() => null);
      const hint = `ask the admin to put you into the group ${group}; then log in anew`;
      // Without a local group it is root's alone, and the advice is the general one.
      const advice = group === null || group === 'root' ? {} : { hint };
      return new FleetError('E_LOCAL_ACCESS', who, { cause: error, ...advice });
    }
    case 'ENOENT':
    case 'ECONNREFUSED':
    case 'ENOTDIR':
      return new FleetError('E_LOCAL_NO_AGENT', `no agent listens at ${socket}`, { cause: error });
    case 'EAGAIN':
    case 'EPIPE':
    case 'ECONNRESET':
      return new FleetError(
        'E_LOCAL_NO_AGENT',
        `the agent at ${socket} takes no more questions now`,
        {
          hint: 'try again in a moment: others may be asking as well',
          cause: error,
        },
      );
    default:
      return error;
  }
}
