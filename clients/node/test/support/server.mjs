// A server that speaks the protocol as a test wants it: also wrongly.
import { once } from 'node:events';
import http2 from 'node:http2';
import { createClient } from 'sessiond';
import { load } from './proto.mjs';

const proto = await load();

export function frame(message) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

const encode = (Type, fields) => Buffer.from(Type.encode(Type.fromObject(fields)).finish());

export const DESCRIPTION = {
  version: '9.9.9',
  limits: { maxMessageBytes: 1 << 20, pipelineInFlight: 256, maxCookieHeaderBytes: 65_536, maxPrincipalBytes: 256, maxLabelBytes: 256, maxKeys: 4096, maxUnset: 1000, maxDuration: { seconds: 1 }, maxSessionIds: 1000 },
  engines: [{ name: 'default', cookieName: 'session', maxDataBytes: 65_536, persistent: true, duration: { seconds: 1800 } }],
};

/** google.rpc.Status with ErrorInfo and RetryInfo. */
export function status({ code, reason = '', applied = 'no', retryAfter, message = '' }) {
  const text = (tag, value) => Buffer.concat([Buffer.from([tag, Buffer.byteLength(value)]), Buffer.from(value)]);
  const metadata = Buffer.concat([text(0x0a, 'applied'), text(0x12, applied)]);
  const details = reason ? [{ type_url: 'type.googleapis.com/google.rpc.ErrorInfo', value: Buffer.concat([text(0x0a, reason), text(0x12, 'sessiond'), Buffer.from([0x1a, metadata.length]), metadata]) }] : [];
  if (retryAfter !== undefined) {
    const duration = encode(proto.Duration, { seconds: Math.floor(retryAfter), nanos: Math.round((retryAfter % 1) * 1e9) });
    details.push({ type_url: 'type.googleapis.com/google.rpc.RetryInfo', value: Buffer.concat([Buffer.from([0x0a, duration.length]), duration]) });
  }
  return { code, message, details };
}

/** What a Write, Resolve, Touch or Destroy is answered with if all is well. */
export function success(request) {
  const session = { id: 'AAAAAAAAAAAAAAAA', version: 1, data: '{"n":1}', createTime: { seconds: 1 }, expireTime: { seconds: 2 }, lastUseTime: { seconds: 1 }, duration: { seconds: 1 } };
  return { resolve: { resolve: { state: 1, session } }, touch: { touch: { state: 1, session } }, write: { write: { session, token: 'new' } }, destroy: { destroy: { destroyed: 1 } } }[request.operation];
}

/**
 * Starts it. `pipeline(call, request, number)` is called for each PipelineRequest; `number` counts the streams from 1. By
 * default every request succeeds. `describe`: trailers in place of an answer.
 */
export async function startServer({ pipeline = (call, request) => call.answer(request), describe, onStream, tls } = {}) {
  const settings = { initialWindowSize: 1 << 20 };
  const server = tls ? http2.createSecureServer({ ...tls, settings }) : http2.createServer({ settings });
  const sessions = new Set();
  const seen = [];
  let streams = 0;
  // The socket of a session is not to be touched through the session.
  let socket;
  const sockets = new WeakMap();
  server.prependListener(tls ? 'secureConnection' : 'connection', (connected) => (socket = connected));
  server.on('session', (session) => {
    sockets.set(session, socket);
    sessions.add(session);
    session.on('error', () => {});
    session.once('close', () => sessions.delete(session));
  });
  server.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    const path = headers[':path'];
    if (onStream?.(stream, headers)) return;
    if (path.endsWith('/Describe')) {
      if (describe) return stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...describe }, { endStream: true });
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      return stream.end(frame(encode(proto.DescribeResponse, DESCRIPTION)));
    }
    const number = ++streams;
    let trailers = { 'grpc-status': '0' };
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    const call = {
      stream,
      session: stream.session,
      encode: (fields) => frame(encode(proto.PipelineResponse, fields)),
      answer: (request, fields = success(request)) => stream.write(call.encode({ sequence: request.sequence, ...fields })),
      /** Ends the stream with a status. */
      end(fields) {
        const details = encode(proto.Status, status(fields)).toString('base64').replace(/=+$/, '');
        trailers = { 'grpc-status': String(fields.code), 'grpc-message': 'the%20end', 'grpc-status-details-bin': details };
        stream.end();
      },
      /** Cuts the connection. */
      cut: () => sockets.get(stream.session).destroy(),
    };
    let rest = Buffer.alloc(0);
    stream.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32BE(1)) {
        const length = rest.readUInt32BE(1);
        const request = proto.PipelineRequest.decode(rest.subarray(5, 5 + length));
        rest = rest.subarray(5 + length);
        seen.push({ number, operation: request.operation, request });
        pipeline(call, request, number);
      }
    });
    // The client has closed its side.
    stream.on('end', () => stream.end());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    address: `127.0.0.1:${server.address().port}`,
    server,
    sessions,
    seen,
    async stop() {
      for (const session of sessions) session.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Runs with a server and a client of it. */
export async function using(options, run, clientOptions = {}) {
  const server = await startServer(options);
  const client = createClient(server.address, { timeout: 20_000, ...clientOptions });
  try {
    await run(client, server);
  } finally {
    await client.close({ timeout: 100 });
    await server.stop();
  }
}
