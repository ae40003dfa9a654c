// sessiond/web, over the fake: with Request, Response and Headers as they are, and with Hono's way of calling.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFake } from 'sessiond/testing';
import { cookieToSet, errorResponse, webSessions } from 'sessiond/web';

const URL = 'http://shop.example/';

function start(options) {
  const fake = createFake(options);
  return { fake, sessions: webSessions({ client: fake }) };
}

const request = (cookie, init = {}) => new Request(URL, { ...init, headers: cookie ? { cookie } : {} });
const cookieOf = (response) => response.headers.getSetCookie().at(-1).split(';')[0];

test('load and commit: over a Request, Headers, and what has headers', async () => {
  const { fake, sessions } = start();
  const cookie = fake.cookie({ principal: 'ann', data: { n: 1 } });
  const get = (name) => (name === 'cookie' ? cookie : null);
  // The last one is made as what `headers()` of Next.js resolves to: it has a member `headers` that is none of its methods.
  for (const source of [request(cookie), new Headers({ cookie }), { headers: new Headers({ cookie }) }, { get }, { get, headers: { cookie } }]) {
    const session = await sessions.load(source);
    assert.deepEqual([session.principal, session.data], ['ann', { n: 1 }]);
    const response = Response.json({});
    assert.equal(await sessions.commit(session, response), response);
    assert.deepEqual([response.headers.getSetCookie(), response.headers.get('cache-control')], [[], null]);
  }
});

test('a cookie goes out beside those of the application, with no-store, also on a response that cannot be changed', async () => {
  const { sessions } = start();
  const begin = async () => {
    const session = await sessions.load(request());
    session.data.a = 1;
    return session;
  };
  const response = new Response('hi', { headers: [['Set-Cookie', 'other=1'], ['Cache-Control', 'public, max-age=60']] });
  await sessions.commit(await begin(), response);
  assert.equal(response.headers.getSetCookie().length, 2);
  assert.match(response.headers.getSetCookie()[1], /^session=/);
  assert.equal(response.headers.get('cache-control'), 'no-store');

  const redirect = await sessions.commit(await begin(), Response.redirect(URL, 303));
  assert.deepEqual([redirect.status, redirect.headers.get('location'), redirect.headers.getSetCookie().length], [303, URL, 1]);

  const headers = new Headers({ 'Cache-Control': 'private' });
  assert.equal(await sessions.commit(await begin(), headers), true);
  assert.deepEqual([headers.getSetCookie().length, headers.get('cache-control')], [1, 'private']);
});

test('a header of any octets reaches the daemon as the same octets', async () => {
  const { fake, sessions } = start();
  const cookie = fake.cookie({ data: { n: 1 } });
  const session = await sessions.load(request(`a=\xff\x80é; ${cookie}`));
  assert.deepEqual(session.data, { n: 1 });
});

test('handler: loads, saves, and answers the errors of the daemon', async () => {
  const { fake, sessions } = start();
  const visit = sessions.handler(async (_, session, context) => {
    const { visits } = await session.update((data) => void (data.visits = (data.visits ?? 0) + 1));
    return Response.json({ visits, context });
  });
  const first = await visit(request(), { params: 7 });
  assert.deepEqual(await first.json(), { visits: 1, context: { params: 7 } });
  const again = await visit(request(cookieOf(first)));
  assert.deepEqual([(await again.json()).visits, again.headers.getSetCookie()], [2, []]);

  fake.fail('STORE_UNAVAILABLE', { times: 1 });
  const away = await visit(request(cookieOf(first)));
  assert.deepEqual([away.status, away.headers.get('retry-after'), away.headers.get('cache-control'), await away.json()], [503, '1', 'no-store', {}]);

  const broken = sessions.handler((_, session) => {
    session.data.visits = 99;
    throw new RangeError('mine');
  });
  await assert.rejects(broken(request(cookieOf(first))), RangeError);
  assert.equal(fake.sessions()[0].data.visits, 2, 'nothing is saved after an error');

  const login = sessions.handler(async (_, session) => {
    await session.login('ann');
    fake.fail('STORE_FULL', { times: 1 });
    session.data.more = 1;
    return Response.json({});
  });
  const failed = await login(request(cookieOf(first)));
  assert.deepEqual([failed.status, failed.headers.getSetCookie().length], [503, 1], 'the new id reaches the browser all the same');
});

test('an id from before a login: a change is 409, a GET is answered as for a stranger', async () => {
  const { fake, sessions } = start();
  const old = fake.cookie();
  await (await sessions.load(request(old))).login('ann');
  const handle = sessions.handler((_, session) => {
    session.data.theme = 'dark';
    return Response.json({ user: session.principal });
  });
  const post = await handle(request(old, { method: 'POST' }));
  const get = await handle(request(old));
  assert.deepEqual([post.status, post.headers.getSetCookie(), await post.json()], [409, [], {}]);
  assert.deepEqual([get.status, get.headers.getSetCookie(), await get.json()], [200, [], { user: null }]);
});

test('cookieToSet gives the parts of the cookie', async () => {
  const { sessions } = start();
  const session = await sessions.load(request());
  assert.equal(cookieToSet(session), null);
  await session.login('ann');
  const { name, value, ...rest } = cookieToSet(session);
  assert.equal(`${name}=${value}`, session.setCookie.split(';')[0]);
  assert.deepEqual(rest, { path: '/', maxAge: 1829, sameSite: 'lax', httpOnly: true, secure: false, partitioned: false });
  await session.logout();
  assert.deepEqual([cookieToSet(session).value, cookieToSet(session).maxAge], ['', 0]);
});

test('only errors of the daemon become responses', () => {
  assert.equal(errorResponse(new Error('mine')), null);
  assert.equal(errorResponse(undefined), null);
});

test('webSessions takes a client or an address', async () => {
  assert.throws(() => webSessions({}), TypeError);
  const { client } = webSessions({ address: '127.0.0.1:1', timeout: 1000 });
  await assert.rejects(client.resolve({ token: 'x' }), { reason: 'CONNECTION_FAILED' });
  await client.close();
});
