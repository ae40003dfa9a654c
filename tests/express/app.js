// A visit counter with a login, as it was before sessiond: express-session keeps the
// sessions, and connect-redis stores them in Redis. Both have their defaults.
'use strict';

const express = require('express');
const session = require('express-session');
const { RedisStore } = require('connect-redis');
const { createClient } = require('redis');

const { REDIS, SECRET, PORT } = process.env;
const client = createClient({ url: REDIS });
client.on('error', (error) => console.error(error.message));

const app = express();
app.use(
  session({
    store: new RedisStore({ client }),
    secret: SECRET,
    resave: false,
    saveUninitialized: false,
    cookie: { maxAge: 10 * 60 * 1000 },
  }),
);
app.use((request, response, next) => {
  response.type('text/plain').set('Cache-Control', 'no-store');
  next();
});
app.use(express.urlencoded({ extended: false }));

app.get('/', (request, response) => {
  const visits = (request.session.visits ?? 0) + 1;
  request.session.visits = visits;
  response.send(`visits: ${visits}\nuser: ${request.session.user ?? 'nobody'}\n`);
});

app.post('/login', (request, response, next) => {
  const { visits } = request.session;
  request.session.regenerate((error) => {
    if (error) return next(error);
    Object.assign(request.session, { visits, user: request.body.user });
    response.send(`user: ${request.session.user}\n`);
  });
});

app.post('/logout', (request, response, next) => {
  request.session.destroy((error) => {
    if (error) return next(error);
    response.send('user: nobody\n');
  });
});

client.connect().then(() => {
  const server = app.listen(Number(PORT ?? 3000), '127.0.0.1', (error) => {
    if (error) throw error;
    console.log(`listening on http://127.0.0.1:${server.address().port}`);
  });
});
