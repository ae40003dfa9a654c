import { isDeepStrictEqual } from 'node:util';
import { SessionGoneError, SupersededError } from './errors.js';
import type { Device, LoginOptions, RequestSession } from './request-session.js';
import { SessionCookie } from './session-cookie.js';
import type { Engine, SessionData } from './types.js';

/** Called when an operation is done: with the error if it failed. */
export type Callback = (error?: unknown) => void;

/**
 * The session of a request as an object: its own properties are the data, its methods are those that express-session
 * has, and more. What a handler changes is written once, before the response head goes out.
 *
 * The methods are not enumerable. A key of the data with the name of a method is kept as it is, but not shown.
 */
export class Session {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  [key: string]: any;

  #binding: SessionBinding;

  /** @internal */
  constructor(binding: SessionBinding) {
    this.#binding = binding;
  }

  /** @internal */
  static bindingOf(session: Session): SessionBinding {
    return session.#binding.of(session);
  }

  /** Public id: 16 characters, not a credential, safe to log. `undefined` if there is no session yet. */
  get id(): string | undefined {
    return this.#binding.request.id ?? undefined;
  }

  /** Whom the session belongs to. `null`: nobody. */
  get principal(): string | null {
    return this.#binding.request.principal;
  }

  /** What express-session has as `cookie`: `maxAge`, `originalMaxAge` and `expires`. */
  get cookie(): SessionCookie {
    return this.#binding.cookie;
  }

  /**
   * Writes now what has changed. Without it, that is done before the response head goes out. Creates the session if there
   * is none and there are data. Resolves to false if the session ended meanwhile; the change is dropped then.
   */
  save(): Promise<boolean>;
  save(callback: Callback): this;
  save(callback?: Callback): unknown {
    return settle(this, () => this.#binding.of(this).save(), callback);
  }

  /**
   * Begins a new session: a new id, no data, nobody's. `request.session` is a new object afterwards. Changes that were
   * not saved are dropped. {@link login} is better where you write the login yourself: it keeps an anonymous visitor's data.
   */
  regenerate(): Promise<void>;
  regenerate(callback: Callback): this;
  regenerate(callback?: Callback): unknown {
    return settle(this, () => this.#binding.of(this).regenerate(), callback);
  }

  /** Ends the session and deletes the cookie. `request.session` is `undefined` afterwards. */
  destroy(): Promise<void>;
  destroy(callback: Callback): this;
  destroy(callback?: Callback): unknown {
    return settle(this, () => this.#binding.of(this).destroy(), callback);
  }

  /** Reads the session again. Changes that were not saved are dropped. Rejects if the session has ended. */
  reload(): Promise<void>;
  reload(callback: Callback): this;
  reload(callback?: Callback): unknown {
    return settle(this, () => this.#binding.of(this).reload(), callback);
  }

  /** Moves the deadline, at the end of the request. It is needed only if the engine's `automatic_touch` is off. */
  touch(): this {
    this.#binding.of(this).touch();
    return this;
  }

  /** The same as {@link touch}. */
  resetMaxAge(): this {
    return this.touch();
  }

  /**
   * Reads, changes and writes: the way to count, append and take, because parallel requests lose nothing. `change` gets a
   * copy of the data, and changes it or returns other data. It may run several times. Creates the session if there is
   * none. Resolves to the new data.
   */
  update(change: (data: SessionData) => SessionData | void | Promise<SessionData | void>): Promise<SessionData> {
    return settle(this, () => this.#binding.of(this).update(change));
  }

  /** Gives the session to a user, under a new id. An anonymous visitor's data are kept, another user's are dropped. */
  login(principal: string, options?: LoginOptions): Promise<void> {
    return settle(this, () => this.#binding.of(this).change('login', (request) => request.login(principal, options)));
  }

  /** Ends the session and deletes the cookie. Resolves to whether there was one. */
  logout(): Promise<boolean> {
    return settle(this, () => this.#binding.of(this).run((request) => request.logout()));
  }

  /** Ends the user's other sessions. Resolves to how many. */
  logoutOthers(): Promise<number> {
    return settle(this, () => this.#binding.of(this).run((request) => request.logoutOthers()));
  }

  /** Ends all of the user's sessions, this one too. Resolves to how many. */
  logoutEverywhere(): Promise<number> {
    return settle(this, () => this.#binding.of(this).run((request) => request.logoutEverywhere()));
  }

  /** The user's sessions; empty if there is no session. */
  devices(): Promise<Device[]> {
    return settle(this, () => this.#binding.of(this).run((request) => request.devices()));
  }

  /** Ends sessions of the same user by their public ids. Resolves to how many were live. */
  end(ids: readonly string[]): Promise<number> {
    return settle(this, () => this.#binding.of(this).run((request) => request.end(ids)));
  }

  /** A new id for the same session. */
  roll(): Promise<void> {
    return settle(this, () => this.#binding.of(this).change('roll', (request) => request.roll()));
  }

  /** Whether the cookie outlives the browser ("remember me"). */
  setPersistent(persistent: boolean): Promise<void> {
    return settle(this, () => this.#binding.of(this).change('setPersistent', (request) => request.setPersistent(persistent)));
  }
}

// Gives the outcome to the callback, and returns the session then, as express-session does. Without a callback, the caller
// has the promise. It counts as handled: `request.session.save()` without `await` must not end the process; what was not
// written is tried again before the response head goes out.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export function settle(session: object, operation: () => Promise<any>, callback?: Callback): any {
  if (callback !== undefined && typeof callback !== 'function') throw new TypeError('expected a function as callback, or nothing');
  const outcome = new Promise((resolve) => resolve(operation()));
  if (callback === undefined) {
    outcome.catch(() => {});
    return outcome;
  }
  // What a callback throws is an uncaught exception, not a rejection of ours.
  outcome.then(
    () => process.nextTick(callback),
    (error: unknown) => process.nextTick(callback, error),
  );
  return session;
}

// Names that are never shown as data.
const reserved = new WeakMap<object, ReadonlySet<string>>();

// Turns the methods of a class into accessors: a handler that stores something under such a name gets an error at once. To
// replace a method is allowed, as some middleware does.
export function reserveNames(sessionClass: { prototype: Session }): void {
  const names = new Set<string>(['__proto__', ...(reserved.get(Object.getPrototypeOf(sessionClass.prototype)) ?? [])]);
  for (const [name, descriptor] of Object.entries(Object.getOwnPropertyDescriptors(sessionClass.prototype))) {
    if (name === 'constructor') continue;
    names.add(name);
    const { value, get } = descriptor;
    Object.defineProperty(sessionClass.prototype, name, {
      configurable: true,
      enumerable: false,
      get: get ?? (() => value),
      set(this: Session, replacement: unknown) {
        if (typeof value !== 'function' || typeof replacement !== 'function') {
          throw new TypeError(`"${name}" belongs to the session itself: store the value under another name`);
        }
        Object.defineProperty(this, name, { configurable: true, enumerable: false, writable: true, value: replacement });
      },
    });
  }
  reserved.set(sessionClass.prototype, names);
}
reserveNames(Session);

/** @internal What is told when the session of the framework's request, or its id, is another one. */
export type Changed = (session: Session | undefined, id: string | undefined) => void;

/** @internal What an adapter passes on; the same for all requests. */
export interface BindingOptions {
  /** The class of the session objects. */
  readonly sessionClass?: (new (binding: SessionBinding) => Session) | undefined;
  /** Whom the session belongs to, from its data. */
  readonly principal?: ((data: SessionData) => string | number | null | undefined) | undefined;
  /** What the daemon says of the engine, if that is known yet. */
  readonly engine: () => Engine | undefined;
}

/** @internal Holds together a RequestSession, the session object that handlers see, and the framework's request. */
export class SessionBinding {
  readonly request: RequestSession;
  /** What handlers see as `request.session`; undefined after `destroy`. */
  session: Session | undefined;
  /** Set when the response head goes out: no cookie can be set any more. */
  headSent = false;

  readonly #options: BindingOptions;
  readonly #changed: Changed;
  readonly #reserved: ReadonlySet<string>;
  // Most requests need none of these: they are made at the first use.
  #cookie: SessionCookie | undefined;
  #pending: Set<Promise<unknown>> | undefined;
  #last: Promise<void> | undefined;
  #touch = false;
  #dropped = false;
  #principal: string | null | undefined;

  /** @param request - loaded */
  constructor(request: RequestSession, options: BindingOptions, changed: Changed) {
    this.request = request;
    this.#options = options;
    this.#changed = changed;
    const sessionClass = options.sessionClass ?? Session;
    this.#reserved = reserved.get(sessionClass.prototype)!;
    this.session = new sessionClass(this);
    this.#fill(this.session);
    this.#principal = this.#principalOf(this.session);
    this.#told();
  }

  get cookie(): SessionCookie {
    return (this.#cookie ??= new SessionCookie(this.request, this.#options.engine));
  }

  get #isPending(): boolean {
    return this.#pending !== undefined && this.#pending.size > 0;
  }

  /** This binding, if `session` is still the session of the request. */
  of(session: Session): this {
    if (session === this.session) return this;
    throw new Error('this session was replaced by regenerate() or ended by destroy(); use the session of the request');
  }

  /** Whether something is to be done before the response head can go out. */
  get due(): boolean {
    if (this.#isPending) return true;
    if (this.session === undefined || this.#dropped) return false;
    this.#collect(this.session);
    return this.request.changed || this.#touch || this.#cookie?.changed === true || this.#principalChanged();
  }

  /**
   * Waits for what is under way, then saves. With an id from before a login, a safe request is answered as a stranger's: what
   * it has stored on the way, such as a secret against CSRF, is dropped.
   */
  async finish(safe: boolean): Promise<void> {
    try {
      // What no handler has waited for must not be lost without a word.
      while (this.#isPending) await Promise.all(this.#pending!);
      if (this.session !== undefined && this.due) await this.#write(this.session);
    } catch (error) {
      if (!safe || !(error instanceof SupersededError)) throw error;
      this.#dropped = true;
    }
  }

  save(): Promise<boolean> {
    const session = this.session!;
    this.#collect(session);
    if (!this.request.live && this.request.changed) this.#needHead('save');
    return this.#write(session);
  }

  #write(session: Session): Promise<boolean> {
    return this.run(async (request) => {
      const duration = await this.#cookie?.write();
      await this.#writePrincipal(session);
      const written = request.changed;
      const saved = await request.save();
      if (this.#touch && !written && duration === undefined) await request.touch();
      this.#touch = false;
      return saved;
    });
  }

  /** @param keep - keys that the new session has as well */
  regenerate(keep: readonly string[] = []): Promise<void> {
    return this.change('regenerate', async (request) => {
      const former = this.session!;
      await request.regenerate();
      // The former object keeps what it shows: passport copies from it.
      this.session = new (this.#options.sessionClass ?? Session)(this);
      for (const key of keep) this.session[key] = former[key];
      this.#principal = this.#options.principal === undefined ? undefined : null;
    });
  }

  destroy(): Promise<void> {
    this.session = undefined;
    this.#told();
    return this.#queue(async () => void (await this.request.logout()));
  }

  reload(): Promise<void> {
    return this.#queue(async () => {
      const found = await this.request.reload();
      if (this.session !== undefined) {
        for (const key of Object.keys(this.session)) delete this.session[key];
        this.#fill(this.session);
      }
      this.#told();
      if (!found) throw new SessionGoneError('failed to load session: it has ended', { reason: 'SESSION_GONE', code: 'NOT_FOUND' });
    });
  }

  touch(): void {
    // With automatic_touch the resolve of this request has moved the deadline already.
    if (this.#options.engine()?.automaticTouch !== true) this.#touch = this.request.live;
  }

  update(change: (data: SessionData) => SessionData | void | Promise<SessionData | void>): Promise<SessionData> {
    if (!this.request.live) this.#needHead('update');
    return this.run((request) => request.update(change));
  }

  /** Runs what gives the browser a new cookie. */
  change<T>(name: string, operation: (request: RequestSession) => Promise<T>): Promise<T> {
    this.#needHead(name);
    return this.run(operation);
  }

  /** Runs an operation on what handlers have made of the data, then shows them the outcome. */
  run<T>(operation: (request: RequestSession) => Promise<T>): Promise<T> {
    return this.#queue(async () => {
      const { session } = this;
      if (session !== undefined) this.#collect(session);
      const shown: SessionData = { ...session };
      try {
        return await operation(this.request);
      } finally {
        if (session !== undefined && session === this.session) this.#show(session, shown);
        this.#told();
      }
    });
  }

  // One after another: the data must not change while they are written.
  #queue<T>(operation: () => Promise<T>): Promise<T> {
    const pending = (this.#pending ??= new Set());
    const outcome = pending.size === 0 ? operation() : this.#last!.then(operation);
    pending.add(outcome);
    const done = (): void => void pending.delete(outcome);
    this.#last = outcome.then(done, done);
    return outcome;
  }

  #told(): void {
    this.#changed(this.session, this.session === undefined ? undefined : (this.request.id ?? undefined));
  }

  #needHead(name: string): void {
    if (!this.headSent) return;
    throw Object.assign(new Error(`${name}() after the response head was sent: the browser would not get its cookie`), {
      code: 'ERR_HTTP_HEADERS_SENT',
    });
  }

  // Carries what handlers have changed over to the RequestSession. Values are shared, so changes within them are seen too.
  #collect(session: Session): void {
    const { data } = this.request;
    for (const key of Object.keys(data)) {
      if (!this.#reserved.has(key) && (!Object.hasOwn(session, key) || session[key] === undefined)) delete data[key];
    }
    for (const key of Object.keys(session)) {
      const value: unknown = session[key];
      if (value !== undefined && data[key] !== value) data[key] = value;
    }
  }

  // Shows the data in a session without any.
  #fill(session: Session): void {
    const { data } = this.request;
    for (const key of Object.keys(data)) {
      if (!this.#reserved.has(key)) session[key] = data[key];
    }
  }

  // Shows the data, apart from what a handler has changed since `shown` was what it saw. A value that is the same keeps its
  // identity: a handler may hold it.
  #show(session: Session, shown: SessionData): void {
    const { data } = this.request;
    for (const key of Object.keys(session)) {
      if (!Object.hasOwn(data, key) && session[key] === shown[key]) delete session[key];
    }
    for (const [key, value] of Object.entries(data)) {
      if (this.#reserved.has(key)) continue;
      const untouched = Object.hasOwn(session, key) ? session[key] === shown[key] : !Object.hasOwn(shown, key);
      if (untouched && !isDeepStrictEqual(session[key], value)) session[key] = value;
    }
  }

  #principalOf(session: Session): string | null | undefined {
    const principal = this.#options.principal?.(session);
    if (this.#options.principal === undefined) return undefined;
    return principal === undefined || principal === null || principal === '' ? null : String(principal);
  }

  // Only a change counts. A session from before the option was set gets its principal at the next login.
  #principalChanged(): boolean {
    return this.session !== undefined && this.#principalOf(this.session) !== this.#principal;
  }

  async #writePrincipal(session: Session): Promise<void> {
    if (!this.#principalChanged()) return;
    const principal = this.#principalOf(session) as string | null;
    if (principal === null && this.request.principal !== null) {
      // Nobody's from now on. What the application has left in the session stays.
      const kept = { ...session };
      await this.request.regenerate();
      Object.assign(this.request.data, kept);
    } else if (principal !== null && principal !== this.request.principal) {
      await this.request.login(principal);
    }
    this.#principal = principal;
  }
}
