/**
 * Why an operation failed: the reason that the daemon gives, or one of the client's own.
 *
 * The client's own are `CONNECTION_FAILED` (the daemon cannot be reached, or the connection was cut),
 * `TIMEOUT`, `IN_FLIGHT_LIMIT` (more operations than `maxInFlight`), `CLOSED` (the client was closed),
 * `PROTOCOL_ERROR` (the other side does not speak the protocol), `DAEMON_TOO_OLD`, `INVALID_DATA` (a value is not
 * JSON) and `SUPERSEDED` (a change with an id from before a login).
 */
export type Reason =
  | 'INVALID_ARGUMENT'
  | 'INVALID_DATA'
  | 'DATA_TOO_LARGE'
  | 'UNKNOWN_ENGINE'
  | 'MALFORMED_MESSAGE'
  | 'MESSAGE_TOO_LARGE'
  | 'COMPRESSION_UNSUPPORTED'
  | 'SESSION_GONE'
  | 'VERSION_MISMATCH'
  | 'TOO_MANY_SESSIONS'
  | 'OVERLOADED'
  | 'STORE_FULL'
  | 'STORE_UNAVAILABLE'
  | 'SHUTTING_DOWN'
  | 'RECORD_UNREADABLE'
  | 'TOKEN_REQUIRED'
  | 'TOKEN_UNKNOWN'
  | 'ROLE_REQUIRED'
  | 'TIMEOUT'
  | 'CONNECTION_FAILED'
  | 'IN_FLIGHT_LIMIT'
  | 'CLOSED'
  | 'PROTOCOL_ERROR'
  | 'DAEMON_TOO_OLD'
  | 'SUPERSEDED'
  | (string & {});

/** What a {@link SessiondError} is made of. */
export interface ErrorDetails {
  /** See {@link SessiondError.reason}. */
  readonly reason: Reason;
  /** See {@link SessiondError.code}. */
  readonly code: string;
  /** See {@link SessiondError.applied}. Default: `"no"`. */
  readonly applied?: 'no' | 'unknown';
  /** See {@link SessiondError.retryable}. Default: false. */
  readonly retryable?: boolean;
  /** See {@link SessiondError.retryAfter}. */
  readonly retryAfter?: number;
  /** See {@link SessiondError.field}. */
  readonly field?: string;
  /** The error behind this one. */
  readonly cause?: unknown;
}

/**
 * An operation failed. The base class of all errors of this package.
 *
 * No message contains a token, a cookie or data of a session.
 */
export class SessiondError extends Error {
  override name = 'SessiondError';
  /** Why. Act upon this (or upon the class), not upon the text. */
  readonly reason: Reason;
  /** Name of the gRPC code, such as `"UNAVAILABLE"`. */
  readonly code: string;
  /** Whether the same call can succeed a moment later. */
  readonly retryable: boolean;
  /** Whether the operation may have changed something all the same: `"no"`, or `"unknown"`. */
  readonly applied: 'no' | 'unknown';
  /** After how many seconds to try again, if that is known. */
  readonly retryAfter: number | undefined;
  /** Name of the field that is at fault, if there is one. */
  readonly field: string | undefined;
  /** The HTTP status to answer with. Express, Fastify and others use it by themselves. */
  readonly status: number = 500;

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.reason = details.reason;
    this.code = details.code;
    this.retryable = details.retryable ?? false;
    this.applied = details.applied ?? 'no';
    this.retryAfter = details.retryAfter;
    this.field = details.field;
  }

  /** The same as {@link SessiondError.status}, under the name that some frameworks look for. */
  get statusCode(): number {
    return this.status;
  }

  /** Header lines to answer with: `Retry-After`, in whole seconds, if the error is an {@link UnavailableError}. */
  get headers(): Record<string, string> {
    return {};
  }
}

/**
 * Nobody knows what became of the session: the store failed, the daemon cannot be reached, is stopping or has too
 * much to do, or the time was over. Answer 503 with `Retry-After`. It never means "no session".
 */
export class UnavailableError extends SessiondError {
  override name = 'UnavailableError';
  override readonly status: number = 503;

  override get headers(): Record<string, string> {
    return { 'Retry-After': String(Math.max(1, Math.ceil(this.retryAfter ?? 1))) };
  }
}

/** Too many operations at once: in this client (reason `IN_FLIGHT_LIMIT`) or in the daemon (`OVERLOADED`). */
export class OverloadedError extends UnavailableError {
  override name = 'OverloadedError';
}

/** `ifVersion` is stale: another write came first. With `applied` `"unknown"`, that write may have been this one. */
export class VersionMismatchError extends SessiondError {
  override name = 'VersionMismatchError';
  override readonly status: number = 503;

  override get headers(): Record<string, string> {
    return { 'Retry-After': '1' };
  }
}

/** The session of a write is not live: it has ended, has expired, or its id was rolled. Nothing brings it back. */
export class SessionGoneError extends SessiondError {
  override name = 'SessionGoneError';
  override readonly status: number = 409;
}

/** The principal has as many sessions as the daemon's `max_sessions_per_principal` allows. End one first. */
export class TooManySessionsError extends SessiondError {
  override name = 'TooManySessionsError';
  override readonly status: number = 403;
}

/** An argument has a value that is not allowed, or the data are not JSON. `field` names the argument. */
export class InvalidArgumentError extends SessiondError {
  override name = 'InvalidArgumentError';
}

/** The data would be larger than the engine's `max_data_bytes`, or a message larger than the daemon accepts. */
export class DataTooLargeError extends InvalidArgumentError {
  override name = 'DataTooLargeError';
  override readonly status: number = 413;
}

/** The stored record is damaged. `destroy` ends it all the same. */
export class RecordUnreadableError extends SessiondError {
  override name = 'RecordUnreadableError';
}

/** The daemon asks for a bearer token, or does not know the one that was sent. */
export class AuthenticationError extends SessiondError {
  override name = 'AuthenticationError';
}

/**
 * A change with an id from before a login. The request was sent before the browser had its new cookie, or the old
 * cookie is replayed. Answer 409: sent again, the request has the new cookie.
 */
export class SupersededError extends SessiondError {
  override name = 'SupersededError';
  override readonly status: number = 409;

  constructor(message = 'the session id was replaced by a login; send the request again') {
    super(message, { reason: 'SUPERSEDED', code: 'ABORTED' });
  }
}
