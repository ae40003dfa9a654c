import { SupersededError } from './errors.js';
import type { ResponseListener } from './hyper-express-response.js';
import type { Change, Device, LoginOptions, RequestSession } from './request-session.js';
import type { Engine, SessionData } from './types.js';

/** @internal What a session needs of the engine that has made it. */
export interface SessionContext {
  /** Makes the view of the request's session; with a token instead of the request's cookie if one is given. */
  open(token: string | undefined): Promise<RequestSession>;
  /** Called once, before the session is used: the response is held back until it is saved. */
  attach(listener: ResponseListener): void;
  /** What the daemon says of the engine, if that is known yet. */
  engine(): Engine | undefined;
  /** The value of the session cookie that the browser has sent. */
  sentCookie(): string | undefined;
  /** Whether the request is safe (GET, HEAD). */
  readonly safe: boolean;
}

/**
 * The session of a request, with the methods of hyper-express-session. Nothing is asked before {@link start}. What a handler
 * changes is written once, before the response head goes out.
 */
export class Session {
  #context: SessionContext;
  #request: RequestSession | undefined;
  #starting: Promise<void> | undefined;
  #token: string | undefined;
  #duration: number | undefined;
  #destroyed = false;
  #headSent = false;

  /** @internal */
  constructor(context: SessionContext) {
    this.#context = context;
  }

  /** Finds the session and reads its data. Rejects if the daemon or its store is away: 503 is answered then. */
  start(): Promise<void> {
    this.#starting ??= this.#start().catch((error: unknown) => {
      this.#starting = undefined;
      throw error;
    });
    return this.#starting;
  }

  async #start(): Promise<void> {
    this.#attach();
    this.#request = await this.#context.open(this.#token);
  }

  #attached = false;

  #attach(): void {
    if (this.#attached) return;
    this.#attached = true;
    // eslint-disable-next-line @typescript-eslint/no-this-alias
    const session = this;
    this.#context.attach({
      get due(): boolean {
        return session.#due;
      },
      finish: () => session.#finish(),
      get setCookie(): string | null {
        return session.#request?.setCookie ?? null;
      },
      onHead: () => void (session.#headSent = true),
    });
  }

  get #due(): boolean {
    if (this.#request === undefined || this.#destroyed) return this.#pending.size > 0;
    return this.#pending.size > 0 || this.#request.changed || this.#duration !== undefined;
  }

  // As with hyper-express-session, what is set after destroy() is not stored.
  async #finish(): Promise<void> {
    try {
      while (this.#pending.size > 0) await Promise.all(this.#pending);
      const request = this.#request;
      if (request === undefined || this.#destroyed) return;
      if (this.#duration !== undefined) await request.touch(this.#duration);
      this.#duration = undefined;
      await request.save();
    } catch (error) {
      // With an id from before a login, a safe request is answered as a stranger's; what it has stored is dropped.
      if (!this.#context.safe || !(error instanceof SupersededError)) throw error;
    }
  }

  #pending = new Set<Promise<unknown>>();

  #run<T>(method: string, operation: (request: RequestSession) => Promise<T>): Promise<T> {
    const request = this.#request;
    if (request === undefined) return Promise.reject(notStarted(method));
    const outcome = operation(request);
    this.#pending.add(outcome);
    const done = (): void => void this.#pending.delete(outcome);
    outcome.then(done, done);
    return outcome;
  }

  // For what gives the browser a new cookie.
  #change<T>(method: string, operation: (request: RequestSession) => Promise<T>): Promise<T> {
    if (!this.#headSent) return this.#run(method, operation);
    return Promise.reject(
      Object.assign(new Error(`${method}() after the response head was sent: the browser would not get its cookie`), {
        code: 'ERR_HTTP_HEADERS_SENT',
      }),
    );
  }

  #data(method: string): SessionData {
    if (this.#request === undefined) throw notStarted(method);
    return this.#request.data;
  }

  /** Sets one key, or all keys of an object. */
  set(name: string, value: unknown): this;
  set(values: SessionData): this;
  set(name: string | SessionData, value?: unknown): this {
    const data = this.#data('set');
    if (typeof name === 'string') assign(data, name, value);
    else for (const key of Object.keys(name)) assign(data, key, name[key]);
    return this;
  }

  /** The value of a key, or all data. */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  get(name: string): any;
  get(): SessionData;
  get(name?: string): unknown {
    const data = this.#data('get');
    if (name === undefined || name === null) return data;
    return Object.hasOwn(data, name) ? data[name] : undefined;
  }

  /** Removes a key, or all data. */
  delete(name?: string): this {
    const data = this.#data('delete');
    if (name) delete data[name];
    else for (const key of Object.keys(data)) delete data[key];
    return this;
  }

  /** Replaces all data. */
  reset(data: SessionData = {}): this {
    if (data === null || typeof data !== 'object') throw new TypeError('session.reset(data): expected an object');
    const held = this.#data('reset');
    const values = { ...data };
    for (const key of Object.keys(held)) delete held[key];
    for (const key of Object.keys(values)) assign(held, key, values[key]);
    return this;
  }

  /** Gives the browser a new id for the same session; what has changed is written with it. */
  async roll(): Promise<boolean> {
    await this.#change('roll', (request) => request.roll());
    return true;
  }

  /** Moves the deadline now. It is needed only if the engine's `automatic_touch` is off. */
  async touch(): Promise<void> {
    await this.start();
    await this.#run('touch', (request) => request.touch());
  }

  /** Ends the session and deletes the cookie. */
  async destroy(): Promise<void> {
    if (this.#destroyed) return;
    await this.start();
    await this.#run('destroy', (request) => request.logout());
    this.#destroyed = true;
  }

  /** Gives the session an idle timeout of its own, in milliseconds. */
  set_duration(duration: number): this {
    if (typeof duration !== 'number' || !(duration >= 1)) throw new TypeError('session.set_duration(duration): expected a number of milliseconds');
    if (this.#request === undefined) throw notStarted('set_duration');
    this.#duration = duration;
    return this;
  }

  /** Takes the session of a token, for clients that keep it elsewhere than in a cookie. Call it before {@link start}. */
  set_signed_id(token: string): boolean {
    if (typeof token !== 'string' || !/^[!#-+\--:<-[\]-~]+$/.test(token)) return false;
    if (this.#starting !== undefined) throw new Error('session.set_signed_id(): call it before session.start()');
    this.#token = token;
    return true;
  }

  /** Not with sessiond: only the daemon makes ids. Rejects. */
  generate_id(): Promise<string> {
    return Promise.reject(new Error('session.generate_id(): the daemon makes the ids'));
  }

  /** Not with sessiond: an id without its signature opens no session. Throws. */
  set_id(id: string): this {
    void id;
    throw new Error('session.set_id(): an id without its signature opens no session; use set_signed_id(token)');
  }

  /**
   * Reads, changes and writes: the way to count, append and take, because parallel requests lose nothing. `change` gets a
   * copy of the data, and changes it or returns other data. It may run several times. Creates the session if there is
   * none. Resolves to the new data.
   */
  async update(change: Change): Promise<SessionData> {
    await this.start();
    return this.#request!.live ? this.#run('update', (request) => request.update(change)) : this.#change('update', (request) => request.update(change));
  }

  /** Gives the session to a user, under a new id. An anonymous visitor's data are kept, another user's are dropped. */
  async login(principal: string, options?: LoginOptions): Promise<void> {
    await this.start();
    await this.#change('login', (request) => request.login(principal, options));
    this.#destroyed = false;
  }

  /** Ends the session and deletes the cookie. Resolves to whether there was one. */
  async logout(): Promise<boolean> {
    await this.start();
    return this.#run('logout', (request) => request.logout());
  }

  /** Ends the user's other sessions. Resolves to how many. */
  async logout_others(): Promise<number> {
    await this.start();
    return this.#run('logout_others', (request) => request.logoutOthers());
  }

  /** Ends all of the user's sessions, this one too. Resolves to how many. */
  async logout_everywhere(): Promise<number> {
    await this.start();
    return this.#run('logout_everywhere', (request) => request.logoutEverywhere());
  }

  /** The user's sessions; empty if there is no session. */
  async devices(): Promise<Device[]> {
    await this.start();
    return this.#run('devices', (request) => request.devices());
  }

  /** Ends sessions of the same user by their public ids. Resolves to how many were live. */
  async end(ids: readonly string[]): Promise<number> {
    await this.start();
    return this.#run('end', (request) => request.end(ids));
  }

  /** Whether the cookie outlives the browser ("remember me"). */
  async set_persistent(persistent: boolean): Promise<void> {
    await this.start();
    await this.#change('set_persistent', (request) => request.setPersistent(persistent));
  }

  /** Public id: 16 characters, not a credential, safe to log. `undefined` before {@link start}, and without a session. */
  get id(): string | undefined {
    return this.#request?.id ?? undefined;
  }

  /** The token: a credential. `undefined` without a session cookie. */
  get signed_id(): string | undefined {
    const line = this.#request?.setCookie;
    if (line) return line.slice(line.indexOf('=') + 1).split(';', 1)[0] || undefined;
    return this.#token ?? this.#context.sentCookie();
  }

  /** Whom the session belongs to. `null`: nobody. */
  get principal(): string | null {
    return this.#request?.principal ?? null;
  }

  /** Whether {@link start} is done. */
  get ready(): boolean {
    return this.#request !== undefined;
  }

  /** Whether there is a session. */
  get stored(): boolean {
    return this.#request?.live ?? false;
  }

  /** The idle timeout, in milliseconds. `NaN`: not known yet. */
  get duration(): number {
    return this.#duration ?? this.#request?.info?.duration ?? this.#context.engine()?.duration ?? Number.NaN;
  }

  /** When the session ends, unless it is used before: milliseconds since 1970. */
  get expires_at(): number {
    const expires = this.#duration === undefined ? this.#request?.expires : undefined;
    return expires?.getTime() ?? Date.now() + this.duration;
  }
}

// An own key, also if it is "__proto__".
function assign(data: SessionData, key: string, value: unknown): void {
  if (value === undefined) delete data[key];
  else Object.defineProperty(data, key, { configurable: true, enumerable: true, writable: true, value });
}

function notStarted(method: string): Error {
  return new Error(`session.${method}(): call and await session.start() first`);
}
