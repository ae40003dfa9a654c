// Middleware that was written for express-session, unchanged: passport, connect-flash, csurf, csrf-sync.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import flash from 'connect-flash';
import { csrfSync } from 'csrf-sync';
import csurf from 'csurf';
import express from 'express';
import express4 from 'express4';
import passport from 'passport';
import { Strategy } from 'passport-local';
import { session } from '../dist/express.mjs';
import { createFake } from '../dist/testing.mjs';
import { ask, Browser, serve } from './support/browser.mjs';

const users = new Map([['1', { id: '1', name: 'ann', password: 'secret' }], ['2', { id: '2', name: 'bob', password: 'hidden' }]]);

function authenticator() {
  const auth = new passport.Passport();
  auth.use(new Strategy((name, password, done) => {
    const user = [...users.values()].find((one) => one.name === name && one.password === password);
    done(null, user ?? false, { message: 'wrong' });
  }));
  auth.serializeUser((user, done) => done(null, user.id));
  auth.deserializeUser((id, done) => done(null, users.get(id) ?? false));
  return auth;
}

for (const [version, make] of [['5', express], ['4', express4]]) {
  const suite = (name, run) => test(`Express ${version}: ${name}`, { timeout: 10_000 }, run);

  async function application(t, options = {}) {
    const fake = createFake();
    const auth = authenticator();
    const app = make();
    app.use(make.urlencoded({ extended: false }));
    app.use(session({ client: fake, ...options }));
    app.use(flash());
    app.use(auth.session());
    app.get('/me', (request, response) => response.json({ user: request.user?.name ?? null, cart: request.session.cart ?? null, authenticated: request.isAuthenticated(), principal: request.session.principal }));
    app.post('/cart', (request, response) => {
      request.session.cart = [...(request.session.cart ?? []), request.body.item];
      response.json({});
    });
    app.post('/login', auth.authenticate('local', { successRedirect: '/me', failureRedirect: '/login', failureFlash: true }));
    app.post('/login-keep', auth.authenticate('local', { successRedirect: '/me', keepSessionInfo: true }));
    app.get('/login', (request, response) => response.json(request.flash('error')));
    app.post('/logout', (request, response, next) => request.logout((error) => (error ? next(error) : response.redirect('/me'))));
    app.post('/logout-keep', (request, response, next) => request.logout({ keepSessionInfo: true }, (error) => (error ? next(error) : response.redirect('/me'))));
    app.use((error, request, response, next) => {
      void next;
      response.status(error.status ?? 500).set(error.headers ?? {}).json({ error: error.message });
    });
    return { fake, port: await serve(t, app) };
  }

  suite('passport: login, a new id, logout', async (t) => {
    const { fake, port } = await application(t);
    const browser = new Browser(port);
    await browser.post('/cart', { item: 'tea' });
    const before = browser.copy();
    const login = await browser.post('/login', { username: 'ann', password: 'secret' });
    assert.equal(login.status, 302);
    assert.equal(login.headers.location, '/me');
    assert.equal(login.cookies.length, 1);
    assert.notEqual(browser.header, before.header);
    assert.deepEqual((await browser.get('/me')).json, { user: 'ann', cart: null, authenticated: true, principal: null });
    assert.deepEqual((await before.get('/me')).json, { user: null, cart: null, authenticated: false, principal: null }, 'session fixation');
    assert.deepEqual(fake.sessions().map(({ data }) => data), [{ passport: { user: '1' } }]);
    const loggedIn = browser.copy();
    const logout = await browser.post('/logout');
    assert.equal(logout.status, 302);
    assert.equal((await browser.get('/me')).json.user, null);
    assert.equal((await loggedIn.get('/me')).json.user, null);
  });

  suite('passport: keepSessionInfo keeps what the visitor had', async (t) => {
    const { port } = await application(t);
    const browser = new Browser(port);
    await browser.post('/cart', { item: 'tea' });
    await browser.post('/login-keep', { username: 'ann', password: 'secret' });
    assert.deepEqual((await browser.get('/me')).json, { user: 'ann', cart: ['tea'], authenticated: true, principal: null });
    await browser.post('/logout-keep');
    assert.deepEqual((await browser.get('/me')).json, { user: null, cart: ['tea'], authenticated: false, principal: null });
  });

  suite('passport: a visitor without a session logs in', async (t) => {
    const { fake, port } = await application(t);
    const browser = new Browser(port);
    await browser.post('/login', { username: 'bob', password: 'hidden' });
    assert.equal((await browser.get('/me')).json.user, 'bob');
    assert.equal(fake.sessions().length, 1);
  });

  suite('passport and connect-flash: a failed login shows its message once', async (t) => {
    const { port } = await application(t);
    const browser = new Browser(port);
    const answer = await browser.post('/login', { username: 'ann', password: 'no' });
    assert.equal(answer.headers.location, '/login');
    assert.deepEqual((await browser.get('/login')).json, ['wrong']);
    assert.deepEqual((await browser.get('/login')).json, []);
  });

  suite('passport with the principal option: the daemon knows whose sessions they are', async (t) => {
    const { fake, port } = await application(t, { principal: (data) => data.passport?.user });
    const [a, b] = [new Browser(port), new Browser(port)];
    for (const browser of [a, b]) {
      await browser.post('/cart', { item: 'tea' });
      await browser.post('/login', { username: 'ann', password: 'secret' });
    }
    assert.deepEqual(fake.sessions().map(({ principal, data }) => ({ principal, data })), Array(2).fill({ principal: '1', data: { passport: { user: '1' } } }));
    assert.equal((await a.get('/me')).json.principal, '1');
    await a.post('/logout');
    assert.deepEqual((await a.get('/me')).json, { user: null, cart: null, authenticated: false, principal: null });
    assert.equal(fake.sessions().filter(({ principal }) => principal === '1').length, 1);
    await b.post('/logout-keep');
    assert.deepEqual(fake.sessions().filter(({ principal }) => principal === '1').length, 0);
    await b.post('/login-keep', { username: 'bob', password: 'hidden' });
    assert.equal((await b.get('/me')).json.principal, '2');
  });

  suite('passport while the store is away: 503, and nobody is logged out', async (t) => {
    const { fake, port } = await application(t);
    const browser = new Browser(port);
    await browser.post('/login', { username: 'ann', password: 'secret' });
    fake.fail('STORE_UNAVAILABLE');
    for (const answer of [await browser.get('/me'), await browser.post('/login', { username: 'bob', password: 'hidden' })]) {
      assert.equal(answer.status, 503);
      assert.equal(answer.headers['retry-after'], '1');
    }
    fake.fail(null);
    assert.equal((await browser.get('/me')).json.user, 'ann');
    fake.fail('STORE_UNAVAILABLE', { operation: 'write' });
    const failed = await new Browser(port).post('/login', { username: 'bob', password: 'hidden' });
    assert.equal(failed.status, 503);
    assert.deepEqual(failed.cookies, []);
  });

  suite('passport with an id from before a login: 409', async (t) => {
    const { port } = await application(t);
    const browser = new Browser(port);
    await browser.post('/login', { username: 'ann', password: 'secret' });
    const late = browser.copy();
    await browser.post('/login', { username: 'ann', password: 'secret' });
    assert.equal((await late.get('/me')).json.user, null);
    const answer = await late.post('/login', { username: 'bob', password: 'hidden' });
    assert.equal(answer.status, 409);
    assert.deepEqual(answer.cookies, []);
    assert.equal((await browser.get('/me')).json.user, 'ann');
  });

  const guards = {
    csurf: () => csurf(),
    'csrf-sync': () => csrfSync().csrfSynchronisedProtection,
  };
  for (const [name, guard] of Object.entries(guards)) {
    suite(`${name}: its secret lives in the session`, async (t) => {
      const fake = createFake();
      const app = make();
      app.use(session({ client: fake }));
      app.use(guard());
      app.get('/form', (request, response) => response.send(request.csrfToken()));
      app.post('/form', (request, response) => response.send('done'));
      app.use((error, request, response, next) => {
        void next;
        response.status(error.status ?? 500).send(error.code);
      });
      const port = await serve(t, app);
      const browser = new Browser(port);
      const { text: token } = await browser.get('/form');
      assert.equal(fake.sessions().length, 1);
      assert.equal((await browser.post('/form', {}, { headers: { 'x-csrf-token': token } })).text, 'done');
      assert.equal((await browser.post('/form')).text, 'EBADCSRFTOKEN');
      assert.equal((await ask(port, '/form', { method: 'POST', headers: { 'x-csrf-token': token } })).status, 403, 'another visitor');
    });
  }
}
