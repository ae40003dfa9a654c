/**
 * Sessions for hyper-express 6, with the surface of hyper-express-session: the storage is the daemon's.
 *
 * @module sessiond/hyper-express
 */
import type { MiddlewareNext, Request, Response } from 'hyper-express';
import { type ClientOrAddress, clientOf, engineOf, isSafe } from './adapter.js';
import type { SessiondError } from './errors.js';
import { holdResponse, type HyperResponse } from './hyper-express-response.js';
import { Session } from './hyper-express-session.js';
import { RequestSession } from './request-session.js';
import type { Client, Engine, SessionData } from './types.js';

export { Session };
export type { ClientOrAddress, SessionData };

declare module 'hyper-express' {
  interface Request {
    /** The session: call `start()` first. */
    session: Session;
  }
  interface Router {
    use(engine: SessionEngine): this;
  }
}

/** What hyper-express-session has as options. The daemon's configuration decides; what differs there is told. */
export interface OldOptions {
  /** Idle timeout in milliseconds: `engine.NAME.duration`. */
  readonly duration?: number | undefined;
  /** Whether a request moves the deadline: `engine.NAME.automatic_touch`. */
  readonly automatic_touch?: boolean | undefined;
  /** The cookie and its secret: `engine.NAME.cookie`. */
  readonly cookie?: { readonly name?: string | undefined; readonly [attribute: string]: unknown } | undefined;
}

/** Options of {@link SessionEngine}: a client, or an address and the options of a client, and these. */
export type SessionEngineOptions = (ClientOrAddress | { readonly client?: undefined; readonly address?: undefined }) &
  OldOptions & {
    /** Name of the engine. Default: that of the client. */
    readonly engine?: string | undefined;
    /**
     * Answers an error of the daemon: its `status` and headers are set on the response already. Without it, the answer is
     * a line of text. All other errors go to the server's error handler.
     */
    readonly on_error?: ((request: Request, response: Response, error: SessiondError) => void) | undefined;
  };

/** What is used of a request of hyper-express. */
interface HyperRequest {
  readonly method: string;
  readonly headers: Record<string, string>;
  readonly cookies: Record<string, string>;
  session?: Session;
}

const types = ['id', 'touch', 'read', 'write', 'destroy', 'cleanup'];

/**
 * Gives each request a session: `server.use(new SessionEngine({ address: '127.0.0.1:50051' }))`.
 *
 * Without `client` and `address`, the daemon is at the address in the environment variable `SESSIOND`, else at
 * `127.0.0.1:50051`.
 */
export class SessionEngine {
  #options: SessionEngineOptions;
  #client: Client;
  #warned = false;

  constructor(options: SessionEngineOptions = {}) {
    if (options === null || typeof options !== 'object') throw new TypeError('new SessionEngine(options): expected an object');
    this.#options = options;
    const address = process.env['SESSIOND'] || '127.0.0.1:50051';
    const where = options.client === undefined && options.address === undefined ? { ...options, address } : options;
    this.#client = clientOf(where as ClientOrAddress, ['duration', 'automatic_touch', 'cookie', 'on_error'], 'new SessionEngine()');
    this.middleware = this.middleware.bind(this);
  }

  /** The client that the engine uses. */
  get client(): Client {
    return this.#client;
  }

  /** The options that the engine was made with. */
  get options(): SessionEngineOptions {
    return this.#options;
  }

  /** The middleware; `server.use(engine)` finds it by itself. */
  middleware(request: Request, response: Response, next: MiddlewareNext): void {
    const { engine, on_error: onError } = this.#options;
    const hyperRequest = request as unknown as HyperRequest;
    const hyperResponse = response as unknown as HyperResponse;
    hyperRequest.session = new Session({
      open: (token) => this.#open(hyperRequest, token),
      attach: (listener) => holdResponse(hyperResponse, listener, onError && ((error) => onError(request, response, error))),
      engine: () => engineOf(this.#client, engine),
      sentCookie: () => {
        const name = engineOf(this.#client, engine)?.cookieName;
        return name === undefined ? undefined : hyperRequest.cookies[name];
      },
      safe: isSafe(hyperRequest.method),
    });
    next();
  }

  /**
   * Does nothing but check its arguments: the daemon stores the sessions, makes their ids and removes those that have
   * expired. It is there so that code for hyper-express-session runs.
   */
  use(type: 'id' | 'touch' | 'read' | 'write' | 'destroy' | 'cleanup', handler: (...args: never[]) => unknown): this {
    if (!types.includes(type)) throw new TypeError(`SessionEngine.use(type, handler): "${String(type)}" is no operation; expected one of ${types.join(', ')}`);
    if (typeof handler !== 'function') throw new TypeError('SessionEngine.use(type, handler): the handler must be a function');
    this.#warn('SessionEngine.use(): the handler is not called, because the daemon stores the sessions. Remove it.', 'SESSIOND_HANDLER_NOT_CALLED');
    return this;
  }

  /** Does nothing: the daemon removes what has expired. */
  cleanup(): void {}

  async #open(request: HyperRequest, token: string | undefined): Promise<RequestSession> {
    const { engine } = this.#options;
    // hyper-express decodes headers as UTF-8: these are the octets again.
    let header = Buffer.from(request.headers['cookie'] ?? '');
    if (token !== undefined) {
      await this.#client.describe();
      header = Buffer.from(`${engineOf(this.#client, engine)?.cookieName}=${token}`);
    }
    const loaded = await new RequestSession(this.#client, header, { engine }).load();
    this.#compare(engineOf(this.#client, engine));
    return loaded;
  }

  // Tells, once, what the options say and the daemon does otherwise.
  #compare(engine: Engine | undefined): void {
    if (engine === undefined || this.#warned) return;
    this.#warned = true;
    const { duration, automatic_touch: automaticTouch, cookie } = this.#options;
    const differs = (key: string, ours: unknown, theirs: unknown): void => {
      if (ours === undefined || ours === theirs) return;
      this.#warn(`SessionEngine: the option ${key} is ${JSON.stringify(ours)}, but the daemon has ${JSON.stringify(theirs)}. The daemon's counts: set it there, as engine.${engine.name}.${key}.`, 'SESSIOND_OPTION_DIFFERS');
    };
    differs('duration', duration, engine.duration);
    differs('automatic_touch', automaticTouch, engine.automaticTouch);
    differs('cookie.name', cookie?.name, engine.cookieName);
  }

  #warnings = new Set<string>();

  #warn(message: string, code: string): void {
    if (this.#warnings.has(message)) return;
    this.#warnings.add(message);
    process.emitWarning(message, { code });
  }
}
