// A small shop: visits, a cart, a flash message, login, devices. sessiond owns the sessions.
import { setTimeout } from 'node:timers/promises';
import formbody from '@fastify/formbody';
import makeFastify from 'fastify';
import { session } from 'sessiond/fastify';

const app = makeFastify();
await app.register(session, { address: process.env.SESSIOND ?? '127.0.0.1:50051' });
await app.register(formbody);
app.addHook('onRequest', async (request, reply) => {
  reply.header('Cache-Control', 'no-store');
});

app.get('/session', async ({ session }) => {
  const { principal, visits = 0, cart = [], id } = session;
  return { user: principal, visits, cart, live: id !== undefined };
});

app.post('/visit', async ({ session }) => {
  const { visits } = await session.update(countVisit);
  return { visits };
});

app.post('/cart', async ({ session, body }) => {
  const { cart } = await session.update((data) => {
    data.cart = [...(data.cart ?? []), String(body.item)];
  });
  return { items: cart.length };
});

app.post('/flash', async ({ session, body }) => {
  session.flash = String(body.text);
  return {};
});

app.get('/flash', async ({ session }) => {
  let flash = null;
  if (session.flash !== undefined) {
    await updateIfLive(session, (data) => {
      flash = data.flash ?? null;
      delete data.flash;
    });
  }
  return { flash };
});

app.post('/login', async ({ session, body }, reply) => {
  // A real application checks a password here.
  const { user } = body ?? {};
  if (typeof user !== 'string' || user === '' || Buffer.byteLength(user) > 256) return reply.code(400).send({});
  await session.login(user);
  return { user };
});

app.post('/theme', async ({ session, body }) => {
  session.theme = String(body.theme);
  return { theme: session.theme };
});

app.post('/logout', async ({ session }) => {
  await session.logout();
  return {};
});

app.post('/logout-others', async ({ session }) => ({ ended: await session.logoutOthers() }));

app.post('/logout-everywhere', async ({ session }) => ({ ended: await session.logoutEverywhere() }));

app.get('/slow', async ({ session, query }) => {
  const live = session.id !== undefined;
  await setTimeout(Number(query.ms) || 0);
  return { written: live && (await updateIfLive(session, countVisit)) };
});

app.get('/devices', async ({ session }, reply) => {
  if (session.principal === null) return reply.code(401).send({});
  const devices = await session.devices();
  return { devices: devices.map(({ id, current }) => ({ id, current })) };
});

// 503 with Retry-After while the daemon is away, 409 for a change with an id from before a login.
app.setErrorHandler((error, request, reply) => {
  const { statusCode = 500, headers = {} } = error;
  if (statusCode === 500) console.error(error);
  return reply.code(statusCode).headers(headers).send({});
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
    if (error.statusCode !== 409) throw error;
    return false;
  }
}

const address = await app.listen({ port: Number(process.env.PORT ?? 3000), host: '127.0.0.1' });
console.log(`listening on ${address}`);
