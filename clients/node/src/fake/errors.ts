// The errors of the daemon, made here.
import type { SessiondError } from '../errors.js';
import { statusError } from '../protocol/status.js';

// reason: gRPC code, whether it may have been applied, RetryInfo in seconds, message
const REASONS: Record<string, readonly [number, 'no' | 'unknown', number | undefined, string]> = {
  INVALID_ARGUMENT: [3, 'no', undefined, 'an argument is not allowed'],
  INVALID_DATA: [3, 'no', undefined, 'the data are not allowed'],
  DATA_TOO_LARGE: [3, 'no', undefined, 'the data are larger than max_data_bytes'],
  UNKNOWN_ENGINE: [3, 'no', undefined, 'no engine of that name is configured'],
  SESSION_GONE: [5, 'no', undefined, 'the session is not live'],
  VERSION_MISMATCH: [10, 'no', undefined, 'another write came first'],
  TOO_MANY_SESSIONS: [9, 'no', undefined, 'the principal has as many sessions as allowed'],
  OVERLOADED: [8, 'no', 1, 'too many operations wait'],
  STORE_FULL: [8, 'no', undefined, 'the store is full'],
  STORE_UNAVAILABLE: [14, 'unknown', 1, 'the store has failed'],
  SHUTTING_DOWN: [14, 'no', 1, 'the daemon stops'],
  RECORD_UNREADABLE: [15, 'no', undefined, 'the record is damaged'],
  TOKEN_REQUIRED: [16, 'no', undefined, 'the call has no bearer token'],
  TOKEN_UNKNOWN: [16, 'no', undefined, 'the bearer token is unknown'],
  ROLE_REQUIRED: [7, 'no', undefined, 'the caller does not have the role'],
  TIMEOUT: [4, 'unknown', 1, 'the time is over'],
  CONNECTION_FAILED: [14, 'unknown', 1, 'the daemon cannot be reached'],
};

/** The reasons that the fake can fail with. */
export const FAKE_REASONS = Object.keys(REASONS);

/** The error that the client makes of a reason. */
export function failure(reason: string, message?: string, field = ''): SessiondError {
  const known = REASONS[reason];
  if (!known) throw new TypeError(`no such reason: ${reason}; expected one of ${FAKE_REASONS.join(', ')}`);
  const [code, applied, retryAfter, text] = known;
  return statusError({ code, message: message ?? text, reason, applied, retryAfter, field });
}
