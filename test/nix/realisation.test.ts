// Realisations: both forms that clients write come back, and what no client could read is refused. That
// Nix's own are taken is shown in test/e2e/content-address.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isRealisationKey, parseRealisation } from '../../src/nix/realisation.ts';
import { baseNameOf } from '../../src/nix/storepath.ts';
import { storePath } from '../helpers/paths.ts';

const output = storePath('output', 'multi');
const drv = baseNameOf(storePath('drv', 'multi.drv'));
const [id, otherId] = ['8', '9'].map((digit) => `sha256:${digit.repeat(64)}!out`);
const oldKey = `realisations/${id}.doi`;
const newKey = `build-trace-v2/${drv}/out.doi`;
const sig = Buffer.alloc(64, 7).toString('base64');

const oldForm = {
  dependentRealisations: { [otherId ?? '']: baseNameOf(storePath('dep', 'dep')) },
  id,
  outPath: baseNameOf(output),
  signatures: [`cache-1:${sig}`],
};
const newForm = {
  outPath: baseNameOf(output),
  signatures: [{ keyName: 'cache-1', sig }],
};

describe('realisations', () => {
  for (const [key, form] of [
    [oldKey, oldForm],
    [newKey, newForm],
    [oldKey, { ...oldForm, dependentRealisations: {}, signatures: newForm.signatures }],
    [newKey, { ...newForm, signatures: oldForm.signatures }],
  ] as const) {
    it(`of ${key.split('/')[0]} with ${JSON.stringify(form.signatures[0]).slice(0, 12)}… come back`, () => {
      assert.deepEqual(parseRealisation(key, JSON.stringify(form)), {
        key,
        outPath: output,
        json: JSON.stringify(form),
      });
    });
  }
  it('are written anew: fields in order, each once, what may be left out filled in', () => {
    const text = `{"signatures":[], "outPath":"x", "outPath":"${baseNameOf(output)}",\n "id":"${id}"}`;
    const { json } = parseRealisation(oldKey, text);
    assert.equal(json, JSON.stringify({ ...oldForm, dependentRealisations: {}, signatures: [] }));
    const bare = parseRealisation(newKey, JSON.stringify({ outPath: baseNameOf(output) }));
    assert.equal(bare.json, JSON.stringify({ ...newForm, signatures: [] }));
  });

  const texts: readonly (readonly [string, string, string])[] = [
    ['nothing', newKey, ''],
    ['no JSON', newKey, '{"outPath":'],
    ['a list', newKey, '[]'],
    ['null', newKey, 'null'],
    ['a depth of 10,000', newKey, `${'['.repeat(10_000)}${']'.repeat(10_000)}`],
    ['over 64 KiB', newKey, JSON.stringify(newForm).padEnd(64 * 1024 + 1)],
  ];
  const forms: readonly (readonly [string, string, object])[] = [
    ['no outPath', newKey, { signatures: [] }],
    ['an outPath in full', newKey, { ...newForm, outPath: output }],
    ['an outPath that is a number', newKey, { ...newForm, outPath: 1 }],
    ['an outPath with a way out', newKey, { ...newForm, outPath: '../../etc/passwd' }],
    ['an unknown field', newKey, { ...newForm, deriver: drv }],
    ['__proto__', newKey, JSON.parse(`{"__proto__":{},"outPath":"${baseNameOf(output)}"}`)],
    ['an id in the new form', newKey, { ...newForm, id }],
    ['dependencies in the new form', newKey, { ...newForm, dependentRealisations: {} }],
    ['no id in the old form', oldKey, newForm],
    ['the id of another', oldKey, { ...oldForm, id: otherId }],
    ['signatures that are no list', oldKey, { ...oldForm, signatures: {} }],
    ['a signature without a colon', oldKey, { ...oldForm, signatures: [sig] }],
    [
      'a signature of 63 bytes',
      newKey,
      { ...newForm, signatures: [{ keyName: 'k', sig: 'AAAA' }] },
    ],
    ['a signature without a key', newKey, { ...newForm, signatures: [{ sig }] }],
    ['a key name that is a number', newKey, { ...newForm, signatures: [{ keyName: 1, sig }] }],
    ['a key name with a colon', newKey, { ...newForm, signatures: [{ keyName: 'a:b', sig }] }],
    ['a signature with more', newKey, { ...newForm, signatures: [{ keyName: 'k', sig, x: 1 }] }],
    ['a signature that is null', newKey, { ...newForm, signatures: [null] }],
    ['dependencies that are a list', oldKey, { ...oldForm, dependentRealisations: [] }],
    ['a dependency without an id', oldKey, { ...oldForm, dependentRealisations: { out: drv } }],
    [
      'a dependency that is no path',
      oldKey,
      { ...oldForm, dependentRealisations: { [id ?? '']: 'x' } },
    ],
  ];
  for (const [what, key, text] of [
    ...texts,
    ...forms.map(([what, key, form]) => [what, key, JSON.stringify(form)] as const),
  ]) {
    it(`refuse ${what}`, () => {
      assert.throws(() => parseRealisation(key, text), { code: 'E_REALISATION' });
    });
  }

  it('have addresses of two forms', () => {
    for (const key of [oldKey, newKey, newKey.replace('out', 'a.b_c+d')]) {
      assert.ok(isRealisationKey(key), key);
    }
    for (const key of [
      '',
      'realisations/',
      `/${oldKey}`,
      oldKey.replace('.doi', ''),
      oldKey.replace('sha256', 'sha1'),
      oldKey.replace('!out', ''),
      oldKey.replace('!out', '!'),
      oldKey.replace('!out', '!../x'),
      oldKey.replace('8', 'G'),
      newKey.replace(drv, '..'),
      newKey.replace(drv, 'x.drv'),
      newKey.replace('.drv', ''),
      newKey.replace('/out', '/../out'),
      newKey.replace('out', ''),
      `${newKey}/x`,
      `${newKey}\n`,
    ]) {
      assert.ok(!isRealisationKey(key), key);
      assert.throws(() => parseRealisation(key, JSON.stringify(newForm)), {
        code: 'E_REALISATION',
      });
    }
  });
});
