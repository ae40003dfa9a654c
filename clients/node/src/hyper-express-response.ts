import { STATUS_CODES } from 'node:http';
import { noStore } from './headers.js';
import { withCookie } from './adapter.js';
import { SessiondError } from './errors.js';

/** @internal What is used of a response of hyper-express 6. */
export interface HyperResponse {
  readonly completed: boolean;
  readonly initiated: boolean;
  _writable: { readonly writableLength: number; destroy(): void } | null;
  _cookies?: Record<string, string> | undefined;
  status(code: number): HyperResponse;
  type(mimeType: string): HyperResponse;
  header(name: string, value: string | string[], overwrite?: boolean): HyperResponse;
  getHeader(name: string): string | string[] | undefined;
  removeHeader(name: string): void;
  send(body?: unknown, closeConnection?: boolean): HyperResponse;
  close(): void;
  throw(error: unknown): HyperResponse;
  upgrade(context?: unknown): void;
  _stream_chunk(chunk: unknown, totalSize?: number): Promise<void>;
}

/** @internal What has to happen before the head of a response. */
export interface ResponseListener {
  /** Whether {@link finish} has to be waited for. May throw. */
  readonly due: boolean;
  /** What must be done before the head goes out. */
  finish(): Promise<void>;
  /** The Set-Cookie line that the head is to have. */
  readonly setCookie: string | null;
  /** The head goes out now. */
  onHead(): void;
}

const ofTheBody = ['content-type', 'content-length', 'content-encoding', 'content-disposition', 'etag', 'last-modified', 'location', 'cache-control'];

/**
 * @internal Holds a response back until the session is saved. Everything that hyper-express sends goes through `send`,
 * `_stream_chunk` (streams and server-sent events) or `upgrade`.
 *
 * @param onError - answers an error of the daemon; undefined: with its status and a line of text
 */
export function holdResponse(response: HyperResponse, listener: ResponseListener, onError?: (error: SessiondError) => void): void {
  const { send, _stream_chunk: streamChunk, throw: raise, upgrade } = response;
  let state: 'open' | 'held' | 'sent' | 'failed' = 'open';
  let finished: Promise<void> | undefined;
  let sending = false;

  // What to wait for before the head goes out; undefined: nothing.
  function hold(): Promise<void> | undefined {
    if (state !== 'open') return finished;
    let outcome: Promise<void>;
    try {
      const { due } = listener;
      listener.onHead();
      if (!due) {
        state = 'sent';
        setCookie();
        return undefined;
      }
      outcome = listener.finish();
    } catch (error) {
      outcome = Promise.reject(error);
    }
    state = 'held';
    finished = outcome.then(
      () => {
        state = 'sent';
        finished = undefined;
        if (!response.initiated) setCookie();
      },
      (error: unknown) => {
        state = 'failed';
        finished = undefined;
        response.throw(error);
      },
    );
    return finished;
  }

  function setCookie(): void {
    const line = listener.setCookie;
    if (line === null) return;
    delete response._cookies?.[line.slice(0, line.indexOf('='))];
    response.header('set-cookie', withCookie(response.getHeader('set-cookie'), line), true);
    const cacheControl = noStore(response.getHeader('cache-control'));
    if (cacheControl !== null) response.header('cache-control', cacheControl, true);
  }

  response.send = (body?: unknown, closeConnection?: boolean) => {
    const wait = hold();
    // Chunks are on their way: hyper-express sends this after them.
    if (wait === undefined || response._writable?.writableLength) return send.call(response, body, closeConnection);
    if (sending) return response;
    sending = true;
    void wait.then(() => {
      if (state === 'sent') send.call(response, body, closeConnection);
    });
    return response;
  };

  response._stream_chunk = async (chunk: unknown, totalSize?: number) => {
    const wait = hold();
    if (wait !== undefined) await wait;
    if (state === 'sent') await streamChunk.call(response, chunk, totalSize);
  };

  response.upgrade = (context?: unknown) => {
    const wait = hold();
    if (wait === undefined) return upgrade.call(response, context);
    void wait.then(() => {
      if (state === 'sent') upgrade.call(response, context);
    });
  };

  // The daemon's errors have a status. Without this, hyper-express would answer all of them with 500.
  response.throw = (error: unknown) => {
    if (!(error instanceof SessiondError) || error.status === 500) return raise.call(response, error);
    if (response.completed) return response;
    if (response.initiated) {
      response.close();
      return response;
    }
    state = 'failed';
    finished = undefined;
    for (const name of ofTheBody) response.removeHeader(name);
    setCookie();
    response.status(error.status);
    for (const [name, value] of Object.entries(error.headers)) response.header(name, value, true);
    response.send = send;
    response._stream_chunk = streamChunk;
    // Chunks that wait are those of the response that is not sent. A stream that is piped here is told by the destruction.
    const writable = response._writable;
    response._writable = null;
    writable?.destroy();
    if (onError !== undefined) onError(error);
    else response.type('text').send(`${STATUS_CODES[error.status]}\n`);
    return response;
  };
}
