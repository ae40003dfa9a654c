// Before: express-session keeps the sessions, connect-redis stores them.
import { RedisStore } from 'connect-redis';
import session from 'express-session';
import { createClient } from 'redis';
import { start } from './handlers.js';

const client = createClient({ url: process.env.REDIS });
client.on('error', (error) => console.error(error.message));
await client.connect();

start(
  session({
    store: new RedisStore({ client }),
    secret: process.env.SECRET,
    resave: false,
    saveUninitialized: false,
    cookie: { maxAge: 24 * 60 * 60 * 1000 },
  }),
);
