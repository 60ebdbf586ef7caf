// What bench/ingest.ts measures: one ingest as a process of its own.
// argv: STATE (made where missing), STORE_DIR, INFOS (JSON file), LEVEL.
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ingestClosure } from '../src/cache/ingest.ts';
import { createFileBlobs, openFileBlobs } from '../src/storage/file-blobs.ts';
import { createState, openState } from '../src/storage/sqlite.ts';

const [dir = '', storeDir = '', infos = '', level = ''] = process.argv.slice(2);
if (!existsSync(dir)) {
  mkdirSync(dir);
  await createState(join(dir, 'fleet.db'));
  await createFileBlobs(join(dir, 'blobs'));
}
await using state = await openState(join(dir, 'fleet.db'), { writer: 'inline' });
const blobs = await openFileBlobs(join(dir, 'blobs'));
const done = await ingestClosure(JSON.parse(readFileSync(infos, 'utf8')), {
  state,
  blobs,
  storeDir,
  level: Number(level),
});
console.log(JSON.stringify(done));
