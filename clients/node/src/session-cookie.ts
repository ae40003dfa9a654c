import type { RequestSession } from './request-session.js';
import type { Engine } from './types.js';

// What the daemon's configuration decides, for all sessions of an engine.
const ofTheDaemon = ['path', 'domain', 'secure', 'httpOnly', 'sameSite', 'partitioned', 'priority'] as const;

/**
 * The part of express-session's `cookie` that is the session's own: how long it lives, and whether its cookie outlives the
 * browser. What you set is written with the next save. All other attributes are the daemon's, for all sessions of an
 * engine; to set one of them here is an error.
 */
export class SessionCookie {
  #request: RequestSession;
  #engine: () => Engine | undefined;
  #duration: number | undefined;
  #persistent: boolean | undefined;
  #changed = false;

  /** @internal */
  constructor(request: RequestSession, engine: () => Engine | undefined) {
    this.#request = request;
    this.#engine = engine;
  }

  /**
   * How long the session lives from now, in milliseconds. `null`: the browser drops the cookie when it closes.
   * Set it to give the session an idle timeout of its own, and a cookie that outlives the browser; set it to `null` for a
   * cookie that does not.
   */
  get maxAge(): number | null {
    return this.expires === null ? null : this.expires.getTime() - Date.now();
  }

  set maxAge(milliseconds: number | null) {
    if (milliseconds === null || milliseconds === undefined) {
      this.#persistent = false;
      this.#duration = undefined;
      this.#changed = true;
      return;
    }
    if (typeof milliseconds !== 'number' || Number.isNaN(milliseconds)) {
      throw new TypeError('maxAge must be a number of milliseconds, or null');
    }
    if (milliseconds <= 0) throw new RangeError('maxAge must be more than 0; to end the session, call destroy()');
    this.#duration = milliseconds;
    this.#persistent = true;
    this.#changed = true;
  }

  /** When the session ends, unless it is used before. `null`: the browser drops the cookie when it closes. */
  get expires(): Date | null {
    if (!(this.#persistent ?? this.#engine()?.persistent ?? true)) return null;
    if (this.#duration !== undefined) return new Date(Date.now() + this.#duration);
    return this.#request.expires ?? new Date(Date.now() + (this.originalMaxAge ?? 0));
  }

  set expires(date: Date | null | false) {
    if (date === null || date === undefined || date === false) {
      this.maxAge = null;
      return;
    }
    if (!(date instanceof Date) || Number.isNaN(date.getTime())) throw new TypeError('expires must be a valid Date, or null');
    this.maxAge = date.getTime() - Date.now();
  }

  /** The session's idle timeout, in milliseconds. `null`: not known yet. */
  get originalMaxAge(): number | null {
    return this.#duration ?? this.#request.info?.duration ?? this.#engine()?.duration ?? null;
  }

  /** @internal Whether something was set that is not written yet. */
  get changed(): boolean {
    return this.#changed;
  }

  /** @internal Writes what was set. Without a session it is kept for the one that this request creates. */
  async write(): Promise<number | undefined> {
    if (!this.#changed) return undefined;
    if (this.#persistent !== undefined) await this.#request.setPersistent(this.#persistent);
    if (this.#duration !== undefined) await this.#request.touch(this.#duration);
    this.#changed = false;
    return this.#duration;
  }

  /** The attributes that belong to the session itself. */
  toJSON(): { originalMaxAge: number | null; expires: Date | null } {
    return { originalMaxAge: this.originalMaxAge, expires: this.expires };
  }
}

for (const name of ofTheDaemon) {
  Object.defineProperty(SessionCookie.prototype, name, {
    configurable: true,
    enumerable: false,
    get: () => undefined,
    set() {
      throw new TypeError(`cookie.${name} is the daemon's: set it in its configuration (engine.NAME.cookie)`);
    },
  });
}
