import type { Client, ClientOptions } from './types.js';

/**
 * Makes a client of the daemon at `address`: `host:port`, or `unix:/path/to.sock`.
 *
 * It connects at the first operation, and again by itself. It does not keep the process alive while nothing is under way.
 */
export function createClient(address: string, options: ClientOptions = {}): Client {
  void options;
  throw new Error(`not yet: ${address}`);
}
