// Makes the move: logs in to the application with express-session, and is still logged in behind sessiond. Needs redis-server,
// and the daemon's program in SESSIOND_BIN or in target/ of the repository.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const target = path.join(here, '../../../target');
// The daemon takes variables of this prefix for its configuration.
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SESSIOND')));
const daemon = process.env.SESSIOND_BIN ?? ['dist', 'release', 'debug'].map((profile) => `${target}/${profile}/sessiond`).find(existsSync);
if (!daemon) throw new Error('expected the daemon in SESSIOND_BIN or in target/');

const folder = mkdtempSync(path.join(tmpdir(), 'moving-'));
const redis = path.join(folder, 'redis.sock');
const secret = randomBytes(32).toString('hex');
const children = [];

// Starts a program. Resolves to it and to what its first line with `pattern` says.
async function start(command, args, env, pattern) {
  const child = spawn(command, args, { cwd: here, env: { ...environment, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  for await (const line of createInterface({ input: child.stdout })) {
    const match = pattern.exec(line);
    if (match) return { child, said: match[1] };
  }
  throw new Error(`${command} ended; expected a line like ${pattern}`);
}

async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill();
  await once(child, 'exit');
}

let cookie = '';
async function ask(base, url, form) {
  const response = await fetch(base + url, form ? { method: 'POST', body: new URLSearchParams(form), headers: { cookie } } : { headers: { cookie } });
  const [line] = response.headers.getSetCookie();
  if (line) cookie = line.split(';')[0];
  const answer = await response.json();
  console.log(`${form ? 'POST' : 'GET '} ${url}  ${JSON.stringify(answer)}${line ? '  (a new cookie)' : ''}`);
  return answer;
}

try {
  await start('redis-server', ['--port', '0', '--unixsocket', redis, '--save', '', '--dir', folder], {}, /(ready to accept)/i);

  console.log('with express-session:');
  const before = await start(process.execPath, ['before.js'], { REDIS: `unix://${redis}`, SECRET: secret, PORT: '0' }, /listening on (.+)/);
  await ask(before.said, '/login', { user: 'ann' });
  assert.deepEqual(await ask(before.said, '/'), { user: 'ann', visits: 1 });
  const old = cookie;
  await stop(before.child);

  console.log('with sessiond, the same cookie:');
  const settings = {
    'listen.grpc': '127.0.0.1:0',
    'listen.admin': '',
    'listen.metrics': '',
    'log.level': 'error',
    'store.backend': 'memory',
    'engine.default.duration': '1d',
    'engine.default.cookie.name': 'connect.sid',
    'engine.default.cookie.format': 'express',
    'engine.default.cookie.secure': 'false',
    'engine.default.cookie.secrets': secret,
    'engine.default.adopt.from': 'express-session',
    'engine.default.adopt.url': `redis+unix://${redis}`,
    'engine.default.adopt.principal': '/user',
  };
  const args = Object.entries(settings).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
  const { said: address } = await start(daemon, ['serve', ...args], {}, /grpc=([^, ]+)/);
  const after = await start(process.execPath, ['after.js'], { SESSIOND: address, PORT: '0' }, /listening on (.+)/);
  assert.deepEqual(await ask(after.said, '/'), { user: 'ann', visits: 2 }, 'logged in there, logged in here');
  assert.notEqual(cookie, old, 'sessiond gives the session an id of its own');
  assert.deepEqual(await ask(after.said, '/'), { user: 'ann', visits: 3 });
  await ask(after.said, '/logout', {});
  cookie = old;
  assert.deepEqual(await ask(after.said, '/'), { user: null, visits: 1 }, 'the old cookie does not bring it back');
  console.log('moved');
} finally {
  for (const child of children.reverse()) await stop(child);
  rmSync(folder, { recursive: true, force: true });
}
