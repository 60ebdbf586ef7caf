// Keys, signatures, hashes and narinfos beside Nix's own, in chroot stores and a cache of files.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { formatNarHash, narHashHex } from '../../src/nix/hash.ts';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { formatNarInfo, type NarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import {
  fingerprintOf,
  formatNixPublicKey,
  formatNixSecretKey,
  generateNixKey,
  nixPublicKeyOf,
  parseNixPublicKey,
  parseNixSecretKey,
  signPath,
  verifyPathSignature,
} from '../../src/nix/signature.ts';
import { baseNameOf, hashPartOf, parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { bytesOf } from '../helpers/nar.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const ours = generateNixKey('ours-1');

describe('signatures beside Nix', () => {
  let temporary: Awaited<ReturnType<typeof temporaryDirectory>>;
  let paths: StorePath[] = [];
  const at = (name: string) => join(temporary.path, name);

  function nix(program: string, args: string[], settings: string[] = [], input = ''): string {
    const config = [
      'experimental-features = nix-command',
      'build-users-group =',
      'sandbox = false',
      'substituters =',
      ...settings,
    ];
    return execFileSync(program, args, {
      encoding: 'utf8',
      input,
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, NIX_CONFIG: config.join('\n'), XDG_CACHE_HOME: at('cache-home') },
    });
  }
  const narInfoFile = (cache: string, path: StorePath) =>
    at(`${cache}/${hashPartOf(path)}.narinfo`);
  const readNarInfo = (cache: string, path: StorePath) =>
    parseNarInfo(readFileSync(narInfoFile(cache, path), 'utf8'), { hashPart: hashPartOf(path) });

  before(async () => {
    temporary = await temporaryDirectory();
    await mkdir(at('tree/sub'), { recursive: true });
    writeFileSync(at('tree/sub/file'), 'contents');
    const store = ['--store', at('store')];
    const tree = nix('nix-store', [...store, '--add', at('tree')]).trim();
    // Paths with references: text files that mention others.
    const expression = `let
      leaf = builtins.toFile "leaf" "no references";
      middle = builtins.toFile "middle" "refers to \${leaf}";
      in builtins.toFile "top" "refers to \${middle} and \${leaf}"`;
    const top = nix('nix', ['eval', '--raw', '--impure', ...store, '--expr', expression]).trim();
    const closure = nix('nix-store', [...store, '-qR', top, tree])
      .trim()
      .split('\n');
    paths = closure.map(parseStorePath);
    assert.equal(paths.length, 4);
    writeFileSync(at('ours.secret'), formatNixSecretKey(ours));
    const url = `file://${at('cache')}?compression=xz&secret-key=${at('ours.secret')}`;
    nix('nix', ['copy', ...store, '--to', url, ...paths]);
  });
  after(async () => {
    await temporary[Symbol.asyncDispose]();
  });

  it("keys of both of Nix's generators are read and written back", () => {
    const secret = nix('nix', ['key', 'generate-secret', '--key-name', 'their-key.2']).trim();
    const publicText = nix('nix', ['key', 'convert-secret-to-public'], [], secret).trim();
    assert.equal(formatNixSecretKey(parseNixSecretKey(secret)), secret);
    assert.equal(formatNixPublicKey(nixPublicKeyOf(parseNixSecretKey(secret))), publicText);

    nix('nix-store', ['--generate-binary-cache-key', 'old-1', at('old.secret'), at('old.public')]);
    const old = parseNixSecretKey(readFileSync(at('old.secret'), 'utf8'));
    const oldPublic = parseNixPublicKey(readFileSync(at('old.public'), 'utf8'));
    assert.deepEqual(nixPublicKeyOf(old), oldPublic);
  });
  it('Nix reads a secret key of ours', () => {
    const converted = nix('nix', ['key', 'convert-secret-to-public'], [], formatNixSecretKey(ours));
    assert.equal(converted.trim(), formatNixPublicKey(nixPublicKeyOf(ours)));
  });
  it("Nix's narinfos come back byte for byte, and hold the signature that we would make", () => {
    for (const path of paths) {
      const info = readNarInfo('cache', path);
      assert.equal(formatNarInfo(info), readFileSync(narInfoFile('cache', path), 'utf8'));
      assert.deepEqual(info.sigs, [signPath(info, ours)]);
      assert.ok(verifyPathSignature(info, info.sigs[0] ?? '', [nixPublicKeyOf(ours)]));
    }
    const counts = paths.map((path) => readNarInfo('cache', path).references.length);
    assert.deepEqual(counts.sort(), [0, 0, 1, 2]);
  });
  it('`nix store sign` makes the signature that we make', () => {
    const store = ['--store', at('store')];
    nix('nix', ['store', 'sign', ...store, '-k', at('ours.secret'), ...paths]);
    const rows = JSON.parse(nix('nix', ['path-info', '--json', ...store, ...paths])) as {
      path: string;
      signatures: string[];
    }[];
    assert.equal(rows.length, paths.length);
    for (const row of rows) {
      const info = readNarInfo('cache', parseStorePath(row.path));
      assert.deepEqual(row.signatures, [signPath(info, ours)]);
    }
  });
  it('Nix takes paths that we signed, and refuses what we would refuse', async () => {
    // The copy's content-addressed paths need no signature; without CA they do.
    const served = (change: (info: NarInfo) => NarInfo): string => {
      const from = at('cache');
      const to = at(`served-${readdirSync(temporary.path).length}`);
      execFileSync('cp', ['-r', from, to]);
      for (const path of paths) {
        const info = { ...readNarInfo('cache', path), ca: null, sigs: [] };
        const file = join(to, `${hashPartOf(path)}.narinfo`);
        writeFileSync(file, formatNarInfo(change(info)));
      }
      return to;
    };
    const fetch = (from: string) => {
      const to = `${from}-store`;
      const trusted = `trusted-public-keys = ${formatNixPublicKey(nixPublicKeyOf(ours))}`;
      nix(
        'nix',
        ['copy', '--from', `file://${from}`, '--to', to, ...paths],
        [trusted, 'require-sigs = true'],
      );
      return to;
    };
    const signed = (info: NarInfo) => ({ ...info, sigs: [signPath(info, ours)] });
    const store = fetch(served(signed));
    for (const path of paths) {
      const bytes = await bytesOf(dumpNar(join(store, 'nix/store', baseNameOf(path))));
      const hash = formatNarHash(createHash('sha256').update(bytes).digest());
      const info = readNarInfo('cache', path);
      assert.deepEqual([hash, bytes.length], [info.narHash, info.narSize]);
    }
    assert.throws(() => fetch(served((info) => info)), /lacks a valid signature/);
    const impostor = generateNixKey(ours.name);
    const forged = (info: NarInfo) => ({ ...info, sigs: [signPath(info, impostor)] });
    assert.throws(() => fetch(served(forged)), /lacks a valid signature/);
    const bereft = (info: NarInfo) => ({ ...signed(info), references: [] });
    assert.throws(() => fetch(served(bereft)), /lacks a valid signature/);
  });
  it('`nix-hash` turns our hashes into hex as we do', () => {
    for (const path of paths) {
      const { narHash } = readNarInfo('cache', path);
      const digits = narHash.slice('sha256:'.length);
      const hex = nix('nix-hash', ['--type', 'sha256', '--to-base16', digits]).trim();
      assert.equal(narHashHex(narHash), hex);
      assert.equal(nix('nix-hash', ['--type', 'sha256', '--to-base32', hex]).trim(), digits);
    }
  });
  it('the fingerprint names full paths', () => {
    const top = paths.find((path) => path.endsWith('-top'));
    assert.ok(top);
    const info = readNarInfo('cache', top);
    const references = paths.filter((path) => /-(leaf|middle)$/.test(path)).sort();
    assert.equal(
      fingerprintOf(info),
      `1;${top};${info.narHash};${info.narSize};${references.join(',')}`,
    );
  });
});
