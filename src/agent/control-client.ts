// One question to the agent that stays, over its control socket (SPEC §5.9) → its answer. For people of the local group:
// what keeps them out, or keeps the agent away, is told with what to do about it.
import { stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { errnoOf, FleetError } from '../errors.ts';
import { groupName } from './control-place.ts';
import { formatQuestion, MAX_ANSWER, parseAnswer, type Question } from './control-protocol.ts';

/** A status asks Nix about two closures, on a machine that may be slow. */
const PATIENCE_MS = 90_000;

/** @throws FleetError E_LOCAL_ACCESS, E_LOCAL_NO_AGENT, E_LOCAL_PROTOCOL, and what the agent refuses with. */
export async function askAgent(socket: string, question: Question): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const connection = connect(socket);
  let text = '';
  connection.setEncoding('utf8').setTimeout(PATIENCE_MS, () => {
    reject(new FleetError('E_LOCAL_NO_AGENT', `the agent at ${socket} says nothing`));
  });
  connection.on('data', (data: string) => {
    text += data;
    if (text.length > MAX_ANSWER)
      reject(new FleetError('E_LOCAL_PROTOCOL', 'its answer has no end'));
    else if (text.endsWith('\n')) resolve(text);
  });
  connection.on('error', reject);
  connection.on('close', () => {
    reject(
      new FleetError('E_LOCAL_NO_AGENT', `the agent at ${socket} ended the connection`, {
        hint: 'try again in a moment: others may be asking as well',
      }),
    );
  });
  connection.write(formatQuestion(question));
  try {
    return parseAnswer(await promise);
  } catch (error) {
    throw error instanceof Error ? await asLocal(error, socket) : error;
  } finally {
    connection.destroy();
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
