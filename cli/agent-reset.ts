// fleet agent reset-trust: shows what of a damaged state would be given up, asks, and makes it whole again.
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import type { Reset, ResetPlan } from '../src/agent/reset.ts';
import { placed, placeOptions, requireRoot, requireSuperuser, stateOf } from './agent-place.ts';
import { confirm } from './confirm.ts';
import { readInput } from './input.ts';
import { globalsOf, print, printable } from './output.ts';

type ResetOptions = { rootFile?: string; yes?: boolean };

export function registerReset(agent: Command): void {
  agent
    .command('reset-trust')
    .description('repair a damaged state; says first what is given up')
    .option('--root-file <file>', 'a root, or an enrolment file, to begin again from')
    .option('--yes', 'do not ask')
    .action(placed(reset));
}

async function reset(options: ResetOptions, command: Command): Promise<void> {
  const globals = globalsOf(command);
  const dir = stateOf(command);
  await requireRoot(dir, command);
  await requireSuperuser(dir, 'reset-trust');
  const { readIdentity } = await import('../src/agent/memory.ts');
  const { root } = (await readIdentity(dir)).config;
  const { resetTrust } = await import('../src/agent/reset.ts');
  const done = await resetTrust({
    dir,
    rootFile: await givenRoot(options.rootFile, root),
    now: Math.floor(Date.now() / 1000),
    confirm: async (plan) => {
      if (options.yes === true) return;
      await confirm(globals, planText(plan), 'Give that up?', {
        hint: 'to give that up, add --yes',
        details: planText(plan).split('\n'),
        unchanged: 'nothing was changed',
      });
    },
  });
  print(globals, { version: 1, ...done }, resetText(done, nextOf(done, dir, command)));
}

function nextOf({ enrolAnew, host }: Reset, dir: string, command: Command): string[] {
  const place = placeOptions(command);
  if (!enrolAnew) return [`Next:  fleet agent once${place}`];
  return [
    'Next, because the server takes no more receipts of this key; on the server:',
    `  fleet host enroll ${host} --replace`,
    `and here, with the file that it wrote and ${dir} moved away:`,
    `  fleet agent enroll FILE${place}`,
  ];
}

function planText({ fleet, host, damaged, root, floor }: ResetPlan): string {
  const newest =
    floor === null ? 'not known' : `epoch ${floor.epoch}, sequence ${floor.sequence}; it stays`;
  return [
    `Damaged, of host ${host} of fleet ${fleet}; what is given up with it:`,
    ...damaged.flatMap(({ file, why, lost }) => [
      `  ${file}: ${printable(why)}`,
      ...(lost.length === 0 ? ['    - nothing: all that counts can be read'] : []),
      ...lost.map((text) => `    - ${text}`),
    ]),
    `Newest manifest accepted: ${newest}`,
    root === null
      ? 'The stored root is whole, and stays.'
      : `Trust begins again with root version ${root.version}, sha256 ${root.sha256}`,
    'Host key, token, and all that can be read stay.',
  ].join('\n');
}

function resetText(reset: Reset, next: readonly string[]): string {
  if (reset.damaged.length === 0) return 'Nothing is damaged; nothing was changed.';
  const kept = reset.kept.length === 0 ? 'none' : reset.kept.join(', ');
  return [planText(reset), '', `Done. Damaged files, kept beside them: ${kept}`, ...next].join(
    '\n',
  );
}

/** --root-file; else the root that the machine's own configuration put there; null: neither. */
async function givenRoot(given: string | undefined, root: string | null): Promise<string | null> {
  const baked = join(root ?? '/', 'etc/fleet/root.json');
  const isBaked = await access(baked).then(
    () => true,
    () => false,
  );
  if (given === undefined && !isBaked) return null;
  return (
    await readInput(given ?? baked, 'give the newest N.root.json, or an enrolment file')
  ).toString();
}
