// The three adapters over the real daemon: restarts, an outage, a daemon that is paused, cookies as browsers get them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import express from 'express';
import makeFastify from 'fastify';
import HyperExpress from 'hyper-express';
import { session as expressSession } from '../dist/express.mjs';
import { session as fastifySession } from '../dist/fastify.mjs';
import { SessionEngine } from '../dist/hyper-express.mjs';
import { createClient } from '../dist/index.mjs';
import { ask, Browser, serve } from './support/browser.mjs';
import { findDaemon, ownPort, startDaemon } from './support/daemon.mjs';

const binary = findDaemon();
const count = (data) => void (data.n = (data.n ?? 0) + 1);

// Each: GET / answers { user, n }, /count counts, /login logs in.
const adapters = {
  async express(t, client) {
    const app = express();
    app.use(expressSession({ client }));
    app.get('/', ({ session }, response) => response.json({ user: session.principal, n: session.n ?? 0 }));
    app.get('/count', async ({ session }, response) => response.json((await session.update(count)).n));
    app.get('/login', async ({ session }, response) => response.json((await session.login('ann', { persistent: false })) ?? null));
    return serve(t, app);
  },
  async fastify(t, client) {
    const app = makeFastify({ forceCloseConnections: true });
    await app.register(fastifySession, { client });
    app.get('/', async ({ session }) => ({ user: session.principal, n: session.n ?? 0 }));
    app.get('/count', async ({ session }, reply) => reply.type('application/json').send(String((await session.update(count)).n)));
    app.get('/login', async ({ session }) => (await session.login('ann', { persistent: false }), {}));
    await app.listen({ port: 0, host: '127.0.0.1' });
    t.after(() => app.close());
    return app.server.address().port;
  },
  async 'hyper-express'(t, client) {
    const server = new HyperExpress.Server();
    server.use(new SessionEngine({ client }));
    server.get('/', async ({ session }, response) => {
      await session.start();
      response.json({ user: session.principal, n: session.get('n') ?? 0 });
    });
    server.get('/count', async ({ session }, response) => response.json((await session.update(count)).n));
    server.get('/login', async ({ session }, response) => response.json((await session.login('ann', { persistent: false })) ?? null));
    await server.listen(0, '127.0.0.1');
    t.after(() => server.close());
    return server.port;
  },
};

for (const [name, adapter] of Object.entries(adapters)) {
  test(`${name} over the daemon`, { timeout: 60_000, skip: binary === undefined && 'no daemon: set SESSIOND_BIN' }, async (t) => {
    const daemonPort = await ownPort();
    let daemon = await startDaemon(binary, { port: daemonPort });
    t.after(() => daemon.stop());
    const client = createClient(daemon.address, { timeout: 2500 });
    t.after(() => client.close());
    const port = await adapter(t, client);

    const browser = new Browser(port);
    assert.deepEqual((await browser.get('/')).json, { user: null, n: 0 });
    const first = await browser.get('/count');
    assert.equal(first.cookies.length, 1);
    assert.match(first.cookies[0], /^session=[\w-]{40}\.[\w+/]{43}; Max-Age=\d+; .*HttpOnly/);
    assert.equal(first.headers['cache-control'], 'no-store');
    const counts = await Promise.all(Array.from({ length: 10 }, () => browser.copy().get('/count')));
    assert.deepEqual(counts.map(({ json }) => json).sort((a, b) => a - b), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    const old = browser.copy();
    const login = await browser.get('/login');
    assert.equal(login.cookies.length, 1);
    assert.doesNotMatch(login.cookies[0], /Max-Age/);
    assert.deepEqual((await browser.get('/')).json, { user: 'ann', n: 11 });
    const late = await old.get('/count');
    assert.equal(late.status, 409);
    assert.deepEqual(late.cookies, []);

    // Paused: the time is over, nobody is logged out.
    await daemon.pause();
    const paused = await browser.get('/');
    daemon.resume();
    assert.equal(paused.status, 503);
    assert.ok(paused.headers['retry-after']);
    assert.deepEqual(paused.cookies, []);

    // Away.
    await daemon.stop();
    for (const answer of await Promise.all(['/', '/count'].map((path) => browser.get(path)))) {
      assert.equal(answer.status, 503);
      assert.ok(answer.headers['retry-after']);
    }
    assert.equal((await ask(port, '/')).status, 200, 'a visitor without a session does not notice');

    // Back, soon; sessions of --dev are in memory, so they are gone.
    const waiting = browser.get('/');
    daemon = await startDaemon(binary, { port: daemonPort });
    assert.deepEqual((await waiting).json, { user: null, n: 0 });
    assert.equal((await browser.get('/count')).json, 1);
  });
}
