// The token that a command shows to a server: from a file, a netrc, or $FLEET_TOKEN. Never an argument: those are
// visible to every user of the machine.
import { FleetError } from '../src/errors.ts';
import { readInput } from './input.ts';

/** null: none was given. @throws FleetError E_USAGE for a file without one for `host`. */
export async function tokenOf(file: string | undefined, host: string): Promise<string | null> {
  const fromShell = process.env['FLEET_TOKEN'] ?? '';
  if (file === undefined && fromShell === '') return null;
  const text = file === undefined ? fromShell : (await readInput(file)).toString();
  const token = tokenIn(text, host);
  if (token !== null && /^[!-~]+$/.test(token)) return token;
  const where = file ?? '$FLEET_TOKEN';
  throw new FleetError('E_USAGE', `there is no token for ${host} in ${where}`, {
    hint: 'make one on the server: fleet token create NAME; then --token-file FILE',
  });
}

/** A netrc does as well: its password is the token. Of several, only the server's own is sent to it. */
function tokenIn(text: string, host: string): string | null {
  const entries = text.split(/(?:^|\s)(?=(?:machine|default)\s)/).flatMap((entry) => {
    const password = /(?:^|\s)password\s+(\S+)/.exec(entry)?.[1];
    return password === undefined
      ? []
      : [{ password, machine: /^machine\s+(\S+)/.exec(entry)?.[1] }];
  });
  const [first, ...others] = entries;
  if (first === undefined) return text.trim();
  if (others.length === 0) return first.password;
  const named = entries.find(({ machine }) => machine === host);
  return (named ?? entries.find(({ machine }) => machine === undefined))?.password ?? null;
}
