// Starts a real daemon for a test: port 0, sessions in memory, ended by its process id.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/**
 * A free port for a server that starts again there. Nobody gets it meanwhile who connects or listens at port 0: Linux gives
 * away those from 32768 on.
 */
export async function ownPort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = createServer();
    const free = await new Promise((resolve) => server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true)));
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

/** The daemon's program; undefined if there is none. */
export function findDaemon() {
  if (process.env.SESSIOND_BIN) return process.env.SESSIOND_BIN;
  const root = fileURLToPath(new URL('../../../../target/', import.meta.url));
  return ['dist', 'release', 'debug'].map((profile) => `${root}${profile}/sessiond`).find(existsSync);
}

/**
 * Starts a daemon. `set`: lines of KEY=VALUE; `unix`: also listen there; `port`: instead of a free one.
 * Resolves to `{ address, pid, child, stop }` when it is ready.
 */
export async function startDaemon(binary, { set = [], unix, port = 0, prefix = [], listen = `127.0.0.1:${port}` } = {}) {
  const args = ['serve', '--dev'];
  const lines = [`listen.grpc=${unix ? `${listen},unix:${unix}` : listen}`, 'listen.admin=', 'listen.metrics=', 'log.level=error', ...set];
  for (const line of lines) args.push('--set', line);
  const [command, ...rest] = [...prefix, binary, ...args];
  // The daemon reads its configuration from variables of this prefix.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SESSIOND_')));
  const child = spawn(command, rest, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  child.stderr.on('data', (chunk) => (log += chunk));
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const ready = await Promise.race([
    exited.then((code) => Promise.reject(new Error(`the daemon ended with ${code}: ${log}`))),
    new Promise((resolve) => createInterface({ input: child.stdout }).once('line', resolve)),
  ]);
  const address = /grpc=([^, ]+)/.exec(ready)?.[1];
  if (!address) throw new Error(`expected an address in the line ${ready}`);
  return {
    address,
    pid: child.pid,
    child,
    exited,
    /** Stops it where it is (SIGSTOP). Resolves when it stands still: its threads stop one after another. */
    async pause() {
      child.kill('SIGSTOP');
      // A thread may end meanwhile.
      const status = (thread) => readFile(`/proc/${child.pid}/task/${thread}/status`, 'utf8').catch(() => 'State:\tT');
      const stands = async (thread) => /^State:\tT/m.test(await status(thread));
      for (const thread of await readdir(`/proc/${child.pid}/task`)) {
        while (!(await stands(thread))) await new Promise(setImmediate);
      }
    },
    resume: () => child.kill('SIGCONT'),
    /** Ends it as an operator would, or at once. */
    async stop(signal = 'SIGTERM') {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGCONT');
        child.kill(signal);
      }
      await exited;
    },
  };
}
