// How things stand at this machine, as far as the policy asks (policy.ts): battery from /sys, the metered line from
// NetworkManager, blocks and sessions from logind, both asked by busctl(1), whose JSON is the bus's own data. What
// cannot be read, takes too long or has another form than this is unknown, and said why; nothing is guessed.
// In a chroot store, too, it is the machine itself that is asked.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf } from '../errors.ts';
import { hear } from './hear.ts';
import type { Question, Situation, Unknown } from './policy.ts';

export type Places = {
  /** Where the kernel shows power supplies. */
  readonly supplies: string;
  /** How long one question may take, in milliseconds. */
  readonly patience: number;
};

const PLACES: Places = { supplies: '/sys/class/power_supply', patience: 10_000 };

/** Answers to `questions`, and to no other: no program is started for what nobody asks. Throws nothing. */
export async function readSituation(
  questions: readonly Question[],
  places: Places = PLACES,
): Promise<Situation> {
  const answers = questions.map(async (question) => {
    const answer = await ASK[question](places).catch(
      (error: unknown): Unknown => ({ unknown: messageOf(error) }),
    );
    return [question, answer] as const;
  });
  return Object.fromEntries(await Promise.all(answers));
}

const ASK = {
  battery: readBattery,
  metered: askMetered,
  inhibitors: askInhibitors,
  sessions: askSessions,
} satisfies Readonly<Record<Question, (places: Places) => Promise<Situation[Question]>>>;

type Supply = {
  readonly isBattery: boolean;
  /** Of what brings power. */
  readonly isOnline: boolean;
  readonly status: string;
  readonly percent: number;
};

/** Percent of the machine's batteries, their mean, while it runs on them; null: it has power, or has none. */
async function readBattery({ supplies }: Places): Promise<number | null> {
  const names = await readdir(supplies).catch((error: unknown) => {
    // A kernel that knows of no power supplies: nothing here runs on a battery.
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  });
  const found: Supply[] = [];
  for (const name of names) found.push(...(await readSupply(join(supplies, name))));
  const batteries = found.filter(({ isBattery }) => isBattery);
  const sources = found.filter(({ isBattery }) => !isBattery);
  if (batteries.length === 0 || sources.some(({ isOnline }) => isOnline)) return null;
  const isFed = ['Charging', 'Full', 'Not charging'];
  if (batteries.every(({ status }) => isFed.includes(status))) return null;
  // Where nothing else is known to bring power, the battery's own word has to do.
  const drains = sources.length > 0 || batteries.some(({ status }) => status === 'Discharging');
  if (!drains) throw new Error(`the battery is ${batteries[0]?.status}`);
  return batteries.reduce((sum, { percent }) => sum + percent, 0) / batteries.length;
}

/** None: it is of no concern, such as a mouse's. */
async function readSupply(dir: string): Promise<Supply[]> {
  const text = async (name: string): Promise<string | null> => {
    try {
      return (await readFile(join(dir, name), 'utf8')).trim();
    } catch (error) {
      // Files that a device does not have, and a device that goes away.
      if (['ENOENT', 'ENODEV'].includes(errnoOf(error) ?? '')) return null;
      throw error;
    }
  };
  const type = await text('type');
  if (type === null || (await text('scope')) === 'Device') return [];
  if (type !== 'Battery' && type !== 'UPS') {
    const online = await text('online');
    return [{ isBattery: false, isOnline: online === '1', status: '', percent: 0 }];
  }
  if ((await text('present')) === '0') return [];
  const capacity = await text('capacity');
  if (capacity === null || !/^\d{1,3}$/.test(capacity)) throw new Error(`${dir} says no capacity`);
  const status = (await text('status')) ?? 'Unknown';
  return [{ isBattery: true, isOnline: false, status, percent: Number(capacity) }];
}

const NETWORK_MANAGER = 'org.freedesktop.NetworkManager';
const LOGIND = 'org.freedesktop.login1';
const LOGIND_PATH = '/org/freedesktop/login1';

/** NetworkManager's words: 1 yes, 2 no, 3 and 4 the same guessed, 0 unknown. Where it does not run, no line is. */
async function askMetered(places: Places): Promise<boolean> {
  const bus = ['org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus'];
  const [runs] = await askBus(places, 'b', 1, [
    ...['call', ...bus, 'NameHasOwner', 's', NETWORK_MANAGER],
  ]);
  const has = Array.isArray(runs) ? runs[0] : undefined;
  if (has === false) return false;
  const path = '/org/freedesktop/NetworkManager';
  const property = ['get-property', NETWORK_MANAGER, path, NETWORK_MANAGER, 'Metered'];
  const [word] = await askBus(places, 'u', 1, property);
  if (word === 1 || word === 3) return true;
  if (word === 2 || word === 4) return false;
  throw new Error('NetworkManager does not know');
}

/** Who holds a lock that blocks (and does not only delay) shutdown or sleep; sorted, each once. */
async function askInhibitors(places: Places): Promise<readonly string[]> {
  const call = ['call', LOGIND, LOGIND_PATH, `${LOGIND}.Manager`, 'ListInhibitors'];
  const [answer] = await askBus(places, 'a(ssssuu)', 1, call);
  const blocking = rowsOf(answer, 6).filter(([what = '', , , mode = '']) => {
    const blocks = what.split(':').some((one) => one === 'shutdown' || one === 'sleep');
    return blocks && mode !== 'delay';
  });
  return unique(blocking.map(([, who = '']) => (who === '' ? 'a program' : who)));
}

/** Users with a session, at a seat or from afar; sorted, each once. Not: login screens and what runs in the background. */
async function askSessions(places: Places): Promise<readonly string[]> {
  const call = ['call', LOGIND, LOGIND_PATH, `${LOGIND}.Manager`, 'ListSessions'];
  const [answer] = await askBus(places, 'a(susso)', 1, call);
  const users: string[] = [];
  for (const [, , user = '', , path = ''] of rowsOf(answer, 5)) {
    if (!path.startsWith(`${LOGIND_PATH}/session/`)) throw new Error('logind names no session');
    const property = ['get-property', LOGIND, path, `${LOGIND}.Session`, 'Class', 'State'];
    const [kind, state] = await askBus(places, 's', 2, property);
    // `closing`: logged out; what is left was left to run.
    if (String(kind).startsWith('user') && state !== 'closing') users.push(user);
  }
  return unique(users);
}

/** `count` answers of this type (D-Bus signature). @throws Error that says why there are none. */
async function askBus(
  { patience }: Places,
  type: string,
  count: number,
  args: readonly string[],
): Promise<unknown[]> {
  const seconds = Math.max(1, Math.ceil(patience / 1000));
  const limit = [`--timeout=${seconds}`, '--auto-start=no', '--allow-interactive-authorization=no'];
  const { code, stdout, said } = await hear(
    'busctl',
    ['--json=short', ...limit, ...args],
    patience,
  );
  if (code !== 0) throw new Error(`busctl: ${said}`);
  const lines = stdout.split('\n').filter((line) => line !== '');
  const answers = lines.map((line): unknown => {
    const { type: given, data } = (JSON.parse(line) ?? {}) as { type?: unknown; data?: unknown };
    if (given !== type) throw new Error(`busctl answers ${String(given)}, not ${type}`);
    return data;
  });
  if (answers.length !== count) throw new Error(`busctl answers ${answers.length} times`);
  return answers;
}

/** The one array that a call answers, of structures with so many fields; numbers become texts. */
function rowsOf(answer: unknown, fields: number): string[][] {
  const rows: unknown = Array.isArray(answer) ? answer[0] : undefined;
  if (!Array.isArray(rows)) throw new Error('busctl answers no list');
  return rows.map((row: unknown) => {
    if (!Array.isArray(row) || row.length !== fields) throw new Error('busctl answers other rows');
    return row.map(String);
  });
}

function unique(names: readonly string[]): string[] {
  return [...new Set(names)].sort();
}
