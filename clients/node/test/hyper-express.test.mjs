// The same handlers on hyper-express-session, with a store in memory, and on sessiond; then what only sessiond has.
import assert from 'node:assert/strict';
import net from 'node:net';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import HyperExpress from 'hyper-express';
import TheirEngine from 'hyper-express-session';
import { SessionEngine } from '../dist/hyper-express.mjs';
import { createFake } from '../dist/testing.mjs';
import { ask, Browser } from './support/browser.mjs';

const suite = (name, run) => test(`hyper-express: ${name}`, { timeout: 10_000 }, run);

const options = {
  duration: 45 * 60_000,
  automatic_touch: true,
  cookie: { name: 'session', path: '/', httpOnly: true, secure: false, sameSite: 'lax', secret: 'SomeSuperSecretForSigningCookies' },
};

// Handlers as users of hyper-express-session have them: one line of the application differs, the import.
function bind(engine) {
  const store = new Map();
  engine.use('read', async (own) => store.get(own.id) && JSON.parse(store.get(own.id)));
  engine.use('touch', async () => {});
  engine.use('write', async (own) => void store.set(own.id, JSON.stringify(own.get())));
  engine.use('destroy', async (own) => void store.delete(own.id));
  return engine;
}

async function listen(t, server) {
  await server.listen(0, '127.0.0.1');
  t.after(() => server.close());
  return server.port;
}

async function handlers(t, engine) {
  const server = new HyperExpress.Server();
  server.use(engine);
  server.get('/visits', async (request, response) => {
    await request.session.start();
    const visits = request.session.get('visits');
    request.session.set('visits', visits === undefined ? 1 : visits + 1);
    return response.json({ visits: request.session.get('visits'), ready: request.session.ready });
  });
  server.get('/read', async (request, response) => {
    await request.session.start();
    const { __cust_dur: _, ...all } = request.session.get();
    return response.json({ all, none: request.session.get('none') ?? null, duration: request.session.duration });
  });
  server.get('/set', async (request, response) => {
    await request.session.start();
    request.session.set({ a: 1, b: { c: [1] } }).set('d', 'x').delete('a');
    return response.send('set');
  });
  server.get('/reset', async (request, response) => {
    await request.session.start();
    request.session.reset({ only: true });
    return response.send('reset');
  });
  server.get('/clear', async (request, response) => {
    await request.session.start();
    request.session.delete();
    return response.send('cleared');
  });
  server.get('/duration', async (request, response) => {
    await request.session.start();
    request.session.set_duration(7_200_000).set('long', true);
    return response.json({ duration: request.session.duration });
  });
  server.get('/roll', async (request, response) => {
    await request.session.start();
    // hyper-express-session loses the data of a stored session here, against its documentation.
    const data = { ...request.session.get() };
    const rolled = await request.session.roll();
    request.session.set(data);
    return response.json({ rolled });
  });
  server.get('/touch', async (request, response) => {
    await request.session.start();
    await request.session.touch();
    return response.json({ later: request.session.expires_at > Date.now() });
  });
  server.get('/destroy', async (request, response) => {
    await request.session.start();
    await request.session.destroy();
    return response.json(request.session.get());
  });
  server.get('/destroy-unstarted', async (request, response) => {
    await request.session.destroy();
    return response.json({ ready: request.session.ready });
  });
  server.get('/unstarted', (request, response) => {
    try {
      request.session.get('x');
      return response.send('no error');
    } catch (error) {
      return response.send(error instanceof Error ? 'error' : 'what?');
    }
  });
  server.get('/stored', async (request, response) => {
    await request.session.start();
    return response.json(request.session.stored);
  });
  server.get('/invalid', async (request, response) => {
    await request.session.start();
    const refused = [];
    for (const [name, call] of Object.entries({ duration: () => request.session.set_duration('long'), reset: () => request.session.reset(null) })) {
      try {
        call();
      } catch {
        refused.push(name);
      }
    }
    return response.json(refused);
  });
  return listen(t, server);
}

const engines = {
  'hyper-express-session': () => bind(new TheirEngine(options)),
  sessiond: () => bind(new SessionEngine({ ...options, client: createFake({ engines: { default: { duration: options.duration } } }) })),
};

for (const [name, engine] of Object.entries(engines)) {
  suite(`the same handlers on ${name}`, async (t) => {
    const port = await handlers(t, engine());
    const browser = new Browser(port);
    assert.equal((await browser.get('/unstarted')).text, 'error');
    assert.equal((await browser.get('/stored')).json, false);
    assert.deepEqual((await browser.get('/visits')).json, { visits: 1, ready: true });
    assert.deepEqual((await browser.get('/visits')).json, { visits: 2, ready: true });
    assert.equal((await browser.get('/stored')).json, true);
    assert.deepEqual((await new Browser(port).get('/visits')).json, { visits: 1, ready: true }, 'a session for each browser');
    await browser.get('/set');
    assert.deepEqual((await browser.get('/read')).json, { all: { visits: 2, b: { c: [1] }, d: 'x' }, none: null, duration: options.duration });
    const before = browser.copy();
    assert.deepEqual((await browser.get('/roll')).json, { rolled: true });
    assert.notEqual(browser.header, before.header);
    assert.deepEqual((await browser.get('/read')).json.all, { visits: 2, b: { c: [1] }, d: 'x' });
    assert.deepEqual((await before.get('/read')).json.all, {}, 'the former id opens nothing');
    await browser.get('/reset');
    assert.deepEqual((await browser.get('/read')).json.all, { only: true });
    await browser.get('/clear');
    assert.deepEqual((await browser.get('/read')).json.all, {});
    assert.deepEqual((await browser.get('/duration')).json, { duration: 7_200_000 });
    assert.equal((await browser.get('/read')).json.duration, 7_200_000);
    assert.deepEqual((await browser.get('/touch')).json, { later: true });
    assert.deepEqual((await browser.get('/invalid')).json, ['duration', 'reset']);
    assert.deepEqual((await browser.get('/destroy')).json, {});
    assert.equal(browser.header, '');
    assert.equal((await browser.get('/stored')).json, false);
    await browser.get('/visits');
    const ended = browser.copy();
    assert.deepEqual((await browser.get('/destroy-unstarted')).json, { ready: true });
    assert.equal((await ended.get('/stored')).json, false);
  });
}

// ---- what only sessiond has

async function application(t, setup, { fake = createFake(), ...rest } = {}) {
  const server = new HyperExpress.Server();
  server.set_error_handler((request, response, error) => response.status(500).send(`handler: ${error.message}`));
  server.use(new SessionEngine({ client: fake, ...rest }));
  setup(server);
  return { fake, server, port: await listen(t, server) };
}

suite('nothing is asked before start(), and nothing stored or sent for a visitor who stores nothing', async (t) => {
  const { fake, port } = await application(t, (server) => {
    server.get('/unused', (request, response) => response.send('fine'));
    server.get('/started', async (request, response) => {
      await request.session.start();
      response.json({ id: request.session.id ?? null, signed: request.session.signed_id ?? null });
    });
  });
  const cookie = fake.cookie();
  fake.fail('STORE_UNAVAILABLE');
  assert.equal((await ask(port, '/unused', { headers: { cookie } })).text, 'fine');
  const answer = await ask(port, '/started');
  assert.deepEqual(answer.json, { id: null, signed: null });
  assert.deepEqual(answer.cookies, []);
  fake.fail(null);
  const found = await ask(port, '/started', { headers: { cookie } });
  assert.deepEqual(found.json, { id: fake.sessions()[0].id, signed: cookie.slice('session='.length) });
});

suite('the session is saved before the head goes out, however the response is made', async (t) => {
  const ways = {
    send: (response) => response.send('hello, world'),
    json: (response) => response.json('hello, world'),
    redirect: (response) => response.redirect('/there'),
    write: (response) => (response.write('hello, '), response.end('world')),
    pipe: (response) => Readable.from(['hello, ', 'world']).pipe(response),
    stream: (response) => response.stream(Readable.from([Buffer.from('hello, '), Buffer.from('world')])),
    sse: (response) => (response.sse.open(), response.sse.send('hello'), response.sse.close()),
    twice: (response) => (response.send('hello, world'), response.send('again')),
  };
  const fake = createFake();
  const { write } = fake;
  fake.write = async (...args) => {
    for (let i = 0; i < 3; i++) await new Promise(setImmediate);
    return write.apply(fake, args);
  };
  const { port } = await application(t, (server) => {
    server.get('/:way', async (request, response) => {
      await request.session.start();
      request.session.set('n', 1);
      response.cookie('theme', 'dark');
      ways[request.path_parameters.way](response);
    });
  }, { fake });
  for (const way of Object.keys(ways)) {
    const before = fake.sessions().length;
    const answer = await ask(port, `/${way}`);
    assert.equal(answer.status, way === 'redirect' ? 302 : 200, way);
    if (way !== 'redirect') assert.match(answer.text, /hello/, way);
    assert.doesNotMatch(answer.text, /again/);
    assert.deepEqual(answer.cookies.map((line) => line.split('=')[0]).sort(), ['session', 'theme'], way);
    assert.equal(fake.sessions().length, before + 1, way);
  }
  fake.fail('STORE_UNAVAILABLE');
  for (const way of Object.keys(ways)) {
    const answer = await ask(port, `/${way}`);
    assert.equal(answer.status, 503, way);
    assert.equal(answer.headers['retry-after'], '1', way);
    assert.doesNotMatch(answer.text, /hello/, way);
    assert.equal(answer.headers.location, undefined);
  }
});

suite('while the daemon is away start() answers 503; on_error makes the answer', async (t) => {
  for (const on_error of [undefined, (request, response, error) => response.json({ reason: error.reason })]) {
    const { fake, port } = await application(t, (server) => {
      server.get('/', async (request, response) => {
        await request.session.start();
        response.send('nobody');
      });
      server.get('/own', async (request, response) => {
        try {
          await request.session.start();
        } catch (error) {
          response.status(error.status).send('own');
        }
      });
      server.get('/boom', async (request) => {
        await request.session.start();
        throw new Error('boom');
      });
    }, { on_error });
    const cookie = fake.cookie({ principal: 'ann' });
    assert.equal((await ask(port, '/boom', { headers: { cookie } })).text, 'handler: boom');
    fake.fail('STORE_UNAVAILABLE');
    const answer = await ask(port, '/', { headers: { cookie } });
    assert.equal(answer.status, 503);
    assert.equal(answer.headers['retry-after'], '1');
    assert.deepEqual(answer.cookies, []);
    assert.equal(answer.text, on_error ? '{"reason":"STORE_UNAVAILABLE"}' : 'Service Unavailable\n');
    assert.equal((await ask(port, '/own', { headers: { cookie } })).text, 'own');
    fake.fail(null);
    assert.equal((await ask(port, '/', { headers: { cookie } })).text, 'nobody');
  }
});

suite('login, update, devices, logout and the rest', async (t) => {
  const { fake, port } = await application(t, (server) => {
    server.post('/login', async (request, response) => {
      await request.session.login('ann', { label: 'test' });
      response.json(request.session.principal);
    });
    server.post('/cart', async (request, response) => {
      const { cart } = await request.session.update((data) => void (data.cart = [...(data.cart ?? []), 'tea']));
      response.json(cart.length);
    });
    server.get('/devices', async (request, response) => response.json((await request.session.devices()).map(({ label, current }) => ({ label, current }))));
    server.post('/others', async (request, response) => response.json(await request.session.logout_others()));
    server.post('/everywhere', async (request, response) => response.json(await request.session.logout_everywhere()));
    server.post('/logout', async (request, response) => response.json(await request.session.logout()));
    server.post('/end', async (request, response) => response.json(await request.session.end((await request.session.devices()).map(({ id }) => id))));
    server.post('/browser', async (request, response) => response.json((await request.session.set_persistent(false)) ?? null));
    server.post('/set', async (request, response) => {
      await request.session.start();
      request.session.set('n', 1);
      response.json({});
    });
  }, { on_error: (request, response) => response.json({}) });
  const [a, b] = [new Browser(port), new Browser(port)];
  const post = (browser, path) => browser.ask(path, { method: 'POST' });
  await post(a, '/cart');
  const late = a.copy();
  assert.equal((await post(a, '/login')).json, 'ann');
  const answers = await Promise.all(Array.from({ length: 6 }, () => post(a.copy(), '/cart')));
  assert.deepEqual(answers.map(({ json }) => json).sort(), [2, 3, 4, 5, 6, 7]);
  await post(b, '/login');
  assert.deepEqual((await a.get('/devices')).json.sort((x, y) => y.current - x.current), [{ label: 'test', current: true }, { label: 'test', current: false }]);
  assert.doesNotMatch((await post(a, '/browser')).cookies[0], /Max-Age/);
  for (const path of ['/set', '/cart', '/login']) {
    const answer = await post(late, path);
    assert.equal(answer.status, 409, path);
    assert.equal(answer.text, '{}');
    assert.deepEqual(answer.cookies, []);
  }
  assert.equal((await post(a, '/others')).json, 1);
  assert.equal((await post(a, '/everywhere')).json, 1);
  assert.equal(a.header, '');
  await post(a, '/login');
  assert.equal((await post(a, '/logout')).json, true);
  await post(a, '/login');
  assert.equal((await post(a, '/end')).json, 1);
  assert.equal(fake.sessions().length, 0);
});

suite('a token that the client carries elsewhere; ids are the daemon’s', async (t) => {
  const { fake, port } = await application(t, (server) => {
    server.get('/', async (request, response) => {
      const taken = request.session.set_signed_id(request.headers['x-session'] ?? '');
      await request.session.start();
      assert.throws(() => request.session.set_id('mine'), /signature/);
      await assert.rejects(request.session.generate_id(), /daemon/);
      response.json({ taken, n: request.session.get('n') ?? null });
    });
  });
  const token = fake.cookie({ data: { n: 7 } }).slice('session='.length);
  assert.deepEqual((await ask(port, '/', { headers: { 'x-session': token } })).json, { taken: true, n: 7 });
  assert.deepEqual((await ask(port, '/', { headers: { 'x-session': 'x; session=y' } })).json, { taken: false, n: null });
  assert.deepEqual((await ask(port, '/', { headers: { 'x-session': 'forged' } })).json, { taken: true, n: null });
});

suite('stored keys of any name; data that are not JSON', async (t) => {
  const { fake, port } = await application(t, (server) => {
    server.get('/', async (request, response) => {
      await request.session.start();
      assert.equal(request.session.get('toString'), undefined);
      request.session.set('set', 'x').set(JSON.parse('{"__proto__":{"admin":true}}'));
      assert.equal(request.session.get('admin'), undefined);
      response.json(Object.keys(request.session.get()));
    });
    server.get('/date', async (request, response) => {
      await request.session.start();
      request.session.set('when', new Date());
      response.send('stored');
    });
  });
  assert.deepEqual((await ask(port)).json, ['set', '__proto__']);
  assert.deepEqual(Object.keys(fake.sessions()[0].data), ['set', '__proto__']);
  const answer = await ask(port, '/date');
  assert.equal(answer.status, 500);
  assert.match(answer.text, /handler: .*class Date/);
});

suite('cookies of any octets break nothing', async (t) => {
  const { fake, port } = await application(t, (server) => {
    server.get('/', async (request, response) => {
      await request.session.start();
      response.json(request.session.get('n') ?? null);
    });
  });
  const own = fake.cookie({ data: { n: 7 } });
  for (const junk of ['\x80\xff\xfe', 'a=\xe4\xf6', '\u00c4\u00bbsession=x', 'session=junk', '\u00c3\u0028=1']) {
    const answer = await new Promise((resolve, reject) => {
      const socket = net.connect(port, '127.0.0.1');
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk.toString('latin1');
        if (/\r\n\r\n./.test(text)) socket.end(), resolve(text);
      });
      socket.on('error', reject);
      socket.write(Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\nCookie: ${junk}; ${own}\r\n\r\n`, 'latin1'));
    });
    assert.match(answer, /7$/, JSON.stringify(junk));
  }
});

suite('options of hyper-express-session that the daemon does not follow are told, and handlers are not called', async (t) => {
  const warnings = [];
  const note = (warning) => warnings.push(warning);
  process.on('warning', note);
  t.after(() => process.off('warning', note));
  const fake = createFake();
  const engine = new SessionEngine({ client: fake, duration: 1000, automatic_touch: false, cookie: { name: 'default_sess', secret: 'x' } });
  assert.equal(engine.use('read', () => assert.fail('not called')), engine);
  assert.throws(() => engine.use('reed', () => {}), /operation/);
  assert.throws(() => engine.use('read', 1), /function/);
  assert.equal(engine.cleanup(), undefined);
  assert.equal(engine.options.duration, 1000);
  const server = new HyperExpress.Server();
  server.use(engine);
  server.get('/', async (request, response) => {
    await request.session.start();
    response.send('');
  });
  const port = await listen(t, server);
  await ask(port, '/', { headers: { cookie: fake.cookie() } });
  await ask(port, '/', { headers: { cookie: fake.cookie() } });
  await new Promise(setImmediate);
  const ours = warnings.filter(({ code }) => code?.startsWith('SESSIOND'));
  assert.deepEqual(ours.map(({ code }) => code), ['SESSIOND_HANDLER_NOT_CALLED', 'SESSIOND_OPTION_DIFFERS', 'SESSIOND_OPTION_DIFFERS', 'SESSIOND_OPTION_DIFFERS']);
  for (const key of ['duration', 'automatic_touch', 'cookie.name']) assert.ok(ours.some(({ message }) => message.includes(`option ${key} is`)), key);
});

suite('a body that is sent with the request is read after start()', async (t) => {
  const { port } = await application(t, (server) => {
    server.post('/', async (request, response) => {
      await request.session.start();
      const { item } = await request.urlencoded();
      request.session.set('item', item);
      response.json({ item });
    });
  });
  const browser = new Browser(port);
  assert.deepEqual((await browser.post('/', { item: 'tea' })).json, { item: 'tea' });
});
