import { setTimeout } from 'node:timers/promises';
import { publish } from './diagnostics.js';
import { InvalidArgumentError, SessionGoneError, SupersededError, VersionMismatchError } from './errors.js';
import { Draft } from './draft.js';
import { hasCookie } from './headers.js';
import { type Difference, difference, isPlainObject, parse, stringifyMembers } from './json.js';
import type { Client, Credential, Description, Engine, ResolveResult, SessionData, SessionInfo, SessionState, WriteOptions } from './types.js';

export { noStore } from './headers.js';

/** So often does an update read and write before it gives up. Each time, another request has succeeded. */
const MAX_ATTEMPTS = 20;
/** Keys that one write removes at most. */
const MAX_UNSET = 1000;

/** Options of a {@link RequestSession}. */
export interface RequestSessionOptions {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
}

/** Options of {@link RequestSession.login}. */
export interface LoginOptions {
  /** Whether the cookie outlives the browser ("remember me"). Default: as the engine says. */
  readonly persistent?: boolean | undefined;
  /** A text for the user's list of devices, such as `"Firefox on Linux"`, at most 256 octets of UTF-8. */
  readonly label?: string | undefined;
  /** The session's own idle timeout, in milliseconds. Default: as the engine says. */
  readonly duration?: number | undefined;
}

/** One of a user's sessions, as {@link RequestSession.devices} lists them. */
export interface Device {
  /** Public id: pass it to {@link RequestSession.end}. */
  readonly id: string;
  /** Whether it is the session of this request. */
  readonly current: boolean;
  /** The label that a login has set. Empty: none. */
  readonly label: string;
  /** When the session was created. */
  readonly createTime: Date;
  /** When the session was last used. */
  readonly lastUseTime: Date;
  /** When the session ends, unless it is used before. */
  readonly expireTime: Date;
}

/** A function of {@link RequestSession.update}: changes the data, or returns what shall take their place. */
export type Change = (data: SessionData) => SessionData | void | Promise<SessionData | void>;

/**
 * One request's view of its session: what every adapter gives to the handlers.
 *
 * Every method that talks to the daemon rejects with {@link SessiondError}; see there. Calls on one object run one after
 * another.
 */
export class RequestSession {
  /** The client that this session goes through. */
  readonly client: Client;
  readonly #engine: string;
  readonly #header: string | Uint8Array | null;
  #credential: Credential | null;
  #loading: Promise<this> | undefined;
  #loaded = false;
  #state: SessionState = 'NONE';
  #info: SessionInfo | null = null;
  readonly #draft = new Draft();
  /** Whether the draft's base is exactly what is stored at the version of #info. */
  #exact = false;
  #isNew = false;
  /** The session ended during this request. What is changed from now on is dropped: a logout must not be undone. */
  #ended = false;
  #setCookie: string | null = null;
  /** What a session that this request creates will have. */
  #plans: { duration?: number; persistent?: boolean } = {};
  #tail: Promise<unknown> | undefined;

  /**
   * @param client - the client, or the fake of one
   * @param cookieHeader - the request's Cookie header as Node gives it (one character for each octet), or its octets;
   *   null or undefined if there is none. Join several header lines with `"; "`.
   * @param options - which engine
   */
  constructor(client: Client, cookieHeader: string | Uint8Array | null | undefined, options: RequestSessionOptions = {}) {
    this.client = client;
    this.#engine = options.engine ?? client.engine;
    this.#header = cookieHeader == null || cookieHeader.length === 0 ? null : cookieHeader;
    this.#credential = this.#header === null ? null : { cookieHeader: this.#header };
  }

  /** Makes a session and loads it. */
  static open(client: Client, cookieHeader: string | Uint8Array | null | undefined, options?: RequestSessionOptions): Promise<RequestSession> {
    return new RequestSession(client, cookieHeader, options).load();
  }

  /**
   * Finds the session. Asks nothing if the header has no cookie of the engine's name. Does so once; later calls do
   * nothing. Rejects if the daemon or its store is away: answer 503, never "nobody".
   */
  load(): Promise<this> {
    return (this.#loading ??= this.#load());
  }

  // Every request comes through here: it makes no promise that is not needed.
  #load(): Promise<this> {
    const loaded = (): this => {
      this.#loaded = true;
      return this;
    };
    const failed = (error: unknown): never => {
      this.#loading = undefined;
      throw error;
    };
    if (this.#credential === null) return Promise.resolve(loaded());
    const { description } = this.client;
    if (description === null) return this.#describe().then((engine) => this.#find(engine)).then(loaded, failed);
    try {
      const found = this.#find(this.#engineOf(description));
      return found === undefined ? Promise.resolve(loaded()) : found.then(loaded, failed);
    } catch (error) {
      return Promise.reject(error as Error);
    }
  }

  #find({ cookieName }: Engine): Promise<void> | undefined {
    if (hasCookie(this.#header, cookieName)) return this.#resolve();
    this.#credential = null;
    return undefined;
  }

  /** Whether {@link load} is done. */
  get loaded(): boolean {
    return this.#loaded;
  }

  /** What became of the credential. `NONE` before {@link load}, and after a logout. */
  get state(): SessionState {
    return this.#state;
  }

  /** The session without its data; null if there is none. */
  get info(): SessionInfo | null {
    return this.#info;
  }

  /** Whether there is a session. */
  get live(): boolean {
    return this.#info !== null;
  }

  /** Whether this request created the session. */
  get isNew(): boolean {
    return this.#isNew;
  }

  /** Whether the id is from before a login: the request is nobody's, and every change rejects with {@link SupersededError}. */
  get superseded(): boolean {
    return this.#state === 'SUPERSEDED';
  }

  /** Public id of the session; null if there is none. */
  get id(): string | null {
    return this.#info?.id ?? null;
  }

  /** Whom the session belongs to; null: nobody. */
  get principal(): string | null {
    return this.#info?.principal ?? null;
  }

  /** The session's version; 0 if there is none. */
  get version(): number {
    return this.#info?.version ?? 0;
  }

  /** When the session ends, unless it is used before; null if there is none. */
  get expires(): Date | null {
    return this.#info?.expireTime ?? null;
  }

  /** The value of the one Set-Cookie line to send; null: none. Ask for it when everything else is done. */
  get setCookie(): string | null {
    return this.#setCookie;
  }

  /**
   * The data: change them as you like, also deep inside; {@link save} finds what changed. Empty if there is no session.
   * Assigning an object replaces all of them.
   */
  get data(): SessionData {
    return this.#draft.data;
  }

  set data(data: SessionData) {
    if (!isPlainObject(data)) throw notAnObject('session data must be a plain object');
    this.#draft.data = data;
  }

  /** Whether {@link save} would write something. */
  get changed(): boolean {
    return this.#draft.changed;
  }

  /**
   * Writes the top-level keys that changed, in one write, and only if something changed. Adapters call it before the
   * response head goes out. Creates a session if there is none and the data are not empty.
   *
   * @returns false if the session ended during this request: then the change is dropped, because a logout must not be
   *   undone; channel `sessiond:dropped` tells. Otherwise true.
   * @throws SupersededError if the id is from before a login
   */
  save(): Promise<boolean> {
    if (!this.#draft.opened && this.#tail === undefined) return Promise.resolve(true);
    return this.#serial(() => this.#save());
  }

  async #save(): Promise<boolean> {
    for (let attempt = 1; ; attempt++) {
      const change = this.#draft.difference();
      if (change === null) return true;
      if (this.superseded) throw new SupersededError();
      if (this.#ended) return this.#drop(change);
      if (!this.live) {
        await this.#write(null, { set: change.set });
        this.#draft.written();
        return true;
      }
      try {
        // The daemon removes so many keys in one write.
        while (change.unset.length > MAX_UNSET) await this.#write(this.#credential, { unset: change.unset.splice(0, MAX_UNSET) });
        await this.#write(this.#credential, { set: change.set, unset: change.unset });
        this.#draft.written();
        return true;
      } catch (error) {
        if (!(error instanceof SessionGoneError)) throw error;
        const id = this.id;
        await this.#gone();
        if (this.superseded) throw new SupersededError();
        if (!this.live || attempt > 1) return this.#drop(change, id);
      }
    }
  }

  /**
   * Reads, changes and writes the data so that parallel requests lose nothing: the way to count, append or take. `fn`
   * gets a copy of the stored data, and changes it or returns other data. It runs again, up to 20 times, while other
   * requests write first. Creates the session if there is none.
   *
   * Unsaved changes of {@link data} stay as they are, but those of keys that `fn` changes are overwritten.
   *
   * @returns the data as they are now
   * @throws SessionGoneError if the session ended during this request
   * @throws SupersededError if the id is from before a login
   * @throws VersionMismatchError if 20 parallel requests were faster
   */
  async update(fn: Change): Promise<SessionData> {
    await this.load();
    return this.#serial(() => this.#update(fn));
  }

  async #update(fn: Change): Promise<SessionData> {
    const draft = this.#draft;
    for (let attempt = 1; ; attempt++) {
      if (this.live && !this.#exact) await this.#refresh();
      if (this.superseded) throw new SupersededError();
      if (this.#ended) throw new SessionGoneError('the session ended during this request', { reason: 'SESSION_GONE', code: 'NOT_FOUND' });
      const copy = parse(draft.base);
      const after = (await fn(copy)) ?? copy;
      if (!isPlainObject(after)) throw notAnObject('the function of update() must return a plain object or nothing');
      const change = difference(parse(draft.base), after);
      if (change === null) return parse(draft.base);
      try {
        if (this.live) await this.#write(this.#credential, { set: change.set, unset: change.unset, ifVersion: this.version });
        else await this.#write(null, { set: change.set });
      } catch (error) {
        if (error instanceof SessionGoneError) {
          await this.#gone();
          if (this.superseded) throw new SupersededError();
          throw error;
        }
        // With an unknown outcome the change may be there already. Another attempt could count twice.
        if (!(error instanceof VersionMismatchError) || error.applied !== 'no' || attempt === MAX_ATTEMPTS) throw error;
        this.#exact = false;
        await setTimeout(Math.random() * Math.min(50, 2 ** attempt));
        continue;
      }
      draft.rebase(stringifyMembers(Object.entries(after)), change.keys);
      this.#exact = true;
      return parse(draft.base);
    }
  }

  /**
   * Gives the session to a user, under a new id: somebody who knows the old one gains nothing. Creates a session if there
   * is none. What an anonymous visitor has stored stays; what another user has stored is dropped. Unsaved changes are
   * written with it.
   *
   * @param principal - whom the session belongs to from now on, such as a user id: 1 to 256 octets of UTF-8
   * @throws SupersededError if the id is from before another login
   * @throws TooManySessionsError if the user has as many sessions as the daemon allows
   */
  async login(principal: string, options: LoginOptions = {}): Promise<void> {
    if (typeof principal !== 'string' || principal === '') {
      throw new InvalidArgumentError('principal: expected a string that is not empty', { reason: 'INVALID_ARGUMENT', code: 'INVALID_ARGUMENT', field: 'principal' });
    }
    await this.load();
    await this.#serial(async () => {
      const engine = await this.#describe();
      const defaults = { persistent: engine.persistent, duration: engine.duration };
      for (let attempt = 1; ; attempt++) {
        if (this.superseded) throw new SupersededError();
        const foreign = this.principal !== null && this.principal !== principal;
        const change = foreign ? null : this.#draft.difference();
        const { persistent, label, duration } = foreign ? { label: '', ...defaults, ...defined(options) } : defined(options);
        const write: WriteOptions = { principal, persistent, label, duration, ...change };
        if (!this.live || attempt > 2) {
          await this.#write(null, { ...this.#plans, ...defined(write), unset: undefined });
        } else {
          try {
            await this.#write(this.#credential, { ...write, roll: true });
          } catch (error) {
            if (!(error instanceof SessionGoneError)) throw error;
            // Whoever logs in wants a session, also if the anonymous one has just ended.
            await this.#gone();
            continue;
          }
        }
        this.#ended = false;
        if (foreign) this.#draft.clear();
        else this.#draft.written();
        return;
      }
    });
  }

  /** Ends this session and deletes the cookie, also with an id from just before a login. Resolves to whether there was one. */
  logout(): Promise<boolean> {
    return this.#serial(async () => (await this.#destroy({})) > 0);
  }

  /** Ends the user's other sessions. Resolves to how many there were. */
  async logoutOthers(): Promise<number> {
    await this.load();
    return this.#serial(async () => {
      if (this.superseded) throw new SupersededError();
      if (!this.live) return 0;
      const { destroyed } = await this.client.destroy(this.#credential, { engine: this.#engine, scope: 'OTHERS' });
      return destroyed;
    });
  }

  /** Ends all of the user's sessions, this one too, and deletes the cookie. Resolves to how many there were. */
  async logoutEverywhere(): Promise<number> {
    await this.load();
    return this.#serial(async () => {
      if (this.superseded) throw new SupersededError();
      return this.#destroy({ scope: 'ALL' });
    });
  }

  /**
   * Gives the browser a new id for the same session: do it at every change of privilege. Unsaved changes are written with
   * it. Does nothing if there is no session.
   */
  async roll(): Promise<void> {
    await this.load();
    await this.#serial(async () => {
      if (this.superseded) throw new SupersededError();
      if (!this.live) return;
      await this.#change({ roll: true, ...this.#draft.difference() });
      this.#draft.written();
    });
  }

  /**
   * Starts afresh under a new id: no data, nobody's. Unsaved changes are dropped. Without a session it only empties the
   * data.
   */
  async regenerate(): Promise<void> {
    await this.load();
    await this.#serial(async () => {
      if (this.superseded) throw new SupersededError();
      if (this.live) {
        const { persistent, duration } = await this.#describe();
        try {
          await this.#write(this.#credential, { replace: true, roll: true, principal: '', label: '', persistent, duration });
        } catch (error) {
          if (!(error instanceof SessionGoneError)) throw error;
          await this.#gone();
          if (this.superseded) throw new SupersededError();
        }
      }
      this.#ended = false;
      this.#draft.clear();
    });
  }

  /** The user's live sessions, ordered by id; that of an anonymous visitor alone; none if there is no session. */
  async devices(): Promise<Device[]> {
    await this.load();
    if (!this.live) return [];
    const { sessions, currentSessionId } = await this.client.listSessions(this.#credential, { engine: this.#engine });
    return sessions.map(({ id, label, createTime, lastUseTime, expireTime }) => ({ id, current: id === currentSessionId, label, createTime, lastUseTime, expireTime }));
  }

  /** Ends sessions of the same user by their public ids. Other ids are ignored. Resolves to how many were live. */
  async end(ids: readonly string[]): Promise<number> {
    await this.load();
    return this.#serial(async () => {
      if (this.superseded) throw new SupersededError();
      if (!this.live || ids.length === 0) return 0;
      if (ids.includes(this.id as string)) return this.#destroy({ sessionIds: ids });
      const { destroyed } = await this.client.destroy(this.#credential, { engine: this.#engine, sessionIds: ids });
      return destroyed;
    });
  }

  /**
   * Moves the deadline.
   *
   * @param duration - the session's own idle timeout from now on, in milliseconds. Without a session, it is kept for the
   *   one that this request creates.
   * @returns whether there is a session
   */
  async touch(duration?: number): Promise<boolean> {
    await this.load();
    return this.#serial(async () => {
      if (this.superseded) throw new SupersededError();
      if (!this.live) {
        if (duration !== undefined) this.#plans.duration = duration;
        return false;
      }
      const { state, session, setCookie } = await this.client.touch(this.#credential, { engine: this.#engine, duration });
      this.#took(setCookie);
      if (session === null) this.#over(state);
      else {
        this.#exact &&= session.version === this.version;
        this.#info = session;
      }
      return this.live;
    });
  }

  /** Reads the session again. Unsaved changes are dropped. Resolves to whether there is a session. */
  async reload(): Promise<boolean> {
    await this.load();
    return this.#serial(async () => {
      if (this.#credential !== null) await this.#resolve();
      this.#draft.reset();
      return this.live;
    });
  }

  /** Whether the cookie outlives the browser ("remember me"). Without a session, it is kept for the one that this request creates. */
  async setPersistent(persistent: boolean): Promise<void> {
    await this.load();
    await this.#serial(async () => {
      if (this.superseded) throw new SupersededError();
      if (this.live) await this.#change({ persistent });
      else this.#plans.persistent = persistent;
    });
  }

  // ---- the parts

  /** Runs one call after another: each relies on what the one before has found. */
  #serial<T>(run: () => Promise<T>): Promise<T> {
    const result = this.#tail === undefined ? run() : this.#tail.then(run);
    const tail = result.then(
      () => {},
      () => {},
    );
    this.#tail = tail;
    void tail.then(() => {
      if (this.#tail === tail) this.#tail = undefined;
    });
    return result;
  }

  async #describe(): Promise<Engine> {
    return this.#engineOf(this.client.description ?? (await this.client.describe()));
  }

  #engineOf({ engines }: Description): Engine {
    const name = this.#engine || 'default';
    const engine = engines.find((candidate) => candidate.name === name);
    if (!engine) throw new InvalidArgumentError(`the daemon has no engine ${JSON.stringify(name)}`, { reason: 'UNKNOWN_ENGINE', code: 'INVALID_ARGUMENT', field: 'engine' });
    return engine;
  }

  #took(setCookie: readonly string[]): void {
    if (setCookie.length > 0) this.#setCookie = setCookie[setCookie.length - 1] as string;
  }

  #resolve(): Promise<void> {
    return this.client.resolve(this.#credential, { engine: this.#engine }).then((result) => this.#resolved(result));
  }

  #resolved({ state, session, setCookie, token }: ResolveResult): void {
    if (session === null) {
      this.#over(state);
      this.#took(setCookie);
      return;
    }
    this.#took(setCookie);
    if (token !== '') this.#credential = { token };
    this.#state = state;
    this.#info = session;
    this.#draft.base = session.json;
    this.#exact = true;
  }

  /** Reads the stored data; unsaved changes stay. */
  async #refresh(): Promise<void> {
    const before = this.#draft.base;
    await this.#resolve();
    if (!this.live) {
      this.#ended = !this.superseded;
      return;
    }
    const json = this.#draft.base;
    this.#draft.base = before;
    this.#draft.rebase(json, []);
  }

  async #write(credential: Credential | null, options: WriteOptions): Promise<void> {
    const plans = credential === null ? this.#plans : undefined;
    const version = this.version;
    const { session, setCookie, token } = await this.client.write(credential, { ...plans, ...options, engine: this.#engine });
    this.#took(setCookie);
    if (token !== '') this.#credential = { token };
    if (credential === null) {
      this.#state = 'CREATED';
      this.#isNew = true;
      this.#exact = true;
    } else this.#exact &&= session.version === version + 1;
    this.#info = session;
  }

  /** A change of the live session that is no change of its data by itself. */
  async #change(options: WriteOptions): Promise<void> {
    try {
      await this.#write(this.#credential, options);
    } catch (error) {
      if (!(error instanceof SessionGoneError)) throw error;
      await this.#gone();
      if (this.superseded) throw new SupersededError();
      throw error;
    }
  }

  async #destroy(options: { scope?: 'ALL'; sessionIds?: readonly string[] }): Promise<number> {
    const credential = this.#credential;
    if (credential === null) {
      this.#over('NONE');
      return 0;
    }
    const { destroyed, setCookie } = await this.client.destroy(credential, { engine: this.#engine, ...options });
    this.#over('NONE');
    this.#took(setCookie);
    this.#credential = null;
    this.#loading ??= Promise.resolve(this);
    this.#loaded = true;
    return destroyed;
  }

  /** There is no session any more. A cookie that would have renewed it does not go out. */
  #over(state: SessionState): void {
    this.#state = state;
    this.#info = null;
    this.#draft.clear();
    this.#exact = false;
    this.#isNew = false;
    this.#setCookie = null;
  }

  /** The credential was not live: what became of it? */
  async #gone(): Promise<void> {
    await this.#resolve();
    this.#ended = !this.live && !this.superseded;
  }

  #drop(change: Difference, id: string | null = null): false {
    publish.dropped(id, this.#state, change.keys);
    this.#draft.clear();
    return false;
  }
}

function notAnObject(message: string): InvalidArgumentError {
  return new InvalidArgumentError(message, { reason: 'INVALID_DATA', code: 'INVALID_ARGUMENT', field: 'set' });
}

/** Without the members that are undefined. */
function defined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}
