import type { Client, SessionData, SessionInfo, SessionState } from './types.js';

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

/** The session of one request: what every adapter gives to the handlers. */
export class RequestSession {
  /** The client that this session goes through. */
  declare readonly client: Client;
  /**
   * The data: change it as you like; {@link save} writes what changed. Empty if there is no session. Assigning replaces
   * all of it.
   */
  declare data: SessionData;

  /** @param cookieHeader - the request's Cookie header as Node gives it (latin1), or its octets; or null */
  constructor(client: Client, cookieHeader: string | Uint8Array | null | undefined, options: RequestSessionOptions = {}) {
    void client, cookieHeader, options;
  }

  /** Makes a session and loads it. Rejects if the daemon or its store is away: answer 503, never "nobody". */
  static async open(client: Client, cookieHeader: string | Uint8Array | null | undefined, options?: RequestSessionOptions): Promise<RequestSession> {
    return new RequestSession(client, cookieHeader, options).load();
  }

  /** Resolves the session. Asks nothing if the header has no cookie of the engine's name. Once; later calls do nothing. */
  declare load: () => Promise<this>;
  /** Whether {@link load} is done. */
  declare readonly loaded: boolean;
  /** What became of the credential. `NONE` before {@link load}. */
  declare readonly state: SessionState;
  /** The session without its data; null if there is none. */
  declare readonly info: SessionInfo | null;
  /** Whether there is a session. */
  declare readonly live: boolean;
  /** Whether this request created the session. */
  declare readonly isNew: boolean;
  /** Whether the id is one from before a login: serve nobody; every change rejects with SupersededError. */
  declare readonly superseded: boolean;
  /** Public id, or null. */
  declare readonly id: string | null;
  /** Whom the session belongs to, or null. */
  declare readonly principal: string | null;
  /** The session's version, or 0. */
  declare readonly version: number;
  /** When the session ends, unless it is used before; or null. */
  declare readonly expires: Date | null;
  /** The value of the one Set-Cookie line to send; null: none. */
  declare readonly setCookie: string | null;
  /** Whether {@link save} would write something. */
  declare readonly changed: boolean;

  /**
   * Writes the top-level keys that changed, once; adapters call it before the response head goes out. Creates a session if
   * there is none and `data` is not empty. Resolves to false if the session ended meanwhile: then the change is dropped.
   */
  declare save: () => Promise<boolean>;
  /** Read, change, write: repeated while parallel requests are faster. `fn` may run several times. */
  declare update: (fn: (data: SessionData) => SessionData | void | Promise<SessionData | void>) => Promise<SessionData>;
  /** Gives the session to a user, under a new id. */
  declare login: (principal: string, options?: LoginOptions) => Promise<void>;
  /** Ends this session and deletes the cookie. Resolves to whether there was one. */
  declare logout: () => Promise<boolean>;
  /** Ends the user's other sessions. Resolves to how many. */
  declare logoutOthers: () => Promise<number>;
  /** Ends all of the user's sessions, this one too. Resolves to how many. */
  declare logoutEverywhere: () => Promise<number>;
  /** A new id for the same session. Unsaved changes are written with it. Does nothing if there is no session. */
  declare roll: () => Promise<void>;
  /** A new id, no data, nobody's: express-session's `regenerate`. Unsaved changes are dropped. */
  declare regenerate: () => Promise<void>;
  /** The user's sessions; empty if there is no session. */
  declare devices: () => Promise<Device[]>;
  /** Ends sessions of the same user by their public ids. Resolves to how many were live. */
  declare end: (ids: readonly string[]) => Promise<number>;
  /** Moves the deadline; with `duration` (in milliseconds) sets the session's own idle timeout. Without a session, a duration is kept for the one that this request creates. Resolves to whether there is a session. */
  declare touch: (duration?: number) => Promise<boolean>;
  /** Reads the session again; unsaved changes are dropped. Resolves to whether there is a session. */
  declare reload: () => Promise<boolean>;
  /** Whether the cookie outlives the browser. Without a session, it is kept for the one that this request creates. */
  declare setPersistent: (persistent: boolean) => Promise<void>;
}

/**
 * The Cache-Control to answer with where a cookie is set: `no-store`, unless `existing` already forbids shared caches to
 * store the answer (`no-store` or `private`). Returns null if nothing is to change.
 */
export function noStore(existing?: string | number | readonly string[] | null): string | null {
  const text = Array.isArray(existing) ? existing.join(',') : String(existing ?? '');
  return /(^|[\s,])(no-store|private)\s*($|,)/i.test(text) ? null : 'no-store';
}
