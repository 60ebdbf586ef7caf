// A transparency log as plain files (C2SP tlog-tiles): DIR/checkpoint, DIR/tile/…. Any web server could
// serve them. A file is whole or absent, also after a power cut.
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { makeDirectoryDurable, writeDurable } from '../durable.ts';
import { errnoOf, FleetError } from '../errors.ts';
import { formatTilePath } from '../tlog/tile.ts';
import type { LogStore } from './log.ts';

/** The log in `dir`, which is made when the first file is. */
export function openFileLog(dir: string): LogStore {
  const made = new Set<string>();
  const write = async (file: string, data: string | Uint8Array): Promise<void> => {
    const parent = dirname(file);
    if (!made.has(parent)) await makeDirectoryDurable(parent);
    made.add(parent);
    await writeDurable(file, data);
  };
  const checkpointFile = join(dir, 'checkpoint');
  const checkpoint = async (): Promise<string | null> =>
    (await readIfThere(checkpointFile))?.toString('utf8') ?? null;
  return {
    checkpoint,
    tile: (id) => readIfThere(join(dir, formatTilePath(id))),
    putTile: (id, bytes) => write(join(dir, formatTilePath(id)), bytes),
    async putCheckpoint(text, before) {
      if ((await checkpoint()) !== before) {
        throw new FleetError('E_LOG_DAMAGED', `${checkpointFile} was changed by somebody else`);
      }
      await write(checkpointFile, text);
    },
  };
}

async function readIfThere(file: string): Promise<Buffer | null> {
  try {
    return await readFile(file);
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return null;
    throw new FleetError('E_STATE_ACCESS', `cannot read ${file}: ${errnoOf(cause)}`, { cause });
  }
}
