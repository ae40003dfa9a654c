// The session is saved and its cookie set before the response head goes out, however the response is made.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { Readable, pipeline } from 'node:stream';
import { test } from 'node:test';
import zlib from 'node:zlib';
import compression from 'compression';
import express from 'express';
import express4 from 'express4';
import { session } from '../dist/express.mjs';
import { createFake } from '../dist/testing.mjs';
import { ask, serve } from './support/browser.mjs';

// The responses of Express have our methods in their prototype; all others have methods of their own.
const kindOf = new WeakMap();
function suite(name, run) {
  for (const kind of ['node:http', 'Express']) {
    test(`${name} (${kind})`, { timeout: 10_000 }, (t) => {
      kindOf.set(t, kind);
      return run(t);
    });
  }
}

// node:http alone: whatever takes (request, response, next).
async function plain(t, handler, { fake = slow(createFake()), onError } = {}) {
  const middleware = session({ client: fake });
  const port = await serve(t, (request, response) => {
    if (kindOf.get(t) === 'Express') Object.setPrototypeOf(response, express.response);
    middleware(request, response, (error) => {
      if (error && onError) return onError(error, request, response);
      if (error && response.headersSent) return response.destroy();
      if (error) {
        response.statusCode = error.status ?? 500;
        for (const [name, value] of Object.entries(error.headers ?? {})) response.setHeader(name, value);
        return response.end(`failed: ${error.reason ?? error.message}`);
      }
      return handler(request, response);
    });
  });
  return { fake, port };
}

// A fake whose writes take some turns of the event loop.
function slow(fake) {
  const { write } = fake;
  fake.write = async (...args) => {
    for (let i = 0; i < 5; i++) await new Promise(setImmediate);
    return write.apply(fake, args);
  };
  return fake;
}

const begin = (request) => (request.session.hit = true);

// Each answers "hello, world" with a session that was begun in it.
const ways = {
  end: (response) => response.end('hello, world'),
  'end with a callback': (response) => response.end('hello, world', 'utf8', () => {}),
  'write and end': (response) => (response.write('hello, '), response.end('world')),
  'several writes': (response) => [...'hello, world'].forEach((letter) => response.write(letter)) ?? response.end(),
  'Content-Length': (response) => (response.setHeader('Content-Length', '12'), response.write('hello, '), response.end('world')),
  'a buffer': (response) => response.end(Buffer.from('hello, world')),
  'hexadecimal text': (response) => response.end(Buffer.from('hello, world').toString('hex'), 'hex'),
  writeHead: (response) => response.writeHead(200, { 'X-Way': 'object' }).end('hello, world'),
  'writeHead with a message': (response) => response.writeHead(200, 'Fine', { 'X-Way': 'message' }).end('hello, world'),
  'writeHead with a list': (response) => response.writeHead(200, ['X-Way', 'list', 'Set-Cookie', 'a=1', 'Set-Cookie', 'b=2']).end('hello, world'),
  'writeHead with pairs': (response) => response.writeHead(200, [['X-Way', 'pairs'], ['Set-Cookie', 'a=1']]).end('hello, world'),
  flushHeaders: (response) => (response.flushHeaders(), response.end('hello, world')),
  'pipe of a stream': (response) => Readable.from(['hello', ', ', 'world']).pipe(response),
  'pipeline of a generator': (response) => pipeline(async function* () { yield 'hello, '; await new Promise(setImmediate); yield 'world'; }, response, (error) => assert.equal(error ?? null, null)),
  'write with a callback': (response) => response.write('hello, ', () => response.end('world')),
  'after a while': (response) => setImmediate(() => response.end('hello, world')),
};

for (const [name, respond] of Object.entries(ways)) {
  suite(`cookie, body and saved session: ${name}`, async (t) => {
    const { fake, port } = await plain(t, (request, response) => {
      begin(request);
      respond(response);
    });
    const answer = await ask(port);
    assert.equal(answer.text, 'hello, world');
    assert.equal(answer.status, 200);
    const own = answer.cookies.filter((line) => line.startsWith('session='));
    assert.equal(own.length, 1);
    assert.equal(fake.sessions().length, 1);
    if (name.startsWith('writeHead')) assert.ok(answer.headers['x-way']);
    if (/list|pairs/.test(name)) assert.ok(answer.cookies.includes('a=1'), 'cookies of the application stay');
  });

  suite(`nothing changed, nothing held: ${name}`, async (t) => {
    const { port } = await plain(t, (request, response) => respond(response));
    const answer = await ask(port);
    assert.equal(answer.text, 'hello, world');
    assert.deepEqual(answer.cookies.filter((line) => line.startsWith('session=')), []);
  });

  suite(`a failed save answers 503 instead: ${name}`, async (t) => {
    const { fake, port } = await plain(t, (request, response) => {
      response.setHeader('Access-Control-Allow-Origin', '*');
      begin(request);
      respond(response);
    });
    fake.fail('STORE_UNAVAILABLE');
    const answer = await ask(port);
    assert.equal(answer.status, 503);
    assert.equal(answer.headers['retry-after'], '1');
    assert.equal(answer.text, 'failed: STORE_UNAVAILABLE');
    assert.equal(answer.headers['access-control-allow-origin'], '*', 'a page of another origin can read why');
    assert.deepEqual(answer.cookies.filter((line) => line.startsWith('session=')), []);
  });
}

suite('end(null), end() twice, write after end: as without a session', async (t) => {
  const { port } = await plain(t, (request, response) => {
    begin(request);
    if (request.url === '/null') return response.end(null);
    response.setHeader('Content-Type', 'text/plain');
    response.end('hello, world');
    assert.equal(response.headersSent, true);
    assert.equal(response.writableEnded, true);
    assert.throws(() => response.setHeader('Content-Length', '3'), { code: 'ERR_HTTP_HEADERS_SENT' });
    assert.throws(() => response.appendHeader('Set-Cookie', 'a=1'), { code: 'ERR_HTTP_HEADERS_SENT' });
    assert.throws(() => response.removeHeader('Content-Type'), { code: 'ERR_HTTP_HEADERS_SENT' });
    assert.throws(() => response.writeHead(404), { code: 'ERR_HTTP_HEADERS_SENT' });
    response.end();
    response.end(() => {});
  });
  assert.equal((await ask(port, '/null')).text, '');
  const answer = await ask(port);
  assert.equal(answer.text, 'hello, world');
  assert.equal(answer.headers['content-type'], 'text/plain');
});

suite('a slow reader: a writer is told to wait, and goes on', async (t) => {
  const chunk = Buffer.alloc(64 << 10, 'x');
  const { port } = await plain(t, async (request, response) => {
    begin(request);
    for (let i = 0; i < 40; i++) if (!response.write(chunk)) await once(response, 'drain');
    response.end();
  });
  assert.equal((await ask(port)).octets.length, 40 * chunk.length);
});

suite('what changes while a stream is sent is saved at its end', async (t) => {
  const { fake, port } = await plain(t, async (request, response) => {
    request.session.first = 1;
    response.write('a');
    await new Promise(setImmediate);
    request.session.second = 2;
    response.end('b');
  });
  const cookie = fake.cookie();
  assert.equal((await ask(port, '/', { headers: { cookie } })).text, 'ab');
  assert.deepEqual(fake.sessions()[0].data, { first: 1, second: 2 });
});

suite('what changes, also deep inside, while a save is under way is saved after it', async (t) => {
  const { fake, port } = await plain(t, async (request, response) => {
    request.session.user.name = 'first';
    const saving = request.session.save();
    await new Promise(setImmediate);
    request.session.user.name = 'second';
    request.session.other = 1;
    await saving;
    response.end();
  });
  await ask(port, '/', { headers: { cookie: fake.cookie({ data: { user: {} } }) } });
  assert.deepEqual(fake.sessions()[0].data, { user: { name: 'second' }, other: 1 });
});

suite('a stream whose last change cannot be saved is cut off', async (t) => {
  const { fake, port } = await plain(t, async (request, response) => {
    response.write('a');
    await new Promise(setImmediate);
    request.session.late = 1;
    fake.fail('STORE_UNAVAILABLE');
    response.end('b');
  });
  await assert.rejects(ask(port, '/', { headers: { cookie: fake.cookie() } }), /cut off|socket hang up|aborted/);
});

suite('a session begun after the head is not stored, and that is told', async (t) => {
  const { fake, port } = await plain(t, async (request, response) => {
    response.write('a');
    await new Promise(setImmediate);
    request.session.late = 1;
    response.end('b');
  });
  const warned = new Promise((resolve) => process.once('warning', resolve));
  assert.equal((await ask(port)).text, 'ab');
  assert.equal((await warned).code, 'SESSIOND_LATE_SESSION');
  assert.equal(fake.sessions().length, 0);
});

suite('a source that goes on after a failed save disturbs nothing', async (t) => {
  let written = 0;
  const { fake, port } = await plain(t, (request, response) => {
    begin(request);
    const timer = setInterval(() => {
      response.write('stale');
      if (++written === 5) {
        clearInterval(timer);
        response.end('stale');
      }
    }, 5);
    response.write('stale');
  }, { onError: (error, request, response) => setTimeout(() => response.writeHead(503).end('unavailable'), 1) });
  fake.fail('STORE_UNAVAILABLE');
  const answer = await ask(port);
  assert.equal(answer.status, 503);
  assert.doesNotMatch(answer.text, /stale/);
  while (written < 5) await new Promise((resolve) => setTimeout(resolve, 5));
});

suite('a reader who leaves meanwhile: nothing breaks', async (t) => {
  let held;
  const fake = createFake();
  const { write } = fake;
  const writing = new Promise((resolve) => {
    fake.write = (...args) => (resolve(), new Promise((release) => (held = release)).then(() => write.apply(fake, args)));
  });
  let closed;
  const over = new Promise((resolve) => (closed = resolve));
  const { port } = await plain(t, (request, response) => {
    begin(request);
    response.on('close', closed);
    response.write('a', () => {});
    response.end('b');
  }, { fake });
  const socket = net.connect(port, '127.0.0.1');
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await writing;
  socket.destroy();
  await over;
  held();
  await new Promise(setImmediate);
  assert.equal(fake.sessions().length, 1);
});

for (const [version, make] of [['5', express], ['4', express4]]) {
  const application = async (t, setup, fake = slow(createFake())) => {
    const app = make();
    app.use((error, request, response, next) => next(error));
    setup(app, session({ client: fake }));
    app.use((error, request, response, next) => {
      if (response.headersSent) return next(error);
      return response.status(error.status ?? 500).set(error.headers ?? {}).json({ error: error.reason ?? error.message });
    });
    return { fake, port: await serve(t, app) };
  };

  suite(`Express ${version}: redirect, HEAD, 304, sendFile, JSON`, async (t) => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sessiond-'));
    t.after(() => fs.rmSync(folder, { recursive: true }));
    fs.writeFileSync(path.join(folder, 'file.txt'), 'x'.repeat(300_000));
    const { fake, port } = await application(t, (app, sessions) => {
      app.use(sessions);
      app.get('/redirect', (request, response) => (begin(request), response.redirect(303, '/there')));
      app.get('/json', (request, response) => (begin(request), response.json({ a: 1 })));
      app.get('/file', (request, response) => (begin(request), response.sendFile(path.join(folder, 'file.txt'))));
      app.get('/fresh', (request, response) => (begin(request), response.set('ETag', '"1"').send('body')));
    });
    const redirect = await ask(port, '/redirect');
    assert.equal(redirect.status, 303);
    assert.equal(redirect.headers.location, '/there');
    assert.equal(redirect.cookies.length, 1);
    const head = await ask(port, '/json', { method: 'HEAD' });
    assert.equal(head.headers['content-length'], '7');
    assert.equal(head.text, '');
    assert.equal(head.cookies.length, 1);
    const fresh = await ask(port, '/fresh', { headers: { 'if-none-match': '"1"' } });
    assert.equal(fresh.status, 304);
    assert.equal(fresh.cookies.length, 1);
    const file = await ask(port, '/file');
    assert.equal(file.octets.length, 300_000);
    assert.equal(file.cookies.length, 1);
    assert.equal(file.headers['cache-control'], 'no-store', 'sendFile says public; a cookie must not be stored by a shared cache');
    assert.equal(fake.sessions().length, 4);
    fake.fail('STORE_UNAVAILABLE');
    for (const url of ['/redirect', '/json', '/file', '/fresh']) {
      const answer = await ask(port, url, { headers: { 'if-none-match': '"1"' } });
      assert.equal(answer.status, 503, url);
      assert.equal(answer.headers['retry-after'], '1');
      assert.deepEqual(answer.json, { error: 'STORE_UNAVAILABLE' });
      for (const name of ['location', 'etag', 'last-modified']) assert.ok(answer.headers[name] === undefined || name === 'etag', `${url}: ${name}`);
    }
  });

  suite(`Express ${version}: the answer to an error is saved and sent like any other`, async (t) => {
    const { fake, port } = await application(t, (app, sessions) => {
      app.use(sessions);
      app.get('/', (request) => {
        begin(request);
        throw new Error('boom');
      });
    });
    const answer = await ask(port);
    assert.equal(answer.status, 500);
    assert.deepEqual(answer.json, { error: 'boom' });
    assert.equal(answer.cookies.length, 1);
    fake.fail('STORE_UNAVAILABLE');
    const failed = await ask(port);
    assert.equal(failed.status, 503, 'the error handler is behind us: Express answers');
    assert.equal(failed.headers['retry-after'], '1');
  });

  for (const place of ['before', 'after']) {
    suite(`Express ${version}: compression, mounted ${place} the session`, async (t) => {
      const body = 'hello, world. '.repeat(500);
      const { fake, port } = await application(t, (app, sessions) => {
        if (place === 'before') app.use(compression());
        app.use(sessions);
        if (place === 'after') app.use(compression());
        app.get('/send', (request, response) => (begin(request), response.type('text').send(body)));
        app.get('/stream', (request, response) => {
          begin(request);
          response.type('text');
          Readable.from(body.match(/.{1,100}/gs)).pipe(response);
        });
        app.get('/none', (request, response) => response.type('text').send(body));
      });
      for (const url of ['/send', '/stream', '/none']) {
        const answer = await ask(port, url, { headers: { 'accept-encoding': 'gzip' } });
        assert.equal(answer.headers['content-encoding'], 'gzip', url);
        assert.equal(zlib.gunzipSync(answer.octets).toString(), body, url);
        assert.equal(answer.cookies.length, url === '/none' ? 0 : 1, url);
      }
      fake.fail('STORE_UNAVAILABLE');
      for (const url of ['/send', '/stream']) {
        const answer = await ask(port, url, { headers: { 'accept-encoding': 'gzip' } });
        assert.equal(answer.status, 503, url);
        assert.deepEqual(answer.json, { error: 'STORE_UNAVAILABLE' }, url);
        assert.equal(answer.headers['content-encoding'], undefined, url);
      }
    });
  }
}

suite('Cache-Control: no-store where a cookie is set, unless the application forbids storing itself', async (t) => {
  const { port } = await plain(t, (request, response) => {
    begin(request);
    const given = decodeURIComponent(request.url.slice(1));
    if (given) response.setHeader('Cache-Control', given);
    response.end();
  });
  for (const [given, expected] of [['', 'no-store'], ['public, max-age=60', 'no-store'], ['no-cache', 'no-store'], ['private, max-age=5', 'private, max-age=5'], ['no-store, max-age=0', 'no-store, max-age=0']]) {
    assert.equal((await ask(port, `/${encodeURIComponent(given)}`)).headers['cache-control'], expected, given);
  }
});

suite('a cookie that is not ours, of any octets, breaks nothing and reaches the daemon as it came', async (t) => {
  const fake = createFake();
  const { port } = await plain(t, (request, response) => response.end(String(request.session.n)), { fake });
  const own = fake.cookie({ data: { n: 7 } });
  for (const junk of ['\x80\xff\xfe', 'a=\xe4\xf6', '=;;==', '"unfinished', 'session=junk', '\u00c3\u0028=1', 'x'.repeat(5000)]) {
    const answer = await new Promise((resolve, reject) => {
      const socket = net.connect(port, '127.0.0.1');
      const chunks = [];
      socket.on('data', (chunk) => chunks.push(chunk)).on('error', reject).on('end', () => resolve(Buffer.concat(chunks).toString('latin1')));
      socket.end(Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: ${junk}; ${own}\r\nCookie: other=1\r\n\r\n`, 'latin1'));
    });
    assert.match(answer, /^HTTP\/1\.1 200/, JSON.stringify(junk));
    assert.match(answer, /7$/m, JSON.stringify(junk));
  }
});

suite('middleware that replaces res.write and res.end, before and after us', async (t) => {
  const patch = (response) => {
    for (const name of ['write', 'end']) {
      const original = response[name];
      response[name] = function (...args) {
        return original.apply(this, args);
      };
    }
  };
  const fake = slow(createFake());
  const middleware = session({ client: fake });
  const port = await serve(t, (request, response) => {
    patch(response);
    middleware(request, response, (error) => {
      assert.equal(error, undefined);
      patch(response);
      begin(request);
      response.write('hello, ');
      response.end('world');
    });
  });
  const answer = await ask(port);
  assert.equal(answer.text, 'hello, world');
  assert.equal(answer.cookies.length, 1);
});

suite('keep-alive: the connection serves the next request after a held one', async (t) => {
  const { port } = await plain(t, (request, response) => {
    begin(request);
    response.end(request.url);
  });
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  for (const url of ['/1', '/2', '/3']) {
    const text = await new Promise((resolve, reject) => {
      http.get({ port, host: '127.0.0.1', path: url, agent }, (response) => {
        let body = '';
        response.on('data', (chunk) => (body += chunk)).on('end', () => resolve(body));
      }).on('error', reject);
    });
    assert.equal(text, url);
  }
});

for (const [version, make] of [['4', express4], ['5', express]]) {
  suite(`Express ${version}: the methods are in one prototype, and only responses with a session notice`, async (t) => {
    const fake = slow(createFake());
    const app = make();
    const inner = make();
    let own;
    inner.use(session({ client: fake }), (request, response, next) => {
      own = ['writeHead', 'write', 'end', 'flushHeaders'].filter((name) => Object.hasOwn(response, name));
      begin(request);
      next();
    });
    app.use('/shop', inner);
    // The application above answers what the one with the sessions has passed on.
    app.use((_request, response) => response.send('hello, world'));
    const port = await serve(t, app);
    const stranger = await ask(port);
    assert.deepEqual([stranger.text, stranger.cookies.length], ['hello, world', 0]);
    for (const _ of [1, 2]) {
      const answer = await ask(port, '/shop');
      assert.deepEqual([answer.text, answer.cookies.length], ['hello, world', 1]);
      assert.deepEqual(own, [], 'expected no method on the response itself');
    }
    assert.equal(fake.sessions().length, 2);
    assert.deepEqual((await ask(port)).cookies, []);
  });

  suite(`Express ${version}: a response that somebody has wrapped before, and one with methods of the application`, async (t) => {
    const fake = slow(createFake());
    const app = make();
    const seen = [];
    app.response.end = function (...args) {
      seen.push(`application: ${this.headersSent}`);
      return http.ServerResponse.prototype.end.apply(this, args);
    };
    app.use('/wrapped', (_request, response, next) => {
      const { end } = response;
      response.end = function (...args) {
        seen.push('wrapped');
        return end.apply(this, args);
      };
      next();
    });
    app.use(session({ client: fake }), (request, response) => {
      begin(request);
      response.send('hello, world');
    });
    const port = await serve(t, app);
    for (const url of ['/', '/wrapped']) {
      const answer = await ask(port, url);
      assert.deepEqual([answer.text, answer.cookies.length], ['hello, world', 1], url);
    }
    assert.deepEqual(seen, ['application: false', 'wrapped', 'application: false']);
  });
}
