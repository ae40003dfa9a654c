// A visit counter and a cart, with a login. sessiond owns the sessions.
'use strict';

const path = require('node:path');
const express = require('express');
const grpc = require('@grpc/grpc-js');
const { loadSync } = require('@grpc/proto-loader');

const definition = loadSync('sessiond/v1/session_service.proto', {
  includeDirs: [path.join(__dirname, '../../proto')],
  keepCase: true,
  longs: String, // A JavaScript number cannot hold every uint64.
  defaults: true, // Empty lists and texts are there, not undefined.
});
const { SessionService } = grpc.loadPackageDefinition(definition).sessiond.v1;
const address = process.env.SESSIOND ?? '127.0.0.1:50051';
// Keep trying to reach it: by default the pauses would grow to two minutes.
const options = { 'grpc.max_reconnect_backoff_ms': 1000 };
const sessiond = new SessionService(address, grpc.credentials.createInsecure(), options);

const TIMEOUT_MS = 5000;
const ATTEMPTS = 20; // Each failed attempt means that a parallel request succeeded.
// The Write came second: after another Write, or after a logout.
const RACES = [grpc.status.ABORTED, grpc.status.NOT_FOUND];
// A missing answer says nothing about the session: the user stays logged in.
const TRY_LATER = [...RACES, grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED];

async function call(response, method, message) {
  const deadline = Date.now() + TIMEOUT_MS;
  const answer = await new Promise((resolve, reject) => {
    const done = (error, value) => (error ? reject(error) : resolve(value));
    sessiond[method](message, { deadline }, done);
  });
  // Of several values, the last one counts.
  if (answer.set_cookie.length) response.set('Set-Cookie', answer.set_cookie);
  return answer;
}

// The session of a request, a new one if it has none, and the credential to go on with.
async function open(response, credential) {
  const { state, session, token } = await call(response, 'Resolve', { credential, create: true });
  // SUPERSEDED: a login in a parallel request has just changed the id. The browser is about to
  // get its cookie, so this response brings none. Sent again, the request has the new one.
  if (!session) throw Object.assign(new Error(state), { code: grpc.status.ABORTED });
  return { session, credential: token ? { token: Buffer.from(token) } : credential };
}

// Reads the session, changes its data, and writes them back: again when a parallel
// request was faster.
async function update(response, presented, change) {
  for (let attempt = 1; ; attempt++) {
    const { session: before, credential } = await open(response, presented);
    const changed = change(JSON.parse(before.data));
    // Only on top of what was read. Otherwise one of two parallel changes would be lost.
    const write = { credential, set: JSON.stringify(changed), if_version: before.version };
    presented = credential;
    try {
      const { session } = await call(response, 'Write', write);
      return { ...changed, session };
    } catch (error) {
      if (!RACES.includes(error.code) || attempt === ATTEMPTS) throw error;
    }
  }
}

// A field of a form: text of 1 to 256 bytes, or nothing.
function text(field) {
  return typeof field === 'string' && Buffer.byteLength(field) <= 256 ? field : '';
}

const app = express();
app.use((request, response, next) => {
  request.credential = { cookie_header: Buffer.from(request.headers.cookie ?? '', 'latin1') };
  response.type('text/plain').set('Cache-Control', 'no-store');
  next();
});
app.use(express.urlencoded({ extended: false }));

app.get('/', async ({ credential }, response) => {
  const count = ({ visits = 0 }) => ({ visits: visits + 1 });
  const { visits, session } = await update(response, credential, count);
  response.send(`visits: ${visits}\nuser: ${session.principal || 'nobody'}\n`);
});

app.post('/cart', async ({ body, credential }, response) => {
  const item = text(body?.item);
  if (!item) return response.status(400).send('expected an item of at most 256 bytes\n');
  const { cart } = await update(response, credential, ({ cart = [] }) => ({ cart: [...cart, item] }));
  response.send(`items: ${cart.length}\n`);
});

app.post('/login', async ({ body, credential }, response) => {
  // A real application checks a password here.
  const user = text(body?.user);
  if (!user) return response.status(400).send('expected a user of at most 256 bytes\n');
  const opened = await open(response, credential);
  // A new id: somebody who knows the old one must not be logged in with it.
  const write = { credential: opened.credential, principal: user, roll: true };
  await call(response, 'Write', write);
  response.send(`user: ${user}\n`);
});

app.post('/logout', async ({ credential }, response) => {
  await call(response, 'Destroy', { credential });
  response.send('user: nobody\n');
});

app.use((error, request, response, next) => {
  if (!TRY_LATER.includes(error.code)) return next(error);
  response.status(503).set('Retry-After', '1').send('try again in a moment\n');
});

const server = app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
