// RequestSession, over the fake and over the daemon.
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { test } from 'node:test';
import { InvalidArgumentError, noStore, RequestSession, SessionGoneError, SupersededError, UnavailableError } from 'sessiond';
import { createFake } from 'sessiond/testing';
import { cookieOf, someone, worlds } from './support/worlds.mjs';

/** Counts the operations that go through a client. */
function counting(client) {
  const calls = [];
  const counted = Object.create(client, {
    description: { get: () => client.description },
    engine: { value: client.engine },
  });
  for (const name of ['resolve', 'touch', 'write', 'destroy', 'listSessions', 'describe']) {
    counted[name] = (...args) => {
      calls.push([name, ...args]);
      return client[name](...args);
    };
  }
  return { counted, calls };
}

worlds((world) => {
  const it = (name, run) => test(name, () => run(world.start()));
  const open = (client, header) => RequestSession.open(client, header);
  /** A session with these data, and the header of its browser. */
  const begin = async (client, data = {}, principal) => cookieOf((await client.write(null, { set: data, principal })).setCookie);

  it('a visitor without the cookie costs no call, and none is made for one who only reads', async ({ client }) => {
    await client.describe();
    const { counted, calls } = counting(client);
    for (const header of [null, undefined, '', 'other=1; xsession=2; sessions=3; a=session=4', Buffer.from('a=\xff', 'latin1')]) {
      const session = await open(counted, header);
      assert.deepEqual([session.state, session.live, session.isNew, session.id, session.principal, session.version, session.expires, session.setCookie], ['NONE', false, false, null, null, 0, null, null]);
      assert.equal(await session.save(), true);
      assert.deepEqual(session.data, {});
      assert.equal(await session.save(), true);
    }
    assert.deepEqual(calls, []);
    await open(counted, ' \t session\t=junk');
    assert.equal(calls.length, 1);
  });

  it('save creates once, then writes only what changed, and then nothing', async ({ client }) => {
    await client.describe();
    const { counted, calls } = counting(client);
    const session = await open(counted, 'a=b');
    session.data.cart = [{ item: 'tea' }];
    assert.equal(session.changed, true);
    assert.equal(await session.save(), true);
    assert.deepEqual([session.live, session.isNew, session.state, session.version], [true, true, 'CREATED', 1]);
    assert.match(session.setCookie, /^session=/);
    session.data.cart[0].n = 1;
    session.data.theme = 'dark';
    await session.save();
    delete session.data.theme;
    session.data.nothing = undefined;
    await session.save();
    await session.save();
    const writes = calls.map(([name, credential, options]) => [name, credential === null, options.set, options.unset]);
    assert.deepEqual(writes, [
      ['write', true, '{"cart":[{"item":"tea"}]}', undefined],
      ['write', false, '{"cart":[{"item":"tea","n":1}],"theme":"dark"}', []],
      ['write', false, '', ['theme']],
    ]);
    assert.equal(session.changed, false);
    const next = await open(client, cookieOf(session.setCookie));
    assert.deepEqual([next.data, next.isNew, next.setCookie], [{ cart: [{ item: 'tea', n: 1 }] }, false, null]);
  });

  it('a key that a request does not change keeps what others write to it, and its exact octets', async ({ client }) => {
    const header = await begin(client, '{"big":12345678901234567890,"list":[1],"x":1}');
    const [one, two] = [await open(client, header), await open(client, header)];
    one.data.list.push(2);
    two.data.x = 2;
    assert.equal(two.data.big, 12345678901234567000);
    await Promise.all([one.save(), two.save()]);
    const { session } = await client.resolve({ cookieHeader: header });
    assert.deepEqual(JSON.parse(session.json), { big: 12345678901234567000, list: [1, 2], x: 2 });
    assert.match(session.json, /"big":12345678901234567890[,}]/);
  });

  it('assigning data replaces all of them; more keys than one write removes are removed', async ({ client }) => {
    const header = await begin(client, Object.fromEntries(Array.from({ length: 2300 }, (_, i) => [`k${i}`, i])));
    const session = await open(client, header);
    session.data = { left: 1 };
    assert.equal(await session.save(), true);
    assert.deepEqual((await open(client, header)).data, { left: 1 });
    assert.throws(() => (session.data = [1]), InvalidArgumentError);
  });

  it('data that are not JSON are refused by save, and stay for the handler to correct', async ({ client }) => {
    const header = await begin(client, { a: 1 });
    const session = await open(client, header);
    session.data.when = new Date(0);
    await assert.rejects(session.save(), (error) => error.reason === 'INVALID_DATA' && /"when".*toISOString/.test(error.message));
    session.data.when = session.data.when.toISOString();
    assert.equal(await session.save(), true);
    assert.equal((await open(client, header)).data.when, '1970-01-01T00:00:00.000Z');
  });

  it('what ended meanwhile is not made again: save says so, update throws', async ({ client }) => {
    const dropped = [];
    const listen = (message) => dropped.push(message);
    subscribe('sessiond:dropped', listen);
    try {
      const header = await begin(client, { a: 1 });
      const [session, updating] = [await open(client, header), await open(client, header)];
      const { id } = session;
      session.data.a = 2;
      await client.destroy({ cookieHeader: header });
      assert.equal(await session.save(), false);
      assert.deepEqual([session.live, session.state, session.data, session.setCookie], [false, 'NOT_FOUND', {}, null]);
      assert.deepEqual(dropped.filter((message) => message.id === id), [{ id, state: 'NOT_FOUND', keys: ['a'] }]);
      session.data.b = 1;
      assert.equal(await session.save(), false, 'nor later in the same request');
      await assert.rejects(session.update((data) => void (data.c = 1)), SessionGoneError);
      await assert.rejects(updating.update((data) => void (data.c = 1)), SessionGoneError);
      assert.equal((await client.resolve({ cookieHeader: header })).state, 'NOT_FOUND');
    } finally {
      unsubscribe('sessiond:dropped', listen);
    }
  });

  it('a request with a dead cookie may begin a new session', async ({ client }) => {
    const header = await begin(client, { a: 1 });
    await client.destroy({ cookieHeader: header });
    const session = await open(client, header);
    assert.deepEqual([session.state, session.live], ['NOT_FOUND', false]);
    session.data.b = 1;
    await session.save();
    assert.deepEqual((await open(client, cookieOf(session.setCookie))).data, { b: 1 });
  });

  it('update loses nothing of parallel requests', async ({ client }) => {
    const header = await begin(client, { n: 0, list: [] });
    await Promise.all(
      Array.from({ length: 12 }, async (_, i) => {
        const session = await open(client, header);
        const data = await session.update((stored) => {
          stored.n++;
          stored.list.push(i);
        });
        assert.ok(data.n >= 1);
      }),
    );
    const { data } = await open(client, header);
    assert.deepEqual([data.n, data.list.toSorted((a, b) => a - b)], [12, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]);
  });

  it('update: creates, takes what is returned, writes nothing if nothing changes, runs one after another', async ({ client }) => {
    const session = await open(client, null);
    assert.deepEqual(await session.update(() => {}), {});
    assert.equal(session.live, false);
    await Promise.all([1, 2, 3].map(() => session.update(async ({ n = 0, ...rest }) => ({ ...rest, n: n + 1 }))));
    assert.deepEqual([session.data, session.version, session.isNew], [{ n: 3 }, 3, true]);
    const { version } = session;
    assert.deepEqual(await session.update((data) => data), { n: 3 });
    assert.equal(session.version, version);
    await assert.rejects(session.update(() => 7), (error) => error.reason === 'INVALID_DATA');
    await assert.rejects(session.update(() => { throw new RangeError('mine'); }), RangeError);
    assert.deepEqual(session.data, { n: 3 });
  });

  it('update keeps unsaved changes of other keys, and refreshes the view in place', async ({ client }) => {
    const header = await begin(client, { n: 1, mine: 1, gone: 1 });
    const session = await open(client, header);
    const view = session.data;
    view.mine = 2;
    view.n = 100;
    delete view.gone;
    await client.write({ cookieHeader: header }, { set: { theirs: true } });
    assert.deepEqual(await session.update((data) => void data.n++), { n: 2, mine: 1, gone: 1, theirs: true });
    assert.equal(session.data, view);
    assert.deepEqual(view, { n: 2, mine: 2, theirs: true });
    await session.save();
    assert.deepEqual((await open(client, header)).data, { n: 2, mine: 2, theirs: true });
  });

  it('login: a new id, anonymous data kept, unsaved changes written; goes on with the new token', async ({ client }) => {
    const ann = someone();
    const header = await begin(client, { cart: ['tea'] });
    const session = await open(client, header);
    session.data.theme = 'dark';
    await session.login(ann, { label: 'Firefox', persistent: false, duration: 60_000 });
    assert.deepEqual([session.principal, session.info.label, session.info.duration, session.changed], [ann, 'Firefox', 60_000, false]);
    assert.doesNotMatch(session.setCookie, /Max-Age/);
    session.data.after = 1;
    assert.equal(await session.save(), true);
    const next = await open(client, cookieOf(session.setCookie));
    assert.deepEqual([next.principal, next.data], [ann, { cart: ['tea'], theme: 'dark', after: 1 }]);
    const before = next.setCookie;
    await next.login(ann);
    assert.equal(before, null);
    assert.notEqual(cookieOf(next.setCookie), cookieOf(session.setCookie), 'the same user gets a new id too');
    assert.equal((await open(client, cookieOf(session.setCookie))).superseded, true);
    await assert.rejects(next.login(''), InvalidArgumentError);
    await assert.rejects(next.login('x'.repeat(257)), InvalidArgumentError);
  });

  it('login of another user: nothing of the one before is left', async ({ client }) => {
    const [ann, bob] = [someone(), someone()];
    const session = await open(client, await begin(client, { secret: 1 }, ann));
    session.data.more = 2;
    await session.setPersistent(false);
    await session.login(bob);
    assert.deepEqual([session.data, session.changed], [{}, false]);
    assert.match(session.setCookie, /Max-Age/, 'as the engine says, not as ann wanted');
    session.data.mine = 1;
    await session.save();
    assert.deepEqual((await open(client, cookieOf(session.setCookie))).data, { mine: 1 });
  });

  it('login without a session creates one; also when the anonymous one ended meanwhile', async ({ client }) => {
    const ann = someone();
    const fresh = await open(client, null);
    fresh.data.a = 1;
    await fresh.login(ann);
    assert.deepEqual([fresh.live, fresh.isNew, fresh.principal, fresh.version], [true, true, ann, 1]);
    const header = await begin(client, { old: 1 });
    const session = await open(client, header);
    await client.destroy({ cookieHeader: header });
    await session.login(ann);
    const found = await open(client, cookieOf(session.setCookie));
    assert.deepEqual([found.principal, found.data], [ann, {}]);
  });

  it('an id from before a login: nobody, no cookie, no change; a logout works', async ({ client }) => {
    const header = await begin(client, { a: 1 });
    const inFlight = await open(client, header);
    const late = await open(client, header);
    await (await open(client, header)).login(someone());
    const old = await open(client, header);
    assert.deepEqual([old.superseded, old.live, old.data, old.setCookie], [true, false, {}, null]);
    assert.equal(await old.save(), true, 'nothing changed');
    old.data.b = 1;
    const calls = [() => old.save(), () => old.update((data) => void data.n++), () => old.login('x'), () => old.roll(), () => old.touch(), () => old.logoutOthers(), () => old.logoutEverywhere(), () => old.end(['x']), () => old.setPersistent(true), () => old.regenerate()];
    for (const call of calls) await assert.rejects(call(), (error) => error instanceof SupersededError && error.status === 409 && error.reason === 'SUPERSEDED', String(call));
    inFlight.data.b = 1;
    await assert.rejects(inFlight.save(), SupersededError);
    assert.deepEqual([inFlight.superseded, inFlight.setCookie], [true, null]);
    await assert.rejects(late.update((data) => void (data.n = 1)), SupersededError);
    assert.deepEqual(await old.devices(), []);
    assert.equal(await old.logout(), true);
    assert.match(old.setCookie, /^session=; Max-Age=0/);
  });

  it('logout ends the session and deletes the cookie, also in the request of the login', async ({ client }) => {
    const session = await open(client, await begin(client, { a: 1 }));
    await session.login(someone());
    const header = cookieOf(session.setCookie);
    assert.equal(await session.logout(), true);
    assert.match(session.setCookie, /^session=; Max-Age=0/);
    assert.deepEqual([session.live, session.state, session.data], [false, 'NONE', {}]);
    assert.equal((await open(client, header)).state, 'NOT_FOUND');
    assert.equal(await session.save(), true);
    session.data.flash = 'goodbye';
    await session.save();
    assert.deepEqual((await open(client, cookieOf(session.setCookie))).data, { flash: 'goodbye' }, 'what comes after a logout is a new session');
    assert.equal(await (await open(client, 'a=b')).logout(), false);
  });

  it('devices, end, logoutOthers, logoutEverywhere', async ({ client }) => {
    const ann = someone();
    const headers = await Promise.all([0, 1, 2, 3].map(() => begin(client, {}, ann)));
    const session = await open(client, headers[0]);
    const devices = await session.devices();
    assert.deepEqual([devices.length, devices.filter(({ current }) => current).map(({ id }) => id)], [4, [session.id]]);
    assert.deepEqual(Object.keys(devices[0]), ['id', 'current', 'label', 'createTime', 'lastUseTime', 'expireTime']);
    const other = (await open(client, headers[1])).id;
    assert.equal(await session.end([other]), 1);
    assert.equal(await session.end([]), 0);
    assert.equal(await session.logoutOthers(), 2);
    assert.deepEqual([session.live, session.setCookie], [true, null]);
    assert.equal(await session.logoutEverywhere(), 1);
    assert.match(session.setCookie, /^session=; Max-Age=0/);
    const again = await open(client, await begin(client, {}, ann));
    assert.equal(await again.end([again.id]), 1);
    assert.deepEqual([again.live, /^session=; Max-Age=0/.test(again.setCookie)], [false, true]);
    assert.deepEqual(await (await open(client, null)).devices(), []);
  });

  it('roll and regenerate', async ({ client }) => {
    const session = await open(client, await begin(client, { a: 1 }));
    session.data.b = 2;
    await session.roll();
    const { id } = session;
    const rolled = await open(client, cookieOf(session.setCookie));
    assert.deepEqual([rolled.id, rolled.data], [id, { a: 1, b: 2 }]);
    await session.regenerate();
    session.data.c = 3;
    await session.save();
    assert.deepEqual((await open(client, cookieOf(session.setCookie))).data, { c: 3 });
    assert.equal((await open(client, `session=${'x'}`)).state, 'INVALID');
    const nobody = await open(client, null);
    await nobody.roll();
    await nobody.regenerate();
    assert.equal(nobody.live, false);
  });

  it('touch, setPersistent and a duration for the session that this request creates', async ({ client }) => {
    const session = await open(client, null);
    assert.equal(await session.touch(60_000), false);
    await session.setPersistent(false);
    session.data.a = 1;
    await session.save();
    assert.equal(session.info.duration, 60_000);
    assert.doesNotMatch(session.setCookie, /Max-Age/);
    const next = await open(client, cookieOf(session.setCookie));
    assert.equal(await next.touch(70_000), true);
    assert.equal(next.info.duration, 70_000);
    await next.setPersistent(true);
    assert.match(next.setCookie, /Max-Age/);
    next.data.b = 1;
    assert.deepEqual([await next.reload(), next.data], [true, { a: 1 }]);
    await next.update((data) => void data.a++);
    assert.equal(next.data.a, 2);
    await client.destroy({ cookieHeader: cookieOf(session.setCookie) });
    assert.equal(await next.touch(), false);
    assert.equal(await next.reload(), false);
  });

  it('update after save does not write over what others have written', async ({ client }) => {
    const header = await begin(client, { n: 0 });
    const session = await open(client, header);
    session.data.x = 1;
    await client.write({ cookieHeader: header }, { set: { n: 5 } });
    await session.save();
    assert.equal((await session.update((data) => void data.n++)).n, 6);
  });
});

test('a daemon that is away is an error, never "nobody", and load may be tried again', async () => {
  const fake = createFake();
  const header = fake.cookie({ principal: 'ann', data: { a: 1 } });
  fake.fail('STORE_UNAVAILABLE', { times: 1 });
  const session = new RequestSession(fake, header);
  await assert.rejects(session.load(), (error) => error instanceof UnavailableError && error.headers['Retry-After'] === '1' && error.status === 503);
  assert.equal(session.loaded, false);
  await session.load();
  assert.deepEqual([session.loaded, session.principal, session.data], [true, 'ann', { a: 1 }]);
  fake.fail('RECORD_UNREADABLE', { operation: 'resolve' });
  const damaged = new RequestSession(fake, header);
  await assert.rejects(damaged.load(), { reason: 'RECORD_UNREADABLE' });
  assert.equal(await damaged.logout(), true, 'a damaged record can be ended all the same');
  assert.throws(() => fake.fail('NO_SUCH'), TypeError);
});

test('a write with an unknown outcome is not repeated by update', async () => {
  const fake = createFake();
  const header = fake.cookie({ data: { n: 1 } });
  const session = await RequestSession.open(fake, header);
  fake.fail('STORE_UNAVAILABLE', { operation: 'write' });
  let runs = 0;
  await assert.rejects(session.update((data) => void (runs++, data.n++)), (error) => error.applied === 'unknown');
  assert.equal(runs, 1);
});

test('an engine that the daemon does not have is told', async () => {
  await assert.rejects(RequestSession.open(createFake(), 'a=b', { engine: 'shop' }), (error) => error.reason === 'UNKNOWN_ENGINE' && /"shop"/.test(error.message));
});

test('noStore keeps a Cache-Control that forbids shared caches', () => {
  assert.deepEqual(['no-store', 'private, max-age=1', 'max-age=0, NO-STORE'].map((value) => noStore(value)), [null, null, null]);
  assert.deepEqual([undefined, null, '', 'public, max-age=60', ['max-age=1'], 'private="set-cookie"'].map((value) => noStore(value)), Array(6).fill('no-store'));
});
