// Compiles src to CommonJS in dist, and writes the ESM entry points beside it. These re-export the CommonJS modules, so
// that a program which loads the package both ways has one copy of it: `instanceof` works everywhere.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const { exports: entries } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));

if (process.argv.includes('--clean')) rmSync(`${root}/dist`, { recursive: true, force: true });
const tsc = require.resolve('typescript/package.json').replace(/package\.json$/, 'bin/tsc');
try {
  execFileSync(process.execPath, [tsc, '-p', root, ...process.argv.slice(2).filter((option) => option !== '--clean')], { stdio: 'inherit' });
} catch {
  process.exitCode = 1; // tsc has said why; what it wrote is there all the same
}

for (const entry of Object.values(entries)) {
  if (!entry.import) continue;
  const file = `${root}/${entry.require.default}`;
  if (!existsSync(file)) continue;
  const name = file.slice(file.lastIndexOf('/') + 1, -'.js'.length);
  const names = Object.keys(require(file)).filter((exported) => exported !== 'default' && exported !== '__esModule');
  const lines = [`import m from './${name}.js';`, ...names.map((n) => `export const ${n} = m.${n};`)];
  const types = [`export * from './${name}.js';`];
  if ('default' in require(file)) {
    lines.push('export default m.default;');
    types.push(`export { default } from './${name}.js';`);
  }
  writeFileSync(`${root}/${entry.import.default}`, `${lines.join('\n')}\n`);
  writeFileSync(`${root}/${entry.import.types}`, `${types.join('\n')}\n`);
}

// In a checkout the licences are at the root of the repository.
for (const licence of ['LICENSE-APACHE', 'LICENSE-MIT']) {
  try {
    copyFileSync(`${root}/../../${licence}`, `${root}/${licence}`);
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
}
