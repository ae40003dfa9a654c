// One HTTP/2 connection to the daemon: it asks Describe first, then opens one Pipeline stream, and carries unary calls
// beside it. It knows nothing of operations and their repetition; client.ts does.
import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants, type IncomingHttpHeaders } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { AuthenticationError, SessiondError, UnavailableError } from '../errors.js';
import { readDescription, readPipelineResponse, readStatus, type WireAnswer, type WireStatus } from '../protocol/answers.js';
import { unaryFrame } from '../protocol/requests.js';
import { statusError } from '../protocol/status.js';
import { Reader, WireError } from '../protocol/wire.js';
import type { Description } from '../types.js';
import { VERSION } from '../version.js';
import type { Target } from './address.js';

const SERVICE = '/sessiond.v1.SessionService/';
/** The HTTP/2 windows: so much may be under way towards us. The defaults of 64 KiB would stop a busy Pipeline. */
const STREAM_WINDOW = 1 << 20;
const CONNECTION_WINDOW = 4 << 20;
/** No answer is as long; a longer one is not from a daemon. */
const MAX_ANSWER = 64 << 20;

/** What became of the operations that a connection has not answered. */
export interface End {
  /** They did not take effect: repeat any of them. */
  readonly applied: 'no' | 'unknown';
  readonly error: SessiondError;
  /** No repetition helps: the settings of the client or the daemon are wrong. */
  readonly fatal: boolean;
}

/** Whom a connection reports to. */
export interface Observer {
  ready(connection: Connection, description: Description): void;
  answer(connection: Connection, sequence: number, answer: WireAnswer): void;
  writable(connection: Connection): void;
  /** The daemon asks to open a new connection. What is under way here goes on. */
  draining(connection: Connection): void;
  closed(connection: Connection, end: End): void;
}

export interface ConnectionOptions {
  readonly address: string;
  readonly target: Target;
  readonly token: string | undefined;
  /** Until the connection is ready, in milliseconds. */
  readonly timeout: number;
}

/** Takes an error of the network and says what it means for the client. */
function connectionFailed(address: string, what: string, cause?: unknown): SessiondError {
  const detail = cause instanceof Error ? `: ${cause.message}` : '';
  return new UnavailableError(`${what} the daemon at ${address}${detail}`, {
    reason: 'CONNECTION_FAILED',
    code: 'UNAVAILABLE',
    retryable: true,
    applied: 'unknown',
    retryAfter: 1,
    cause,
  });
}

export class Connection {
  draining = false;
  isReady = false;
  /** It has answered an operation. */
  answered = false;
  /** When the last octets came, by performance.now(). */
  lastReceived = performance.now();
  /** Since when an answer is awaited and nothing has come; undefined: none is awaited. */
  waitingSince: number | undefined;
  readonly #observer: Observer;
  readonly #options: ConnectionOptions;
  readonly #session: ClientHttp2Session;
  #pipeline: ClientHttp2Stream | undefined;
  #partial: Buffer | undefined;
  #status: WireStatus | undefined;
  #failure: { error: SessiondError; fatal: boolean } | undefined;
  #closed = false;
  #ending = false;
  #over = false;
  #connected = false;
  readonly #handshake: NodeJS.Timeout;

  constructor(options: ConnectionOptions, observer: Observer) {
    this.#options = options;
    this.#observer = observer;
    const { address, target } = options;
    this.#handshake = setTimeout(() => {
      this.destroy(connectionFailed(address, `no answer within ${options.timeout} ms from`));
    }, options.timeout);
    const session = connect(target.url, {
      createConnection: () => target.connect(),
      settings: { enablePush: false, initialWindowSize: STREAM_WINDOW },
    });
    this.#session = session;
    session.once('connect', (_, socket) => this.#connect(socket as TLSSocket));
    session.on('goaway', () => this.drain());
    session.on('error', (error) => {
      this.#failure ??= this.#explain(error);
    });
    session.once('close', () => this.#close());
  }

  /** Whether the pipeline takes more now. */
  get isWritable(): boolean {
    return this.isReady && !this.#closed && !this.#ending && !this.#over && this.#pipeline?.writableNeedDrain === false;
  }

  /** Sends frames of PipelineRequest. */
  write(frames: Buffer): void {
    this.waitingSince ??= performance.now();
    this.#pipeline?.write(frames);
  }

  /** A connection that nobody waits for does not keep the process alive. */
  ref(yes: boolean): void {
    if (this.#session.destroyed) return;
    if (yes) this.#session.ref();
    else this.#session.unref();
  }

  /** Calls back with whether the daemon has answered a PING. */
  ping(done: () => void): void {
    if (this.#session.destroyed || this.#session.closed) return;
    this.#session.ping((error) => {
      if (error) return;
      this.lastReceived = performance.now();
      if (this.waitingSince !== undefined) this.waitingSince = this.lastReceived;
      done();
    });
  }

  /** Nothing new is sent over this connection. */
  drain(): void {
    if (this.draining) return;
    this.draining = true;
    this.#observer.draining(this);
  }

  /** Closes a connection on which nothing is under way. */
  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.draining = true;
    this.#pipeline?.end();
    this.#session.close();
    // A daemon that does not answer the end of the stream must not hold the connection.
    setTimeout(() => this.#session.destroy(), this.#options.timeout).unref();
  }

  /** Cuts the connection. */
  destroy(error: SessiondError): void {
    this.#failure ??= { error, fatal: false };
    this.#session.destroy();
    // A session that never connected emits no `close` before its socket does.
    this.#close();
  }

  /** One unary call; `timeout` in milliseconds. */
  unary(method: string, frame: Buffer, timeout: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const headers = { ...this.#headers(method), 'grpc-timeout': `${Math.max(1, Math.ceil(timeout))}m` };
      const stream = this.#session.request(headers);
      const chunks: Buffer[] = [];
      let status: WireStatus | undefined;
      let problem: SessiondError | undefined;
      const timer = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), timeout);
      stream.on('response', (received) => {
        this.lastReceived = performance.now();
        problem = this.#refuseResponse(received);
        status = readTrailers(received);
      });
      stream.on('trailers', (trailers) => {
        status = readTrailers(trailers);
      });
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('error', () => {}); // `close` follows and tells
      stream.on('close', () => {
        clearTimeout(timer);
        this.lastReceived = performance.now();
        if (problem) reject(problem);
        else if (status === undefined) reject(this.#cut(stream.rstCode));
        else if (status.code !== 0) reject(statusError(status));
        else {
          const body = Buffer.concat(chunks);
          if (body.length >= 5 && body[0] === 0 && body.readUInt32BE(1) === body.length - 5) resolve(body.subarray(5));
          else reject(this.#protocolError('a unary answer that is not one message'));
        }
      });
      stream.end(frame);
    });
  }

  #headers(method: string): Record<string, string> {
    const { token } = this.#options;
    return {
      ':method': 'POST',
      ':path': SERVICE + method,
      'content-type': 'application/grpc+proto',
      te: 'trailers',
      'user-agent': `sessiond-node/${VERSION}`,
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    };
  }

  #connect(socket: TLSSocket): void {
    if (this.#closed) return;
    this.#connected = true;
    if (this.#options.target.tls && socket.alpnProtocol !== 'h2') {
      this.#failure = { error: this.#protocolError('it does not offer HTTP/2 over TLS'), fatal: true };
      this.#session.destroy();
      return;
    }
    this.#session.setLocalWindowSize(CONNECTION_WINDOW);
    this.unary('Describe', unaryFrame(null), this.#options.timeout).then(
      (body) => {
        if (this.#closed) return;
        this.#open(readDescription(body));
      },
      (error: SessiondError) => this.#refused(error),
    ).catch((error: unknown) => this.#broken(error));
  }

  /** Describe failed. */
  #refused(error: SessiondError): void {
    const { address } = this.#options;
    let fatal = error instanceof AuthenticationError || error.reason === 'PROTOCOL_ERROR';
    if (error.code === 'UNIMPLEMENTED') {
      fatal = true;
      error = new SessiondError(
        `the daemon at ${address} does not know Describe: it is older than this client (${VERSION}), or this is an address of listen.admin; update the daemon, or use an address of listen.grpc`,
        { reason: 'DAEMON_TOO_OLD', code: 'UNIMPLEMENTED' },
      );
    }
    this.#failure ??= { error, fatal };
    this.#session.destroy();
  }

  #open(description: Description): void {
    clearTimeout(this.#handshake);
    const pipeline = this.#session.request(this.#headers('Pipeline'), { endStream: false });
    this.#pipeline = pipeline;
    pipeline.on('response', (headers) => {
      const problem = this.#refuseResponse(headers);
      if (problem) {
        this.#failure = { error: problem, fatal: true };
        this.#session.destroy();
      }
      this.#status = readTrailers(headers);
    });
    pipeline.on('trailers', (trailers) => {
      this.#status = readTrailers(trailers);
      this.#over = true;
    });
    pipeline.on('data', (chunk: Buffer) => {
      try {
        this.#read(chunk);
      } catch (error) {
        this.#broken(error);
      }
    });
    pipeline.on('end', () => {
      // The daemon has ended the stream; our side of it is open still.
      this.#over = true;
      setImmediate(() => pipeline.close());
    });
    pipeline.on('drain', () => this.#observer.writable(this));
    pipeline.on('error', () => {}); // `close` follows and tells
    pipeline.on('close', () => {
      // Without its Pipeline the connection is of no use.
      if (this.#status === undefined && pipeline.rstCode !== 0) this.#failure ??= { error: this.#cut(pipeline.rstCode), fatal: false };
      this.#close();
      this.#session.close();
    });
    this.isReady = true;
    this.#observer.ready(this, description);
  }

  #read(chunk: Buffer): void {
    this.lastReceived = performance.now();
    const buffer = this.#partial === undefined ? chunk : Buffer.concat([this.#partial, chunk]);
    this.#partial = undefined;
    let at = 0;
    const reader = new Reader(buffer);
    while (buffer.length - at >= 5) {
      if (buffer[at] !== 0) throw new WireError('a compressed message');
      const length = buffer.readUInt32BE(at + 1);
      if (length > MAX_ANSWER) throw new WireError('a message that is too long');
      const stop = at + 5 + length;
      if (stop > buffer.length) break;
      reader.position = at + 5;
      reader.end = stop;
      const { sequence, answer } = readPipelineResponse(reader);
      this.#observer.answer(this, sequence, answer);
      at = stop;
    }
    if (at < buffer.length) this.#partial = buffer.subarray(at);
  }

  /** Not an answer of gRPC at all. */
  #refuseResponse(headers: IncomingHttpHeaders): SessiondError | undefined {
    if (headers['grpc-status'] !== undefined) return undefined;
    const type = headers['content-type'] ?? '';
    if (Number(headers[':status']) === 200 && type.startsWith('application/grpc')) return undefined;
    // A proxy in front of a daemon that is away.
    if ([429, 502, 503, 504].includes(Number(headers[':status']))) return this.#cut(0);
    return this.#protocolError(`it answered with HTTP status ${headers[':status'] ?? 'unknown'} and not with gRPC`);
  }

  #protocolError(what: string, cause?: unknown): SessiondError {
    return new SessiondError(`the server at ${this.#options.address} does not speak the protocol of sessiond: ${what}`, {
      reason: 'PROTOCOL_ERROR',
      code: 'INTERNAL',
      applied: 'unknown',
      cause,
    });
  }

  #broken(error: unknown): void {
    const what = error instanceof WireError ? error.message : 'an answer that cannot be read';
    this.destroy(this.#protocolError(what, error));
  }

  #cut(rstCode: number): SessiondError {
    const refused = rstCode === constants.NGHTTP2_REFUSED_STREAM;
    return new UnavailableError(`the daemon at ${this.#options.address} cut the call off`, {
      reason: 'CONNECTION_FAILED',
      code: 'UNAVAILABLE',
      retryable: true,
      applied: refused ? 'no' : 'unknown',
      retryAfter: 1,
    });
  }

  #explain(error: Error): { error: SessiondError; fatal: boolean } {
    const { address, target } = this.#options;
    const code = (error as NodeJS.ErrnoException).code ?? '';
    // What a certificate or the kind of the connection is wrong about does not heal by itself.
    const tls = target.tls && !this.#connected && /CERT|TLS|SSL|EPROTO|SIGNATURE/.test(code);
    if (tls) return { error: connectionFailed(address, 'no TLS connection to', error), fatal: true };
    if (!target.tls && code === 'ERR_HTTP2_ERROR' && !this.isReady) {
      return { error: connectionFailed(address, 'no HTTP/2 (is it TLS, or another server?) from', error), fatal: true };
    }
    return { error: connectionFailed(address, this.#connected ? 'the connection was cut to' : 'cannot reach', error), fatal: false };
  }

  /** The connection is over; once. */
  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.isReady = false;
    clearTimeout(this.#handshake);
    this.#observer.closed(this, this.#end());
  }

  #end(): End {
    if (this.#failure) {
      const { error, fatal } = this.#failure;
      return { applied: error.applied, error, fatal };
    }
    const status = this.#status;
    if (status && status.code !== 0) {
      const error = statusError(status);
      // Whatever has no answer after SHUTTING_DOWN was not applied.
      const applied = error.reason === 'SHUTTING_DOWN' || error instanceof AuthenticationError ? 'no' : 'unknown';
      return { applied, error, fatal: error instanceof AuthenticationError };
    }
    const { address } = this.#options;
    if (this.#ending) return { applied: 'no', error: new UnavailableError('the connection was closed', { reason: 'CLOSED', code: 'CANCELLED' }), fatal: false };
    return { applied: 'unknown', error: connectionFailed(address, this.#connected ? 'the connection was closed by' : 'cannot reach'), fatal: false };
  }
}

function readTrailers(headers: IncomingHttpHeaders): WireStatus | undefined {
  const code = headers['grpc-status'];
  if (code === undefined) return undefined;
  const details = headers['grpc-status-details-bin'];
  if (typeof details === 'string') {
    try {
      return readStatus(new Reader(Buffer.from(details, 'base64')));
    } catch {
      // Details that cannot be read are as good as none.
    }
  }
  return { code: Number(code), message: decodeMessage(headers['grpc-message']), reason: '', applied: '', retryAfter: undefined, field: '' };
}

/** grpc-message is percent-encoded. */
function decodeMessage(message: string | string[] | undefined): string {
  const text = String(message ?? '');
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
