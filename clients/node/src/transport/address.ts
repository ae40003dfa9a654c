import { isIP, connect as connectSocket, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { InvalidArgumentError } from '../errors.js';
import type { ClientOptions } from '../types.js';

/** Where the daemon is and how to reach it. */
export interface Target {
  /** The URL for HTTP/2's `:authority` and `:scheme`. */
  readonly url: string;
  readonly tls: boolean;
  connect(): Socket;
}

function invalid(message: string, field: string): InvalidArgumentError {
  return new InvalidArgumentError(message, { reason: 'INVALID_ARGUMENT', code: 'INVALID_ARGUMENT', field });
}

/** Reads an address: `host:port`, `[::1]:port` or `unix:/path`. */
export function parseAddress(address: string, tls: ClientOptions['tls']): Target {
  if (typeof address !== 'string') throw invalid('the address of the daemon must be "host:port" or "unix:/path"', 'address');
  const options = tls === true ? {} : tls || undefined;
  if (address.startsWith('unix:')) {
    const path = address.slice('unix:'.length).replace(/^\/\/(?=\/)/, '');
    if (path === '') throw invalid('the address "unix:" has no path', 'address');
    if (options) throw invalid('a unix socket takes no TLS', 'tls');
    return { url: 'http://localhost', tls: false, connect: () => connectSocket({ path }) };
  }
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:/[\]@\s]+)):(\d{1,5})$/.exec(address);
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65535) {
    throw invalid(`the address ${JSON.stringify(address)} is not of the form "host:port" or "unix:/path"`, 'address');
  }
  const host = (match[1] ?? match[2]) as string;
  if (!options) return { url: `http://${address}`, tls: false, connect: () => connectSocket({ host, port, noDelay: true }) };
  const { ca, cert, key, serverName } = options;
  const servername = serverName ?? (isIP(host) ? undefined : host);
  return {
    url: `https://${address}`,
    tls: true,
    connect: () =>
      connectTls({
        host,
        port,
        ALPNProtocols: ['h2'],
        ...(ca === undefined ? {} : { ca: bytes(ca) }),
        ...(cert === undefined ? {} : { cert: bytes(cert) }),
        ...(key === undefined ? {} : { key: bytes(key) }),
        ...(servername === undefined ? {} : { servername }),
      }).setNoDelay(true),
  };
}

function bytes(pem: string | Uint8Array): string | Buffer {
  return typeof pem === 'string' ? pem : Buffer.from(pem);
}
