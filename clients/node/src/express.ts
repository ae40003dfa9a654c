/**
 * Sessions for Express 4 and 5, and for whatever takes `(request, response, next)`: Connect, `node:http`.
 *
 * @module sessiond/express
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type ClientOrAddress, clientOf, engineOf, isSafe, refuseOldOptions } from './adapter.js';
import { type HeadListener, holdHead } from './express-response.js';
import { RequestSession } from './request-session.js';
import { type BindingOptions, type Callback, Session, SessionBinding } from './session.js';
import { SessionCookie } from './session-cookie.js';
import type { Client, SessionData } from './types.js';

export { Session, SessionCookie };
export type { Callback, ClientOrAddress, SessionData };

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace
  namespace Express {
    interface Request {
      /** The session: its properties are the data. */
      session: Session & SessionData;
      /** Public id of the session. `undefined`: there is none yet. */
      sessionID?: string | undefined;
    }
  }
}

/** Options of {@link session}: a client, or an address and the options of a client, and these. */
export type SessionOptions = ClientOrAddress & {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
  /**
   * Whom a session belongs to, from its data; for applications that log users in by storing something in the session, as
   * passport does: `(data) => data.passport?.user`. When the outcome changes within a request, the session gets that
   * principal, and a new id. So `devices`, `logoutOthers` and `logoutEverywhere` work for these users as well.
   */
  readonly principal?: ((data: SessionData) => string | number | null | undefined) | undefined;
  /** What `request.session = null` means: `"destroy"` ends the session; `"keep"`, the default, only stores nothing. */
  readonly unset?: 'keep' | 'destroy' | undefined;
};

/** A middleware for Express, Connect and the like. */
export interface SessionMiddleware {
  (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void): void;
  /** The client that the middleware uses. */
  readonly client: Client;
}

type SessionRequest = IncomingMessage & { session?: Session | null | undefined; sessionID?: string | undefined };

/**
 * Makes the middleware. It finds the session of a request, gives it to the handlers as `request.session`, and writes what
 * they change before the response head goes out.
 *
 * Errors go to `next`: with `status` 503 and `headers` with `Retry-After` while the daemon or its store is away, 409 for a
 * change with an id from before a login. Express answers with them by itself.
 */
export function session(options: SessionOptions): SessionMiddleware {
  refuseOldOptions(options ?? {}, 'session()');
  const client = clientOf(options, ['principal', 'unset'], 'session()');
  const { engine, unset = 'keep' } = options;
  if (unset !== 'keep' && unset !== 'destroy') throw new TypeError('session(): the option "unset" must be "keep" or "destroy"');
  const binding: BindingOptions = { principal: options.principal, engine: () => engineOf(client, engine) };

  function middleware(request: SessionRequest, response: ServerResponse, next: (error?: unknown) => void): void {
    // Another session middleware was first.
    if (request.session) return next();
    new RequestSession(client, request.headers.cookie ?? null, { engine }).load().then((loaded) => {
      holdHead(response, new ExpressHead(loaded, binding, request, unset, next));
      next();
    }, next);
  }
  return Object.assign(middleware, { client });
}

class ExpressHead implements HeadListener {
  #binding: SessionBinding;
  #request: SessionRequest;
  #unset: 'keep' | 'destroy';
  #next: (error?: unknown) => void;

  constructor(loaded: RequestSession, options: BindingOptions, request: SessionRequest, unset: 'keep' | 'destroy', next: (error?: unknown) => void) {
    this.#request = request;
    this.#binding = new SessionBinding(loaded, options, (current, id) => {
      if (current === undefined) delete request.session;
      else request.session = current;
      request.sessionID = id;
    });
    this.#unset = unset;
    this.#next = next;
  }

  get setCookie(): string | null {
    return this.#binding.request.setCookie;
  }

  get due(): boolean {
    const binding = this.#binding;
    const { session } = this.#request;
    if (session !== binding.session && binding.session !== undefined) {
      if (session) throw new TypeError('request.session was replaced by another object: change its properties instead');
      if (this.#unset === 'destroy') return true;
      // Kept as it was: what was changed before is dropped.
      binding.session = undefined;
    }
    return binding.due;
  }

  async finish(): Promise<void> {
    const binding = this.#binding;
    if (binding.session !== undefined && this.#request.session !== binding.session) await binding.destroy();
    await binding.finish(isSafe(this.#request.method));
  }

  onHead(): void {
    this.#binding.headSent = true;
  }

  late(): Promise<void> | null {
    const binding = this.#binding;
    if (!this.due) return null;
    if (binding.request.live || binding.session === undefined) return this.finish();
    process.emitWarning('A session was begun after the response head was sent. It is not stored: the browser would not get its cookie.', {
      code: 'SESSIOND_LATE_SESSION',
    });
    return null;
  }

  onFailure(error: unknown): void {
    this.#next(error);
  }
}
