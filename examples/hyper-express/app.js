// A small shop: visits, a cart, a flash message, login, devices. sessiond owns the sessions.
import { setTimeout } from 'node:timers/promises';
import HyperExpress from 'hyper-express';
import { SessionEngine } from 'sessiond/hyper-express';

const app = new HyperExpress.Server();
app.use(
  new SessionEngine({
    address: process.env.SESSIOND ?? '127.0.0.1:50051',
    // 503 with Retry-After while the daemon is away, 409 for a change with an id from before a login.
    on_error: (request, response) => response.json({}),
  }),
);
app.use((request, response, next) => {
  response.header('Cache-Control', 'no-store', true);
  next();
});
app.set_error_handler((request, response, error) => {
  console.error(error);
  response.status(500).json({});
});

app.get('/session', async ({ session }, response) => {
  await session.start();
  const { visits = 0, cart = [] } = session.get();
  response.json({ user: session.principal, visits, cart, live: session.stored });
});

app.post('/visit', async ({ session }, response) => {
  const { visits } = await session.update(countVisit);
  response.json({ visits });
});

app.post('/cart', async (request, response) => {
  const { item } = await request.urlencoded();
  const { cart } = await request.session.update((data) => {
    data.cart = [...(data.cart ?? []), String(item)];
  });
  response.json({ items: cart.length });
});

app.post('/flash', async (request, response) => {
  const { text } = await request.urlencoded();
  await request.session.start();
  request.session.set('flash', String(text));
  response.json({});
});

app.get('/flash', async ({ session }, response) => {
  let flash = null;
  await session.start();
  if (session.get('flash') !== undefined) {
    await updateIfLive(session, (data) => {
      flash = data.flash ?? null;
      delete data.flash;
    });
  }
  response.json({ flash });
});

app.post('/login', async (request, response) => {
  // A real application checks a password here.
  const { user } = await request.urlencoded();
  if (typeof user !== 'string' || user === '' || Buffer.byteLength(user) > 256) return response.status(400).json({});
  await request.session.login(user);
  response.json({ user });
});

app.post('/theme', async (request, response) => {
  const { theme } = await request.urlencoded();
  await request.session.start();
  request.session.set('theme', String(theme));
  response.json({ theme });
});

app.post('/logout', async ({ session }, response) => {
  await session.logout();
  response.json({});
});

app.post('/logout-others', async ({ session }, response) => {
  response.json({ ended: await session.logout_others() });
});

app.post('/logout-everywhere', async ({ session }, response) => {
  response.json({ ended: await session.logout_everywhere() });
});

app.get('/slow', async ({ session, query }, response) => {
  await session.start();
  const live = session.stored;
  await setTimeout(Number(query.ms) || 0);
  response.json({ written: live && (await updateIfLive(session, countVisit)) });
});

app.get('/devices', async ({ session }, response) => {
  await session.start();
  if (session.principal === null) return response.status(401).json({});
  const devices = await session.devices();
  response.json({ devices: devices.map(({ id, current }) => ({ id, current })) });
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

await app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1');
console.log(`listening on http://127.0.0.1:${app.port}`);
