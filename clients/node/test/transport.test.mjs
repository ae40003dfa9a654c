// Bad luck on the way to the daemon: nothing hangs, nothing is done twice, and every error says what happened.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createClient, DataTooLargeError, InvalidArgumentError, OverloadedError, SessiondError, UnavailableError, VersionMismatchError } from 'sessiond';
import { ownPort } from './support/daemon.mjs';
import { startServer, status, using } from './support/server.mjs';

const CREDENTIAL = { token: 'secret-token' };

const fails = (promise, Class, want) =>
  assert.rejects(promise, (error) => {
    assert.ok(error instanceof Class, `expected ${Class.name}, got ${error.stack}`);
    for (const [key, value] of Object.entries(want)) assert.deepEqual(error[key], value, `${key} of ${error.stack}`);
    assert.doesNotMatch(`${error.message}${error.cause ?? ''}`, /secret/);
    return true;
  });

describe('the client', { concurrency: true }, () => {
  it('refuses addresses and options that cannot be meant', async () => {
    for (const address of ['', 'localhost', 'http://localhost:1', 'localhost:0', 'localhost:65536', 'unix:', 'a b:1', '::1:5', undefined]) {
      assert.throws(() => createClient(address), (error) => error instanceof InvalidArgumentError && error.field === 'address', String(address));
    }
    for (const [field, options] of [['timeout', { timeout: 0 }], ['timeout', { timeout: '5s' }], ['maxInFlight', { maxInFlight: 0 }], ['token', { token: 'a\nb' }], ['tokenFile', { token: 'a', tokenFile: 'b' }], ['engine', { engine: 7 }]]) {
      assert.throws(() => createClient('127.0.0.1:1', options), (error) => error instanceof InvalidArgumentError && error.field === field, field);
    }
    assert.throws(() => createClient('unix:/a', { tls: true }), InvalidArgumentError);
    for (const address of ['[::1]:5', 'unix:/a/b', 'unix:rel', 'host.example:443']) await createClient(address).close();
  });

  it('without a daemon an operation waits for its time, and then says why', async () => {
    const client = createClient('127.0.0.1:1', { timeout: 3000 });
    const started = performance.now();
    const want = { reason: 'CONNECTION_FAILED', code: 'UNAVAILABLE', retryable: true, applied: 'no', retryAfter: 1, status: 503 };
    await Promise.all([
      fails(client.resolve(CREDENTIAL), UnavailableError, want),
      fails(client.write(null, { set: { secret: 1 } }), UnavailableError, want),
      fails(client.listSessions(CREDENTIAL), UnavailableError, want),
      fails(client.describe(), UnavailableError, { reason: 'CONNECTION_FAILED' }),
      assert.rejects(client.touch(CREDENTIAL), /ECONNREFUSED/),
    ]);
    assert.ok(performance.now() - started >= 2990);
    await client.close();
    const unix = createClient('unix:/nonexistent/sock', { timeout: 3000 });
    await assert.rejects(unix.resolve(CREDENTIAL), /ENOENT/);
    await unix.close();
  });

  it('an operation waits for a daemon that comes late', async () => {
    const port = await ownPort();
    const client = createClient(`127.0.0.1:${port}`, { timeout: 20_000 });
    const failed = new Promise((resolve) => {
      const listen = ({ address }) => address === client.address && (unsubscribe('sessiond:connect-failed', listen), resolve());
      subscribe('sessiond:connect-failed', listen);
    });
    const waiting = client.resolve(CREDENTIAL);
    await failed;
    const server = await startServer();
    const relay = net.createServer((socket) => socket.on('error', () => {}).pipe(net.connect(Number(server.address.split(':')[1]))).on('error', () => {}).pipe(socket));
    relay.listen(port, '127.0.0.1');
    assert.equal((await waiting).state, 'ACTIVE');
    await client.close();
    relay.close();
    await server.stop();
  });

  it('an old daemon is told clearly, and at once', async () => {
    await using({ describe: { 'grpc-status': '12', 'grpc-message': 'unknown%20method' } }, async (client) => {
      const want = { reason: 'DAEMON_TOO_OLD', code: 'UNIMPLEMENTED', applied: 'no', retryable: false };
      const message = /does not know Describe: it is older than this client \(\d+\.\d+\.\d+\), or this is an address of listen\.admin; update the daemon, or use an address of listen\.grpc/;
      await fails(client.resolve(CREDENTIAL), SessiondError, want);
      await assert.rejects(client.write(null), message);
      await assert.rejects(client.describe(), message);
    }, { timeout: 5000 });
  });

  it('a server that is no daemon is told', async () => {
    const plain = http.createServer((request, response) => response.end('hello')).listen(0, '127.0.0.1');
    await once(plain, 'listening');
    const client = createClient(`127.0.0.1:${plain.address().port}`, { timeout: 3000 });
    await fails(client.resolve(CREDENTIAL), UnavailableError, { reason: 'CONNECTION_FAILED', applied: 'no' });
    await client.close();
    plain.close();
    const web = http2.createServer((request, response) => response.end('hello')).listen(0, '127.0.0.1');
    await once(web, 'listening');
    const other = createClient(`127.0.0.1:${web.address().port}`, { timeout: 20_000 });
    await fails(other.resolve(CREDENTIAL), SessiondError, { reason: 'PROTOCOL_ERROR' });
    await other.close();
    web.close();
  });

  it('answers may come in any order', async () => {
    const held = [];
    await using(
      {
        pipeline(call, request) {
          held.push(request);
          if (held.length < 20) return;
          for (const one of held.reverse()) call.answer(one, { destroy: { destroyed: one.sequence.toNumber() } });
        },
      },
      async (client) => {
        const counts = await Promise.all(Array.from({ length: 20 }, async () => (await client.destroy(CREDENTIAL)).destroyed));
        assert.deepEqual(counts, Array.from({ length: 20 }, (_, i) => i + 1));
      },
    );
  });

  it('answers are read from pieces of any size', async () => {
    await using(
      {
        async pipeline(call, request) {
          const octets = call.encode({ sequence: request.sequence, resolve: { state: 1, session: { id: 'x', data: JSON.stringify({ long: 'é'.repeat(400) }), version: 1 } } });
          for (let at = 0; at < octets.length; at += 97) {
            call.stream.write(octets.subarray(at, at + 97));
            await new Promise(setImmediate);
          }
        },
      },
      async (client) => {
        for (let i = 0; i < 3; i++) assert.equal((await client.resolve(CREDENTIAL)).session.data().long.length, 400);
      },
    );
  });

  it('after a cut in the middle of a frame, what is safe is repeated; of the rest the outcome is unknown', async () => {
    const batch = [];
    await using(
      {
        pipeline(call, request, number) {
          if (number > 1) return call.answer(request);
          batch.push(request);
          if (batch.length < 6) return undefined;
          call.answer(batch[0]);
          call.stream.write(call.encode({ sequence: batch[1].sequence, resolve: { state: 1, session: { id: 'x', data: '{}' } } }).subarray(0, 9), () => call.cut());
          return undefined;
        },
      },
      async (client, server) => {
        const unknown = { reason: 'CONNECTION_FAILED', applied: 'unknown', retryable: false };
        const outcomes = [
          client.touch(CREDENTIAL),
          client.resolve(CREDENTIAL),
          client.destroy(CREDENTIAL),
          client.write(CREDENTIAL, { ifVersion: 3, set: { a: 1 } }),
          fails(client.write(null, { set: { secret: 1 } }), UnavailableError, unknown),
          fails(client.resolve(CREDENTIAL, { create: true }), UnavailableError, unknown),
        ];
        const [, resolved] = await Promise.all(outcomes);
        assert.equal(resolved.state, 'ACTIVE');
        assert.deepEqual(server.seen.filter(({ number }) => number === 2).map(({ operation }) => operation), ['resolve', 'destroy', 'write']);
      },
    );
  });

  it('VERSION_MISMATCH and SESSION_GONE of a repetition mean that nobody knows', async () => {
    for (const [code, reason] of [[10, 'VERSION_MISMATCH'], [5, 'SESSION_GONE']]) {
      await using(
        {
          pipeline(call, request, number) {
            if (number === 1) call.cut();
            else call.answer(request, { error: status({ code, reason }) });
          },
        },
        async (client) => {
          await fails(client.write(CREDENTIAL, { ifVersion: 3 }), SessiondError, { reason, applied: 'unknown', retryable: false });
          await fails(client.write(CREDENTIAL, { ifVersion: 3 }), SessiondError, { reason, applied: 'no' });
        },
      );
    }
  });

  it('after SHUTTING_DOWN everything without an answer is repeated, once, in order', async () => {
    await using(
      {
        pipeline(call, request, number) {
          if (number > 1) return call.answer(request);
          const sequence = request.sequence.toNumber();
          if (sequence === 1) call.answer(request);
          if (sequence === 4) call.end({ code: 14, reason: 'SHUTTING_DOWN' });
          return undefined;
        },
      },
      async (client, server) => {
        await Promise.all([client.resolve(CREDENTIAL), client.write(null), client.resolve(CREDENTIAL, { create: true }), client.write(CREDENTIAL, { set: { a: 1 } })]);
        assert.deepEqual(server.seen.filter(({ number }) => number === 2).map(({ request }) => request.sequence.toNumber()), [2, 3, 4]);
      },
    );
  });

  it('a refused stream was not processed', async () => {
    let refused = false;
    await using(
      {
        onStream(stream, headers) {
          if (refused || !headers[':path'].endsWith('/Pipeline')) return false;
          refused = true;
          stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
          return true;
        },
      },
      async (client) => assert.equal((await client.write(null, { set: { a: 1 } })).token, 'new'),
    );
    assert.ok(refused);
  });

  it('after GOAWAY new operations take a new connection; the old ones are answered on the old one', async () => {
    let old;
    await using(
      {
        pipeline(call, request, number) {
          if (number > 1) return call.answer(request);
          old = { call, request };
          call.session.goaway(0);
          return undefined;
        },
      },
      async (client, server) => {
        const slow = client.write(null, { set: { a: 1 } });
        const deadline = performance.now() + 20_000;
        while (!old) {
          assert.ok(performance.now() < deadline, 'expected the first operation');
          await new Promise(setImmediate);
        }
        // Asked until GOAWAY has arrived.
        let answered = false;
        while (!answered) answered = await Promise.race([client.resolve(CREDENTIAL).then(() => true), new Promise((resolve) => setTimeout(resolve, 50, false))]);
        const closed = once(old.call.session, 'close');
        old.call.answer(old.request);
        assert.equal((await slow).token, 'new');
        await closed;
        assert.deepEqual(server.seen.filter(({ operation }) => operation === 'write').length, 1, 'not sent twice');
      },
    );
  });

  it('OVERLOADED and STORE_UNAVAILABLE are repeated after the RetryInfo, where that is safe', async () => {
    let errors = [];
    await using(
      {
        pipeline(call, request) {
          const error = errors.shift();
          call.answer(request, error && { error: status(error) });
        },
      },
      async (client, server) => {
        const overloaded = { code: 8, reason: 'OVERLOADED', applied: 'no', retryAfter: 0.02 };
        const unavailable = { code: 14, reason: 'STORE_UNAVAILABLE', applied: 'unknown', retryAfter: 0.02 };
        errors = [overloaded, overloaded];
        await client.write(null, { set: { a: 1 } });
        errors = [unavailable];
        await client.resolve(CREDENTIAL);
        assert.equal(server.seen.length, 5);
        errors = [overloaded, overloaded, overloaded];
        await fails(client.write(null), OverloadedError, { reason: 'OVERLOADED', applied: 'no', retryAfter: 0.02, headers: { 'Retry-After': '1' } });
        errors = [unavailable];
        await fails(client.write(null), UnavailableError, { reason: 'STORE_UNAVAILABLE', applied: 'unknown' });
        errors = [{ ...overloaded, retryAfter: 60 }];
        await fails(client.resolve(CREDENTIAL), OverloadedError, { retryAfter: 60 });
        errors = [unavailable, { code: 10, reason: 'VERSION_MISMATCH' }];
        await fails(client.write(CREDENTIAL, { ifVersion: 1 }), VersionMismatchError, { applied: 'unknown' });
      },
    );
  });

  it('a silent daemon: the time is over, a late answer is dropped, and the next operation works', async () => {
    const held = [];
    let silent = true;
    await using(
      {
        pipeline(call, request) {
          if (silent) held.push({ call, request });
          else call.answer(request);
        },
      },
      async (client) => {
        await client.describe();
        const started = performance.now();
        await Promise.all([
          fails(client.resolve(CREDENTIAL), UnavailableError, { reason: 'TIMEOUT', code: 'DEADLINE_EXCEEDED', applied: 'unknown' }),
          fails(client.write(null), UnavailableError, { reason: 'TIMEOUT', applied: 'unknown' }),
        ]);
        assert.ok(performance.now() - started < 10_000, 'not much later than the timeout');
        silent = false;
        for (const { call, request } of held) call.answer(request, { destroy: { destroyed: 7 } });
        assert.equal((await client.destroy(CREDENTIAL)).destroyed, 1);
      },
      { timeout: 4000 },
    );
  });

  it('beyond maxInFlight an operation fails at once, and those under way go on', async () => {
    const held = [];
    await using({ pipeline: (call, request) => held.push({ call, request }) }, async (client) => {
      const under = Array.from({ length: 5 }, () => client.resolve(CREDENTIAL));
      await fails(client.resolve(CREDENTIAL), OverloadedError, { reason: 'IN_FLIGHT_LIMIT', code: 'RESOURCE_EXHAUSTED', applied: 'no', retryable: true });
      const deadline = performance.now() + 20_000;
      while (held.length < 5) {
        assert.ok(performance.now() < deadline, 'expected 5 operations');
        await new Promise(setImmediate);
      }
      for (const { call, request } of held) call.answer(request);
      await Promise.all(under);
    }, { maxInFlight: 5 });
  });

  it('a server that does not read holds the sender, and memory stays bounded', async () => {
    await using(
      {
        onStream(stream, headers) {
          if (!headers[':path'].endsWith('/Pipeline')) return false;
          stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
          return true; // and reads nothing
        },
      },
      async (client) => {
        await client.describe();
        const set = JSON.stringify({ pad: 'x'.repeat(60_000) });
        const before = process.memoryUsage().arrayBuffers;
        const all = Array.from({ length: 1000 }, () => client.write(null, { set }));
        const outcomes = await Promise.allSettled(all.concat(client.resolve(CREDENTIAL)));
        assert.ok(outcomes.every(({ reason }) => reason?.reason === 'TIMEOUT'));
        const unsent = outcomes.filter(({ reason }) => reason.applied === 'no').length;
        assert.ok(unsent > 900, `expected most of 60 MB to wait in the client, ${unsent} of 1001 did`);
        assert.ok(process.memoryUsage().arrayBuffers - before < 30e6);
      },
      { timeout: 3000 },
    );
  });

  it('nonsense in place of an answer is an error for all, not a hang', async () => {
    const kinds = {
      'a message that cannot be decoded': (call) => call.stream.write(Buffer.from([0, 0, 0, 0, 2, 0x12, 0x7f])),
      'a compressed message': (call) => call.stream.write(Buffer.from([1, 0, 0, 0, 0])),
      'a length of 4 GB': (call) => call.stream.write(Buffer.from([0, 0xff, 0xff, 0xff, 0xff])),
      'an answer to nothing': (call) => call.answer({ sequence: 4711 }, { destroy: {} }),
      'a state of the future': (call, request) => call.answer(request, { resolve: { state: 99 } }),
    };
    for (const [name, pipeline] of Object.entries(kinds)) {
      await using({ pipeline }, async (client) => {
        await assert.rejects(client.write(null), (error) => error.reason === 'PROTOCOL_ERROR' && error.applied === 'unknown', name);
        await assert.rejects(client.resolve(CREDENTIAL), SessiondError, name);
      });
    }
    await using({ pipeline: (call, request) => call.answer(request, { destroy: {} }) }, async (client) => {
      await assert.rejects(client.resolve(CREDENTIAL), /a resolve was answered with destroy/);
    });
    await using({ pipeline: (call, request) => call.answer(request, {}) }, async (client) => {
      await assert.rejects(client.resolve(CREDENTIAL), { reason: 'PROTOCOL_ERROR' });
    });
  });

  it('a stream that ends with an error is opened again for what is safe', async () => {
    for (const end of [{ code: 8, reason: 'OVERLOADED' }, { code: 13 }, { code: 0 }]) {
      await using(
        {
          pipeline(call, request, number) {
            if (number === 1) call.end(end);
            else call.answer(request);
          },
        },
        async (client) => assert.equal((await client.resolve(CREDENTIAL)).state, 'ACTIVE'),
      );
    }
  });

  it('a message that the daemon would refuse by ending the stream is never sent', async () => {
    await using({}, async (client, server) => {
      await fails(client.write(null, { set: { a: 'x'.repeat(70_000) } }), DataTooLargeError, { reason: 'DATA_TOO_LARGE', field: 'set', status: 413 });
      await fails(client.write(null, { engine: 'unknown', set: { a: 'x'.repeat(2 << 20) } }), DataTooLargeError, { reason: 'MESSAGE_TOO_LARGE' });
      assert.equal(server.seen.length, 0);
      await client.resolve({ cookieHeader: Buffer.alloc(3 << 20, 'x') });
      assert.equal(server.seen[0].request.resolve.credential.cookieHeader.length, 65_537, 'the daemon says INVALID to one octet too many');
    });
  });

  it('sends what is left of its time with every operation', async () => {
    await using({}, async (client, server) => {
      await client.resolve(CREDENTIAL);
      const { seconds, nanos } = server.seen[0].request.timeout;
      const ms = seconds.toNumber() * 1000 + nanos / 1e6;
      assert.ok(ms > 0 && ms <= 20_000, `${ms} ms`);
    });
  });

  it('close waits for what is under way, takes nothing new, and ends the connection', async () => {
    const held = [];
    await using({ pipeline: (call, request) => held.push({ call, request }) }, async (client, server) => {
      const under = client.write(null);
      const deadline = performance.now() + 20_000;
      while (held.length === 0) {
        assert.ok(performance.now() < deadline, 'expected an operation');
        await new Promise(setImmediate);
      }
      const [session] = server.sessions;
      const gone = once(session, 'close');
      const closed = client.close();
      await fails(client.resolve(CREDENTIAL), UnavailableError, { reason: 'CLOSED', applied: 'no' });
      held[0].call.answer(held[0].request);
      assert.equal((await under).token, 'new');
      await closed;
      await gone;
      await fails(client.describe(), UnavailableError, { reason: 'CLOSED' });
      await client.close();
    });
    await using({ pipeline: () => {} }, async (client) => {
      const under = client.write(null);
      await Promise.all([client.close({ timeout: 100 }), fails(under, UnavailableError, { reason: 'CLOSED' })]);
    });
  });

  it('tells of connections and operations over diagnostics_channel, without secrets', async () => {
    const told = [];
    const listeners = ['connect', 'disconnect', 'operation'].map((name) => [`sessiond:${name}`, (message) => told.push([name, message])]);
    for (const [name, listen] of listeners) subscribe(name, listen);
    let address;
    await using({ pipeline: (call, request, number) => (number === 1 ? call.cut() : call.answer(request)) }, async (client) => {
      address = client.address;
      await client.resolve(CREDENTIAL);
      await client.write(null, { engine: 'x', ifVersion: 0 }).catch(() => {});
    });
    for (const [name, listen] of listeners) unsubscribe(name, listen);
    const ours = told.filter(([, message]) => message.address === address);
    assert.deepEqual(ours.map(([name]) => name).slice(0, 4), ['connect', 'disconnect', 'connect', 'operation']);
    assert.deepEqual({ ...ours[1][1] }, { address, reason: 'CONNECTION_FAILED', unanswered: 1 });
    const { operation, state, repetitions, duration, error } = ours[3][1];
    assert.deepEqual([operation, state, repetitions, duration > 0, error], ['resolve', 'ACTIVE', 1, true, undefined]);
    assert.doesNotMatch(JSON.stringify(ours), /secret/);
  });

  it('an idle client does not keep the process alive', async () => {
    await using({}, async (_, server) => {
      const script = `const { createClient } = require('sessiond'); createClient('${server.address}').resolve({ token: 't' }).then((a) => console.log(a.state))`;
      const { stdout } = await promisify(execFile)(process.execPath, ['-e', script], { cwd: fileURLToPath(new URL('..', import.meta.url)), timeout: 20_000 });
      assert.equal(stdout, 'ACTIVE\n');
    });
  });
});
