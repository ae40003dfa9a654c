/** What a request presents to prove which session is its own. */
export type Credential =
  /**
   * The request's Cookie header, unchanged. A string is what Node gives: one character for each octet (latin1). A
   * string with other characters is sent as UTF-8. Octets are sent as they are.
   */
  | { readonly cookieHeader: string | Uint8Array }
  /** The token of an answer, for clients that keep it elsewhere than in a cookie. */
  | { readonly token: string };

/**
 * What became of a credential.
 *
 * | state | meaning |
 * |---|---|
 * | `ACTIVE` | live; there is a session |
 * | `CREATED` | created by this call, because `create` was set |
 * | `NONE` | no session cookie in the credential |
 * | `INVALID` | malformed, or signed by no known secret |
 * | `NOT_FOUND` | authentic, but the session was destroyed, or has expired and was removed |
 * | `EXPIRED` | authentic, but the session's time is over |
 * | `SUPERSEDED` | authentic, but the id was replaced since: serve it as nobody and change no cookie |
 */
export type SessionState = 'ACTIVE' | 'CREATED' | 'NONE' | 'INVALID' | 'NOT_FOUND' | 'EXPIRED' | 'SUPERSEDED';

/** A value that JSON can hold. */
export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue | undefined };

/**
 * The data of a session. Declare your own keys by augmentation:
 *
 * ```ts
 * declare module 'sessiond' {
 *   interface SessionData { visits?: number }
 * }
 * ```
 */
export interface SessionData {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  [key: string]: any;
}

/** A session without its data. */
export interface SessionInfo {
  /** Public id, 16 characters: stable for the session's life, not a credential, safe to log. */
  readonly id: string;
  /** 1 at creation, one more with each write. */
  readonly version: number;
  /** Whom the session belongs to. `null`: nobody. */
  readonly principal: string | null;
  /** When the session was created. */
  readonly createTime: Date;
  /** When the session ends, unless it is used before. */
  readonly expireTime: Date;
  /** When the session was last used; exact to the engine's `touchGranularity`, and never later than the last use. */
  readonly lastUseTime: Date;
  /** The idle timeout in force, in milliseconds. */
  readonly duration: number;
  /** The text for the user's list of devices. Empty: none. */
  readonly label: string;
}

/** A session with its data. */
export interface Session extends SessionInfo {
  /** The data as JSON text, octet by octet as it is stored. */
  readonly json: string;
  /** The data, parsed from `json` at each call. */
  data(): SessionData;
}

/** Options of {@link Client.resolve}. */
export interface ResolveOptions {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
  /** Look without moving the deadline. */
  readonly peek?: boolean | undefined;
  /** Create a session if the credential is not live. */
  readonly create?: boolean | undefined;
}

/** The answer to a resolve. */
export interface ResolveResult {
  /** What became of the credential. */
  readonly state: SessionState;
  /** The session, if the state is `ACTIVE` or `CREATED`. */
  readonly session: Session | null;
  /** Values of Set-Cookie lines to send. */
  readonly setCookie: readonly string[];
  /** The token, if it is new to the caller. Empty: it is not. */
  readonly token: string;
}

/** Options of {@link Client.touch}. */
export interface TouchOptions {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
  /** The session's own idle timeout from now on, in milliseconds: more than 0, at most 400 days. */
  readonly duration?: number | undefined;
}

/** The answer to a touch. */
export interface TouchResult {
  /** What became of the credential. */
  readonly state: SessionState;
  /** The session, if the state is `ACTIVE`. */
  readonly session: SessionInfo | null;
  /** Values of Set-Cookie lines to send. */
  readonly setCookie: readonly string[];
}

/** What a write changes. `replace` applies first, then `unset`, then `set`. */
export interface WriteOptions {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
  /** Top-level keys to set; the other keys stay as they are. A string is the JSON text of an object. */
  readonly set?: SessionData | string | undefined;
  /** Top-level keys to remove, at most 1000. */
  readonly unset?: readonly string[] | undefined;
  /** Drop all data first. */
  readonly replace?: boolean | undefined;
  /** Change the session only at this version; otherwise {@link VersionMismatchError}. Not when creating. */
  readonly ifVersion?: number | undefined;
  /** Give the browser a new id for the same session. Set it at every login. */
  readonly roll?: boolean | undefined;
  /** Whom the session belongs to, at most 256 octets of UTF-8. `""` or `null`: nobody. Absent: as it was. */
  readonly principal?: string | null | undefined;
  /** The session's own idle timeout, in milliseconds: more than 0, at most 400 days. Absent: as it was. */
  readonly duration?: number | undefined;
  /** Whether the cookie outlives the browser ("remember me"). Absent: as it was, or as the engine says. */
  readonly persistent?: boolean | undefined;
  /** A text for the user's list of devices, at most 256 octets of UTF-8. `""` removes it. Absent: as it was. */
  readonly label?: string | undefined;
}

/** The answer to a write. */
export interface WriteResult {
  /** The session after the change. */
  readonly session: SessionInfo;
  /** Values of Set-Cookie lines to send. */
  readonly setCookie: readonly string[];
  /** The token, if it is new to the caller: created, rolled or signed again. Empty: it is not. */
  readonly token: string;
}

/** Which sessions a destroy ends: that of the credential, all others of its principal, or all of its principal. */
export type DestroyScope = 'THIS' | 'OTHERS' | 'ALL';

/** Options of {@link Client.destroy}. */
export interface DestroyOptions {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
  /** Which sessions to end. Default: `THIS`. */
  readonly scope?: DestroyScope | undefined;
  /** Public ids of sessions of the same principal to end, at most 1000, instead of a scope. */
  readonly sessionIds?: readonly string[] | undefined;
}

/** The answer to a destroy. */
export interface DestroyResult {
  /** How many live sessions were ended. */
  readonly destroyed: number;
  /** The deletion cookie, if the credential held a session cookie and its session is meant. */
  readonly setCookie: readonly string[];
}

/** Options of {@link Client.listSessions}. */
export interface ListOptions {
  /** Name of the engine. Default: that of the client. */
  readonly engine?: string | undefined;
}

/** The answer to a list. */
export interface ListResult {
  /** What became of the credential. */
  readonly state: SessionState;
  /** The live sessions of the credential's principal, ordered by id. */
  readonly sessions: readonly SessionInfo[];
  /** Public id of the credential's own session; `null` unless the state is `ACTIVE`. */
  readonly currentSessionId: string | null;
}

/** What the daemon accepts. */
export interface Limits {
  /** Length of a message, in octets. */
  readonly maxMessageBytes: number;
  /** Operations of a Pipeline that run at the same time. */
  readonly pipelineInFlight: number;
  /** Length of a Cookie header, in octets. */
  readonly maxCookieHeaderBytes: number;
  /** Length of a principal, in octets. */
  readonly maxPrincipalBytes: number;
  /** Length of a label, in octets. */
  readonly maxLabelBytes: number;
  /** Number of top-level keys. */
  readonly maxKeys: number;
  /** Number of keys in `unset`. */
  readonly maxUnset: number;
  /** Longest idle timeout, in milliseconds. */
  readonly maxDuration: number;
  /** Number of ids in `sessionIds`. */
  readonly maxSessionIds: number;
}

/** A kind of session, as the daemon is configured. */
export interface Engine {
  /** Its name. */
  readonly name: string;
  /** Name of its cookie. */
  readonly cookieName: string;
  /** How the session id stands in the cookie: as it is, or with the `s:` of express-session. */
  readonly cookieFormat: 'PLAIN' | 'EXPRESS';
  /** Whether its cookies outlive the browser, unless a write says otherwise. */
  readonly persistent: boolean;
  /** Idle timeout in milliseconds, unless a session has its own. */
  readonly duration: number;
  /** The longest life of a session, in milliseconds. `null`: no limit. */
  readonly absoluteDuration: number | null;
  /** By how much a deadline must move before it is stored, in milliseconds. */
  readonly touchGranularity: number;
  /** Whether a resolve moves the deadline. */
  readonly automaticTouch: boolean;
  /** Length of a session's data as JSON text, in octets. */
  readonly maxDataBytes: number;
}

/** What the daemon is. */
export interface Description {
  /** Its version, such as `"0.2.0"`. */
  readonly version: string;
  /** What it accepts. */
  readonly limits: Limits;
  /** Its engines, ordered by name. */
  readonly engines: readonly Engine[];
}

/** Options of {@link createClient}. */
export interface ClientOptions {
  /** The bearer token, if the daemon asks for one. */
  readonly token?: string | undefined;
  /** A file with the bearer token on its first line. It is read again when the daemon refuses the token. */
  readonly tokenFile?: string | undefined;
  /** TLS. `true`: with the certificates that Node trusts. */
  readonly tls?: boolean | TlsOptions | undefined;
  /** How long an operation may take, in milliseconds. Default: 5000. */
  readonly timeout?: number | undefined;
  /** Operations under way at a time; one more fails with {@link OverloadedError} at once. Default: 10,000. */
  readonly maxInFlight?: number | undefined;
  /** Name of the engine for operations that name none. Default: `""`, the daemon's `default`. */
  readonly engine?: string | undefined;
}

/** TLS options: PEM text or octets. */
export interface TlsOptions {
  /** Certificates of the authorities that sign the daemon's certificate. Default: those that Node trusts. */
  readonly ca?: string | Uint8Array | undefined;
  /** The client's certificate chain, for a daemon that asks for one (mTLS). */
  readonly cert?: string | Uint8Array | undefined;
  /** The key of `cert`. */
  readonly key?: string | Uint8Array | undefined;
  /** The name in the daemon's certificate. Default: the host of the address. */
  readonly serverName?: string | undefined;
}

/**
 * A connection to the daemon, made by {@link createClient}, or a fake of one, made by `createFake` of
 * `sessiond/testing`. Make one for each process and share it.
 *
 * Every method rejects with a {@link SessiondError}, and never later than the client's timeout.
 */
export interface Client {
  /** Where the daemon is. */
  readonly address: string;
  /** Name of the engine for operations that name none. */
  readonly engine: string;
  /** What the daemon has said of itself, as soon as it has; kept while it is away. */
  readonly description: Description | null;
  /** Finds the session of a request. */
  resolve(credential: Credential | null, options?: ResolveOptions): Promise<ResolveResult>;
  /** Moves the session's deadline. */
  touch(credential: Credential | null, options?: TouchOptions): Promise<TouchResult>;
  /** Changes the session of the credential; creates one if the credential is `null`. */
  write(credential: Credential | null, options?: WriteOptions): Promise<WriteResult>;
  /** Ends sessions. */
  destroy(credential: Credential | null, options?: DestroyOptions): Promise<DestroyResult>;
  /** Lists the live sessions of the credential's principal: all pages. */
  listSessions(credential: Credential | null, options?: ListOptions): Promise<ListResult>;
  /** What the daemon is: asked once for each connection. */
  describe(): Promise<Description>;
  /**
   * Takes nothing new, waits for what is under way, and closes the connection. Resolves when that is done; what takes
   * longer than `timeout` (in milliseconds; default: that of the client) fails with reason `CLOSED`.
   */
  close(options?: { readonly timeout?: number | undefined }): Promise<void>;
}
