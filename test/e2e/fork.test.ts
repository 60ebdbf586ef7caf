// One fleet's log with two ends, which two servers show: a host that saw one refuses the other, says so with both
// signed checkpoints, and with that an auditor who has either log proves it, offline.
import assert from 'node:assert/strict';
import { createReadStream, createWriteStream } from 'node:fs';
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type TestContext, test } from 'node:test';
import { AUDIT_LIMITS } from '../../src/audit/source.ts';
import { type BundleFile, readBundle, writeBundle } from '../../src/bundle/tar.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { verifyCheckpoint } from '../../src/manifest/log-view.ts';
import { parseReceipt, type Receipt } from '../../src/manifest/receipt.ts';
import { verifyInitialRoot } from '../../src/manifest/root.ts';
import { fleet, fleetOk, serve } from '../helpers/cli.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const RECEIPTS = 'receipts/lantern/0.jsonl';
const isSaid = ({ name }: BundleFile): boolean => /^(receipts|conflicts)\//.test(name);

async function filesOf(tar: string): Promise<BundleFile[]> {
  return await Array.fromAsync(readBundle(createReadStream(tar), AUDIT_LIMITS));
}

/** Two servers whose logs have the same beginning, and a host that has seen the first one's. */
async function forked(t: TestContext) {
  const dir = await temporaryDir(t);
  const file = (name: string): string => join(dir, name);
  const demo = file('demo');
  await cp(resolve('examples/demo'), demo, { recursive: true });
  const [a, b] = [file('a'), file('b')];
  await fleetOk(['init', '--state', a, '--origin', 'demo.test']);
  const build = async (state: string, edition: string) => {
    await writeFile(join(demo, 'hosts/lantern/tree/edition'), `${edition}\n`);
    await fleetOk(['build', 'lantern', '--state', state, '--flake', `path:${demo}`]);
  };
  const agent = ['agent', '--root', file('lantern')];
  const once = async () => {
    const { stdout } = await fleet([...agent, 'once', '--json']);
    const { phase, error } = JSON.parse(stdout) as {
      phase: string;
      error: { code: string } | null;
    };
    return [phase, error?.code ?? null];
  };
  await build(a, 'common');
  const first = await serve(t, a);
  const invitation = file('lantern.json');
  const enrol = ['host', 'enroll', 'lantern', '--state', a, '--server', first.url];
  await fleetOk([...enrol, '-o', invitation]);
  await fleetOk([...agent, 'enroll', invitation]);
  assert.deepEqual(await once(), ['in-sync', null]);
  // The server is taken, keys and all, and runs twice from here on.
  await first.stop();
  await cp(a, b, { recursive: true });
  await build(a, 'of a');
  await build(b, 'of b');
  const [serverA, serverB] = [await serve(t, a), await serve(t, b)];
  const config = join(file('lantern'), 'var/lib/fleet-agent/agent.json');
  const askFrom = async (url: string) => {
    const now = JSON.parse(await readFile(config, 'utf8'));
    await writeFile(config, JSON.stringify({ ...now, server: url }));
  };
  const bundle = async (state: string, name: string) => {
    await rm(file(name), { force: true });
    await fleetOk(['audit', 'export', '--state', state, '--out', file(name)]);
    return await filesOf(file(name));
  };
  const root = file('1.root.json');
  await cp(join(a, 'root/1.root.json'), root);
  const audit = async (files: readonly BundleFile[]) => {
    const tar = file('audited.tar');
    await pipeline(Readable.from(writeBundle(files)), createWriteStream(tar));
    const { code, stdout } = await fleet(['audit', '--bundle', tar, '--root', root, '--json']);
    const { irregularities } = JSON.parse(stdout) as {
      irregularities: { code: string; host: string | null; message: string }[];
    };
    return { code, irregularities };
  };
  return { a, b, serverA, serverB, build, once, askFrom, bundle, audit, root };
}

/** The receipts of the host in a bundle. */
function receiptsOf(files: readonly BundleFile[]): Receipt[] {
  const { data } = files.find(({ name }) => name === RECEIPTS) ?? {};
  const lines = Buffer.from(data ?? '')
    .toString('utf8')
    .split('\n')
    .slice(0, -1);
  return lines.map((line) => parseReceipt(parseEnvelope(line).payload));
}

test('two servers with a common beginning: refused, told with both checkpoints, proved by an audit', async (t) => {
  const w = await forked(t);
  await w.askFrom(w.serverA.url);
  assert.deepEqual(await w.once(), ['in-sync', null]);
  await w.askFrom(w.serverB.url);
  assert.deepEqual(await w.once(), ['refused', 'E_FORK']);
  // However far the other goes on.
  await w.build(w.b, 'of b, and on');
  assert.deepEqual(await w.once(), ['refused', 'E_CONSISTENCY']);

  // B takes no receipts that follow one which A was told; they wait for A, who gets the evidence.
  const before = receiptsOf(await w.bundle(w.b, 'b.tar'));
  assert.ok(before.every(({ conflict }) => conflict === null));
  await w.askFrom(w.serverA.url);
  assert.deepEqual(await w.once(), ['in-sync', null]);
  const [ofA, ofB] = [await w.bundle(w.a, 'a.tar'), await w.bundle(w.b, 'b.tar')];
  const refused = receiptsOf(ofA).filter(({ phase }) => phase === 'refused');
  assert.deepEqual(
    refused.map(({ reason }) => reason?.code),
    ['E_FORK', 'E_CONSISTENCY'],
  );
  const root = verifyInitialRoot(parseEnvelope(await readFile(w.root, 'utf8')));
  const [seen, shown] = [refused[0]?.checkpoint, refused[0]?.conflict].map(
    (text) => verifyCheckpoint(text ?? '', root).checkpoint,
  );
  assert.ok(seen !== undefined && shown !== undefined);
  assert.deepEqual([shown.origin, shown.size], [seen.origin, seen.size]);
  assert.notDeepEqual(shown.root, seen.root);

  // The auditor of A; of A once it is as long as what B showed; and of B, with what A was told.
  const proof =
    /^receipt \d+ holds a checkpoint of \d+ entries that are not those of this log, signed by its key/;
  const short = await w.audit(ofA);
  assert.equal(short.code, 3);
  assert.deepEqual(
    short.irregularities.map(({ code, host }) => [code, host]),
    [
      ['E_FORK', 'lantern'],
      ['E_CONSISTENCY', 'lantern'],
    ],
  );
  assert.match(short.irregularities[0]?.message ?? '', proof);
  await w.build(w.a, 'of a, and on');
  const long = await w.audit(await w.bundle(w.a, 'a.tar'));
  assert.deepEqual(
    long.irregularities.map(({ code }) => code),
    ['E_FORK', 'E_FORK'],
  );
  const told = ofA.filter(({ name }) => name === RECEIPTS);
  const other = await w.audit([...ofB.filter((file) => !isSaid(file)), ...told]);
  const forks = other.irregularities.filter(({ code }) => code === 'E_FORK');
  assert.ok(forks.length > 0 && forks.every(({ message }) => proof.test(message)));
  // And B, of what it did not take: it was kept as what contradicts the rest.
  const kept = await w.audit(ofB);
  assert.ok(
    kept.irregularities.some(
      ({ code, message }) => code === 'E_FORK' && message.startsWith('refused receipt'),
    ),
  );
  // Without what the host said each log is as it should be: nobody else can tell.
  const silent = await w.audit(ofB.filter((file) => !isSaid(file)));
  assert.deepEqual([silent.code, silent.irregularities], [0, []]);
});
