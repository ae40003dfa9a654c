/**
 * The client of sessiond, a daemon that owns web sessions.
 *
 * @module sessiond
 */
export { createClient } from './client.js';
export * from './errors.js';
export { RequestSession, noStore } from './request-session.js';
export type { Device, LoginOptions, RequestSessionOptions } from './request-session.js';
export type * from './types.js';
