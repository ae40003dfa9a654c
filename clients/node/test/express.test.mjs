// What people know of express-session's `req.session`, in Express 4 and 5.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import express5 from 'express';
import express4 from 'express4';
import { session, Session } from '../dist/express.mjs';
import { createFake } from '../dist/testing.mjs';
import { ask, Browser, serve } from './support/browser.mjs';

for (const [version, express] of [['5', express5], ['4', express4]]) {
  const suite = (name, run) => test(`Express ${version}: ${name}`, { timeout: 10_000 }, run);

  // An application with one handler for every path.
  async function application(t, handler, { fake = createFake(), options = {}, onError, before } = {}) {
    const app = express();
    if (before) app.use(before);
    app.use(session({ client: fake, ...options }));
    app.use((request, response, next) => {
      // Express 4 does not wait for promises.
      Promise.resolve(handler(request, response, next)).catch(next);
    });
    if (onError) app.use(onError);
    else app.use((error, request, response, next) => (response.headersSent ? next(error) : response.status(error.status ?? 500).set(error.headers ?? {}).json({ error: error.message })));
    return { fake, port: await serve(t, app) };
  }

  suite('nothing is asked, stored or sent for a visitor who stores nothing', async (t) => {
    const { fake, port } = await application(t, (request, response) => response.json({ id: request.session.id ?? null, sessionID: request.sessionID ?? null, keys: Object.keys(request.session) }));
    fake.fail('STORE_UNAVAILABLE'); // nobody notices
    const answer = await ask(port, '/', { headers: { cookie: 'other=1; sessions=2' } });
    assert.deepEqual(answer.json, { id: null, sessionID: null, keys: [] });
    assert.deepEqual(answer.cookies, []);
    assert.equal(answer.headers['cache-control'], undefined);
    fake.fail(null);
    assert.equal(fake.sessions().length, 0);
  });

  suite('a property that is set makes a session; the next request finds it', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session.hits = (request.session.hits ?? 0) + 1;
      response.send(`hits: ${request.session.hits}`);
    });
    const browser = new Browser(port);
    const first = await browser.get('/');
    assert.equal(first.text, 'hits: 1');
    assert.equal(first.cookies.length, 1);
    assert.match(first.cookies[0], /^session=/);
    assert.equal(first.headers['cache-control'], 'no-store');
    const second = await browser.get('/');
    assert.equal(second.text, 'hits: 2');
    assert.deepEqual(second.cookies, [], 'the browser has nothing to learn');
    assert.deepEqual(fake.sessions().map(({ data }) => data), [{ hits: 2 }]);
  });

  suite('browsers have sessions of their own', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session.name ??= request.query.name;
      response.send(request.session.name);
    });
    const [a, b] = [new Browser(port), new Browser(port)];
    await Promise.all([a.get('/?name=a'), b.get('/?name=b')]);
    assert.equal((await a.get('/')).text, 'a');
    assert.equal((await b.get('/')).text, 'b');
    assert.equal(fake.sessions().length, 2);
  });

  suite('changes deep inside are written, and only the keys that changed', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      if (request.path === '/deep') request.session.user.tags.push('x');
      if (request.path === '/same') request.session.user = { ...request.session.user };
      if (request.path === '/drop') delete request.session.theme;
      if (request.path === '/undefined') request.session.user = undefined;
      response.end();
    });
    const browser = new Browser(port, {});
    const [name, value] = fake.cookie({ data: { user: { tags: [] }, theme: 'dark' } }).split('=');
    browser.jar.set(name, value);
    await browser.get('/deep');
    assert.deepEqual(fake.sessions()[0].data, { user: { tags: ['x'] }, theme: 'dark' });
    const { version } = fake.sessions()[0];
    await browser.get('/same');
    assert.equal(fake.sessions()[0].version, version, 'an equal value is no change');
    await browser.get('/drop');
    assert.deepEqual(fake.sessions()[0].data, { user: { tags: ['x'] } });
    await browser.get('/undefined');
    assert.deepEqual(fake.sessions()[0].data, {}, 'undefined is absent');
  });

  suite('parallel requests that change different keys lose nothing', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session[request.query.key] = 1;
      response.end();
    });
    const cookie = fake.cookie();
    await Promise.all(Array.from({ length: 20 }, (_, i) => ask(port, `/?key=k${i}`, { headers: { cookie } })));
    assert.equal(Object.keys(fake.sessions()[0].data).length, 20);
  });

  suite('parallel updates lose nothing', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      request.session.seen = true;
      const { n } = await request.session.update((data) => {
        data.n = (data.n ?? 0) + 1;
      });
      assert.equal(request.session.n, n, 'the session shows the outcome');
      response.json(n);
    });
    const cookie = fake.cookie({ data: { other: [1] } });
    const answers = await Promise.all(Array.from({ length: 10 }, () => ask(port, '/', { headers: { cookie } })));
    assert.deepEqual(answers.map(({ json }) => json).sort((a, b) => a - b), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert.deepEqual(fake.sessions()[0].data, { other: [1], n: 10, seen: true });
  });

  suite('an update keeps what the handler holds and has not saved', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      const { cart } = request.session;
      request.session.draft = 'mine';
      const running = request.session.update((data) => void (data.n = 1));
      request.session.late = 'meanwhile';
      await running;
      cart.push('tea'); // the same object as before
      assert.equal(request.session.draft, 'mine');
      assert.equal(request.session.late, 'meanwhile');
      response.end();
    });
    await ask(port, '/', { headers: { cookie: fake.cookie({ data: { cart: [] } }) } });
    assert.deepEqual(fake.sessions()[0].data, { cart: ['tea'], n: 1, draft: 'mine', late: 'meanwhile' });
  });

  suite('methods are no keys of the data', async (t) => {
    const { port } = await application(t, (request, response) => {
      request.session.foo = 1;
      const inherited = [];
      for (const key in request.session) inherited.push(key);
      response.json({ own: Object.keys(request.session), inherited, json: JSON.stringify(request.session), copy: Object.keys({ ...request.session }) });
    });
    assert.deepEqual((await ask(port)).json, { own: ['foo'], inherited: ['foo'], json: '{"foo":1}', copy: ['foo'] });
  });

  suite('stored keys with the names of methods break nothing and stay', async (t) => {
    const data = JSON.parse('{"save":"nope","id":1,"cookie":{"maxAge":1},"regenerate":null,"__proto__":{"admin":true},"update":[],"constructor":"c","n":1}');
    const { fake, port } = await application(t, async (request, response) => {
      assert.equal(request.session.admin, undefined);
      assert.equal(typeof request.session.save, 'function');
      request.session.n++;
      await request.session.save();
      await request.session.update((stored) => void (stored.m = 1));
      response.json(Object.keys(request.session).sort());
    });
    const answer = await ask(port, '/', { headers: { cookie: fake.cookie({ data }) } });
    assert.deepEqual(answer.json, ['constructor', 'm', 'n']);
    const stored = fake.sessions()[0].data;
    assert.equal(stored.save, 'nope');
    assert.equal(stored.id, 1);
    assert.deepEqual(Object.getOwnPropertyDescriptor(stored, '__proto__').value, { admin: true });
    assert.equal(stored.n, 2);
    assert.equal(stored.m, 1);
  });

  suite('storing under the name of a method is an error at once; replacing a method is not', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      for (const key of ['save', 'id', 'cookie', 'login', 'principal']) {
        assert.throws(() => (request.session[key] = 'x'), { name: 'TypeError', message: new RegExp(`"${key}"`) });
      }
      const { save } = request.session;
      let called = 0;
      request.session.save = function (...args) {
        called++;
        return save.apply(this, args);
      };
      request.session.n = 1;
      await request.session.save();
      response.json({ called, keys: Object.keys(request.session) });
    });
    assert.deepEqual((await ask(port)).json, { called: 1, keys: ['n'] });
    assert.deepEqual(fake.sessions()[0].data, { n: 1 });
  });

  suite('save: callback or promise, and no second write at the end', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      request.session.hit = true;
      if (request.path === '/callback') {
        const returned = request.session.save((error) => response.json({ error: error ?? null, id: request.session.id === request.sessionID }));
        assert.equal(returned, request.session);
        return;
      }
      assert.equal(await request.session.save(), true);
      assert.equal(fake.sessions().some(({ id }) => id === request.sessionID), true);
      response.json({ error: null, id: typeof request.session.id });
    });
    assert.deepEqual((await ask(port, '/callback')).json, { error: null, id: true });
    assert.deepEqual((await ask(port, '/promise')).json, { error: null, id: 'string' });
    assert.deepEqual(fake.sessions().map(({ version }) => version), [1, 1], 'one write each');
  });

  suite('save without await is waited for before the head goes out', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session.hit = true;
      request.session.save();
      response.redirect('/next');
    });
    const answer = await ask(port);
    assert.equal(answer.status, 302);
    assert.equal(answer.cookies.length, 1);
    assert.equal(fake.sessions()[0].version, 1);
  });

  suite('a callback gets the error of save; the end of the request tries again', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session.hit = true;
      fake.fail('STORE_UNAVAILABLE', { times: 1 });
      request.session.save((error) => response.json({ reason: error?.reason ?? null }));
    });
    const answer = await ask(port);
    assert.deepEqual(answer.json, { reason: 'STORE_UNAVAILABLE' });
    assert.equal(fake.sessions().length, 1);
  });

  suite('an operation that nobody waits for and that fails is not lost without a word, and ends no process', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      fake.fail('STORE_UNAVAILABLE', { times: 1 });
      request.session.update((data) => void (data.n = 1));
      response.send('all is well');
    });
    const answer = await ask(port, '/', { headers: { cookie: fake.cookie() } });
    assert.equal(answer.status, 503);
    assert.equal(answer.headers['retry-after'], '1');
  });

  suite('regenerate: a new id for the browser, no data, another object', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      if (request.path === '/') return response.json(request.session.user ?? null);
      const former = request.session;
      former.unsaved = true;
      const done = (error) => {
        assert.equal(error, undefined);
        assert.notEqual(request.session, former);
        assert.deepEqual(Object.keys(request.session), []);
        assert.equal(former.user, 'ann', 'passport copies from the former object');
        assert.throws(() => former.touch(), /replaced/);
        request.session.user = 'bob';
        response.json({ callback: request.path === '/callback' });
      };
      if (request.path === '/callback') former.regenerate(done);
      else await former.regenerate().then(done);
    });
    for (const path of ['/callback', '/promise']) {
      const browser = new Browser(port);
      const cookie = fake.cookie({ data: { user: 'ann', cart: [1] }, principal: 'ann' });
      browser.jar.set('session', cookie.slice('session='.length));
      const former = browser.copy();
      const answer = await browser.get(path);
      assert.equal(answer.cookies.length, 1, 'one Set-Cookie line');
      assert.equal((await browser.get('/')).json, 'bob');
      assert.equal((await former.get('/')).json, null, 'the former id opens nothing');
      assert.deepEqual(fake.sessions().at(-1).data, { user: 'bob' });
      assert.equal(fake.sessions().at(-1).principal, null);
    }
  });

  suite('regenerate without a session stores nothing by itself', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      request.session.dropped = 1;
      await request.session.regenerate();
      response.end();
    });
    assert.deepEqual((await ask(port)).cookies, []);
    assert.equal(fake.sessions().length, 0);
  });

  suite('destroy: the session has ended, the cookie is deleted, request.session is undefined', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      const { session: current } = request;
      const done = (error) => {
        assert.equal(error, undefined);
        response.json({ session: String(request.session), id: String(request.sessionID) });
      };
      if (request.path === '/callback') current.destroy(done);
      else await current.destroy().then(done);
      assert.equal(request.session, undefined);
    });
    for (const path of ['/callback', '/promise']) {
      const answer = await ask(port, path, { headers: { cookie: fake.cookie({ data: { a: 1 } }) } });
      assert.deepEqual(answer.json, { session: 'undefined', id: 'undefined' });
      assert.equal(answer.cookies.length, 1);
      assert.match(answer.cookies[0], /^session=;.*Max-Age=0/);
      assert.equal(fake.sessions().length, 0);
      assert.deepEqual((await ask(port, path)).cookies, [], 'there is nothing to delete');
    }
  });

  suite('the cookie that the application clears itself is sent once', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session.destroy(() => {
        response.clearCookie('session');
        response.cookie('theme', 'dark');
        response.redirect('/');
      });
    });
    const answer = await ask(port, '/', { headers: { cookie: fake.cookie() } });
    assert.deepEqual(answer.cookies.map((line) => line.split('=')[0]), ['theme', 'session']);
  });

  suite('reload: what is stored; an error if the session has ended', async (t) => {
    const { fake, port } = await application(t, (request, response, next) => {
      const { session: current } = request;
      request.session.n = 'unsaved';
      if (request.path === '/ended') {
        fake.destroy({ cookieHeader: request.headers.cookie }).then(() => {
          current.reload((error) => response.json({ message: error?.message ?? null, name: error?.name, keys: Object.keys(request.session) }));
        }, next);
        return;
      }
      current.reload((error) => (error ? next(error) : response.json({ n: request.session.n, same: request.session === current })));
    });
    assert.deepEqual((await ask(port, '/', { headers: { cookie: fake.cookie({ data: { n: 1 } }) } })).json, { n: 1, same: true });
    const ended = await ask(port, '/ended', { headers: { cookie: fake.cookie({ data: { n: 1 } }) } });
    assert.match(ended.json.message, /failed to load session/);
    assert.equal(ended.json.name, 'SessionGoneError');
    assert.deepEqual(ended.json.keys, []);
  });

  suite('touch moves the deadline where the engine does not by itself', async (t) => {
    for (const automaticTouch of [true, false]) {
      const fake = createFake({ engines: { default: { automaticTouch, duration: 60_000, touchGranularity: 1 } } });
      let touches = 0;
      const { touch } = fake;
      fake.touch = (...args) => (touches++, touch.apply(fake, args));
      const { port } = await application(t, (request, response) => {
        if (request.path === '/touch') assert.equal(request.session.touch().resetMaxAge(), request.session);
        response.end();
      }, { fake });
      const cookie = fake.cookie();
      fake.advance(40_000);
      await ask(port, '/touch', { headers: { cookie } });
      assert.equal(touches, automaticTouch ? 0 : 1);
      fake.advance(40_000);
      assert.equal(fake.sessions().length, 1, 'it lives on');
      await ask(port, '/', { headers: { cookie } });
      fake.advance(40_000);
      assert.equal(fake.sessions().length, automaticTouch ? 1 : 0);
    }
  });

  suite('cookie: maxAge, originalMaxAge, expires', async (t) => {
    const fake = createFake({ engines: { default: { duration: 60_000 } } });
    const { port } = await application(t, async (request, response) => {
      const { cookie } = request.session;
      switch (request.path) {
        case '/read':
          assert.equal(cookie.originalMaxAge, 60_000);
          assert.ok(cookie.maxAge > 55_000 && cookie.maxAge <= 62_000, `found ${cookie.maxAge}`);
          assert.ok(cookie.expires instanceof Date);
          assert.deepEqual(Object.keys(JSON.parse(JSON.stringify(cookie))), ['originalMaxAge', 'expires']);
          break;
        case '/maxAge':
          request.session.n = 1;
          cookie.maxAge = 3_600_000;
          assert.equal(cookie.originalMaxAge, 3_600_000);
          break;
        case '/expires':
          cookie.expires = new Date(Date.now() + 7_200_000);
          break;
        case '/browser':
          cookie.expires = false;
          request.session.n = 1;
          assert.equal(cookie.maxAge, null);
          await request.session.save();
          assert.equal(cookie.expires, null);
          break;
        default:
          assert.throws(() => (cookie.maxAge = 0), { name: 'RangeError', message: /destroy/ });
          assert.throws(() => (cookie.maxAge = 'soon'), TypeError);
          assert.throws(() => (cookie.expires = new Date(Number.NaN)), TypeError);
          for (const attribute of ['secure', 'httpOnly', 'sameSite', 'path', 'domain']) {
            assert.throws(() => (cookie[attribute] = true), { name: 'TypeError', message: /daemon/ });
          }
      }
      response.end();
    }, { fake });
    const seconds = (answer) => Number(/Max-Age=(\d+)/.exec(answer.cookies[0])?.[1]);
    await ask(port, '/read', { headers: { cookie: fake.cookie() } });
    assert.equal((await ask(port, '/invalid')).status, 200);
    const created = await ask(port, '/maxAge');
    assert.ok(seconds(created) >= 3600 && seconds(created) <= 3660, created.cookies[0]);
    const changed = await ask(port, '/maxAge', { headers: { cookie: fake.cookie() } });
    assert.ok(seconds(changed) >= 3600 && seconds(changed) <= 3660, changed.cookies[0]);
    const absolute = await ask(port, '/expires', { headers: { cookie: fake.cookie() } });
    assert.ok(seconds(absolute) >= 7199 && seconds(absolute) <= 7320, absolute.cookies[0]);
    for (const headers of [{}, { cookie: fake.cookie() }]) {
      const answer = await ask(port, '/browser', { headers });
      assert.equal(answer.cookies.length, 1);
      assert.doesNotMatch(answer.cookies[0], /Max-Age|Expires/);
    }
  });

  suite('while the daemon is away: 503 with Retry-After, never nobody', async (t) => {
    const { fake, port } = await application(t, (request, response) => response.send('nobody'));
    const cookie = fake.cookie({ principal: 'ann' });
    fake.fail('STORE_UNAVAILABLE');
    const answer = await ask(port, '/', { headers: { cookie } });
    assert.equal(answer.status, 503);
    assert.equal(answer.headers['retry-after'], '1');
    assert.deepEqual(answer.cookies, []);
    fake.fail(null);
    assert.equal((await ask(port, '/', { headers: { cookie } })).text, 'nobody');
  });

  suite("Express' own error handler answers with status and Retry-After too", async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session.n = 1;
      response.send('stored');
    }, { onError: (error, request, response, next) => next(error) });
    const cookie = fake.cookie({ principal: 'ann' });
    for (const operation of ['resolve', 'write']) {
      fake.fail('STORE_UNAVAILABLE', { operation });
      const answer = await ask(port, '/', { headers: { cookie } });
      assert.equal(answer.status, 503, operation);
      assert.equal(answer.headers['retry-after'], '1', operation);
      assert.doesNotMatch(answer.text, /stored/);
    }
  });

  suite('an id from before a login: a stranger; changes answer 409; no cookie is touched', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      switch (request.path) {
        case '/regenerate':
          await request.session.regenerate();
          break;
        case '/login':
          await request.session.login('ann');
          break;
        case '/update':
          await request.session.update((data) => void (data.n = 1));
          break;
        case '/set':
          request.session.n = 1;
          break;
        default:
      }
      response.json({ keys: Object.keys(request.session), principal: request.session.principal });
    });
    const cookie = fake.cookie({ data: { secret: 1 } });
    await fake.write({ cookieHeader: cookie }, { principal: 'ann', roll: true });
    const stranger = await ask(port, '/', { headers: { cookie } });
    assert.deepEqual(stranger.json, { keys: [], principal: null });
    assert.deepEqual(stranger.cookies, []);
    for (const path of ['/regenerate', '/login', '/update', '/set']) {
      const answer = await ask(port, path, { method: 'POST', headers: { cookie } });
      assert.equal(answer.status, 409, path);
      assert.deepEqual(answer.cookies, [], path);
    }
    // What a safe request stores on the way, such as a secret against CSRF, is dropped; what it asks for is not.
    const side = await ask(port, '/set', { headers: { cookie } });
    assert.equal(side.status, 200);
    assert.deepEqual(side.cookies, []);
    assert.equal((await ask(port, '/login', { headers: { cookie } })).status, 409);
    assert.equal(fake.sessions().length, 1, 'nothing was created');
  });

  suite('a session that ended meanwhile does not come back', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      await fake.destroy({ cookieHeader: request.headers.cookie });
      request.session.n = 1;
      response.send('answered');
    });
    const answer = await ask(port, '/', { headers: { cookie: fake.cookie({ data: { a: 1 } }) } });
    assert.equal(answer.text, 'answered');
    assert.equal(fake.sessions().length, 0);
  });

  suite('data that are not JSON: a clear error, and nothing is stored', async (t) => {
    const cycle = {};
    cycle.self = cycle;
    const values = { function: () => {}, cycle, nan: Number.NaN, date: new Date(), bytes: Buffer.from('x'), bigint: 1n, symbol: Symbol('x') };
    const { fake, port } = await application(t, (request, response) => {
      request.session.value = values[request.query.kind];
      response.send('stored');
    });
    for (const kind of Object.keys(values)) {
      const answer = await ask(port, `/?kind=${kind}`);
      assert.equal(answer.status, 500, kind);
      assert.match(answer.json.error, /session data: the value of "value"/, kind);
      assert.deepEqual(answer.cookies, []);
    }
    assert.equal(fake.sessions().length, 0);
  });

  suite('data larger than the engine allows: 413, and nothing is stored', async (t) => {
    const fake = createFake({ engines: { default: { maxDataBytes: 5000 } } });
    const { port } = await application(t, (request, response) => {
      request.session.big = 'x'.repeat(6000);
      response.send('stored');
    }, { fake });
    assert.equal((await ask(port)).status, 413);
    assert.equal(fake.sessions().length, 0);
  });

  suite('request.session = null: kept by default, ended with unset "destroy"', async (t) => {
    for (const unset of [undefined, 'keep', 'destroy']) {
      const { fake, port } = await application(t, (request, response) => {
        request.session.n = 2;
        request.session = null;
        response.end('gone');
      }, { options: { unset } });
      const answer = await ask(port, '/', { headers: { cookie: fake.cookie({ data: { n: 1 } }) } });
      assert.equal(answer.text, 'gone');
      if (unset === 'destroy') {
        assert.equal(fake.sessions().length, 0);
        assert.match(answer.cookies[0], /Max-Age=0/);
      } else {
        assert.deepEqual(fake.sessions()[0].data, { n: 1 });
        assert.deepEqual(answer.cookies, []);
      }
      assert.deepEqual((await ask(port)).cookies, [], 'a visitor without a session');
    }
  });

  suite('request.session replaced by another object is an error', async (t) => {
    const { fake, port } = await application(t, (request, response) => {
      request.session = { user: 'ann' };
      response.end('stored');
    });
    const answer = await ask(port, '/', { headers: { cookie: fake.cookie() } });
    assert.equal(answer.status, 500);
    assert.match(answer.json.error, /replaced by another object/);
  });

  suite('another session middleware that was first stays', async (t) => {
    const { port } = await application(t, (request, response) => response.json(request.session), {
      before: (request, response, next) => ((request.session = { first: true }), next()),
    });
    assert.deepEqual((await ask(port)).json, { first: true });
  });

  suite('changes of the cookie after the head was sent are refused, before they happen', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      response.write('begun ');
      for (const name of ['login', 'roll', 'regenerate', 'setPersistent']) {
        const argument = name === 'regenerate' ? undefined : 'ann';
        await assert.rejects(request.session[name](argument), { code: 'ERR_HTTP_HEADERS_SENT' }, name);
      }
      assert.throws(() => request.session.save('ann'), { name: 'TypeError' });
      assert.equal(await request.session.logout(), true, 'an end is an end');
      response.end('done');
    });
    const answer = await ask(port, '/', { headers: { cookie: fake.cookie() } });
    assert.equal(answer.text, 'begun done');
    assert.equal(fake.sessions().length, 0);
  });

}

test('options: what is the daemon’s is refused by name', () => {
  assert.throws(() => session(), /expected/);
  assert.throws(() => session({}), /"client" or "address"/);
  for (const name of ['secret', 'store', 'resave', 'saveUninitialized', 'cookie', 'name', 'genid', 'rolling', 'proxy']) {
    assert.throws(() => session({ client: createFake(), [name]: 'x' }), { name: 'TypeError', message: new RegExp(`"${name}"`) });
  }
  assert.throws(() => session({ client: createFake(), unset: 'bogus' }), /"unset"/);
  assert.throws(() => session({ address: 'no address' }), { name: 'InvalidArgumentError' });
});

test('a client that the middleware makes from an address can be closed', async () => {
  const middleware = session({ address: '127.0.0.1:1', timeout: 1000 });
  assert.equal(middleware.client.address, '127.0.0.1:1');
  await middleware.client.close();
  assert.equal(typeof Session, 'function');
});
