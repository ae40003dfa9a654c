// The Fastify plugin: hooks, decorators, encapsulation, streams, errors, and plugins of others.
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import zlib from 'node:zlib';
import compress from '@fastify/compress';
import cookie from '@fastify/cookie';
import flash from '@fastify/flash';
import passportModule from '@fastify/passport';
import makeFastify from 'fastify';
import { Strategy } from 'passport-local';
import { session } from '../dist/fastify.mjs';
import { createFake } from '../dist/testing.mjs';
import { ask, Browser } from './support/browser.mjs';

const suite = (name, run) => test(`Fastify: ${name}`, { timeout: 10_000 }, run);

async function application(t, setup, { fake = createFake(), options = {}, plugins = async () => {} } = {}) {
  const app = makeFastify({ forceCloseConnections: true });
  await plugins(app);
  await app.register(session, { client: fake, ...options });
  await setup(app);
  t.after(() => app.close());
  await app.listen({ port: 0, host: '127.0.0.1' });
  return { app, fake, port: app.server.address().port };
}

suite('a session begins, is found again, and ends', async (t) => {
  const { fake, port } = await application(t, (app) => {
    app.get('/', async (request) => ({ hits: request.session.hits ?? null, id: request.session.sessionId ?? null }));
    app.get('/hit', async (request) => {
      request.session.hits = (request.session.get('hits') ?? 0) + 1;
      return { hits: request.session.hits };
    });
    app.get('/destroy', async (request) => {
      await request.session.destroy();
      return { session: String(request.session) };
    });
    app.get('/callback', (request, reply) => {
      request.session.set('hits', 9);
      request.session.save((error) => reply.send({ error: error ?? null }));
    });
  });
  const browser = new Browser(port);
  const nothing = await browser.get('/');
  assert.deepEqual(nothing.json, { hits: null, id: null });
  assert.deepEqual(nothing.cookies, []);
  const first = await browser.get('/hit');
  assert.equal(first.cookies.length, 1);
  assert.equal(first.headers['cache-control'], 'no-store');
  assert.deepEqual((await browser.get('/hit')).cookies, []);
  assert.equal((await browser.get('/')).json.hits, 2);
  assert.equal((await browser.get('/')).json.id, fake.sessions()[0].id);
  assert.deepEqual((await browser.get('/callback')).json, { error: null });
  const end = await browser.get('/destroy');
  assert.deepEqual(end.json, { session: 'undefined' });
  assert.match(end.cookies[0], /Max-Age=0/);
  assert.equal(fake.sessions().length, 0);
});

suite('login, update, devices; parallel updates lose nothing', async (t) => {
  const { fake, port } = await application(t, (app) => {
    app.post('/login', async (request) => request.session.login('ann'));
    app.post('/cart', async (request) => {
      const { cart } = await request.session.update((data) => void (data.cart = [...(data.cart ?? []), 'tea']));
      return { items: cart.length };
    });
    app.get('/devices', async (request) => request.session.devices());
  });
  const browser = new Browser(port);
  await browser.ask('/login', { method: 'POST' });
  const answers = await Promise.all(Array.from({ length: 8 }, () => browser.copy().ask('/cart', { method: 'POST' })));
  assert.deepEqual(answers.map(({ json }) => json.items).sort(), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.equal((await browser.get('/devices')).json[0].current, true);
  assert.equal(fake.sessions()[0].data.cart.length, 8);
});

suite('the cookie goes out with streams, redirects, HEAD and other cookies', async (t) => {
  const { port } = await application(t, (app) => {
    app.addHook('preHandler', async (request) => void (request.session.n = 1));
    app.get('/stream', (request, reply) => reply.type('text/plain').send(Readable.from(['a', 'b'])));
    app.get('/redirect', (request, reply) => reply.redirect('/there', 303));
    app.get('/json', async () => ({ a: 1 }));
    app.get('/others', async (request, reply) => {
      reply.setCookie('theme', 'dark').header('set-cookie', 'raw=1').setCookie('session', 'mine');
      return {};
    });
    app.get('/error', async () => {
      throw new Error('boom');
    });
  }, { plugins: (app) => app.register(cookie) });
  for (const [path, status] of [['/stream', 200], ['/redirect', 303], ['/json', 200], ['/others', 200], ['/error', 500]]) {
    const answer = await ask(port, path);
    assert.equal(answer.status, status, path);
    assert.equal(answer.cookies.filter((line) => /^session=[\w-]{40}\./.test(line)).length, 1, path);
    if (path === '/others') assert.deepEqual(answer.cookies.map((line) => line.split('=')[0]).sort(), ['raw', 'session', 'theme']);
  }
  const head = await ask(port, '/json', { method: 'HEAD' });
  assert.equal(head.cookies.length, 1);
});

suite('while the store is away: 503 with Retry-After, at the beginning and at the end of a request', async (t) => {
  let destroyed = false;
  const { fake, port } = await application(t, (app) => {
    app.get('/', async (request, reply) => {
      request.session.n = 1;
      reply.header('etag', '"1"').header('access-control-allow-origin', '*');
      return 'stored';
    });
    app.get('/stream', (request, reply) => {
      request.session.n = 1;
      const stream = Readable.from(['stored']);
      stream.once('close', () => (destroyed = true));
      return reply.type('text/plain').send(stream);
    });
    app.get('/error', async (request) => {
      request.session.n = 1;
      throw new Error('boom');
    });
  });
  const own = fake.cookie({ principal: 'ann' });
  for (const operation of ['resolve', 'write']) {
    fake.fail('STORE_UNAVAILABLE', { operation });
    for (const path of ['/', '/stream', '/error']) {
      const answer = await ask(port, path, { headers: { cookie: own } });
      assert.equal(answer.status, 503, `${operation} ${path}`);
      assert.equal(answer.headers['retry-after'], '1', `${operation} ${path}`);
      assert.doesNotMatch(answer.text, /stored/);
      assert.equal(answer.headers.etag, undefined);
      assert.deepEqual(answer.cookies, []);
    }
  }
  assert.equal(destroyed, true, 'a stream that is not sent is told');
  fake.fail(null);
  assert.equal((await ask(port, '/', { headers: { cookie: own } })).text, 'stored');
});

suite("the application's error handler gets the error", async (t) => {
  const { fake, port } = await application(t, (app) => {
    app.setErrorHandler((error, request, reply) => reply.code(error.statusCode ?? 500).headers(error.headers ?? {}).send({ reason: error.reason ?? error.message }));
    app.post('/', async (request) => {
      request.session.n = 1;
      return 'stored';
    });
  });
  fake.fail('STORE_UNAVAILABLE');
  const answer = await ask(port, '/', { method: 'POST' });
  assert.equal(answer.status, 503);
  assert.equal(answer.headers['retry-after'], '1');
  assert.deepEqual(answer.json, { reason: 'STORE_UNAVAILABLE' });
  fake.fail(null);
  const late = fake.cookie();
  await fake.write({ cookieHeader: late }, { roll: true, principal: 'ann' });
  const superseded = await ask(port, '/', { method: 'POST', headers: { cookie: late } });
  assert.equal(superseded.status, 409);
  assert.deepEqual(superseded.json, { reason: 'SUPERSEDED' });
  assert.deepEqual(superseded.cookies, []);
});

suite('data that are not JSON answer 500, and nothing is stored', async (t) => {
  const { fake, port } = await application(t, (app) => {
    app.get('/', async (request) => {
      request.session.when = new Date();
      return 'stored';
    });
  });
  const answer = await ask(port, '/');
  assert.equal(answer.status, 500);
  assert.match(answer.json.message, /class Date/);
  assert.equal(fake.sessions().length, 0);
});

suite('requests share nothing', async (t) => {
  const { port } = await application(t, (app) => {
    app.get('/', async (request) => {
      request.session.mine = request.query.n;
      await new Promise(setImmediate);
      return { mine: request.session.mine };
    });
  });
  const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => ask(port, `/?n=${n}`)));
  assert.deepEqual(answers.map(({ json }) => json.mine), Array.from({ length: 20 }, (_, n) => String(n)));
  assert.equal(new Set(answers.map(({ cookies }) => cookies[0])).size, 20);
});

suite('it applies where it is registered, and below', async (t) => {
  const fake = createFake({ engines: { default: {}, admin: { cookieName: 'admin' } } });
  const app = makeFastify();
  app.get('/outside', async (request) => ({ session: request.session === undefined }));
  await app.register(async (shop) => {
    await shop.register(session, { client: fake });
    shop.get('/shop', async (request) => void (request.session.n = 1));
    await shop.register(async (child) => child.get('/child', async (request) => void (request.session.n = 2)));
  });
  await app.register(async (admin) => {
    await admin.register(session, { client: fake, engine: 'admin' });
    admin.get('/admin', async (request) => void (request.session.n = 3));
  });
  assert.deepEqual((await app.inject('/outside')).json(), { session: true });
  for (const [path, name] of [['/shop', 'session'], ['/child', 'session'], ['/admin', 'admin']]) {
    assert.deepEqual((await app.inject(path)).cookies.map((one) => one.name), [name], path);
  }
  assert.equal(fake.sessions('admin').length, 1);
  await app.close();
});

suite('the decorator, and the client that the plugin makes is closed with the server', async () => {
  const fake = createFake();
  const app = makeFastify();
  await app.register(session, { client: fake });
  assert.equal(app.sessiond, fake);
  assert.equal(app.hasPlugin('sessiond'), true);
  await app.close();
  assert.equal((await fake.describe()).engines.length, 1, 'a client that was given stays open');

  const own = makeFastify();
  await own.register(session, { address: '127.0.0.1:1' });
  const { sessiond } = own;
  await own.close();
  await assert.rejects(sessiond.describe(), { reason: 'CLOSED' });

  for (const options of [{}, { client: fake, secret: 'x'.repeat(32) }, { client: fake, cookieName: 'x' }]) {
    const wrong = makeFastify();
    await assert.rejects(async () => wrong.register(session, options), TypeError);
  }
});

suite('hijack: what changes is saved after it, if there is a session', async (t) => {
  const { fake, port } = await application(t, (app) => {
    app.get('/', (request, reply) => {
      reply.hijack();
      request.session.n = 1;
      reply.raw.end('raw');
    });
  });
  const own = fake.cookie();
  assert.equal((await ask(port, '/', { headers: { cookie: own } })).text, 'raw');
  while (fake.sessions()[0].data.n !== 1) await new Promise(setImmediate);
});

suite('@fastify/compress', async (t) => {
  const body = 'hello, world. '.repeat(500);
  const { fake, port } = await application(t, (app) => {
    app.get('/', (request, reply) => {
      request.session.n = 1;
      return reply.type('text/plain').send(body);
    });
  }, { plugins: (app) => app.register(compress) });
  const answer = await ask(port, '/', { headers: { 'accept-encoding': 'gzip' } });
  assert.equal(zlib.gunzipSync(answer.octets).toString(), body);
  assert.equal(answer.cookies.length, 1);
  fake.fail('STORE_UNAVAILABLE');
  assert.equal((await ask(port, '/', { headers: { 'accept-encoding': 'gzip' } })).status, 503);
});

suite('@fastify/flash', async (t) => {
  const { port } = await application(t, async (app) => {
    await app.register(flash);
    app.get('/set', async (request) => request.flash('info', 'hi'));
    app.get('/take', async (request, reply) => reply.flash('info'));
  });
  const browser = new Browser(port);
  await browser.get('/set');
  assert.deepEqual((await browser.get('/take')).json, ['hi']);
  assert.deepEqual((await browser.get('/take')).json, []);
});

suite('@fastify/passport: login under a new id, logout', async (t) => {
  const { Authenticator } = passportModule;
  const auth = new Authenticator();
  const users = { 1: { id: '1', name: 'ann' } };
  auth.use('local', new Strategy((name, password, done) => done(null, name === 'ann' && password === 'secret' ? users[1] : false)));
  auth.registerUserSerializer(async (user) => user.id);
  auth.registerUserDeserializer(async (id) => users[id] ?? null);
  const { fake, port } = await application(t, async (app) => {
    app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, (request, body, done) => done(null, Object.fromEntries(new URLSearchParams(body))));
    await app.register(auth.initialize());
    await app.register(auth.secureSession());
    app.post('/login', { preValidation: auth.authenticate('local') }, async (request) => ({ user: request.user.name }));
    app.get('/me', async (request) => ({ user: request.user?.name ?? null }));
    app.post('/logout', async (request) => (await request.logOut(), {}));
    app.post('/cart', async (request) => ((request.session.cart = 1), {}));
  }, { options: { principal: (data) => data.passport } });
  const browser = new Browser(port);
  await browser.post('/cart');
  const before = browser.header;
  assert.equal((await browser.post('/login', { username: 'ann', password: 'no' })).status, 401);
  assert.deepEqual((await browser.post('/login', { username: 'ann', password: 'secret' })).json, { user: 'ann' });
  assert.notEqual(browser.header, before);
  assert.deepEqual((await browser.get('/me')).json, { user: 'ann' });
  assert.equal(fake.sessions()[0].principal, '1');
  await browser.post('/logout');
  assert.deepEqual((await browser.get('/me')).json, { user: null });
});
