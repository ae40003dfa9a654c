// Lifetimes and grace periods, of the fake and of the daemon. In a file of its own: nothing that takes much CPU runs beside
// it, so the real times mean something.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SessionGoneError } from 'sessiond';
import { cookieOf, GRACE, SHORT, worlds } from './support/worlds.mjs';

worlds((world) => {
  const it = (name, run) => test(name, () => run(world.start()));

  it('roll gives a new id; the old one is SUPERSEDED, creates nothing, and can still log out', async ({ client, pass }) => {
    const engine = 'short';
    const created = await client.write(null, { engine, set: { a: 1 } });
    const rolled = await client.write({ token: created.token }, { engine, roll: true });
    assert.equal(rolled.session.id, created.session.id);
    assert.notEqual(rolled.token, created.token);
    assert.equal(cookieOf(rolled.setCookie), `short=${rolled.token}`);
    for (const create of [false, true]) {
      assert.deepEqual(await client.resolve({ token: created.token }, { engine, create }), { state: 'SUPERSEDED', session: null, setCookie: [], token: '' });
    }
    assert.deepEqual(await client.touch({ token: created.token }, { engine }), { state: 'SUPERSEDED', session: null, setCookie: [] });
    await assert.rejects(client.write({ token: created.token }, { engine, set: { a: 2 } }), SessionGoneError);
    assert.deepEqual((await client.resolve({ token: rolled.token }, { engine })).session.data(), { a: 1 });
    assert.equal((await client.destroy({ token: created.token }, { engine })).destroyed, 1);
    assert.equal((await client.resolve({ token: rolled.token }, { engine })).state, 'NOT_FOUND');

    const again = await client.write(null, { engine });
    const next = await client.write({ token: again.token }, { engine, roll: true });
    await pass(GRACE + 20);
    await client.touch({ token: next.token }, { engine });
    assert.equal((await client.destroy({ token: again.token }, { engine })).destroyed, 0, 'after roll_grace');
    assert.equal((await client.resolve({ token: again.token }, { engine, create: true })).state, 'CREATED');
  });

  it('a session expires when it was not used for its duration, and is used by resolve, touch and write', async ({ client, pass }) => {
    const engine = 'short';
    const { token } = await client.write(null, { engine });
    await pass(SHORT * 0.6);
    const found = await client.resolve({ token }, { engine });
    assert.equal(found.state, 'ACTIVE');
    assert.equal(cookieOf(found.setCookie), `short=${token}`, 'the browser learns the new Max-Age');
    await pass(SHORT * 0.6);
    assert.equal((await client.touch({ token }, { engine })).state, 'ACTIVE');
    await pass(SHORT * 0.6);
    await client.write({ token }, { engine, set: { a: 1 } });
    await pass(SHORT * 0.6);
    assert.equal((await client.resolve({ token }, { engine, peek: true })).state, 'ACTIVE');
    await pass(SHORT * 0.6);
    const state = (await client.resolve({ token }, { engine })).state;
    assert.ok(state === 'EXPIRED' || state === 'NOT_FOUND', `peek moves nothing; got ${state}`);
    await assert.rejects(client.write({ token }, { engine, set: { a: 1 } }), SessionGoneError);
    assert.equal((await client.destroy({ token }, { engine })).destroyed, 0);
  });

  it('without automatic_touch a resolve moves nothing; past absolute_duration nothing lives', async ({ client, pass }) => {
    const still = await client.write(null, { engine: 'still' });
    const brief = await client.write(null, { engine: 'brief', duration: 300_000 });
    assert.ok(brief.session.expireTime - brief.session.createTime <= SHORT);
    await pass(SHORT * 0.6);
    assert.equal((await client.resolve({ token: still.token }, { engine: 'still' })).state, 'ACTIVE');
    assert.equal((await client.touch({ token: brief.token }, { engine: 'brief' })).state, 'ACTIVE');
    await pass(SHORT * 0.6);
    assert.notEqual((await client.resolve({ token: still.token }, { engine: 'still' })).state, 'ACTIVE');
    assert.notEqual((await client.resolve({ token: brief.token }, { engine: 'brief' })).state, 'ACTIVE');
  });
});
