// What a server ends again and again is asked again after pauses that grow.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import { it } from 'node:test';
import { UnavailableError } from 'sessiond';
import { using } from './support/server.mjs';

const CREDENTIAL = { token: 'secret-token' };

it('a server that ends every stream before it answers is asked again after pauses that grow', async () => {
  const shutdown = { code: 14, reason: 'SHUTTING_DOWN' };
  const ends = {
    'the end of the stream': (call) => call.end(shutdown),
    'a reset that says: not processed': (call) => call.stream.close(http2.constants.NGHTTP2_REFUSED_STREAM),
    'GOAWAY and the end of the stream': (call) => {
      call.session.goaway(0);
      call.end(shutdown);
    },
  };
  await Promise.all(
    Object.entries(ends).map(async ([name, end]) => {
      let streams = 0;
      const pipeline = (call, request, number) => {
        streams = number;
        end(call);
      };
      await using({ pipeline }, async (client) => {
        await assert.rejects(client.write(null), UnavailableError);
        // At least 50, 100, 200, 400 and then 500 ms lie between them.
        assert.ok(streams > 0 && streams <= 9, `${name}: expected 1 to 9 streams in 3 s, found ${streams}`);
      }, { timeout: 3000 });
    }),
  );
});

it('a connection that has answered is replaced at once', async (test) => {
  const pipeline = (call, request) => {
    call.answer(request);
    call.end({ code: 14, reason: 'SHUTTING_DOWN' });
  };
  await using({ pipeline }, async (client, server) => {
    const late = once(AbortSignal.timeout(20_000), 'abort').then(() => assert.fail('expected no pause before the next connection'));
    // From here on no timer fires: a pause would never end.
    test.mock.timers.enable({ apis: ['setTimeout'] });
    try {
      for (let i = 0; i < 10; i++) await Promise.race([client.write(null), late]);
    } finally {
      test.mock.timers.reset();
    }
    assert.equal(server.seen.at(-1).number, 10, 'expected a stream for each operation');
  });
});

it('a list that is ended again and again is asked a few times, with pauses', async () => {
  const ends = {
    refused: (stream) => stream.close(http2.constants.NGHTTP2_REFUSED_STREAM),
    reset: (stream) => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR),
    'a proxy without its daemon': (stream) => stream.respond({ ':status': 503 }, { endStream: true }),
  };
  await Promise.all(
    Object.entries(ends).map(async ([name, end]) => {
      let calls = 0;
      const onStream = (stream, headers) => {
        if (!headers[':path'].endsWith('/ListSessions')) return false;
        calls++;
        end(stream);
        return true;
      };
      await using({ onStream }, async (client) => {
        await assert.rejects(client.listSessions(CREDENTIAL), { reason: 'CONNECTION_FAILED' });
        assert.ok(calls > 1 && calls <= 6, `${name}: expected 2 to 6 calls, found ${calls}`);
        assert.equal((await client.resolve(CREDENTIAL)).state, 'ACTIVE', `${name}: expected the Pipeline to go on`);
      }, { timeout: 10_000 });
    }),
  );
});
