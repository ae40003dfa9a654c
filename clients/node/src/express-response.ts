import type { OutgoingHttpHeader, ServerResponse } from 'node:http';
import { withCookie } from './adapter.js';
import { noStore } from './request-session.js';

/** @internal What has to happen around the head of a response. */
export interface HeadListener {
  /** Whether {@link finish} has to be waited for. May throw. */
  readonly due: boolean;
  /** What must be done before the head goes out. */
  finish(): Promise<void>;
  /** The Set-Cookie line that the head is to have. */
  readonly setCookie: string | null;
  /** The head goes out now: no cookie can be set from now on. */
  onHead(): void;
  /** Called at the end of a response whose head was sent before. Returns what to wait for. */
  late(): Promise<void> | null;
  /** `finish` or `late` has failed. If the head is not out, somebody has to answer the request now. */
  onFailure(error: unknown): void;
}

type Held = 'writeHead' | 'write' | 'end' | 'flushHeaders';

// These headers describe the response that was held, and are wrong for the one that says why it failed. All others, such
// as those for CORS, stay.
const ofTheBody = [
  'Accept-Ranges', 'Cache-Control', 'Content-Disposition', 'Content-Encoding', 'Content-Language', 'Content-Length',
  'Content-Location', 'Content-Range', 'Content-Type', 'ETag', 'Expires', 'Last-Modified', 'Location', 'Trailer',
  'Transfer-Encoding',
];

// How much of a response is held before its writer is told to wait. It is more than any stream takes at once: compression,
// for example, has the writer wait for its own stream, and that one tells it to go on only if it has been full itself.
const HELD_BYTES = 256 << 10;

/**
 * @internal Holds a response back until the session is saved, and sets the cookie before the head goes out. A response
 * whose request has changed nothing is not held: it goes out as if this were not here.
 *
 * Node builds the head within the first call of writeHead, write, end or flushHeaders, and there is no waiting in there. So
 * these calls are kept, and made again when the session is saved. Meanwhile the response looks as if its head were sent.
 */
export function holdHead(response: ServerResponse, listener: HeadListener): void {
  const { writeHead, write, end, flushHeaders } = response;
  const original = { writeHead, write, end, flushHeaders } as Record<Held, (...args: unknown[]) => unknown>;
  const held: { call: Held; args: unknown[] }[] = [];
  // checked: nothing is to be done, the head goes out within the call that is running.
  let state: 'open' | 'checked' | 'held' | 'sent' | 'failed' = 'open';
  let ended = false;
  let needDrain = false;
  let heldBytes = 0;

  // Whether the response is held back, now or already.
  function hold(call: Held, args: unknown[]): boolean {
    if (state === 'open') {
      let outcome: Promise<void>;
      try {
        if (!listener.due) {
          state = 'checked';
          return false;
        }
        outcome = listener.finish();
      } catch (error) {
        outcome = Promise.reject(error);
      }
      state = 'held';
      listener.onHead();
      lock(response, () => ended);
      outcome.then(release, fail);
    }
    if (state !== 'held') return false;
    held.push({ call, args });
    return true;
  }

  function release(): void {
    // What was changed while the session was saved, before the response came to its end.
    if (ended && isDue()) {
      listener.finish().then(release, fail);
      return;
    }
    unlock(response);
    state = 'sent';
    setCookie();
    let full = false;
    for (const { call, args } of held) {
      const result = original[call].apply(response, args);
      if (call === 'write') full = result === false;
    }
    // A writer that was told to wait goes on; if the socket is full, Node tells it later.
    if (needDrain && !full && !ended) response.emit('drain');
  }

  function fail(error: unknown): void {
    unlock(response);
    state = 'failed';
    for (const name of ofTheBody) response.removeHeader(name);
    response.statusCode = 200;
    response.statusMessage = undefined as unknown as string;
    // Whoever has wrapped these methods after us (compression, for example) has seen the end of a response that is not sent.
    // What answers now goes past them. What the held response's writer still writes, such as a timer, goes nowhere.
    response.removeAllListeners('drain');
    for (const { args } of held) {
      const callback = args.at(-1);
      if (typeof callback === 'function') process.nextTick(callback as () => void, error);
    }
    const answer = awaitAnswer(response);
    let done = false;
    response.writeHead = function (...args: unknown[]) {
      answer.begun = true;
      return patchedWriteHead(...args);
    } as typeof writeHead;
    response.write = ((...args: unknown[]) => (done || !answer.begun ? false : original.write.apply(response, args))) as typeof write;
    response.end = ((...args: unknown[]) => {
      if (done || !answer.begun) return response;
      done = true;
      return original.end.apply(response, args);
    }) as typeof end;
    response.flushHeaders = flushHeaders;
    // An answer that is given at once needs no status and no header.
    answer.begun = true;
    listener.onFailure(error);
    answer.begun = answer.touched || response.headersSent;
  }

  function setCookie(): void {
    const line = listener.setCookie;
    if (line === null) return;
    response.setHeader('Set-Cookie', withCookie(response.getHeader('Set-Cookie'), line));
    const cacheControl = noStore(response.getHeader('Cache-Control'));
    if (cacheControl !== null) response.setHeader('Cache-Control', cacheControl);
  }

  function patchedWriteHead(...args: unknown[]): ServerResponse {
    if (state === 'sent' || state === 'held') {
      // Held: as Node refuses a second head.
      if (state === 'held') throw headersSent();
      original.writeHead.apply(response, args);
      return response;
    }
    if (state === 'open' && isDue()) {
      hold('writeHead', takeHead(response, args));
      return response;
    }
    if (state !== 'failed') listener.onHead();
    if (listener.setCookie !== null) {
      args = takeHead(response, args);
      setCookie();
    }
    state = 'sent';
    original.writeHead.apply(response, args);
    return response;
  }

  function isDue(): boolean {
    try {
      return listener.due;
    } catch {
      return true; // hold() meets the error again, and deals with it.
    }
  }

  response.writeHead = patchedWriteHead as typeof writeHead;
  response.write = function (...args: unknown[]) {
    if (state === 'failed') return false;
    if (!hold('write', args)) return original.write.apply(response, args);
    const [chunk] = args;
    heldBytes += typeof chunk === 'string' ? chunk.length : ((chunk as Uint8Array | null)?.byteLength ?? 0);
    if (heldBytes < HELD_BYTES) return true;
    needDrain = true;
    return false;
  } as typeof write;
  response.flushHeaders = function () {
    if (state !== 'failed' && !hold('flushHeaders', [])) flushHeaders.call(response);
  };
  response.end = function (...args: unknown[]) {
    if (state === 'failed') return response;
    if (state === 'sent' && !ended) {
      const late = listener.late();
      if (late !== null) {
        ended = true;
        const failed = (error: unknown): void => {
          listener.onFailure(error);
          // The head has promised something else. All that is left is to break off.
          if (!response.writableEnded) response.destroy();
        };
        late.then(() => void original.end.apply(response, args), failed);
        return response;
      }
    }
    const kept = hold('end', args);
    ended = true;
    return kept ? response : original.end.apply(response, args);
  } as typeof end;
}

// Notices when somebody begins to answer, by a status or a header: until then, whatever is written is of the response before.
function awaitAnswer(response: ServerResponse): { begun: boolean; touched: boolean } {
  const answer = { begun: false, touched: false };
  let status = response.statusCode;
  const begin = (): void => {
    answer.begun = answer.touched = true;
    delete (response as { setHeader?: unknown }).setHeader;
    Object.defineProperty(response, 'statusCode', { configurable: true, enumerable: true, writable: true, value: status });
  };
  Object.defineProperty(response, 'statusCode', { configurable: true, enumerable: true, get: () => status, set: (value: number) => ((status = value), begin()) });
  Object.defineProperty(response, 'setHeader', {
    configurable: true,
    writable: true,
    value: (name: string, value: OutgoingHttpHeader) => {
      begin();
      return response.setHeader(name, value as string);
    },
  });
  return answer;
}

const locked = ['setHeader', 'appendHeader', 'setHeaders', 'removeHeader'] as const;

// Makes the response look as if its head were sent. Own properties shadow those of the class until they are removed.
function lock(response: ServerResponse, ended: () => boolean): void {
  const refuse = (): never => {
    throw headersSent();
  };
  for (const name of locked) Object.defineProperty(response, name, { configurable: true, writable: true, value: refuse });
  Object.defineProperty(response, 'headersSent', { configurable: true, get: () => true });
  Object.defineProperty(response, 'writableEnded', { configurable: true, get: ended });
}

function unlock(response: ServerResponse): void {
  for (const name of [...locked, 'headersSent', 'writableEnded']) delete (response as unknown as Record<string, unknown>)[name];
}

function headersSent(): Error {
  return Object.assign(new Error('Cannot set headers after they are sent to the client'), { code: 'ERR_HTTP_HEADERS_SENT' });
}

// Carries the headers that writeHead was given over to the response, as if they had been set one by one. Returns what is
// left for writeHead.
function takeHead(response: ServerResponse, [status, ...rest]: unknown[]): unknown[] {
  const [message, headers] = typeof rest[0] === 'string' ? [rest[0], rest[1]] : [undefined, rest[0] ?? rest[1]];
  response.statusCode = Number(status);
  if (Array.isArray(headers)) {
    const flat = Array.isArray(headers[0]) ? headers.flat() : headers;
    for (let at = 0; at < flat.length; at += 2) response.removeHeader(String(flat[at]));
    for (let at = 0; at < flat.length; at += 2) response.appendHeader(String(flat[at]), flat[at + 1]);
  } else {
    for (const [name, value] of Object.entries(headers ?? {})) {
      if (value !== undefined) response.setHeader(name, value as OutgoingHttpHeader);
    }
  }
  return message === undefined ? [status] : [status, message];
}
