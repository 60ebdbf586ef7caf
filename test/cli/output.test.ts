// A document that is written in pieces is the one that is written whole.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { piecesOf } from '../../cli/output.ts';

test('pieces of a document are the document', () => {
  for (const document of [
    {},
    { version: 1 },
    { empty: [], none: null, text: 'a\n"b"' },
    { version: 1, hosts: [{ host: 'a', told: [{ x: 1 }, {}], lines: ['one\ntwo'] }, 7, null, []] },
  ]) {
    assert.equal([...piecesOf(document)].join(''), `${JSON.stringify(document, null, 2)}\n`);
  }
});
