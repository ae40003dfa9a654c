// Packs the package, installs it into an empty folder, and uses it there as a newcomer does: CommonJS, ESM and TypeScript.
// With a daemon (SESSIOND_BIN or target/*/sessiond), the program of the README runs too.
//
//   npm run try-packed
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { findDaemon, startDaemon } from '../test/support/daemon.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const folder = mkdtempSync(join(tmpdir(), 'sessiond-packed-'));
const run = (command, ...args) => execFileSync(command, args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
const write = (name, text) => writeFileSync(join(folder, name), text);

try {
  const [{ filename, files, size }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--pack-destination', folder], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).replace(/^[^[]*/, ''));
  for (const { path } of files) assert.match(path, /^(dist\/|package\.json$|README\.md$|LICENSE-)/, 'only what is published');
  for (const name of ['LICENSE-MIT', 'LICENSE-APACHE', 'README.md', 'dist/index.js', 'dist/index.mjs', 'dist/index.d.ts', 'dist/index.d.mts']) {
    assert.ok(files.some(({ path }) => path === name), `expected ${name} in the package`);
  }
  console.log(`packed: ${files.length} files, ${Math.round(size / 1024)} KiB`);

  write('package.json', '{ "name": "newcomer", "private": true }');
  run('npm', 'install', '--no-audit', '--no-fund', '--no-package-lock', `./${filename}`);
  assert.deepEqual(readdirSync(join(folder, 'node_modules')).filter((name) => !name.startsWith('.')), ['sessiond'], 'no dependency at run time');

  const use = `
    const fake = createFake();
    const session = await RequestSession.open(fake, fake.cookie({ principal: 'ann', data: { n: 1 } }));
    const { n } = await session.update((data) => void data.n++);
    const answer = await webSessions({ client: fake }).handler(async (request, session) => Response.json({ live: session.live }))(new Request('http://a/'));
    if (n !== 2 || session.principal !== 'ann' || (await answer.json()).live !== false) throw new Error('not as expected');
    const error = await fake.write({ token: 'x' }).catch((error) => error);
    if (!(error instanceof SessionGoneError)) throw new Error('another copy of the classes');
    const client = createClient('127.0.0.1:1', { timeout: 1000 });
    const away = await client.resolve({ token: 'x' }).catch((error) => error);
    if (away.reason !== 'CONNECTION_FAILED') throw away;
    console.log('works');`;
  write('use.cjs', `const { createClient, RequestSession, SessionGoneError } = require('sessiond');\nconst { createFake } = require('sessiond/testing');\nconst { webSessions } = require('sessiond/web');\n(async () => {${use}})();`);
  write('use.mjs', `import { createClient, RequestSession, SessionGoneError } from 'sessiond';\nimport { createFake } from 'sessiond/testing';\nimport { webSessions } from 'sessiond/web';\n${use}`);
  write('entries.mjs', `import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);\nfor (const entry of ${JSON.stringify(['sessiond', 'sessiond/express', 'sessiond/fastify', 'sessiond/hyper-express', 'sessiond/web', 'sessiond/testing'])}) {\n  const [esm, cjs] = [await import(entry), require(entry)];\n  for (const key of Object.keys(cjs)) if (esm[key] !== cjs[key]) throw new Error(entry + ': ' + key + ' differs');\n}\nconsole.log('works');`);
  for (const name of ['use.cjs', 'use.mjs', 'entries.mjs']) {
    assert.equal(run(process.execPath, name), 'works\n', name);
    console.log(`${name}: works`);
  }

  const typed = `import { createClient, RequestSession, UnavailableError, type Client, type ResolveResult, type SessionInfo } from 'sessiond';
import { createFake, type FakeClient } from 'sessiond/testing';
import { cookieToSet, webSessions } from 'sessiond/web';
declare module 'sessiond' { interface SessionData { visits?: number } }
const client: Client = createClient('127.0.0.1:1', { tls: { ca: 'pem' } });
const fake: FakeClient = createFake({ engines: { default: { duration: 1000 } } });
export async function use(request: Request): Promise<number> {
  const session = await RequestSession.open(fake, request.headers.get('cookie'));
  const info: SessionInfo | null = session.info;
  const visits: number | undefined = session.data.visits;
  // @ts-expect-error visits is a number
  session.data.visits = 'many';
  // @ts-expect-error id is read-only
  session.id = '';
  const result: ResolveResult = await client.resolve({ token: 'x' }, { peek: true });
  // @ts-expect-error a credential is one or the other
  await client.resolve({ cookie: 'x' });
  const cookie = cookieToSet(session)?.maxAge;
  try { await session.save(); } catch (error) { if (error instanceof UnavailableError) return error.retryAfter ?? 1; }
  return (visits ?? 0) + (info?.version ?? 0) + (cookie ?? 0) + result.setCookie.length;
}
export const POST = webSessions({ client }).handler(async (request, session, context: { params: string }) => Response.json([request.url, session.id, context.params]));
`;
  write('typed.mts', typed);
  write('typed.cts', typed);
  const tsc = require.resolve('typescript/package.json').replace(/package\.json$/, 'bin/tsc');
  const types = require.resolve('@types/node/package.json').replace(/\/node\/package\.json$/, '');
  const common = { module: 'nodenext', target: 'es2022', strict: true, exactOptionalPropertyTypes: true, noEmit: true, typeRoots: [types], types: ['node'], skipLibCheck: false };
  write('tsconfig.json', JSON.stringify({ compilerOptions: common, files: ['typed.mts', 'typed.cts'] }));
  run(process.execPath, tsc, '-p', '.');
  console.log('TypeScript, from ESM and from CommonJS: works');

  const binary = findDaemon();
  if (binary) {
    const daemon = await startDaemon(binary);
    const [, program] = /```js\n(\/\/ app\.mjs\n[\s\S]*?)```/.exec(readFileSync(join(root, 'README.md'), 'utf8'));
    write('app.mjs', program.replace('127.0.0.1:50051', daemon.address).replace('.listen(3000,', '.listen(0,').replace("console.log('listening on http://127.0.0.1:3000')", 'console.log(server.address().port)').replace('\nhttp\n', '\nconst server = http\n'));
    const app = spawn(process.execPath, ['app.mjs'], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
    const [port] = await once(createInterface({ input: app.stdout }), 'line');
    const first = await fetch(`http://127.0.0.1:${port}`);
    const cookie = first.headers.getSetCookie()[0].split(';')[0];
    const second = await fetch(`http://127.0.0.1:${port}`, { headers: { cookie } });
    assert.deepEqual([await first.text(), await second.text()], ['visit 1\n', 'visit 2\n']);
    console.log('the program of the README: works');
    app.kill();
    await daemon.stop();
  } else console.log('the program of the README: skipped, no daemon');
} finally {
  rmSync(folder, { recursive: true, force: true });
}
