// A small shop: visits, a cart, a flash message, login, devices. sessiond owns the sessions.
import { setTimeout } from 'node:timers/promises';
import express from 'express';
import { session } from 'sessiond/express';

const app = express();
app.use(session({ address: process.env.SESSIOND ?? '127.0.0.1:50051' }));
app.use(express.urlencoded({ extended: false }));
app.use((request, response, next) => {
  response.set('Cache-Control', 'no-store');
  next();
});

app.get('/session', ({ session }, response) => {
  const { principal, visits = 0, cart = [], id } = session;
  response.json({ user: principal, visits, cart, live: id !== undefined });
});

app.post('/visit', async ({ session }, response) => {
  const { visits } = await session.update(countVisit);
  response.json({ visits });
});

app.post('/cart', async ({ session, body }, response) => {
  const { cart } = await session.update((data) => {
    data.cart = [...(data.cart ?? []), String(body.item)];
  });
  response.json({ items: cart.length });
});

app.post('/flash', ({ session, body }, response) => {
  session.flash = String(body.text);
  response.json({});
});

app.get('/flash', async ({ session }, response) => {
  let flash = null;
  if (session.flash !== undefined) {
    await updateIfLive(session, (data) => {
      flash = data.flash ?? null;
      delete data.flash;
    });
  }
  response.json({ flash });
});

app.post('/login', async ({ session, body }, response) => {
  // A real application checks a password here.
  const { user } = body;
  if (typeof user !== 'string' || user === '' || Buffer.byteLength(user) > 256) return response.status(400).json({});
  await session.login(user);
  response.json({ user });
});

app.post('/theme', ({ session, body }, response) => {
  session.theme = String(body.theme);
  response.json({ theme: session.theme });
});

app.post('/logout', async ({ session }, response) => {
  await session.logout();
  response.json({});
});

app.post('/logout-others', async ({ session }, response) => {
  response.json({ ended: await session.logoutOthers() });
});

app.post('/logout-everywhere', async ({ session }, response) => {
  response.json({ ended: await session.logoutEverywhere() });
});

app.get('/slow', async ({ session, query }, response) => {
  const live = session.id !== undefined;
  await setTimeout(Number(query.ms) || 0);
  response.json({ written: live && (await updateIfLive(session, countVisit)) });
});

app.get('/devices', async ({ session }, response) => {
  if (session.principal === null) return response.status(401).json({});
  const devices = await session.devices();
  response.json({ devices: devices.map(({ id, current }) => ({ id, current })) });
});

// 503 with Retry-After while the daemon is away, 409 for a change with an id from before a login.
app.use((error, request, response, next) => {
  if (response.headersSent) return next(error);
  const { status = 500, headers = {} } = error;
  if (status === 500) console.error(error);
  response.status(status).set(headers).json({});
});

function countVisit(data) {
  data.visits = (data.visits ?? 0) + 1;
}

// False if the session has ended meanwhile, or a parallel login has replaced its id.
async function updateIfLive(session, change) {
  try {
    await session.update(change);
    return true;
  } catch (error) {
    if (error.status !== 409) throw error;
    return false;
  }
}

const server = app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
