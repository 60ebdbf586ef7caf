// fleet verify FILE… --root ROOT.json: the auditor's command. Offline: reads the named files and the
// clock, and nothing else. Trust comes from the auditor's own root file. A FILE is anything of ours that is signed, or
// that proves it (SPEC §11.4); what each is worth, src/audit/files.ts says. File names and contents are hostile:
// neither may drive the terminal or make it read without end.
import { createReadStream } from 'node:fs';
import type { Command } from 'commander';
import { checkBundle } from '../src/audit/bundle-check.ts';
import { known, type Verdict } from '../src/audit/file-verdicts.ts';
import { judgeFiles } from '../src/audit/files.ts';
import { isTar } from '../src/audit/kinds.ts';
import { AUDIT_LIMITS, openBundleSource } from '../src/audit/source.ts';
import { readBundle } from '../src/bundle/tar.ts';
import { FleetError, messageOf } from '../src/errors.ts';
import { formatTime, parseTime } from '../src/manifest/time.ts';
import { readHead, readInput } from './input.ts';
import { globalsOf, print, tellAfterResult } from './output.ts';
import { readOwnRoot } from './own-root.ts';
import { documentOf, rootDocument, sentence } from './verify-report.ts';

type Options = { root: string; at?: string; host?: string };

export function registerVerify(program: Command): void {
  program
    .command('verify')
    .argument('<files...>', 'manifests, and whatever is signed or proves it')
    .requiredOption('--root <file>', 'the root that you trust, such as 1.root.json')
    .option('--host <host>', 'refuse manifests of any other host')
    .option('--at <time>', 'as of this time, such as 2026-01-31T23:59:59Z (default: now)')
    .description('check signed files offline, with public keys alone')
    .action(async (files: string[], options: Options, command: Command) => {
      const globals = globalsOf(command);
      const now = options.at === undefined ? Math.floor(Date.now() / 1000) : timeOf(options.at);
      const own = await readOwnRoot(options.root);
      const inputs: { file: string; bytes: Buffer }[] = [];
      const bundles = new Map<string, Verdict>();
      for (const file of files) {
        // A whole log does not fit in memory, and need not.
        if (isTar(await readHead(file))) bundles.set(file, await bundleVerdict(file, own.envelope));
        else inputs.push({ file, bytes: await readInput(file) });
      }
      const { trusted, verdicts: others } = withRootFile(options.root, () =>
        judgeFiles(inputs, own, now, options.host),
      );
      const { root } = trusted;
      const rest = [...others];
      const verdicts = files.flatMap((file) => bundles.get(file) ?? rest.shift() ?? []);
      print(
        globals,
        { version: 1, at: now, root: rootDocument(root), results: verdicts.map(documentOf) },
        [
          `root: fleet ${root.fleet}, version ${root.version}, as of ${formatTime(now)}`,
          ...verdicts.map((verdict) => sentence(globals, verdict)),
        ].join('\n'),
      );
      const refused = verdicts.flatMap((verdict) => ('error' in verdict ? [verdict.error] : []));
      if (refused.length > 0) {
        const summary = `${refused.length} of ${verdicts.length} refused`;
        const hint = refused[0]?.hint ?? '';
        process.exitCode = tellAfterResult(globals, new FleetError('E_VERIFY', summary, { hint }));
      }
    });
}

/** The auditor's root, with its own file named in what is wrong with it. */
function withRootFile<T>(file: string, use: () => T): T {
  try {
    return use();
  } catch (cause) {
    const { code, message, hint } = known(cause);
    const advice =
      code === 'E_ROOT_EXPIRED'
        ? 'to judge as of an earlier day, say so with --at TIME; or give newer roots as files'
        : hint;
    throw new FleetError(code, `--root ${file}: ${message}`, { hint: advice, cause });
  }
}

async function bundleVerdict(file: string, root: string): Promise<Verdict> {
  const stream = createReadStream(file);
  try {
    const source = await openBundleSource(readBundle(stream, AUDIT_LIMITS));
    const { checkpoint, freshAt, root: newest, receipts } = await checkBundle(source, root);
    const { origin, size } = checkpoint;
    const log = { origin, size, freshAt };
    const says = { kind: 'bundle', log, rootVersion: newest.version, receipts } as const;
    return { file, kind: 'bundle', says };
  } catch (error) {
    return { file, kind: 'bundle', error: known(error) };
  } finally {
    stream.destroy();
  }
}

function timeOf(text: string): number {
  try {
    return parseTime(text);
  } catch (cause) {
    throw new FleetError('E_USAGE', `--at: ${messageOf(cause)}`, { cause });
  }
}
