// What must stay the same in several places.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';

const require = createRequire(import.meta.url);
const { version, dependencies, exports: entries } = require('sessiond/package.json');

test('the version is that of the daemon', () => {
  const cargo = readFileSync(new URL('../../../Cargo.toml', import.meta.url), 'utf8');
  assert.equal(version, /^version = "(.*)"$/m.exec(cargo)[1]);
  assert.equal(require('../dist/version.js').VERSION, version);
});

test('there is no dependency at run time', () => assert.equal(dependencies, undefined));

test('every entry point is one copy, from ESM and from CommonJS', async () => {
  for (const entry of Object.keys(entries).filter((name) => name !== './package.json')) {
    const name = entry.replace('.', 'sessiond');
    const [esm, cjs] = [await import(name), require(name)];
    for (const key of Object.keys(cjs)) assert.equal(esm[key], cjs[key], `${name}: ${key}`);
  }
});
