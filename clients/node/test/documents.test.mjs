// The JavaScript and TypeScript of the documents: programs run, with the commands that are shown below them, against a daemon;
// everything else is checked by the compiler.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import ts from 'typescript';
import { findDaemon, startDaemon } from './support/daemon.mjs';
import { codeBlocks } from './support/documents.mjs';

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
const daemonAddress = '127.0.0.1:50051';

// What the text around a block has said before: names that the block takes for granted.
const given = {
  'README.md': `
    declare const createClient: typeof import('sessiond').createClient;
    declare const tracer: { startSpan(name: string, options: { startTime: number }): { setStatus(status: object): void; end(time: number): void } };
    declare const SpanStatusCode: { ERROR: number };`,
  'express.md': `
    declare const app: import('express').Express, request: import('express').Request, item: string, address: string;
    declare const session: typeof import('sessiond/express').session;
    declare const passport: { session(): import('express').RequestHandler };`,
  'fastify.md': `
    declare const app: import('fastify').FastifyInstance, client: import('sessiond').Client;
    declare const session: typeof import('sessiond/fastify').session;`,
  'hono.md': `declare const Hono: typeof import('hono').Hono;`,
  'hyper-express.md': `
    declare const SessionEngine: typeof import('sessiond/hyper-express').SessionEngine;
    declare const address: string;`,
  'moving-from-express-session.md': `
    declare const app: import('express').Express, client: unknown, secret: string;
    declare const RedisStore: new (options: object) => unknown;`,
  'nextjs.md': `declare const sessions: import('sessiond/web').WebSessions;`,
  'testing.md': `
    declare const createFake: typeof import('sessiond/testing').createFake;
    declare const fake: import('sessiond/testing').FakeClient;
    declare function makeApp(client: import('sessiond').Client): unknown;`,
};
// Packages that are not installed here, as far as the documents use them.
const absent = `
  declare module 'express-session' { export default function session(options: object): import('express').RequestHandler; }
  declare module 'hyper-express-session';
  declare module 'next/headers' {
    export function headers(): Promise<Headers>;
    export function cookies(): Promise<{ set(cookie: { name: string; value: string; path?: string; maxAge?: number; secure?: boolean; httpOnly?: boolean; sameSite?: 'strict' | 'lax' | 'none' }): unknown }>;
  }
  declare namespace JSX { interface IntrinsicElements { [name: string]: object } }`;

const compilerOptions = {
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
  jsx: ts.JsxEmit.Preserve,
  types: ['node'],
  typeRoots: [join(root, 'node_modules/@types')],
  strict: true,
  // The blocks in JavaScript are checked, too.
  noImplicitAny: false,
  strictFunctionTypes: false,
  noEmit: true,
  skipLibCheck: true,
};

const blocks = codeBlocks();
const programs = blocks.filter(({ commands }) => commands.some(({ command }) => command.startsWith('curl ')));
const binary = findDaemon();
let folder;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'sessiond-documents-'));
  // As installed: this package, and what it is tested with.
  const modules = join(folder, 'node_modules');
  mkdirSync(modules);
  for (const name of readdirSync(join(root, 'node_modules'))) if (!name.startsWith('.')) symlinkSync(join(root, 'node_modules', name), join(modules, name));
  symlinkSync(root, join(modules, 'sessiond'));
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
});
after(() => rmSync(folder, { recursive: true, force: true }));

test('the documents have the programs that this test knows', () => {
  assert.deepEqual(
    programs.map(({ document }) => document),
    ['README.md', 'express.md', 'fastify.md', 'hono.md', 'hyper-express.md', 'moving-from-express-session.md'],
    'each guide begins with a program, and commands that show what it does',
  );
});

for (const { document, code, commands } of programs) {
  test(`the program of ${document} prints what it says`, { skip: binary === undefined && 'there is no daemon: set SESSIOND_BIN' }, async (context) => {
    const daemon = await startDaemon(binary);
    context.after(() => daemon.stop());
    const port = await freePort();
    const here = join(folder, `run-${document}`);
    mkdirSync(here);
    assert.ok(code.includes(daemonAddress) && /\b3000\b/.test(code), `expected ${daemonAddress} and port 3000 in the program`);
    writeFileSync(join(here, 'app.mjs'), code.replace(daemonAddress, daemon.address).replace(/\b3000\b/g, String(port)));
    const app = spawn(process.execPath, ['app.mjs'], { cwd: here, stdio: ['ignore', 'inherit', 'pipe'] });
    let said = '';
    app.stderr.on('data', (chunk) => (said += chunk));
    const exited = once(app, 'exit');
    context.after(async () => {
      app.kill();
      await exited;
    });
    await Promise.race([listening(port), exited.then(([code]) => assert.fail(`expected the program to run, but it ended with ${code}: ${said}`))]);
    for (const { command, output } of commands) {
      if (!command.startsWith('curl ')) continue;
      const { stdout } = await run('sh', ['-c', command.replace('curl ', 'curl -sS ').replaceAll(':3000', `:${port}`)], { cwd: here, timeout: 20_000 });
      assert.equal(stdout.replace(/\n?$/, '\n'), output, `expected of ${command} what ${document} says`);
    }
  });
}

test('the compiler accepts all other blocks', () => {
  const files = cachingHost();
  const others = blocks.filter((block) => !programs.includes(block));
  const problems = [...new Set(others.map(({ document }) => document))].flatMap((document) => {
    const fragments = others.filter((block) => block.document === document);
    const here = join(folder, `check-${document}`);
    mkdirSync(here);
    const place = (name, text) => {
      const path = join(here, name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, text);
      return path;
    };
    const context = [place('absent.d.ts', absent), place('given.ts', given[document] ?? '')];
    const paths = new Map(
      fragments.map((block) => {
        const { line, language, code, file } = block;
        // An export makes it a module, with names of its own.
        return [place(file ?? `line-${line}.${language === 'tsx' ? 'tsx' : 'ts'}`, `${code}export {};\n`), block];
      }),
    );
    const options = { ...compilerOptions, paths: { '@/*': [join(here, '*')] } };
    const diagnostics = ts.getPreEmitDiagnostics(ts.createProgram([...context, ...paths.keys()], options, files));
    return diagnostics.map(({ file, start = 0, messageText }) => {
      const line = file === undefined ? 0 : file.getLineAndCharacterOfPosition(start).line + 1;
      const block = paths.get(file?.fileName);
      return `${block ? `${document}:${block.line + line}` : `${file?.fileName}:${line}`}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
    });
  });
  assert.deepEqual(problems, [], 'expected no fault in the code of the documents');
});

test('the lines on the fake do what they say', async () => {
  const { code } = blocks.find(({ document, code }) => document === 'README.md' && code.includes('createFake'));
  const path = join(folder, 'fake.mjs');
  writeFileSync(path, `${code}
    const away = await fake.resolve({ cookieHeader: cookie }).catch((error) => error.reason);
    fake.fail(null);
    const { state } = await fake.resolve({ cookieHeader: cookie });
    console.log(JSON.stringify([away, state]));`);
  const { stdout } = await run(process.execPath, [path]);
  assert.deepEqual(JSON.parse(stdout), ['STORE_UNAVAILABLE', 'EXPIRED']);
});

/** Reads each file once, for all programs. */
function cachingHost() {
  const host = ts.createCompilerHost(compilerOptions);
  const files = new Map();
  const read = host.getSourceFile.bind(host);
  host.getSourceFile = (name, ...rest) => {
    if (!files.has(name)) files.set(name, read(name, ...rest));
    return files.get(name);
  };
  return host;
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Resolves when somebody listens there. */
async function listening(port) {
  for (;;) {
    const socket = connect(port, '127.0.0.1');
    const open = await new Promise((resolve) => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)));
    socket.destroy();
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
