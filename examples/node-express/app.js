// A visit counter with a login. sessiond owns its sessions.
'use strict';

const path = require('node:path');
const express = require('express');
const grpc = require('@grpc/grpc-js');
const { loadSync } = require('@grpc/proto-loader');

const definition = loadSync('sessiond/v1/session_service.proto', {
  includeDirs: [path.join(__dirname, '../../proto')],
  keepCase: true,
  longs: String, // A JavaScript number can not hold every uint64.
  defaults: true, // An empty list or text is there too, and not undefined.
});
const { SessionService } = grpc.loadPackageDefinition(definition).sessiond.v1;
const address = process.env.SESSIOND ?? '127.0.0.1:50051';
// Keep trying to reach it: by default the pauses would grow to two minutes.
const options = { 'grpc.max_reconnect_backoff_ms': 1000 };
const sessiond = new SessionService(address, grpc.credentials.createInsecure(), options);

const TIMEOUT_MS = 5000;
const ATTEMPTS = 20; // Each failed one means that a parallel request got through.
// A Write came second: after another Write, or after a logout.
const RACES = [grpc.status.ABORTED, grpc.status.NOT_FOUND];
// No answer says nothing about the session: who is logged in stays logged in.
const TRY_LATER = [...RACES, grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED];

async function call(response, method, message) {
  const deadline = Date.now() + TIMEOUT_MS;
  const answer = await new Promise((resolve, reject) => {
    const done = (error, value) => (error ? reject(error) : resolve(value));
    sessiond[method](message, { deadline }, done);
  });
  for (const value of answer.set_cookie) response.append('Set-Cookie', value);
  return answer;
}

const app = express();
app.use((request, response, next) => {
  request.credential = { cookie_header: request.headers.cookie ?? '' };
  response.type('text/plain').set('Cache-Control', 'no-store');
  next();
});
app.use(express.urlencoded({ extended: false }));

app.get('/', async ({ credential }, response) => {
  for (let attempt = 1; ; attempt++) {
    const { session } = await call(response, 'Resolve', { credential });
    const visits = 1 + (session ? (JSON.parse(session.data).visits ?? 0) : 0);
    const write = { set: JSON.stringify({ visits }) };
    // Only on top of what was read, or parallel visits would count as one.
    if (session) Object.assign(write, { credential, if_version: session.version });
    try {
      await call(response, 'Write', write);
      return response.send(`visits: ${visits}\nuser: ${session?.principal || 'nobody'}\n`);
    } catch (error) {
      if (!RACES.includes(error.code) || attempt === ATTEMPTS) throw error;
    }
  }
});

app.post('/login', async ({ body, credential }, response) => {
  // A real application checks a password here.
  const user = String(body?.user ?? '');
  if (user === '' || Buffer.byteLength(user) > 256) {
    return response.status(400).send('expected a user of at most 256 bytes\n');
  }
  // A new id: whoever knows the old one must not be logged in with it.
  const write = { principal: user, roll: true };
  const { session } = await call(response, 'Resolve', { credential });
  if (session) write.credential = credential; // Else a new session is created.
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
