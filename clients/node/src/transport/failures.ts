import { InvalidArgumentError, SessiondError, UnavailableError } from '../errors.js';

/** After a repetition these can be the effect of the first attempt. */
export function outcomeUnknown(reason: string): boolean {
  return reason === 'VERSION_MISMATCH' || reason === 'SESSION_GONE';
}

export function tooMany(field: string, limit: number): SessiondError {
  return new InvalidArgumentError(`${field} has more than ${limit} entries`, { reason: 'INVALID_ARGUMENT', code: 'INVALID_ARGUMENT', field });
}

export function protocolError(address: string, cause: unknown): SessiondError {
  const what = cause instanceof Error ? cause.message : String(cause);
  return new SessiondError(`the server at ${address} does not speak the protocol of sessiond: ${what}`, {
    reason: 'PROTOCOL_ERROR',
    code: 'INTERNAL',
    applied: 'unknown',
    cause: cause instanceof Error ? cause : undefined,
  });
}

export function silentError(address: string): SessiondError {
  return new UnavailableError(`the daemon at ${address} does not answer`, {
    reason: 'CONNECTION_FAILED',
    code: 'UNAVAILABLE',
    retryable: true,
    retryAfter: 1,
    applied: 'unknown',
  });
}

/** Each operation that is cut off gets an error of its own, with its own outcome. */
export function cutError(error: SessiondError, applied: 'no' | 'unknown'): SessiondError {
  if (error.reason === 'PROTOCOL_ERROR') return error;
  return new UnavailableError(error.message, {
    reason: error instanceof UnavailableError ? error.reason : 'CONNECTION_FAILED',
    code: 'UNAVAILABLE',
    retryable: applied === 'no',
    retryAfter: error.retryAfter ?? 1,
    applied,
    cause: error,
  });
}
