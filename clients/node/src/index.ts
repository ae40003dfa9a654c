/**
 * The client of sessiond, a daemon that owns web sessions.
 *
 * @module sessiond
 */
export { createClient } from './client.js';
export * from './errors.js';
export { RequestSession } from './request-session.js';
export { noStore } from './headers.js';
export type { Change, Device, LoginOptions, RequestSessionOptions } from './request-session.js';
export type { ConnectFailedMessage, ConnectMessage, DisconnectMessage, DroppedMessage, OperationMessage } from './diagnostics.js';
export type * from './types.js';
