import { createClient } from './client.js';
import type { Client, ClientOptions, Engine } from './types.js';

/** Where an adapter finds the daemon: a client, or what makes one. */
export type ClientOrAddress =
  | {
      /** The client to use. Share one in the process. */
      readonly client: Client;
      readonly address?: undefined;
    }
  | (ClientOptions & {
      /** The daemon's address, `host:port` or `unix:/path`: a client is made for this adapter. */
      readonly address: string;
      readonly client?: undefined;
    });

/** @internal The client of an adapter's options. */
export function clientOf(options: ClientOrAddress, own: readonly string[], caller: string): Client {
  if (options === null || typeof options !== 'object') throw new TypeError(`${caller}: expected an object of options`);
  if (options.client !== undefined) return options.client;
  if (typeof options.address !== 'string') throw new TypeError(`${caller}: expected the option "client" or "address"`);
  const { address, client: _, ...rest } = options;
  const known = Object.entries(rest).filter(([name]) => !own.includes(name));
  return createClient(address, Object.fromEntries(known));
}

const settingsOfTheDaemon: Record<string, string> = {
  cookie: 'engine.NAME.cookie',
  genid: '',
  idGenerator: '',
  name: 'engine.NAME.cookie.name',
  cookieName: 'engine.NAME.cookie.name',
  cookiePrefix: 'engine.NAME.cookie.format',
  proxy: '',
  resave: '',
  rolling: 'engine.NAME.touch_granularity',
  saveUninitialized: '',
  secret: 'engine.NAME.cookie.secret_file',
  store: 'store',
};

/** @internal Refuses the options of session libraries that the daemon's configuration has now. */
export function refuseOldOptions(options: object, caller: string): void {
  for (const name of Object.keys(options)) {
    const setting = settingsOfTheDaemon[name];
    if (setting === undefined) continue;
    const where = setting === '' ? 'it has no counterpart' : `the daemon's configuration has it as ${setting}`;
    throw new TypeError(`${caller}: remove the option "${name}": ${where}`);
  }
}

/** @internal What the daemon says of an engine, if it is known yet. */
export function engineOf(client: Client, engine: string | undefined): Engine | undefined {
  const name = engine || client.engine || 'default';
  return client.description?.engines.find((one) => one.name === name);
}

/** @internal The Set-Cookie lines of a response with the session's line in it, once. */
export function withCookie(existing: number | string | readonly string[] | undefined, line: string): string[] {
  const name = line.slice(0, line.indexOf('=') + 1);
  const others = existing === undefined ? [] : Array.isArray(existing) ? existing : [String(existing)];
  return [...others.filter((other) => !String(other).startsWith(name)), line];
}

/** @internal Whether a request with this method is safe (RFC 9110, 9.2.1): what it changes is a side effect. */
export function isSafe(method: string | undefined): boolean {
  return method === 'GET' || method === 'HEAD' || method === 'OPTIONS' || method === 'TRACE';
}
