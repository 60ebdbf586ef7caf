// fleet host hold|release HOST: has a host passed over by build and publish, and lets it go on.
import type { Command } from 'commander';
import { formatTime } from '../src/manifest/time.ts';
import { globalsOf, print, printable, say } from './output.ts';
import { withStateDir } from './state.ts';

export function registerHostHold(host: Command): void {
  host
    .command('hold')
    .argument('<host>')
    .option('--reason <text>', 'why, for whoever reads the status')
    .description('publish nothing for a host until it is released')
    .action(async (name: string, options: { reason?: string }, command: Command) => {
      const globals = globalsOf(command);
      const { holdHost } = await import('../src/server/hold-host.ts');
      const { parseWords } = await import('../src/agent/wishes.ts');
      const reason = options.reason === undefined ? null : parseWords(options.reason, 'reason');
      const at = Math.floor(Date.now() / 1000);
      const record = await withStateDir(globals, async (dir) => {
        await holdHost(dir, name, { at, reason });
        return await dir.state.host(name);
      });
      const held = { since: record?.heldAt ?? at, reason: record?.heldReason ?? null };
      print(
        globals,
        { version: 1, host: name, held },
        `${name} is held since ${formatTime(held.since)}: nothing is published for it. End that:  fleet host release ${name}`,
      );
    });
  host
    .command('release')
    .argument('<host>')
    .description('end a hold; and give a host that went back, or failed, its newest system anew')
    .action(async (name: string, _options: unknown, command: Command) => {
      const globals = globalsOf(command);
      const { releaseHost } = await import('../src/server/hold-host.ts');
      const { wasHeld, again, waits } = await withStateDir(globals, (dir) =>
        releaseHost(dir, name, {
          now: Math.floor(Date.now() / 1000),
          onWait: (holder) => {
            const who = holder === null ? 'another process' : `process ${holder.pid}`;
            say(globals, `waiting for ${who}, which is publishing`);
          },
        }),
      );
      const ended = wasHeld
        ? `${printable(name)} is no longer held.`
        : `${printable(name)} was not held.`;
      const published =
        again === null
          ? 'It did not refuse its newest manifest: nothing was published.'
          : waits
            ? `It would not try its newest manifest again; the same system, as #${again.sequence}, waits for approval: fleet publish --proposal FILE`
            : `It would not try its newest manifest again: the same system is published as #${again.sequence}.`;
      const manifest = again && {
        epoch: again.epoch,
        sequence: again.sequence,
        digest: again.digest,
      };
      print(
        globals,
        { version: 1, host: name, wasHeld, again: manifest, published: again !== null && !waits },
        `${ended} ${published}`,
      );
    });
}
