/**
 * Sessions for Fastify 5.
 *
 * @module sessiond/fastify
 */
import type { FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify';
import { type ClientOrAddress, clientOf, engineOf, isSafe, refuseOldOptions, withCookie } from './adapter.js';
import { noStore, RequestSession } from './request-session.js';
import { type BindingOptions, type Callback, reserveNames, Session, SessionBinding, settle } from './session.js';
import { SessionCookie } from './session-cookie.js';
import type { Client, SessionData } from './types.js';

export { Session, SessionCookie };
export type { Callback, ClientOrAddress, SessionData };

/** The session of a request, with the methods that `@fastify/session` has besides. */
export class FastifySession extends Session {
  /** The same as {@link Session.id}. */
  get sessionId(): string | undefined {
    return this.id;
  }

  /** The value of a key. */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  get<T = any>(key: string): T {
    return this[key] as T;
  }

  /** Sets a key. `undefined` removes it. */
  set(key: string, value: unknown): void {
    this[key] = value;
  }

  /**
   * Begins a new session: a new id, no data but those of `keys`, nobody's. `request.session` is a new object afterwards.
   * Changes that were not saved are dropped.
   */
  override regenerate(keys?: readonly string[]): Promise<void>;
  override regenerate(callback: Callback): this;
  override regenerate(keys: readonly string[], callback: Callback): this;
  override regenerate(keys?: readonly string[] | Callback, callback?: Callback): unknown {
    const [keep, done] = typeof keys === 'function' ? [[], keys] : [keys, callback];
    return settle(this, () => Session.bindingOf(this).regenerate(keep), done);
  }
}
reserveNames(FastifySession);

declare module 'fastify' {
  interface FastifyRequest {
    /** The session: its properties are the data. */
    session: FastifySession & SessionData;
  }
  interface FastifyInstance {
    /** The client that the plugin uses. */
    sessiond: Client;
  }
}

/** Options of the plugin: a client, or an address and the options of a client, and these. */
export type SessionOptions = ClientOrAddress & {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
  /**
   * Whom a session belongs to, from its data; for applications that log users in by storing something in the session:
   * `(data) => data.user?.id`. When the outcome changes within a request, the session gets that principal, and a new id.
   */
  readonly principal?: ((data: SessionData) => string | number | null | undefined) | undefined;
};

/** What the plugin knows of a request. */
interface State {
  readonly binding: SessionBinding;
  failed: boolean;
}

const stateOf = Symbol('sessiond');
type WithState = FastifyRequest & { [stateOf]: State | null };

const ofTheBody = ['content-type', 'content-length', 'content-encoding', 'content-range', 'etag', 'last-modified', 'location', 'cache-control'];

/**
 * The plugin. It finds the session of a request in `onRequest`, gives it to the handlers as `request.session`, and writes
 * what they change in `onSend`, before the response head goes out.
 *
 * Its hooks and decorators apply where it is registered, and below, as with `fastify-plugin`. Errors have a `statusCode`
 * that Fastify answers with: 503 with `Retry-After` while the daemon or its store is away, 409 for a change with an id from
 * before a login.
 */
export const session: FastifyPluginCallback<SessionOptions> = function sessiond(fastify, options, ready) {
  let client: Client;
  try {
    refuseOldOptions(options, 'sessiond/fastify');
    client = clientOf(options, ['principal', 'prefix', 'logLevel', 'logSerializers'], 'sessiond/fastify');
  } catch (error) {
    return ready(error as Error);
  }
  const { engine } = options;
  const binding: BindingOptions = { sessionClass: FastifySession, principal: options.principal, engine: () => engineOf(client, engine) };

  fastify.decorate('sessiond', client);
  // Each request gets its own, before any handler runs.
  fastify.decorateRequest('session', null as never);
  fastify.decorateRequest(stateOf, null);

  fastify.addHook('onRequest', (request, _reply, done) => {
    new RequestSession(client, request.raw.headers.cookie ?? null, { engine }).load().then((loaded) => {
      (request as WithState)[stateOf] = { binding: new SessionBinding(loaded, binding, (current) => void (request.session = current as FastifySession)), failed: false };
      done();
    }, done);
  });

  fastify.addHook('onSend', (request, reply, payload, done) => {
    const state = (request as WithState)[stateOf];
    if (state === null) return done();
    const sent = (): void => {
      setCookie(reply, state.binding.request.setCookie);
      done();
    };
    const fail = (error: unknown): void => {
      // The answer to the error comes through here again.
      state.failed = true;
      discard(payload);
      for (const name of ofTheBody) reply.removeHeader(name);
      setCookie(reply, state.binding.request.setCookie);
      // If this is the answer to an error already, Fastify asks no error handler again.
      const { statusCode = 500, headers = {} } = error as { statusCode?: number; headers?: Record<string, string> };
      reply.code(statusCode).headers(headers);
      done(error as Error);
    };
    try {
      const due = !state.failed && state.binding.due;
      state.binding.headSent = true;
      if (due) state.binding.finish(isSafe(request.method)).then(sent, fail);
      else sent();
    } catch (error) {
      fail(error);
    }
  });

  // What a handler changes while a stream is sent, or after hijack().
  fastify.addHook('onResponse', async (request) => {
    const state = (request as WithState)[stateOf];
    if (state === null || state.failed) return;
    try {
      if (!state.binding.due) return;
      if (state.binding.request.live) await state.binding.finish(true);
      else request.log.warn('a session was begun after the response head was sent; it is not stored: the browser would not get its cookie');
    } catch (error) {
      request.log.error(error, 'a session that was changed after the response head was sent was not saved');
    }
  });

  if (options.client === undefined) fastify.addHook('onClose', () => client.close());
  ready();
};

// What fastify-plugin does: no encapsulation of its own, a name, and the version of Fastify that it is for.
Object.assign(session, {
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: 'sessiond',
  [Symbol.for('plugin-meta')]: { name: 'sessiond', fastify: '5.x' },
});

function setCookie(reply: FastifyReply, line: string | null): void {
  if (line === null) return;
  const lines = withCookie(reply.getHeader('set-cookie'), line);
  // Fastify appends to this header unless it is removed first.
  reply.removeHeader('set-cookie');
  reply.header('set-cookie', lines);
  const cacheControl = noStore(reply.getHeader('cache-control'));
  if (cacheControl !== null) reply.header('cache-control', cacheControl);
}

// A payload that is not sent: a stream must be told.
function discard(payload: unknown): void {
  if (payload === null || typeof payload !== 'object') return;
  if ('destroy' in payload && typeof payload.destroy === 'function') payload.destroy();
  else if ('cancel' in payload && typeof payload.cancel === 'function') Promise.resolve(payload.cancel()).catch(() => {});
}
