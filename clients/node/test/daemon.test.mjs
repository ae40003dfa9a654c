// The client with a real daemon that restarts, stands still, asks for a token or speaks TLS.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { AuthenticationError, createClient, RequestSession, SessiondError, UnavailableError } from 'sessiond';
import { findDaemon, ownPort, startDaemon } from './support/daemon.mjs';

const binary = findDaemon();
const folder = mkdtempSync(join(tmpdir(), 'sessiond-test-'));
after(() => rmSync(folder, { recursive: true, force: true }));

describe('with a daemon', { concurrency: true, skip: binary ? false : 'no daemon: set SESSIOND_BIN' }, () => {
  it('over a unix socket', async () => {
    const unix = join(folder, 'a.sock');
    const daemon = await startDaemon(binary, { unix });
    const client = createClient(`unix:${unix}`);
    const { token } = await client.write(null, { set: { a: 1 } });
    assert.deepEqual((await client.resolve({ token })).session.data(), { a: 1 });
    await client.close();
    await daemon.stop();
  });

  it('a restart is not seen: what is under way waits, and nobody is logged out', async () => {
    // A secret that outlives the daemon: --dev makes one for each start.
    const secret = join(folder, 'secret');
    writeFileSync(secret, 'a secret of at least thirty-two bytes\n', { mode: 0o600 });
    const set = [`engine.default.cookie.secret_file=${secret}`, 'store.backend=sled', `store.sled.path=${join(folder, 'restart')}`, 'store.sled.min_free_bytes=none'];
    const port = await ownPort();
    let daemon = await startDaemon(binary, { set, port });
    const client = createClient(daemon.address, { timeout: 20_000 });
    const { token } = await client.write(null, { set: { n: 0 }, principal: 'ann' });
    let running = true;
    let updates = 0;
    const errors = [];
    const worker = async () => {
      while (running) {
        const session = new RequestSession(client, `session=${token}`);
        try {
          await session.load();
          assert.equal(session.principal, 'ann');
          await session.update((data) => void data.n++);
          updates++;
        } catch (error) {
          errors.push(error);
        }
      }
    };
    const workers = Array.from({ length: 4 }, worker);
    for (let round = 0; round < 2; round++) {
      const target = updates + 20;
      while (updates < target && errors.length === 0) await new Promise(setImmediate);
      await daemon.stop();
      daemon = await startDaemon(binary, { set, port });
    }
    const target = updates + 20;
    while (updates < target && errors.length === 0) await new Promise(setImmediate);
    running = false;
    await Promise.all(workers);
    assert.deepEqual(errors, []);
    assert.equal((await client.resolve({ token })).session.data().n, updates);
    await client.close();
    await daemon.stop();
  });

  it('a daemon that was killed: errors say so, and when it is back all goes on soon', async () => {
    const port = await ownPort();
    let daemon = await startDaemon(binary, { port });
    const client = createClient(daemon.address, { timeout: 2000 });
    await client.write(null);
    await daemon.stop('SIGKILL');
    const away = await Promise.allSettled(Array.from({ length: 50 }, (_, i) => (i % 2 ? client.write(null) : client.resolve({ token: 'x' }))));
    for (const { reason } of away) assert.ok(reason instanceof UnavailableError && reason.reason === 'CONNECTION_FAILED', `${reason?.stack}`);
    daemon = await startDaemon(binary, { port });
    const started = performance.now();
    for (;;) {
      const back = await client.write(null).then(() => true, () => false);
      if (back) break;
      assert.ok(performance.now() - started < 20_000, 'expected it to go on');
    }
    await client.close();
    await daemon.stop();
  });

  it('a daemon that stands still: every operation ends in time, and works when the daemon goes on', async () => {
    const daemon = await startDaemon(binary);
    const client = createClient(daemon.address, { timeout: 1500 });
    const { token } = await client.write(null, { set: { n: 1 } });
    await daemon.pause();
    const started = performance.now();
    const outcomes = await Promise.allSettled([client.resolve({ token }), client.write({ token }, { set: { n: 2 } }), client.listSessions({ token })]);
    assert.ok(performance.now() - started < 4500, 'expected each to end in its time, not after 5 s');
    for (const { reason } of outcomes) {
      assert.ok(reason instanceof UnavailableError, `${reason}`);
      assert.ok(['TIMEOUT', 'CONNECTION_FAILED'].includes(reason.reason));
    }
    assert.equal(outcomes[1].reason.applied, 'unknown');
    await assert.rejects(client.resolve({ token }), UnavailableError);
    daemon.resume();
    const resumed = performance.now();
    while (!(await client.resolve({ token }).then(() => true, () => false))) assert.ok(performance.now() - resumed < 20_000, 'expected it to go on');
    await client.close();
    await daemon.stop();
  });

  it('a token that is missing or wrong is told at once; a token file is read again', async () => {
    const tokens = join(folder, 'tokens');
    writeFileSync(tokens, 'the-secret-token-of-the-shop\n', { mode: 0o600 });
    const daemon = await startDaemon(binary, { set: [`listen.auth.token_file=${tokens}`] });
    const timed = async (client, want) => {
      const started = performance.now();
      await assert.rejects(client.resolve(null), (error) => {
        assert.ok(error instanceof AuthenticationError, `${error.stack}`);
        assert.deepEqual([error.reason, error.applied, error.status], [want, 'no', 500]);
        assert.doesNotMatch(error.message, /secret/);
        return true;
      });
      assert.ok(performance.now() - started < 4000, 'at once, not after the timeout');
    };
    const none = createClient(daemon.address);
    await timed(none, 'TOKEN_REQUIRED');
    const wrong = createClient(daemon.address, { token: 'another-secret-token' });
    await timed(wrong, 'TOKEN_UNKNOWN');
    const file = join(folder, 'token');
    const reading = createClient(daemon.address, { tokenFile: file });
    await timed(reading, 'TOKEN_REQUIRED');
    writeFileSync(file, 'an-old-secret-token\n');
    await timed(reading, 'TOKEN_UNKNOWN');
    writeFileSync(file, 'the-secret-token-of-the-shop\n');
    assert.equal((await reading.resolve(null)).state, 'NONE');
    const right = createClient(daemon.address, { token: 'the-secret-token-of-the-shop' });
    assert.equal((await right.listSessions(null)).state, 'NONE');
    await Promise.all([none, wrong, reading, right].map((client) => client.close()));
    await daemon.stop();
  });

  it('TLS: with the CA it works; every mismatch is told', { skip: hasOpenssl() ? false : 'openssl is missing' }, async () => {
    const { ca, cert, key, client: own } = certificates();
    const tls = ['listen.tls.cert_file=' + cert, 'listen.tls.key_file=' + key];
    const daemon = await startDaemon(binary, { set: tls });
    const mutual = await startDaemon(binary, { set: [...tls, 'listen.tls.client_ca_file=' + ca] });
    const plain = await startDaemon(binary);
    const clients = [];
    const client = (address, options) => {
      const made = createClient(address, { timeout: 2500, ...options });
      clients.push(made);
      return made;
    };
    const pem = readFileSync(ca, 'utf8');
    const trusted = { ca: pem, serverName: 'localhost' };
    assert.equal((await client(daemon.address, { tls: trusted }).resolve(null)).state, 'NONE');
    assert.equal((await client(mutual.address, { tls: { ...trusted, cert: readFileSync(own.cert), key: readFileSync(own.key) } }).resolve(null)).state, 'NONE');
    const told = async (made, pattern) => {
      await assert.rejects(made.resolve(null), (error) => {
        assert.ok(error instanceof SessiondError, `${error.stack}`);
        assert.equal(error.reason, 'CONNECTION_FAILED', error.stack);
        assert.match(`${error.message}`, pattern);
        return true;
      });
    };
    await told(client(daemon.address, { tls: true }), /self.signed|unable to (get|verify)|certificate/i);
    await told(client(daemon.address, { tls: { ca: pem, serverName: 'other.example' } }), /other\.example|altnames/i);
    await told(client(daemon.address, {}), /daemon at/);
    await told(client(plain.address, { tls: trusted }), /daemon at/);
    await told(client(mutual.address, { tls: trusted }), /daemon at/);
    await Promise.all(clients.map((made) => made.close()));
    await Promise.all([daemon, mutual, plain].map((one) => one.stop()));
  });

  it('max_connection_age: connections are replaced, and no operation fails', async () => {
    const daemon = await startDaemon(binary, { set: ['limits.max_connection_age=1s'] });
    const client = createClient(daemon.address);
    const { token } = await client.write(null, { set: { n: 1 } });
    const end = performance.now() + 3500;
    let count = 0;
    while (performance.now() < end) {
      await Promise.all(Array.from({ length: 8 }, () => client.resolve({ token })));
      await client.write({ token }, { set: { n: count++ } });
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.equal((await client.resolve({ token })).session.version, count + 1, 'each write was applied once');
    await client.close();
    await daemon.stop();
  });

  it('an answer of the daemon has what the client says it has', async () => {
    const daemon = await startDaemon(binary);
    const session = connectHttp2(`http://${daemon.address}`);
    session.on('error', () => {});
    const stream = session.request({ ':method': 'POST', ':path': '/sessiond.v1.SessionService/Describe', 'content-type': 'application/grpc', te: 'trailers' });
    const status = new Promise((resolve) => stream.on('trailers', (trailers) => resolve(trailers['grpc-status'])));
    stream.resume().end(Buffer.alloc(5));
    assert.equal(await status, '0');
    session.destroy();
    await daemon.stop();
  });
});

function hasOpenssl() {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** A CA, a certificate of `localhost` and one of a client. */
function certificates() {
  const path = (name) => join(folder, name);
  const openssl = (...args) => execFileSync('openssl', args, { stdio: 'ignore' });
  const make = (name) => ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', path(`${name}.key`)];
  openssl('req', '-x509', ...make('ca'), '-out', path('ca.pem'), '-days', '2', '-subj', '/CN=test CA');
  for (const [name, extension] of [['server', 'subjectAltName=DNS:localhost'], ['client', 'extendedKeyUsage=clientAuth']]) {
    openssl('req', ...make(name), '-out', path(`${name}.csr`), '-subj', `/CN=${name}`);
    writeFileSync(path(`${name}.ext`), extension);
    openssl('x509', '-req', '-in', path(`${name}.csr`), '-CA', path('ca.pem'), '-CAkey', path('ca.key'), '-CAcreateserial', '-days', '2', '-out', path(`${name}.pem`), '-extfile', path(`${name}.ext`));
  }
  return { ca: path('ca.pem'), cert: path('server.pem'), key: path('server.key'), client: { cert: path('client.pem'), key: path('client.key') } };
}
