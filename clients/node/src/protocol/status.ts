// From a gRPC status to an error of this package: one table.
import {
  AuthenticationError,
  DataTooLargeError,
  type ErrorDetails,
  InvalidArgumentError,
  OverloadedError,
  RecordUnreadableError,
  SessiondError,
  SessionGoneError,
  TooManySessionsError,
  UnavailableError,
  VersionMismatchError,
} from '../errors.js';
import type { WireStatus } from './answers.js';

const CODES = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
];

/** Name of a gRPC code. */
export function codeName(code: number): string {
  return CODES[code] ?? 'UNKNOWN';
}

type ErrorClass = new (message: string, details: ErrorDetails) => SessiondError;

// The class of each reason. A reason that is not here is told by its code.
const CLASSES: Record<string, ErrorClass> = {
  INVALID_ARGUMENT: InvalidArgumentError,
  INVALID_DATA: InvalidArgumentError,
  DATA_TOO_LARGE: DataTooLargeError,
  UNKNOWN_ENGINE: InvalidArgumentError,
  MESSAGE_TOO_LARGE: DataTooLargeError,
  SESSION_GONE: SessionGoneError,
  VERSION_MISMATCH: VersionMismatchError,
  TOO_MANY_SESSIONS: TooManySessionsError,
  OVERLOADED: OverloadedError,
  STORE_FULL: UnavailableError,
  STORE_UNAVAILABLE: UnavailableError,
  SHUTTING_DOWN: UnavailableError,
  RECORD_UNREADABLE: RecordUnreadableError,
  TOKEN_REQUIRED: AuthenticationError,
  TOKEN_UNKNOWN: AuthenticationError,
  ROLE_REQUIRED: AuthenticationError,
  TIMEOUT: UnavailableError,
};

// Without a reason, the code says what can be said.
const BY_CODE: Record<string, [ErrorClass, string]> = {
  INVALID_ARGUMENT: [InvalidArgumentError, 'INVALID_ARGUMENT'],
  DEADLINE_EXCEEDED: [UnavailableError, 'TIMEOUT'],
  RESOURCE_EXHAUSTED: [OverloadedError, 'OVERLOADED'],
  UNAVAILABLE: [UnavailableError, 'CONNECTION_FAILED'],
  CANCELLED: [UnavailableError, 'CONNECTION_FAILED'],
  UNAUTHENTICATED: [AuthenticationError, 'TOKEN_UNKNOWN'],
};

const RETRYABLE = new Set(['OVERLOADED', 'STORE_FULL', 'STORE_UNAVAILABLE', 'SHUTTING_DOWN', 'VERSION_MISMATCH', 'TIMEOUT', 'CONNECTION_FAILED']);
// What an error says about the operation if the daemon does not: these refuse it before anything is done.
const REFUSED = new Set(['INVALID_ARGUMENT', 'NOT_FOUND', 'ABORTED', 'FAILED_PRECONDITION', 'UNAUTHENTICATED', 'UNIMPLEMENTED']);

/** The error of a status. `unknown`: say that the outcome is unknown, whatever the status says. */
export function statusError(status: WireStatus, unknown = false): SessiondError {
  const code = codeName(status.code);
  const known = CLASSES[status.reason];
  const [Class, reason] = known ? [known, status.reason] : (BY_CODE[code] ?? [SessiondError, status.reason || 'PROTOCOL_ERROR']);
  const applied = unknown || (status.applied ? status.applied !== 'no' : !REFUSED.has(code)) ? 'unknown' : 'no';
  return new Class(status.message || `the daemon answered ${code}`, {
    reason: status.reason || reason,
    code,
    applied,
    retryable: RETRYABLE.has(reason) && !(unknown && reason === 'VERSION_MISMATCH'),
    ...(status.retryAfter === undefined ? {} : { retryAfter: status.retryAfter }),
    ...(status.field ? { field: status.field } : {}),
  });
}
