// The shop in Hono. sessiond owns the sessions.
import { setTimeout } from 'node:timers/promises';
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { SessionGoneError, SupersededError } from 'sessiond';
import { webSessions } from 'sessiond/web';

const sessions = webSessions({ address: process.env.SESSIOND ?? '127.0.0.1:50051' });

const app = new Hono();
app.use(async (c, next) => {
  await next();
  c.header('Cache-Control', 'no-store');
});
app.use(sessions.hono());

/** A field of the form: text, or "". */
async function field(c, name) {
  const value = (await c.req.parseBody())[name];
  return typeof value === 'string' ? value : '';
}

function count(data) {
  data.visits = (data.visits ?? 0) + 1;
}

app.get('/session', (c) => {
  const { principal, data, live } = c.get('session');
  return c.json({ user: principal, visits: data.visits ?? 0, cart: data.cart ?? [], live });
});

app.post('/visit', async (c) => {
  const { visits } = await c.get('session').update(count);
  return c.json({ visits });
});

app.post('/cart', async (c) => {
  const item = await field(c, 'item');
  const { cart } = await c.get('session').update((data) => {
    data.cart = [...(data.cart ?? []), item];
  });
  return c.json({ items: cart.length });
});

app.post('/flash', async (c) => {
  c.get('session').data.flash = await field(c, 'text');
  return c.json({});
});

app.get('/flash', async (c) => {
  const session = c.get('session');
  if (session.data.flash === undefined) return c.json({ flash: null });
  let flash = null;
  await session.update((data) => {
    flash = data.flash ?? null; // a parallel request may have taken it
    delete data.flash;
  });
  return c.json({ flash });
});

app.post('/login', async (c) => {
  // A real application checks a password here.
  const user = await field(c, 'user');
  if (user === '' || Buffer.byteLength(user) > 256) return c.json({ error: 'expected a user of 1 to 256 bytes' }, 400);
  await c.get('session').login(user, { label: c.req.header('user-agent')?.slice(0, 80) });
  return c.json({ user });
});

app.post('/theme', async (c) => {
  const theme = await field(c, 'theme');
  c.get('session').data.theme = theme;
  return c.json({ theme });
});

app.post('/logout', async (c) => {
  await c.get('session').logout();
  return c.json({});
});

app.post('/logout-others', async (c) => c.json({ ended: await c.get('session').logoutOthers() }));

app.post('/logout-everywhere', async (c) => c.json({ ended: await c.get('session').logoutEverywhere() }));

app.get('/slow', async (c) => {
  const session = c.get('session');
  if (!session.live) return c.json({ written: false });
  await setTimeout(Math.min(Number(c.req.query('ms')) || 0, 10_000));
  try {
    await session.update(count);
    return c.json({ written: true });
  } catch (error) {
    // Ended, or its id was replaced, while this request waited.
    if (error instanceof SessionGoneError || error instanceof SupersededError) return c.json({ written: false });
    throw error;
  }
});

app.get('/devices', async (c) => {
  if (!process.env.SESSIOND_ADMIN) return c.json({}, 404);
  const session = c.get('session');
  if (session.principal === null) return c.json({}, 401);
  const devices = await session.devices();
  return c.json({ devices: devices.map(({ id, current }) => ({ id, current })) });
});

serve({ fetch: app.fetch, hostname: '127.0.0.1', port: Number(process.env.PORT ?? 3000) }, ({ port }) => {
  console.log(`listening on http://127.0.0.1:${port}`);
});
