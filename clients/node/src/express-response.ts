import { type OutgoingHttpHeader, ServerResponse } from 'node:http';
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

const names = ['writeHead', 'write', 'end', 'flushHeaders'] as const;
type Held = (typeof names)[number];

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
  const methods = methodsOfExpress(response);
  const head = new Head(response, listener, methods ?? response);
  if (methods !== null) {
    heads.set(response, head);
    return;
  }
  response.writeHead = ((...args: unknown[]) => head.writeHead(args)) as typeof response.writeHead;
  response.write = ((...args: unknown[]) => head.write(args)) as typeof response.write;
  response.end = ((...args: unknown[]) => head.end(args)) as typeof response.end;
  response.flushHeaders = () => head.flushHeaders();
}

type Method = (...args: unknown[]) => unknown;
type Methods = Pick<ServerResponse, Held>;

// Express gives each response another prototype. After that, V8 has a hidden class for each response alone, and every
// property that it gets costs microseconds. So our methods are in the prototype that all of Express's responses have, once;
// there they look here whether a response is ours.
const heads = new WeakMap<ServerResponse, Head>();
/** Our methods, by the prototype that has them, with those that were there before. */
const installed = new WeakMap<object, { ours: Methods; before: Methods }>();

/** The methods that a response of Express had before ours. `null`: ours must be its own. */
function methodsOfExpress(response: ServerResponse): Methods | null {
  const prototype = Object.getPrototypeOf(response) as ServerResponse;
  const root = rootOf(prototype);
  // Somebody may have wrapped the methods of this response before: ours come on top, as everybody's do.
  if (root === null || names.some((name) => Object.hasOwn(response, name)) || heads.has(response)) return null;
  let found = installed.get(root);
  if (found === undefined) installed.set(root, (found = install(root)));
  const { ours, before } = found;
  const { writeHead, write, end, flushHeaders } = prototype;
  return writeHead === ours.writeHead && write === ours.write && end === ours.end && flushHeaders === ours.flushHeaders ? before : null;
}

const roots = new WeakMap<object, object | null>();

/** What all responses of an Express inherit from: `express.response`. `null`: it is no response of Express. */
function rootOf(prototype: object): ServerResponse | null {
  let root = roots.get(prototype);
  if (root === undefined) {
    root = null;
    for (let at: object | null = prototype; at !== ServerResponse.prototype; at = Object.getPrototypeOf(at) as object | null) {
      root = at;
      if (at === null) break;
    }
    // The prototype of somebody's class is not ours to change.
    if (root !== null && (Object.hasOwn(root, 'constructor') || !Object.isExtensible(root))) root = null;
    roots.set(prototype, root);
  }
  return root as ServerResponse | null;
}

function install(root: ServerResponse): { ours: Methods; before: Methods } {
  const { writeHead, write, end, flushHeaders } = root;
  const before = { writeHead, write, end, flushHeaders };
  const ours = {
    writeHead(this: ServerResponse, ...args: unknown[]) {
      const head = heads.get(this);
      return head === undefined ? (writeHead as Method).apply(this, args) : head.writeHead(args);
    },
    write(this: ServerResponse, ...args: unknown[]) {
      const head = heads.get(this);
      return head === undefined ? (write as Method).apply(this, args) : head.write(args);
    },
    end(this: ServerResponse, ...args: unknown[]) {
      const head = heads.get(this);
      return head === undefined ? (end as Method).apply(this, args) : head.end(args);
    },
    flushHeaders(this: ServerResponse) {
      const head = heads.get(this);
      if (head === undefined) flushHeaders.call(this);
      else head.flushHeaders();
    },
  } as unknown as Methods;
  for (const name of names) Object.defineProperty(root, name, { configurable: true, writable: true, enumerable: false, value: ours[name] });
  return { ours, before };
}

class Head {
  readonly #response: ServerResponse;
  readonly #listener: HeadListener;
  // The response's own methods.
  readonly #writeHead: Method;
  readonly #write: Method;
  readonly #end: Method;
  readonly #flushHeaders: Method;
  // checked: nothing is to be done, the head goes out within the call that is running.
  #state: 'open' | 'checked' | 'held' | 'sent' | 'failed' = 'open';
  #ended = false;
  #needDrain = false;
  #heldBytes = 0;
  #held: { call: Held; args: unknown[] }[] | undefined;

  constructor(response: ServerResponse, listener: HeadListener, { writeHead, write, end, flushHeaders }: Methods) {
    this.#response = response;
    this.#listener = listener;
    this.#writeHead = writeHead as Method;
    this.#write = write as Method;
    this.#end = end as Method;
    this.#flushHeaders = flushHeaders as Method;
  }

  writeHead(args: unknown[]): ServerResponse {
    const response = this.#response;
    if (this.#state === 'sent' || this.#state === 'held') {
      // Held: as Node refuses a second head.
      if (this.#state === 'held') throw headersSent();
      this.#writeHead.apply(response, args);
      return response;
    }
    if (this.#state === 'open' && this.#isDue()) {
      this.#hold('writeHead', takeHead(response, args));
      return response;
    }
    if (this.#state !== 'failed') this.#listener.onHead();
    if (this.#listener.setCookie !== null) {
      args = takeHead(response, args);
      this.#setCookie();
    }
    this.#state = 'sent';
    this.#writeHead.apply(response, args);
    return response;
  }

  write(args: unknown[]): unknown {
    if (this.#state === 'failed') return false;
    if (!this.#hold('write', args)) return this.#write.apply(this.#response, args);
    const [chunk] = args;
    this.#heldBytes += typeof chunk === 'string' ? chunk.length : ((chunk as Uint8Array | null)?.byteLength ?? 0);
    if (this.#heldBytes < HELD_BYTES) return true;
    this.#needDrain = true;
    return false;
  }

  flushHeaders(): void {
    if (this.#state !== 'failed' && !this.#hold('flushHeaders', [])) this.#flushHeaders.call(this.#response);
  }

  end(args: unknown[]): unknown {
    const response = this.#response;
    if (this.#state === 'failed') return response;
    if (this.#state === 'sent' && !this.#ended) {
      const late = this.#listener.late();
      if (late !== null) {
        this.#ended = true;
        const failed = (error: unknown): void => {
          this.#listener.onFailure(error);
          // The head has promised something else. All that is left is to break off.
          if (!response.writableEnded) response.destroy();
        };
        late.then(() => void this.#end.apply(response, args), failed);
        return response;
      }
    }
    const kept = this.#hold('end', args);
    this.#ended = true;
    return kept ? response : this.#end.apply(response, args);
  }

  // Whether the response is held back, now or already.
  #hold(call: Held, args: unknown[]): boolean {
    if (this.#state === 'open') {
      let outcome: Promise<void>;
      try {
        if (!this.#listener.due) {
          this.#state = 'checked';
          return false;
        }
        outcome = this.#listener.finish();
      } catch (error) {
        outcome = Promise.reject(error as Error);
      }
      this.#state = 'held';
      this.#held = [];
      this.#listener.onHead();
      lock(this.#response, () => this.#ended);
      this.#wait(outcome);
    }
    if (this.#state !== 'held') return false;
    this.#held!.push({ call, args });
    return true;
  }

  #wait(outcome: Promise<void>): void {
    outcome.then(
      () => this.#release(),
      (error: unknown) => this.#fail(error),
    );
  }

  #release(): void {
    // What was changed while the session was saved, before the response came to its end.
    if (this.#ended && this.#isDue()) return this.#wait(this.#listener.finish());
    const response = this.#response;
    unlock(response);
    this.#state = 'sent';
    this.#setCookie();
    let full = false;
    for (const { call, args } of this.#held!) {
      const result = this.#original(call).apply(response, args);
      if (call === 'write') full = result === false;
    }
    // A writer that was told to wait goes on; if the socket is full, Node tells it later.
    if (this.#needDrain && !full && !this.#ended) response.emit('drain');
  }

  #original(call: Held): Method {
    switch (call) {
      case 'writeHead':
        return this.#writeHead;
      case 'write':
        return this.#write;
      case 'end':
        return this.#end;
      case 'flushHeaders':
        return this.#flushHeaders;
    }
  }

  #fail(error: unknown): void {
    const response = this.#response;
    unlock(response);
    this.#state = 'failed';
    for (const name of ofTheBody) response.removeHeader(name);
    response.statusCode = 200;
    response.statusMessage = undefined as unknown as string;
    // Whoever has wrapped these methods after us (compression, for example) has seen the end of a response that is not sent.
    // What answers now goes past them. What the held response's writer still writes, such as a timer, goes nowhere.
    response.removeAllListeners('drain');
    for (const { args } of this.#held!) {
      const callback = args.at(-1);
      if (typeof callback === 'function') process.nextTick(callback as () => void, error);
    }
    const answer = awaitAnswer(response);
    let done = false;
    response.writeHead = ((...args: unknown[]) => {
      answer.begun = true;
      return this.writeHead(args);
    }) as typeof response.writeHead;
    response.write = ((...args: unknown[]) => (done || !answer.begun ? false : this.#write.apply(response, args))) as typeof response.write;
    response.end = ((...args: unknown[]) => {
      if (done || !answer.begun) return response;
      done = true;
      return this.#end.apply(response, args);
    }) as typeof response.end;
    response.flushHeaders = this.#flushHeaders as typeof response.flushHeaders;
    // An answer that is given at once needs no status and no header.
    answer.begun = true;
    this.#listener.onFailure(error);
    answer.begun = answer.touched || response.headersSent;
  }

  #setCookie(): void {
    const line = this.#listener.setCookie;
    if (line === null) return;
    const response = this.#response;
    response.setHeader('Set-Cookie', withCookie(response.getHeader('Set-Cookie'), line));
    const cacheControl = noStore(response.getHeader('Cache-Control'));
    if (cacheControl !== null) response.setHeader('Cache-Control', cacheControl);
  }

  #isDue(): boolean {
    try {
      return this.#listener.due;
    } catch {
      return true; // #hold() meets the error again, and deals with it.
    }
  }
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
// In the opposite order: an object that loses the property it got last stays as fast as it was.
const unlocked = ['writableEnded', 'headersSent', ...locked.toReversed()];

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
  for (const name of unlocked) delete (response as unknown as Record<string, unknown>)[name];
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
