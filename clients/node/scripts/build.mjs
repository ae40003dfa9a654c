// Compiles src to CommonJS in dist, and writes the ESM entry points beside it. These re-export the CommonJS modules, so
// that a program which loads the package both ways has one copy of it: `instanceof` works everywhere.
import { execFileSync } from 'node:child_process';
import { appendFileSync, copyFileSync, existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const { exports: entries } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));

let tsc;
try {
  tsc = require.resolve('typescript/package.json').replace(/package\.json$/, 'bin/tsc');
} catch {
  console.error('typescript is missing: run `npm install` in this folder first');
  process.exit(1);
}

// Built beside it and then moved, so that what is half built is never packed or tested.
const out = mkdtempSync(`${root}/dist-`);
try {
  execFileSync(process.execPath, [tsc, '-p', root, '--outDir', out], { stdio: 'inherit' });
  for (const entry of Object.values(entries)) {
    if (entry.import) writeEntry(entry);
  }
  rmSync(`${root}/dist`, { recursive: true, force: true });
  renameSync(out, `${root}/dist`);
} catch (error) {
  if (error.status === undefined) throw error;
  process.exitCode = 1; // tsc has said why
} finally {
  rmSync(out, { recursive: true, force: true });
}

// In a checkout the licences are at the root of the repository.
for (const licence of ['LICENSE-APACHE', 'LICENSE-MIT']) {
  if (existsSync(`${root}/../../${licence}`)) copyFileSync(`${root}/../../${licence}`, `${root}/${licence}`);
}

function writeEntry(entry) {
  const place = (path) => path.replace('./dist', out);
  const name = /([^/]+)\.js$/.exec(entry.require.default)[1];
  const exported = require(place(entry.require.default));
  const names = Object.keys(exported).filter((key) => key !== 'default' && key !== '__esModule');
  const lines = [`import m from './${name}.js';`, ...names.map((key) => `export const ${key} = m.${key};`)];
  const types = [`export * from './${name}.js';`];
  if (name !== 'index') {
    // `declare module 'sessiond'` needs that module in the program, also where only this entry point is imported.
    types.push(`import './index.mjs';`);
    appendFileSync(place(entry.require.types), `import './index.js';\n`);
  }
  if ('default' in exported) {
    lines.push('export default m.default;');
    types.push(`export { default } from './${name}.js';`);
  }
  writeFileSync(place(entry.import.default), `${lines.join('\n')}\n`);
  writeFileSync(place(entry.import.types), `${types.join('\n')}\n`);
}
