// What sessiond has beside express-session's `req.session`, in Express 4 and 5.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import express5 from 'express';
import express4 from 'express4';
import { session } from '../dist/express.mjs';
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

  suite('login, devices, end, logoutOthers, logoutEverywhere, logout', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      const { session: current } = request;
      switch (request.path) {
        case '/login':
          await current.login('ann', { label: request.query.label ?? '' });
          assert.equal(current.principal, 'ann');
          return response.json(current.cart ?? null);
        case '/devices':
          return response.json((await current.devices()).map(({ label, current: own }) => ({ label, own })));
        case '/end':
          return response.json(await current.end((await current.devices()).filter((d) => !d.current).map((d) => d.id)));
        case '/others':
          return response.json(await current.logoutOthers());
        case '/everywhere':
          return response.json(await current.logoutEverywhere());
        case '/logout': {
          const ended = await current.logout();
          assert.equal(request.session, current);
          assert.equal(current.principal, null);
          if (request.query.bye) current.flash = 'bye';
          return response.json(ended);
        }
        default:
          current.cart = ['tea'];
          return response.json(current.principal);
      }
    });
    const [a, b, c] = [new Browser(port), new Browser(port), new Browser(port)];
    await a.get('/');
    const before = a.copy();
    assert.deepEqual((await a.get('/login?label=A')).json, ['tea'], 'what the visitor had stored stays');
    assert.notEqual(a.header, before.header, 'a new id');
    await b.get('/login?label=B');
    await c.get('/login?label=C');
    assert.deepEqual((await a.get('/devices')).json.sort((x, y) => (x.label < y.label ? -1 : 1)), [
      { label: 'A', own: true },
      { label: 'B', own: false },
      { label: 'C', own: false },
    ]);
    assert.equal((await c.get('/end')).json, 2);
    assert.equal((await c.get('/others')).json, 0);
    await b.get('/login?label=B');
    assert.equal((await b.get('/others')).json, 1);
    assert.equal((await b.get('/everywhere')).json, 1);
    assert.equal(b.header, '', 'the cookie is deleted');
    assert.equal(fake.sessions().length, 0);
    await a.get('/login');
    assert.equal((await a.get('/logout')).json, true);
    assert.equal(fake.sessions().length, 0);
    await a.get('/login');
    const bye = await a.get('/logout?bye=1');
    assert.equal(bye.cookies.length, 1, 'the cookie of the new session, not the deletion');
    assert.deepEqual(fake.sessions().map(({ data, principal }) => ({ data, principal })), [{ data: { flash: 'bye' }, principal: null }]);
  });

  suite('roll and setPersistent', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      if (request.path === '/roll') {
        request.session.n = 1;
        await request.session.roll();
      } else if (request.path === '/persistent') await request.session.setPersistent(false);
      response.json(request.session);
    });
    const browser = new Browser(port);
    browser.jar.set('session', fake.cookie({ data: { a: 1 } }).slice(8));
    const former = browser.copy();
    assert.deepEqual((await browser.get('/roll')).json, { a: 1, n: 1 });
    assert.deepEqual((await former.get('/')).json, {});
    assert.doesNotMatch((await browser.get('/persistent')).cookies[0], /Max-Age/);
    assert.deepEqual((await browser.get('/')).json, { a: 1, n: 1 });
  });

  suite('principal: of the data, for applications that log in by storing something', async (t) => {
    const { fake, port } = await application(t, async (request, response) => {
      const { session: current } = request;
      if (request.path === '/in') {
        await current.regenerate();
        request.session.user = Number(request.query.id);
      } else if (request.path === '/out') delete current.user;
      else if (request.path === '/other') current.theme = 'dark';
      else return response.json({ principal: current.principal, devices: (await current.devices()).length });
      response.end();
    }, { options: { principal: (data) => data.user } });
    const [a, b] = [new Browser(port), new Browser(port)];
    await a.get('/in?id=42');
    await b.get('/in?id=42');
    assert.deepEqual((await a.get('/')).json, { principal: '42', devices: 2 });
    const before = a.header;
    assert.deepEqual((await a.get('/other')).cookies, []);
    assert.equal(a.header, before, 'nothing to roll for');
    await a.get('/out');
    assert.notEqual(a.header, before);
    assert.deepEqual((await a.get('/')).json, { principal: null, devices: 1 });
    assert.deepEqual(fake.sessions().map(({ data }) => data).sort((x) => ('user' in x ? -1 : 1)), [{ user: 42 }, { theme: 'dark' }], 'what the application left in the session stays');
    await b.get('/in?id=7');
    assert.deepEqual((await b.get('/')).json, { principal: '7', devices: 1 });
  });
}
