// Fastify: bare, with @fastify/session and connect-redis, and with sessiond. The handlers are the same.
'use strict';
const data = require('./data.json');
const app = require('fastify')();

const variants = {
  async bare() {
    app.decorateRequest('session', null);
    app.addHook('onRequest', async (request) => {
      request.session = { ...data };
    });
  },
  async today() {
    const { RedisStore } = require('connect-redis');
    const client = await require('redis').createClient({ url: process.env.REDIS }).connect();
    const secret = 'a secret of the application, long enough';
    await app.register(require('@fastify/cookie'));
    const cookie = { secure: false, maxAge: 1800_000 };
    await app.register(require('@fastify/session'), { store: new RedisStore({ client }), secret, cookie, saveUninitialized: false });
  },
  async ours() {
    const plugin = require('sessiond/fastify');
    await app.register(plugin.session ?? plugin.default ?? plugin, { address: process.env.SESSIOND });
  },
};

(async () => {
  await variants[process.env.VARIANT]();
  const shown = ({ user, cart, count }) => ({ user, items: cart?.length ?? 0, count: count ?? 0 });
  app.get('/', async (request) => shown(request.session));
  app.post('/change', async (request) => {
    request.session.count = (request.session.count ?? 0) + 1;
    return shown(request.session);
  });
  app.post('/begin', async (request) => {
    Object.assign(request.session, data);
    return shown(request.session);
  });
  await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
})();
