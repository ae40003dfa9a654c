// CPU time of the client alone: a Resolve through `sessiond` beside what express-session does on Redis (cookie parsing,
// signature, GETEX with ioredis, JSON.parse). Both in processes of their own, in interleaved rounds.
//
//   npm run build && node bench/client.mjs [ROUNDS [OPERATIONS]]
//
// Needs a daemon (SESSIOND_BIN, or target/{dist,release,debug}/sessiond of the repository) and redis-server. With two
// cores and taskset, the clients run on the first one and the servers on the second.
import { execFileSync, fork, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findDaemon, startDaemon } from '../test/support/daemon.mjs';

const SESSIONS = 1000;
const SECRET = 'a secret of the application, long enough';
const IN_FLIGHT = [1, 64];
// 400 octets of JSON, as in benches/ of the repository.
const data = { user: 'ann', cart: Array.from({ length: 8 }, (_, i) => ({ item: `tea number ${i}`, n: i })), theme: 'dark', note: '' };
data.note = 'x'.repeat(400 - JSON.stringify(data).length);

if (process.env.BENCH_ROLE) await contender(process.env.BENCH_ROLE, process.env.BENCH_ADDRESS);
else await main();

async function main() {
  const rounds = Number(process.argv[2] ?? 9);
  const operations = Number(process.argv[3] ?? 30_000);
  const folder = mkdtempSync(join(tmpdir(), 'sessiond-bench-'));
  const pin = availableParallelism() > 1 && hasTaskset();
  const daemon = await startDaemon(findDaemon(), { unix: join(folder, 'sock'), prefix: pin ? ['taskset', '-c', '1'] : [] });
  const port = await freePort();
  const redis = spawnPinned(pin, 'redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder]);
  try {
    await reachable(port);
    const contenders = [
      ['sessiond, TCP', 'sessiond', daemon.address],
      ['sessiond, unix socket', 'sessiond', `unix:${join(folder, 'sock')}`],
      ['ioredis GETEX', 'ioredis', String(port)],
      ['ioredis GETEX + cookie + HMAC', 'express-session', String(port)],
    ].map(([name, role, address]) => {
      const child = fork(fileURLToPath(import.meta.url), { env: { ...process.env, BENCH_ROLE: role, BENCH_ADDRESS: address } });
      if (pin) execFileSync('taskset', ['-apc', '0', String(child.pid)], { stdio: 'ignore' });
      return { name, child, samples: new Map(IN_FLIGHT.map((n) => [n, []])) };
    });
    for (const { child } of contenders) await once(child, 'message');
    for (let round = -1; round < rounds; round++) {
      for (const { child, samples } of contenders) {
        for (const inFlight of IN_FLIGHT) {
          child.send({ inFlight, operations: inFlight === 1 ? operations / 4 : operations });
          const [sample] = await once(child, 'message');
          if (round >= 0) samples.get(inFlight).push(sample); // the first round warms up
        }
      }
    }
    const base = contenders.at(-1);
    console.log(`CPU of the client per session read, microseconds (user and system); median of ${rounds} rounds`);
    console.log('| client | in flight | CPU | ratio | reads/s | p50, ms | p99, ms |\n|---|---|---|---|---|---|---|');
    for (const inFlight of IN_FLIGHT) {
      for (const { name, samples } of contenders) {
        const of = samples.get(inFlight);
        const ratio = median(of.map((s, i) => s.cpu / base.samples.get(inFlight)[i].cpu));
        const cells = [median(of.map((s) => s.cpu)).toFixed(1), ratio.toFixed(2), Math.round(median(of.map((s) => s.rate))), median(of.map((s) => s.p50)).toFixed(2), median(of.map((s) => s.p99)).toFixed(2)];
        console.log(`| ${name} | ${inFlight} | ${cells.join(' | ')} |`);
      }
    }
    for (const { child } of contenders) child.send('end');
    const ratio = median(contenders[0].samples.get(64).map((s, i) => s.cpu / base.samples.get(64)[i].cpu));
    console.log(`bar: at most 0.5 over TCP at 64 in flight: ${ratio.toFixed(2)}`);
    process.exitCode = ratio <= 0.5 ? 0 : 1;
  } finally {
    redis.kill();
    await daemon.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** One client in a process of its own: runs what it is told, and answers with a sample. */
async function contender(role, address) {
  const read = role === 'sessiond' ? await sessiond(address) : await redis(Number(address), role === 'express-session');
  process.send('ready');
  process.on('message', async (message) => {
    if (message === 'end') process.exit(0);
    const { inFlight, operations } = message;
    const times = new Float64Array(operations);
    let next = 0;
    globalThis.gc?.();
    const started = performance.now();
    const cpu = process.cpuUsage();
    const loop = async () => {
      while (next < operations) {
        const n = next++;
        const at = performance.now();
        const found = await read(n % SESSIONS);
        if (found.theme !== 'dark') throw new Error('not the session that was stored');
        times[n] = performance.now() - at;
      }
    };
    await Promise.all(Array.from({ length: inFlight }, loop));
    const { user, system } = process.cpuUsage(cpu);
    const elapsed = performance.now() - started;
    times.sort();
    process.send({ cpu: (user + system) / operations, rate: (operations / elapsed) * 1000, p50: times[operations >> 1], p99: times[Math.floor(operations * 0.99)] });
  });
}

async function sessiond(address) {
  const { createClient } = await import('sessiond');
  const client = createClient(address);
  const headers = [];
  for (let i = 0; i < SESSIONS; i++) {
    const { setCookie } = await client.write(null, { set: data });
    headers.push(`_ga=GA1.1.1234567890.1700000000; ${setCookie[0].split(';')[0]}`);
  }
  return async (i) => (await client.resolve({ cookieHeader: headers[i] })).session.data();
}

async function redis(port, withCookie) {
  const { Redis } = await import('ioredis');
  const client = new Redis(port, '127.0.0.1');
  const headers = [];
  const ids = [];
  for (let i = 0; i < SESSIONS; i++) {
    const id = `session-${String(i).padStart(24, '0')}`;
    await client.set(`sess:${id}`, JSON.stringify(data), 'EX', 1800);
    ids.push(id);
    const cookie = encodeURIComponent(`s:${id}.${createHmac('sha256', SECRET).update(id).digest('base64').replace(/=+$/, '')}`);
    headers.push(`_ga=GA1.1.1234567890.1700000000; connect.sid=${cookie}`);
  }
  if (!withCookie) return async (i) => JSON.parse(await client.getex(`sess:${ids[i]}`, 'EX', 1800));
  const { default: cookie } = await import('cookie');
  const { default: signature } = await import('cookie-signature');
  const parse = cookie.parse ?? cookie.parseCookie;
  return async (i) => {
    const id = signature.unsign(parse(headers[i])['connect.sid'].slice(2), SECRET);
    return JSON.parse(await client.getex(`sess:${id}`, 'EX', 1800));
  };
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

function hasTaskset() {
  try {
    execFileSync('taskset', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

function spawnPinned(pin, command, args) {
  return pin ? spawn('taskset', ['-c', '1', command, ...args], { stdio: 'ignore' }) : spawn(command, args, { stdio: 'ignore' });
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

async function reachable(port) {
  for (let attempt = 0; attempt < 200; attempt++) {
    const socket = connect(port, '127.0.0.1');
    const open = await new Promise((resolve) => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)));
    socket.destroy();
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`redis-server does not listen on port ${port}`);
}
