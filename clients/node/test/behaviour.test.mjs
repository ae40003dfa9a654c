// How a client behaves, the fake's and the real one.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DataTooLargeError, InvalidArgumentError, SessionGoneError, SessiondError, TooManySessionsError, VersionMismatchError } from 'sessiond';
import { cookieOf, someone, worlds } from './support/worlds.mjs';

worlds((world) => {
  const it = (name, run) => test(name, () => run(world.start()));
  const cookie = (answer) => ({ cookieHeader: cookieOf(answer.setCookie) });

  it('a visitor without a cookie has no session, and none is made', async ({ client }) => {
    for (const credential of [null, { cookieHeader: '' }, { cookieHeader: 'other=1; sessions=2; =; ;;' }]) {
      assert.deepEqual(await client.resolve(credential), { state: 'NONE', session: null, setCookie: [], token: '' });
    }
  });

  it('a cookie of the name that is no token is INVALID; octets of any kind break nothing', async ({ client }) => {
    for (const header of ['session=junk', 'session=', Buffer.from('session=\xff\x00\x80', 'latin1'), 'session=漢', `session=${'A'.repeat(40)}.${'b'.repeat(43)}`]) {
      assert.equal((await client.resolve({ cookieHeader: header })).state, 'INVALID');
    }
    assert.equal((await client.resolve({ cookieHeader: `session=${'x'.repeat(70_000)}` })).state, 'INVALID', 'more than 64 KiB');
    assert.equal((await client.resolve({ token: 'junk' })).state, 'INVALID');
  });

  it('a write without a credential creates, with data, a version, times, a cookie and a token', async ({ client }) => {
    const created = await client.write(null, { set: { cart: ['tea'] }, label: 'Firefox' });
    const { session } = created;
    assert.match(session.id, /^[\w-]{16}$/);
    assert.deepEqual([session.version, session.principal, session.label, session.duration], [1, null, 'Firefox', 1_800_000]);
    // The fake's clock stands still from where its test began.
    assert.ok(Math.abs(session.createTime - Date.now()) < 60_000, 'expected milliseconds since 1970');
    assert.ok(session.expireTime - session.createTime >= 1_800_000, `expected half an hour, found ${session.expireTime - session.createTime}`);
    assert.equal(cookieOf(created.setCookie), `session=${created.token}`);
    assert.match(created.setCookie[0], /^session=[\w-]{40}\.[A-Za-z0-9+/]{43}; Max-Age=18\d\d; Expires=[^;]+ GMT; Path=\/; HttpOnly; SameSite=Lax$/);
    for (const credential of [cookie(created), { token: created.token }, { cookieHeader: Buffer.from(`a=\xff; ${cookieOf(created.setCookie)}; b="`, 'latin1') }]) {
      const found = await client.resolve(credential);
      assert.deepEqual([found.state, found.session.data(), found.setCookie, found.token], ['ACTIVE', { cart: ['tea'] }, [], '']);
    }
  });

  it('create makes a session only for a credential that is not live', async ({ client }) => {
    const created = await client.resolve(null, { create: true });
    assert.deepEqual([created.state, created.session.version, created.setCookie.length], ['CREATED', 1, 1]);
    const found = await client.resolve({ token: created.token }, { create: true });
    assert.deepEqual([found.state, found.session.id, found.setCookie], ['ACTIVE', created.session.id, []]);
  });

  it('a write merges top-level keys: replace, then unset, then set', async ({ client }) => {
    const { token } = await client.write(null, { set: { a: 1, b: { c: 2 }, d: 4 } });
    const read = async () => (await client.resolve({ token })).session.data();
    const written = await client.write({ token }, { set: { b: 'new' }, unset: ['d', 'never there'] });
    assert.deepEqual([written.session.version, written.setCookie, written.token], [2, [], '']);
    assert.deepEqual(await read(), { a: 1, b: 'new' });
    await client.write({ token }, { unset: ['a'], set: { a: 2 } });
    assert.deepEqual(await read(), { a: 2, b: 'new' });
    await client.write({ token }, { replace: true, set: { z: null } });
    assert.deepEqual(await read(), { z: null });
  });

  it('keys that are not named keep their octets, also numbers that JavaScript cannot hold', async ({ client }) => {
    const { token } = await client.write(null, { set: '{"big": 12345678901234567890, "e":1.50, "text":"\\u00e9"}' });
    await client.write({ token }, { set: { other: true } });
    const { json } = (await client.resolve({ token })).session;
    for (const part of ['"big":12345678901234567890', '"e":1.50', '"text":"\\u00e9"', '"other":true']) assert.ok(json.includes(part), json);
  });

  it('parallel writes to different keys all survive', async ({ client }) => {
    const { token } = await client.write(null);
    await Promise.all(Array.from({ length: 30 }, (_, i) => client.write({ token }, { set: { [`key${i}`]: i } })));
    const { session } = await client.resolve({ token });
    assert.deepEqual([session.version, Object.keys(session.data()).length], [31, 30]);
  });

  it('ifVersion lets one of two writes through', async ({ client }) => {
    const { token } = await client.write(null, { set: { n: 1 } });
    const outcomes = await Promise.allSettled([2, 3, 4].map((n) => client.write({ token }, { set: { n }, ifVersion: 1 })));
    const failed = outcomes.filter(({ status }) => status === 'rejected').map(({ reason }) => reason);
    assert.equal(failed.length, 2);
    for (const error of failed) {
      assert.ok(error instanceof VersionMismatchError && error instanceof SessiondError);
      assert.deepEqual([error.reason, error.code, error.applied], ['VERSION_MISMATCH', 'ABORTED', 'no']);
    }
    assert.equal((await client.resolve({ token })).session.version, 2);
  });

  it('a credential never creates: SESSION_GONE', async ({ client }) => {
    const ended = await client.write(null);
    await client.destroy({ token: ended.token });
    for (const credential of [{ token: ended.token }, { token: 'junk' }, { cookieHeader: 'a=b' }]) {
      await assert.rejects(client.write(credential, { set: { a: 1 } }), (error) => error instanceof SessionGoneError && error.reason === 'SESSION_GONE' && error.applied === 'no');
    }
    assert.equal((await client.resolve({ token: ended.token })).state, 'NOT_FOUND');
  });

  it('destroy ends a session, once, and deletes the cookie', async ({ client }) => {
    const created = await client.write(null);
    const deletion = 'session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=Lax';
    assert.deepEqual(await client.destroy(cookie(created)), { destroyed: 1, setCookie: [deletion] });
    assert.deepEqual(await client.destroy(cookie(created)), { destroyed: 0, setCookie: [deletion] });
    assert.deepEqual(await client.destroy({ cookieHeader: 'session=junk' }), { destroyed: 0, setCookie: [deletion] });
    assert.deepEqual(await client.destroy({ cookieHeader: 'a=b' }), { destroyed: 0, setCookie: [] });
    assert.deepEqual(await client.destroy(null), { destroyed: 0, setCookie: [] });
  });

  it("touch and write set a session's own duration", async ({ client }) => {
    const { token } = await client.write(null, { duration: 5000.5 });
    assert.equal((await client.resolve({ token })).session.duration, 5001, 'rounded up to milliseconds');
    const touched = await client.touch({ token }, { duration: 60_000 });
    assert.deepEqual([touched.session.duration, touched.session.version, touched.session.json], [60_000, 1, '']);
    assert.match(touched.setCookie[0], /; Max-Age=6\d;/);
    await client.write({ token }, { duration: 7000 });
    const { session } = await client.resolve({ token });
    assert.equal(session.duration, 7000);
    assert.ok(session.expireTime - Date.now() < 8000, 'a shorter duration makes the deadline earlier');
  });

  it('persistent and label belong to the session', async ({ client }) => {
    const { token } = await client.write(null, { persistent: false });
    const kept = await client.write({ token }, { persistent: true, label: 'Chrome' });
    assert.match(kept.setCookie[0], /; Max-Age=/);
    assert.equal(kept.session.label, 'Chrome');
    const dropped = await client.write({ token }, { persistent: false, label: '' });
    assert.doesNotMatch(dropped.setCookie[0], /Max-Age/);
    assert.equal(dropped.session.label, '');
    assert.deepEqual((await client.write({ token }, { persistent: false })).setCookie, []);
  });

  it('format "express" sends s: and every spelling of a token is read', async ({ client }) => {
    const engine = 'express';
    const created = await client.write(null, { engine });
    assert.match(created.setCookie[0], /^connect\.sid=s:[^;]+; Path=\/; HttpOnly; SameSite=Lax$/);
    for (const value of [created.token, `s:${created.token}`, encodeURIComponent(`s:${created.token}`), `"${created.token}"`]) {
      assert.equal((await client.resolve({ cookieHeader: `a=b;\t connect.sid \t= ${value} ; c` }, { engine })).state, 'ACTIVE', value);
    }
    assert.equal((await client.resolve({ token: created.token })).state, 'INVALID', 'another engine has another secret');
  });

  it('of several cookies of the name the live one counts', async ({ client }) => {
    const ended = await client.write(null);
    await client.destroy({ token: ended.token });
    const live = await client.write(null);
    const header = ['session=junk', `session=${ended.token}`, `session=${live.token}`].join('; ');
    assert.equal((await client.resolve({ cookieHeader: header })).session.id, live.session.id);
    await client.destroy({ cookieHeader: header });
    assert.equal((await client.resolve({ cookieHeader: header })).state, 'NOT_FOUND');
  });

  it('a login rolls, keeps what an anonymous visitor had, and drops what another user had', async ({ client }) => {
    const [ann, bob] = [someone(), someone()];
    const anonymous = await client.write(null, { set: { cart: [1] } });
    const login = await client.write({ token: anonymous.token }, { principal: ann });
    assert.notEqual(login.token, '');
    assert.equal(login.session.principal, ann);
    assert.deepEqual((await client.resolve({ token: login.token })).session.data(), { cart: [1] });
    const same = await client.write({ token: login.token }, { principal: ann });
    assert.equal(same.token, '', 'the same principal does not roll by itself');
    const other = await client.write({ token: login.token }, { principal: bob, set: { hello: 'bob' } });
    assert.deepEqual((await client.resolve({ token: other.token })).session.data(), { hello: 'bob' });
    const nobody = await client.write({ token: other.token }, { principal: null });
    assert.equal(nobody.session.principal, null);
    assert.deepEqual((await client.resolve({ token: nobody.token })).session.data(), {});
  });

  it("lists, and ends others, all, or some of a principal's sessions", async ({ client }) => {
    const ann = someone();
    const make = async (principal) => (await client.write(null, { principal, label: principal })).token;
    const [here, there, away, stranger] = [await make(ann), await make(ann), await make(ann), await make(someone())];
    const id = async (token) => (await client.resolve({ token })).session.id;
    const listed = await client.listSessions({ token: here });
    assert.deepEqual([listed.state, listed.sessions.length, listed.currentSessionId], ['ACTIVE', 3, await id(here)]);
    assert.deepEqual(new Set(listed.sessions.map((session) => session.id)), new Set([await id(here), await id(there), await id(away)]));
    assert.ok(listed.sessions.every(({ principal, label, json, lastUseTime }) => principal === ann && label === ann && json === '' && lastUseTime instanceof Date));

    const ids = [await id(there), await id(stranger), 'AAAAAAAAAAAAAAAA'];
    assert.deepEqual(await client.destroy({ token: here }, { sessionIds: ids }), { destroyed: 1, setCookie: [] });
    assert.deepEqual([(await client.resolve({ token: there })).state, (await client.resolve({ token: stranger })).state], ['NOT_FOUND', 'ACTIVE']);
    assert.deepEqual(await client.destroy({ token: here }, { scope: 'OTHERS' }), { destroyed: 1, setCookie: [] });
    assert.equal((await client.resolve({ token: here })).state, 'ACTIVE');
    const again = await make(ann);
    const all = await client.destroy({ token: here }, { scope: 'ALL' });
    assert.deepEqual([all.destroyed, all.setCookie.length], [2, 1]);
    assert.equal((await client.resolve({ token: again })).state, 'NOT_FOUND');
    assert.deepEqual(await client.listSessions({ token: here }), { state: 'NOT_FOUND', sessions: [], currentSessionId: null });
  });

  it('naming its own session ends it and deletes the cookie; an anonymous one counts alone', async ({ client }) => {
    const one = await client.write(null);
    const two = await client.write(null);
    assert.equal((await client.listSessions({ token: one.token })).sessions.length, 1);
    assert.equal((await client.destroy({ token: one.token }, { scope: 'OTHERS' })).destroyed, 0);
    assert.equal((await client.destroy({ token: one.token }, { sessionIds: [two.session.id] })).destroyed, 0);
    const own = await client.destroy({ token: one.token }, { sessionIds: [one.session.id] });
    assert.deepEqual([own.destroyed, own.setCookie.length], [1, 1]);
    assert.equal((await client.destroy({ token: two.token }, { scope: 'ALL' })).destroyed, 1);
  });

  it('a list of many pages is whole', async ({ client }) => {
    const ann = someone();
    const made = await Promise.all(Array.from({ length: 1100 }, () => client.write(null, { principal: ann })));
    const { sessions } = await client.listSessions({ token: made[0].token });
    assert.equal(new Set(sessions.map(({ id }) => id)).size, 1100);
    assert.equal((await client.destroy({ token: made[0].token }, { scope: 'ALL' })).destroyed, 1100);
  });

  it('max_sessions_per_principal refuses the newest, or ends the one that was idle for longest', async ({ client, pass }) => {
    const ann = someone();
    const two = [await client.write(null, { engine: 'two', principal: ann }), await client.write(null, { engine: 'two', principal: ann })];
    await assert.rejects(client.write(null, { engine: 'two', principal: ann }), (error) => error instanceof TooManySessionsError && error.code === 'FAILED_PRECONDITION');
    const anonymous = await client.write(null, { engine: 'two', set: { a: 1 } });
    await assert.rejects(client.write({ token: anonymous.token }, { engine: 'two', principal: ann }), TooManySessionsError);
    assert.equal((await client.resolve({ token: anonymous.token }, { engine: 'two' })).state, 'ACTIVE', 'nothing was done');
    await client.write({ token: two[0].token }, { engine: 'two', principal: ann, roll: true });

    const tokens = [];
    for (let i = 0; i < 2; i++) {
      tokens.push((await client.write(null, { engine: 'idlest', principal: ann })).token);
      await pass(20);
    }
    await client.touch({ token: tokens[0] }, { engine: 'idlest', duration: 1_700_000 });
    await pass(20);
    await client.touch({ token: tokens[0] }, { engine: 'idlest', duration: 1_800_000 });
    tokens.push((await client.write(null, { engine: 'idlest', principal: ann })).token);
    const states = await Promise.all(tokens.map(async (token) => (await client.resolve({ token }, { engine: 'idlest' })).state));
    assert.deepEqual(states, ['ACTIVE', 'NOT_FOUND', 'ACTIVE']);
  });

  it('refuses what is not allowed, and says which field', async ({ client }) => {
    const { token } = await client.write(null, { set: { a: 1 } });
    const refused = async (promise, reason, field, Class = InvalidArgumentError) =>
      assert.rejects(promise, (error) => {
        assert.ok(error instanceof Class, `${error?.stack}`);
        assert.deepEqual([error.reason, error.code, error.applied, error.retryable], [reason, 'INVALID_ARGUMENT', 'no', false]);
        if (field) assert.equal(error.field, field);
        return true;
      });
    await refused(client.resolve(null, { engine: 'none' }), 'UNKNOWN_ENGINE');
    await refused(client.resolve({}), 'INVALID_ARGUMENT', 'credential');
    await refused(client.resolve({ token, cookieHeader: 'a=b' }), 'INVALID_ARGUMENT', 'credential');
    await refused(client.resolve({ token: 7 }), 'INVALID_ARGUMENT', 'credential');
    await refused(client.resolve(token), 'INVALID_ARGUMENT', 'credential');
    await refused(client.resolve(null, { create: 'yes' }), 'INVALID_ARGUMENT', 'create');
    for (const duration of [0, -1, NaN, Infinity, 401 * 24 * 3600_000, '5']) await refused(client.touch({ token }, { duration }), 'INVALID_ARGUMENT', 'duration');
    for (const ifVersion of [0, 1.5, '1']) await refused(client.write({ token }, { ifVersion }), 'INVALID_ARGUMENT', 'ifVersion');
    await refused(client.write(null, { ifVersion: 1 }), 'INVALID_ARGUMENT', 'ifVersion');
    for (const principal of ['x'.repeat(257), 'é'.repeat(129), 'half \ud83d', 7]) await refused(client.write(null, { principal }), 'INVALID_ARGUMENT', 'principal');
    await refused(client.write(null, { label: 'x'.repeat(257) }), 'INVALID_ARGUMENT', 'label');
    await refused(client.write({ token }, { unset: 'a' }), 'INVALID_ARGUMENT', 'unset');
    await refused(client.write({ token }, { unset: Array.from({ length: 1001 }, (_, i) => `k${i}`) }), 'INVALID_ARGUMENT', 'unset');
    await refused(client.write({ token }, { set: [1] }), 'INVALID_ARGUMENT', 'set');
    for (const set of ['[1]', '{"a":', '7', '{"a":NaN}']) await refused(client.write({ token }, { set }), 'INVALID_DATA', 'set');
    await refused(client.write({ token }, { set: `{"a":${'['.repeat(64)}${']'.repeat(64)}}` }), 'INVALID_DATA', 'set');
    await refused(client.write({ token }, { set: JSON.stringify(Object.fromEntries(Array.from({ length: 4097 }, (_, i) => [i, 0]))) }), 'INVALID_DATA', 'set');
    await refused(client.destroy({ token }, { scope: 'THESE' }), 'INVALID_ARGUMENT', 'scope');
    await refused(client.destroy({ token }, { sessionIds: [] }), 'INVALID_ARGUMENT', 'sessionIds');
    await refused(client.destroy({ token }, { sessionIds: ['unknown'] }), 'INVALID_ARGUMENT', 'sessionIds');
    await refused(client.destroy({ token }, { sessionIds: Array.from({ length: 1001 }, () => 'x') }), 'INVALID_ARGUMENT', 'sessionIds');
    assert.deepEqual((await client.resolve({ token })).session.data(), { a: 1 }, 'nothing was changed');
  });

  it('refuses data over max_data_bytes, at once or grown', async ({ client }) => {
    const engine = 'small';
    const { token } = await client.write(null, { engine, set: { a: 'x'.repeat(2990) } });
    const tooLarge = (error) => error instanceof DataTooLargeError && error.reason === 'DATA_TOO_LARGE' && error.status === 413;
    await assert.rejects(client.write({ token }, { engine, set: { b: 'x'.repeat(2990) } }), tooLarge);
    await assert.rejects(client.write(null, { engine, set: { b: 'x'.repeat(5000) } }), tooLarge);
    await assert.rejects(client.write(null, { engine, set: { b: 'x'.repeat(3 << 20) } }), tooLarge);
    assert.equal((await client.resolve({ token }, { engine })).session.version, 1);
  });

  it('data that are not JSON are refused before anything is sent', async ({ client }) => {
    const cycle = {};
    cycle.self = [cycle];
    const bad = [() => 1, NaN, Infinity, 10n, Symbol('s'), new Date(), new Uint8Array(2), Buffer.from('a'), new Map(), new Set(), /x/, new (class Cart {})(), cycle, [undefined], [, 1], { a: { b: () => 1 } }, { toJSON: () => 1 }];
    for (const value of bad) {
      await assert.rejects(client.write(null, { set: { key: value, note: 'secret' } }), (error) => {
        assert.ok(error instanceof InvalidArgumentError);
        assert.equal(error.reason, 'INVALID_DATA');
        assert.match(error.message, /"key"/);
        assert.doesNotMatch(error.message, /secret/);
        return true;
      });
    }
    const { token } = await client.write(null, { set: { a: undefined, b: { c: undefined, d: [null, -0, '\ud83d'] }, e: Object.create(null), __proto__: null } });
    assert.deepEqual((await client.resolve({ token })).session.data(), { b: { d: [null, 0, '\ud83d'] }, e: {} });
  });

  it('a key called __proto__ is an ordinary key', async ({ client }) => {
    const { token } = await client.write(null, { set: JSON.parse('{"__proto__":{"admin":true},"constructor":1}') });
    const data = (await client.resolve({ token })).session.data();
    assert.deepEqual(Object.keys(data).sort(), ['__proto__', 'constructor']);
    assert.equal(data.admin, undefined);
    await client.write({ token }, { unset: ['__proto__'] });
    assert.deepEqual(Object.keys((await client.resolve({ token })).session.data()), ['constructor']);
  });

  it('describes its engines', async ({ client }) => {
    const { version, limits, engines } = await client.describe();
    assert.match(version, /^\d+\.\d+\.\d+/);
    assert.equal(limits.maxKeys, 4096);
    assert.deepEqual(engines.map(({ name }) => name), ['brief', 'default', 'express', 'idlest', 'short', 'small', 'still', 'two']);
    const express = engines.find(({ name }) => name === 'express');
    assert.deepEqual([express.cookieName, express.cookieFormat, express.persistent, express.duration, express.absoluteDuration, express.automaticTouch, express.maxDataBytes], ['connect.sid', 'EXPRESS', false, 1_800_000, null, true, 65_536]);
    assert.equal(client.description.engines.length, 8);
  });
});
