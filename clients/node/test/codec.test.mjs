// Holds the hand-written codec to proto/: random messages, compared with protobufjs in both directions.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import test from 'node:test';
import { load } from './support/proto.mjs';

const require = createRequire(import.meta.url);
const { frameSize, requestSize, unaryFrame, wireCredential, writeFrame } = require('../dist/protocol/requests.js');
const { readDescription, readList, readPipelineResponse, readStatus } = require('../dist/protocol/answers.js');
const { Reader, WireError, Writer } = require('../dist/protocol/wire.js');

const ROUNDS = 800;
const proto = await load();

// A small generator of random numbers, so that a failure can be repeated: its seed is in the message.
function random(seed) {
  let state = seed >>> 0 || 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  const int = (max) => Math.floor(next() * (max + 1));
  const r = {
    int,
    bool: () => next() < 0.5,
    maybe: (make) => (next() < 0.5 ? make() : undefined),
    pick: (list) => list[int(list.length - 1)],
    big: () => Math.floor(next() ** 4 * Number.MAX_SAFE_INTEGER),
    text: (max = 40) => Array.from({ length: int(max) }, () => r.pick(['a', 'Z', '0', ' ', '"', '\\', 'é', 'ÿ', '漢', '🍵', '\0', '\n'])).join(''),
    octets: (max = 300) => Buffer.from(Array.from({ length: int(max) }, () => int(255))),
    list: (make, max = 5) => Array.from({ length: int(max) }, make),
    milliseconds: () => r.pick([1, 999, 1000, 1500, 59_999, 1_800_000, 400 * 24 * 3600_000, int(1e9) + 1]),
  };
  return r;
}

function request(r) {
  const latin1 = r.octets().toString('latin1');
  const credential = r.pick([
    () => null,
    () => wireCredential(0x0a, r.octets()),
    () => wireCredential(0x0a, latin1),
    () => wireCredential(0x0a, r.text()),
    () => wireCredential(0x12, r.text()),
  ])();
  const engine = r.pick(['', 'default', r.text(300)]);
  return r.pick([
    () => ({ kind: 'resolve', engine, credential, peek: r.bool(), create: r.bool() }),
    () => ({ kind: 'touch', engine, credential, duration: r.maybe(r.milliseconds) }),
    () => ({
      kind: 'write',
      engine,
      credential,
      set: r.text(2000),
      unset: r.list(() => r.text()),
      replace: r.bool(),
      ifVersion: r.maybe(() => r.big() + 1),
      roll: r.bool(),
      principal: r.maybe(() => r.text()),
      duration: r.maybe(r.milliseconds),
      persistent: r.maybe(r.bool),
      label: r.maybe(() => r.text()),
    }),
    () => ({ kind: 'destroy', engine, credential, scope: r.int(3), sessionIds: r.list(() => r.text()) }),
  ])();
}

/** The octets that a credential stands for. */
function octetsOf({ value, encoding }) {
  return typeof value === 'string' ? Buffer.from(value, encoding) : Buffer.from(value);
}

const duration = (ms) => (ms === undefined ? null : { seconds: Math.floor(ms / 1000), nanos: Math.round((ms % 1000) * 1e6) });

function expected({ kind, credential, ...rest }) {
  const fields = { ...rest, credential: credential && { [credential.tag === 0x0a ? 'cookieHeader' : 'token']: octetsOf(credential) } };
  if (kind === 'touch' || kind === 'write') fields.duration = duration(rest.duration);
  for (const key of Object.keys(fields)) if (fields[key] === undefined) fields[key] = null;
  return fields;
}

/** Without the fields that are not there: protobufjs shows them as defaults. */
function shown(message, like) {
  const optional = ['ifVersion', 'principal', 'persistent', 'label'];
  return Object.fromEntries(Object.keys(like).map((key) => [key, optional.includes(key) && !Object.hasOwn(message, key) ? null : plain(message[key])]));
}

function plain(value) {
  if (value === null || value === undefined) return null;
  if (Buffer.isBuffer(value) || value instanceof Uint8Array) return Buffer.from(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && 'toNumber' in value) return value.toNumber();
  if (typeof value !== 'object') return value;
  if (value.$type?.name === 'Duration') return { seconds: plain(value.seconds) ?? 0, nanos: value.nanos ?? 0 };
  if (value.$type?.name === 'Credential') return value.kind ? { [value.kind]: plain(value[value.kind]) } : {};
  return value;
}

test('what is written is what a generated decoder reads', () => {
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const r = random(seed * 2654435761);
    const batch = Array.from({ length: 1 + r.int(3) }, () => ({ of: request(r), sequence: r.big() + 1, timeout: r.milliseconds() }));
    const sizes = batch.map(({ of, sequence, timeout }) => [frameSize(sequence, timeout, requestSize(of)), requestSize(of)]);
    const out = new Writer(sizes.reduce((sum, [size]) => sum + size, 0));
    batch.forEach(({ of, sequence, timeout }, i) => writeFrame(out, of, sequence, timeout, ...sizes[i]));
    assert.equal(out.position, out.buffer.length, `seed ${seed}: the sizes fit`);
    let at = 0;
    for (const { of, sequence, timeout } of batch) {
      assert.equal(out.buffer[at], 0);
      const length = out.buffer.readUInt32BE(at + 1);
      const message = proto.PipelineRequest.decode(out.buffer.subarray(at + 5, at + 5 + length));
      at += 5 + length;
      assert.equal(message.sequence.toNumber(), sequence, `seed ${seed}`);
      assert.deepEqual(plain(message.timeout), duration(timeout), `seed ${seed}`);
      assert.equal(message.operation, of.kind, `seed ${seed}`);
      const want = expected(of);
      assert.deepEqual(shown(message[of.kind], want), want, `seed ${seed}`);
    }
  }
});

test('a Cookie header keeps its octets: latin1 text, octets, and text of other characters as UTF-8', () => {
  const octets = Buffer.from([0x61, 0x3d, 0xff, 0x00, 0x80, 0xc3, 0xa9, 0x3b]);
  assert.deepEqual(octetsOf(wireCredential(0x0a, octets)), octets);
  assert.deepEqual(octetsOf(wireCredential(0x0a, octets.toString('latin1'))), octets);
  assert.deepEqual(octetsOf(wireCredential(0x0a, 'a=漢')), Buffer.from('a=漢'));
});

test('a ListSessions request is what a generated decoder reads', () => {
  const frame = unaryFrame({ kind: 'list', engine: 'shop', credential: wireCredential(0x12, 't'), pageToken: 'next' });
  const message = proto.SessionServiceListSessionsRequest.decode(frame.subarray(5));
  assert.deepEqual([message.engine, message.pageSize, message.pageToken, Buffer.from(message.credential.token).toString()], ['shop', 1000, 'next', 't']);
  assert.deepEqual(unaryFrame(null), Buffer.alloc(5));
});

const time = (ms) => ({ seconds: Math.floor(ms / 1000), nanos: (ms - Math.floor(ms / 1000) * 1000) * 1e6 });

function session(r) {
  const date = () => r.int(4e12) - 1e12;
  const json = JSON.stringify({ text: r.text(200), n: r.int(1e6) });
  const [createTime, expireTime, lastUseTime] = [date(), date(), date()];
  return { id: 'sNgbUVYSSKVEf9Jc', data: json, version: r.big(), principal: r.text(), createTime, expireTime, lastUseTime, duration: r.milliseconds(), label: r.text() };
}

const wireSession = (s) => ({ ...s, createTime: time(s.createTime), expireTime: time(s.expireTime), lastUseTime: time(s.lastUseTime), duration: time(s.duration) });

function assertSession(found, s, why) {
  const want = { id: s.id, json: s.data, version: s.version, principal: s.principal || null, createTime: new Date(s.createTime), expireTime: new Date(s.expireTime), lastUseTime: new Date(s.lastUseTime), duration: s.duration, label: s.label };
  assert.deepEqual({ ...found }, want, why);
  assert.deepEqual(found.data(), JSON.parse(s.data), why);
}

/** Fields that a later daemon may send: a number, a text, 64 and 32 bits. */
const UNKNOWN = Buffer.concat([
  Buffer.from([0xf8, 0x3e, 0xac, 0x02]),
  Buffer.from([0xfa, 0x3e, 3, 1, 2, 3]),
  Buffer.from([0xf9, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8]),
  Buffer.from([0xfd, 0x3e, 1, 2, 3, 4]),
  Buffer.from([0xfb, 0x3e, 0x08, 0x01, 0xfc, 0x3e]),
]);

/** Encodes with protobufjs, and puts unknown fields into the message and the ones within it. */
function encode(Type, fields) {
  return Buffer.concat([UNKNOWN, Buffer.from(Type.encode(Type.fromObject(fields)).finish()), UNKNOWN]);
}

/** A message within another one, with unknown fields: protobufjs cannot write those, so the tag is by hand. */
function within(tag, message) {
  const length = [];
  for (let left = message.length; ; left >>= 7) {
    length.push(left < 0x80 ? left : (left & 0x7f) | 0x80);
    if (left < 0x80) break;
  }
  return Buffer.concat([Buffer.from([tag, ...length]), message]);
}

const STATES = ['ACTIVE', 'CREATED', 'NONE', 'INVALID', 'NOT_FOUND', 'EXPIRED', 'SUPERSEDED'];

test('what a generated encoder writes is read; unknown fields are ignored', () => {
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const r = random(seed * 40503);
    const why = `seed ${seed}`;
    const sequence = r.big();
    const setCookie = r.list(() => r.text(), 2);
    const token = r.text();
    const s = session(r);
    const live = r.bool();
    const state = live ? 1 + r.int(1) : 3 + r.int(4);
    const head = Buffer.from(proto.PipelineResponse.encode({ sequence }).finish());
    const read = (tag, message) => {
      const octets = Buffer.concat([UNKNOWN, head, within(tag, message), UNKNOWN]);
      const found = readPipelineResponse(new Reader(octets));
      assert.equal(found.sequence, sequence, why);
      return found.answer;
    };
    const both = (Type, fields) => Buffer.concat([encode(Type, fields), live ? within(0x12, encode(proto.Session, wireSession(s))) : Buffer.alloc(0)]);

    const resolved = read(0x12, both(proto.ResolveResponse, { state, setCookie, token }));
    assert.equal(resolved.kind, 'resolve');
    assert.deepEqual([resolved.result.state, resolved.result.setCookie, resolved.result.token], [STATES[state - 1], setCookie, token], why);
    if (live) assertSession(resolved.result.session, s, why);
    else assert.equal(resolved.result.session, null);

    const touched = read(0x1a, both(proto.TouchResponse, { state, setCookie }));
    assert.deepEqual([touched.kind, touched.result.state, touched.result.setCookie], ['touch', STATES[state - 1], setCookie], why);

    const written = read(0x22, encode(proto.WriteResponse, { session: wireSession(s), setCookie, token }));
    assert.deepEqual([written.kind, written.result.setCookie, written.result.token], ['write', setCookie, token], why);
    assertSession(written.result.session, s, why);

    const count = r.int(2 ** 31 - 1);
    const destroyed = read(0x2a, encode(proto.DestroyResponse, { destroyed: count, setCookie }));
    assert.deepEqual(destroyed, { kind: 'destroy', result: { destroyed: count, setCookie } }, why);

    const next = r.text();
    const list = readList(encode(proto.SessionServiceListSessionsResponse, { state, sessions: live ? [wireSession(s)] : [], currentSessionId: live ? s.id : '', nextPageToken: next }));
    assert.deepEqual([list.state, list.sessions.length, list.currentSessionId, list.nextPageToken], [STATES[state - 1], live ? 1 : 0, live ? s.id : null, next], why);
  }
});

test('a status is read with its ErrorInfo, RetryInfo and BadRequest', () => {
  const any = (type, message) => ({ type_url: `type.googleapis.com/${type}`, value: message });
  const text = (tag, value) => within(tag, Buffer.from(value));
  const info = Buffer.concat([text(0x0a, 'DATA_TOO_LARGE'), text(0x12, 'sessiond'), within(0x1a, Buffer.concat([text(0x0a, 'applied'), text(0x12, 'no')])), UNKNOWN]);
  const octets = encode(proto.Status, {
    code: 3,
    message: 'zu groß',
    details: [
      any('google.rpc.ErrorInfo', info),
      any('google.rpc.RetryInfo', within(0x0a, Buffer.from(proto.Duration.encode({ seconds: 1, nanos: 500e6 }).finish()))),
      any('google.rpc.BadRequest', within(0x0a, Buffer.concat([text(0x0a, 'set'), text(0x12, 'too long')]))),
      any('google.rpc.Help', Buffer.from([1, 2, 3])),
    ],
  });
  // A detail of an unknown type is not read at all, so what is in it cannot do harm.
  assert.deepEqual(readStatus(new Reader(octets)), { code: 3, message: 'zu groß', reason: 'DATA_TOO_LARGE', applied: 'no', retryAfter: 1.5, field: 'set' });
});

test('a description is read', () => {
  const engine = { name: 'shop', cookieName: '__Host-s', cookieFormat: 2, persistent: true, duration: time(1_800_000), absoluteDuration: time(86_400_000), touchGranularity: time(28_125), automaticTouch: true, maxDataBytes: 65_536 };
  const limits = { maxMessageBytes: 1 << 20, pipelineInFlight: 256, maxCookieHeaderBytes: 65_536, maxPrincipalBytes: 256, maxLabelBytes: 256, maxKeys: 4096, maxUnset: 1000, maxDuration: time(34_560_000_000), maxSessionIds: 1000 };
  const found = readDescription(encode(proto.DescribeResponse, { version: '0.2.0', limits, engines: [engine, { name: 'x' }] }));
  assert.deepEqual(found, {
    version: '0.2.0',
    limits: { ...limits, maxDuration: 34_560_000_000 },
    engines: [
      { ...engine, cookieFormat: 'EXPRESS', duration: 1_800_000, absoluteDuration: 86_400_000, touchGranularity: 28_125 },
      { name: 'x', cookieName: '', cookieFormat: 'PLAIN', persistent: false, duration: 0, absoluteDuration: null, touchGranularity: 0, automaticTouch: false, maxDataBytes: 0 },
    ],
  });
});

test('octets that are no message are an error, whatever they are', () => {
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const r = random(seed * 97);
    const valid = Buffer.from(
      proto.PipelineResponse.encode(proto.PipelineResponse.fromObject({ sequence: 7, resolve: { state: 1, session: wireSession(session(r)), setCookie: ['a=b'] } })).finish(),
    );
    const damaged = r.bool() ? valid.subarray(0, r.int(valid.length)) : Buffer.from(valid);
    if (damaged.length > 0 && r.bool()) damaged[r.int(damaged.length - 1)] = r.int(255);
    try {
      readPipelineResponse(new Reader(damaged));
    } catch (error) {
      assert.ok(error instanceof WireError, `seed ${seed}: expected a WireError, got ${error}`);
    }
  }
  assert.throws(() => readPipelineResponse(new Reader(Buffer.from([0x12, 0x02, 0x08, 0x63]))), /unknown session state/);
});
