// fleet publish: what was signed and waits (fleet build --no-publish, or groups that want approvals) is written as a
// proposal for those who approve, or published.
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import { approvalFile } from './approval-file.ts';
import { writeNew } from './new-file.ts';
import { type Globals, globalsOf, paint, print, say, table, tellAfterResult } from './output.ts';
import { withStateDir } from './state.ts';
import { shortPath } from './status.ts';

type Options = { proposal?: string; approval: string[] };

export function registerPublish(program: Command): void {
  program
    .command('publish')
    .description('publish what waits, or write it as a proposal for approval')
    .option('--proposal <file>', 'write what waits to a file for fleet approve; publish nothing')
    .option(
      '--approval <file>',
      'what fleet approve wrote; repeat',
      (value: string, all: string[]) => [...all, value],
      [],
    )
    .action(async (options: Options, command: Command) => {
      const globals = globalsOf(command);
      if (options.proposal !== undefined) await propose(globals, options.proposal);
      else await publish(globals, options.approval);
    });
}

async function propose(globals: Globals, file: string): Promise<void> {
  const { proposalOf } = await import('../src/server/pending.ts');
  const { writeBundle } = await import('../src/bundle/tar.ts');
  await withStateDir(globals, async (dir) => {
    const { hosts, files } = await proposalOf(dir);
    const chunks: Uint8Array[] = [];
    for await (const chunk of writeBundle(files)) chunks.push(chunk);
    await writeNew(file, Buffer.concat(chunks));
    print(
      globals,
      { version: 1, file, hosts },
      [
        `What waits for ${hosts.join(', ')} is in ${file}.`,
        'Where a release key is, with a root that you trust:',
        `  fleet approve ${file} --root ROOT --key RELEASE.pem --out APPROVAL`,
        'and then here:',
        `  fleet publish${globals.stateOption} --approval APPROVAL`,
      ].join('\n'),
    );
  });
}

async function publish(globals: Globals, files: readonly string[]): Promise<void> {
  const approvals = await Promise.all(files.map(approvalFile));
  const { publishPending } = await import('../src/server/pending.ts');
  const results = await withStateDir(globals, (dir) =>
    publishPending(dir, {
      approvals,
      now: Math.floor(Date.now() / 1000),
      onWait: (holder) => {
        const who = holder === null ? 'another process' : `process ${holder.pid}`;
        say(globals, `waiting for ${who}, which is publishing`);
      },
    }),
  );
  const waiting = results.filter(({ error }) => error !== null);
  const rows = results.map(({ manifest, error }) => [
    manifest.host,
    error === null ? paint(globals, 'good', 'published') : paint(globals, 'waiting', 'waits'),
    `#${manifest.sequence} ${manifest.toplevel === null ? 'removes the host' : shortPath(manifest.toplevel)}`,
    error === null ? '' : `${error.message} [${error.code}]`,
  ]);
  print(
    globals,
    {
      version: 1,
      hosts: results.map(({ manifest, error }) => ({
        host: manifest.host,
        epoch: manifest.epoch,
        sequence: manifest.sequence,
        digest: manifest.digest,
        toplevel: manifest.toplevel,
        published: error === null,
        error:
          error === null ? null : { code: error.code, message: error.message, hint: error.hint },
      })),
    },
    results.length === 0 ? 'Nothing waits to be published.' : table(rows),
  );
  const [first] = waiting;
  if (first?.error == null) return;
  const summary = `${waiting.length} of ${results.length} still wait`;
  const { hint } = first.error;
  process.exitCode = tellAfterResult(globals, new FleetError('E_SOME_HOSTS', summary, { hint }));
}
