// fleet host remove HOST: ends a host, for good.
import type { Command } from 'commander';
import { LEAVE_SECONDS } from '../src/storage/host-life.ts';
import { confirm } from './confirm.ts';
import { globalsOf, print, printable, say } from './output.ts';
import { withStateDir } from './state.ts';

export function registerHostRemove(host: Command): void {
  host
    .command('remove')
    .argument('<host>')
    .description('end a host for good: it keeps running what it runs, and gets no further update')
    .option('--yes', 'do not ask')
    .action(async (name: string, options: { yes?: boolean }, command: Command) => {
      const globals = globalsOf(command);
      const { removeHost } = await import('../src/server/remove-host.ts');
      if (options.yes !== true) {
        const text = `${printable(name)} keeps running what it runs, and gets no further update. Its name is never used again.`;
        await confirm(globals, text, `Remove ${printable(name)} from the fleet?`, {
          hint: `if you mean it: fleet host remove ${printable(name)} --yes`,
          unchanged: 'nothing was removed',
        });
      }
      const { manifest, waits, isNew } = await withStateDir(globals, (dir) =>
        removeHost(dir, name, {
          now: Math.floor(Date.now() / 1000),
          onWait: (holder) => {
            const who = holder === null ? 'another process' : `process ${holder.pid}`;
            say(globals, `waiting for ${who}, which is publishing`);
          },
        }),
      );
      const { epoch, sequence, digest } = manifest;
      print(
        globals,
        { version: 1, host: name, epoch, sequence, digest, published: !waits, isNew },
        waits
          ? `The removal of ${name} waits for approval: fleet publish --proposal FILE`
          : isNew
            ? `${name} is removed. For ${LEAVE_SECONDS / 86_400} days it may still ask, and is told so.`
            : `${name} was removed before.`,
      );
    });
}
