// What the client tells of itself, over node:diagnostics_channel: nothing is made for a channel that nobody listens to.
import { channel } from 'node:diagnostics_channel';
import type { SessiondError } from './errors.js';
import type { Operation } from './transport/dispatcher.js';

/** A connection is ready (channel `sessiond:connect`). */
export interface ConnectMessage {
  readonly address: string;
  /** The daemon's version. */
  readonly version: string;
}

/** A connection is over (channel `sessiond:disconnect`). */
export interface DisconnectMessage {
  readonly address: string;
  /** Why, such as `SHUTTING_DOWN` or `CONNECTION_FAILED`. */
  readonly reason: string;
  /** How many operations had no answer. */
  readonly unanswered: number;
}

/** An attempt to connect has failed (channel `sessiond:connect-failed`). */
export interface ConnectFailedMessage {
  readonly address: string;
  readonly error: SessiondError;
}

/** An operation is over (channel `sessiond:operation`). */
export interface OperationMessage {
  readonly address: string;
  /** `resolve`, `touch`, `write`, `destroy` or `list`. */
  readonly operation: string;
  readonly engine: string;
  /** When it was asked, by `performance.now()`. */
  readonly startTime: number;
  /** How long it took, in milliseconds. */
  readonly duration: number;
  /** How often it was sent again. */
  readonly repetitions: number;
  /** What became of the credential, if the operation tells. */
  readonly state: string | undefined;
  /** Why it failed; undefined: it did not. */
  readonly error: SessiondError | undefined;
}

/** A change was dropped, because its session ended meanwhile (channel `sessiond:dropped`). */
export interface DroppedMessage {
  /** Public id of the session. */
  readonly id: string | null;
  /** What became of it. */
  readonly state: string;
  /** The top-level keys that were to be changed. */
  readonly keys: readonly string[];
}

const connect = channel('sessiond:connect');
const connectFailed = channel('sessiond:connect-failed');
const disconnect = channel('sessiond:disconnect');
const operation = channel('sessiond:operation');
const dropped = channel('sessiond:dropped');

/** @internal */
export const publish = {
  connect(address: string, version: string): void {
    if (connect.hasSubscribers) connect.publish({ address, version } satisfies ConnectMessage);
  },
  connectFailed(address: string, error: SessiondError): void {
    if (connectFailed.hasSubscribers) connectFailed.publish({ address, error } satisfies ConnectFailedMessage);
  },
  disconnect(address: string, reason: string, unanswered: number): void {
    if (disconnect.hasSubscribers) disconnect.publish({ address, reason, unanswered } satisfies DisconnectMessage);
  },
  operation({ request, started, retries, cuts }: Operation, address: string, result: unknown, error: SessiondError | undefined): void {
    if (operation.hasSubscribers) publish.finished(address, request.kind, request.engine, started, retries + cuts, result, error);
  },
  finished(address: string, kind: string, engine: string, startTime: number, repetitions: number, result: unknown, error: SessiondError | undefined): void {
    if (!operation.hasSubscribers) return;
    const state = (result as { state?: string } | undefined)?.state;
    const duration = performance.now() - startTime;
    operation.publish({ address, operation: kind, engine, startTime, duration, repetitions, state, error } satisfies OperationMessage);
  },
  dropped(id: string | null, state: string, keys: readonly string[]): void {
    if (dropped.hasSubscribers) dropped.publish({ id, state, keys } satisfies DroppedMessage);
  },
};
