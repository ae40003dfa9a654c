// Express: bare, with express-session and connect-redis, and with sessiond. The handlers are the same.
'use strict';
const express = require('express');
const data = require('./data.json');

const variants = {
  bare: () => (request, _response, next) => {
    request.session = { ...data };
    next();
  },
  async today() {
    const session = require('express-session');
    const { RedisStore } = require('connect-redis');
    const client = await require('redis').createClient({ url: process.env.REDIS }).connect();
    const cookie = { maxAge: 1800_000 };
    const secret = 'a secret of the application, long enough';
    return session({ store: new RedisStore({ client }), secret, cookie, resave: false, saveUninitialized: false });
  },
  ours: () => require('sessiond/express').session({ address: process.env.SESSIOND }),
};

(async () => {
  const app = express();
  app.use(await variants[process.env.VARIANT]());
  const shown = ({ user, cart, count }) => ({ user, items: cart?.length ?? 0, count: count ?? 0 });
  app.get('/', (request, response) => {
    response.json(shown(request.session));
  });
  app.post('/change', (request, response) => {
    request.session.count = (request.session.count ?? 0) + 1;
    response.json(shown(request.session));
  });
  app.post('/begin', (request, response) => {
    Object.assign(request.session, data);
    response.json(shown(request.session));
  });
  app.listen(Number(process.env.PORT), '127.0.0.1');
})();
