// The operations of one client: their deadlines, the queue, the connections, and what may be repeated. See DESIGN 10 and
// docs/writing-a-client.md.
import { publish } from '../diagnostics.js';
import { AuthenticationError, DataTooLargeError, OverloadedError, SessiondError, UnavailableError } from '../errors.js';
import type { WireAnswer } from '../protocol/answers.js';
import { frameSize, requestSize, type WireRequest, writeFrame } from '../protocol/requests.js';
import { statusError } from '../protocol/status.js';
import { Writer } from '../protocol/wire.js';
import type { Description } from '../types.js';
import type { Target } from './address.js';
import { Backoff, pauseAfter } from './backoff.js';
import { Connection, type End } from './connection.js';
import { cutError, outcomeUnknown, protocolError, silentError, tooMany } from './failures.js';
import { listSessions } from './list.js';
import { readToken } from './token.js';

/** A connection that is not ready by then is given up: the next attempt may reach a daemon that is back. */
const CONNECT_TIMEOUT = 2000;
/** How often OVERLOADED and STORE_UNAVAILABLE are repeated, and how often what was cut off is. */
const MAX_RETRIES = 2;
const MAX_CUTS = 5;
/** A daemon that owes an answer and says nothing for so long is asked whether it is there. */
const MIN_PATIENCE = 1000;
/** So much is handed to the stream at a time; more waits until it is sent. */
const BATCH = 256 << 10;

/** One operation on its way. */
export interface Operation {
  readonly request: WireRequest;
  /** A repetition does no harm after an unknown outcome. */
  readonly safe: boolean;
  readonly sequence: number;
  readonly started: number;
  readonly deadline: number;
  readonly resolve: (value: never) => void;
  readonly reject: (error: SessiondError) => void;
  /** Where it was sent; undefined: it is queued, or waits for its repetition. */
  connection: Connection | undefined;
  /** It may have taken effect already. */
  uncertain: boolean;
  retries: number;
  cuts: number;
  done: boolean;
  timer: NodeJS.Timeout | undefined;
  // Neighbours in the list of all operations, which is in the order of the deadlines.
  previous: Operation | undefined;
  next: Operation | undefined;
}

export interface DispatcherOptions {
  readonly address: string;
  readonly target: Target;
  readonly token: string | undefined;
  readonly tokenFile: string | undefined;
  readonly timeout: number;
  readonly maxInFlight: number;
}

export class Dispatcher {
  description: Description | null = null;
  readonly #options: DispatcherOptions;
  #count = 0;
  #first: Operation | undefined;
  #last: Operation | undefined;
  #sequence = 0;
  #queue: Operation[] = [];
  /** What was sent over each connection and has no answer. */
  readonly #sent = new Map<Connection, Map<number, Operation>>();
  #current: Connection | undefined;
  #connecting: Connection | true | undefined;
  #token: string | undefined;
  #freshToken = false;
  #lastError: SessiondError | undefined;
  readonly #backoff = new Backoff();
  /** Of the pause before the next attempt to connect. */
  #pause: NodeJS.Timeout | undefined;
  #flush: NodeJS.Immediate | undefined;
  #sweep: NodeJS.Timeout | undefined;
  #pinged: Connection | undefined;
  #pingedAt = 0;
  #closed = false;
  #idle: (() => void) | undefined;
  #waiting: { resolve: (description: Description) => void; reject: (error: SessiondError) => void; timer: NodeJS.Timeout }[] = [];

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  /** Runs one operation. */
  run<T>(request: WireRequest, safe: boolean): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#closed) return reject(this.#closedError('no'));
      if (this.#count >= this.#options.maxInFlight) {
        return reject(
          new OverloadedError(`${this.#options.maxInFlight} operations are under way already (maxInFlight)`, {
            reason: 'IN_FLIGHT_LIMIT',
            code: 'RESOURCE_EXHAUSTED',
            retryable: true,
            retryAfter: 1,
          }),
        );
      }
      const now = performance.now();
      const operation: Operation = {
        request,
        safe,
        sequence: ++this.#sequence,
        started: now,
        deadline: now + this.#options.timeout,
        resolve,
        reject,
        connection: undefined,
        uncertain: false,
        retries: 0,
        cuts: 0,
        done: false,
        timer: undefined,
        previous: this.#last,
        next: undefined,
      };
      if (this.#last) this.#last.next = operation;
      else this.#first = operation;
      this.#last = operation;
      if (this.#count++ === 0) this.#busy();
      this.#queue.push(operation);
      this.#schedule();
    });
  }

  /** What the daemon is, as soon as there is a connection. */
  describe(): Promise<Description> {
    if (this.#current && this.description) return Promise.resolve(this.description);
    if (this.#closed) return Promise.reject(this.#closedError('no'));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((waiting) => waiting.timer !== timer);
        reject(this.#timeoutError(false));
      }, this.#options.timeout);
      this.#waiting.push({ resolve, reject, timer });
      this.#connect();
    });
  }

  /** Takes nothing new, and waits for what is under way. */
  async close(timeout: number): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      if (this.#count > 0) {
        const drained = new Promise<void>((resolve) => (this.#idle = resolve));
        const timer = setTimeout(() => {
          const all: Operation[] = [];
          for (let operation = this.#first; operation; operation = operation.next) all.push(operation);
          for (const operation of all) this.#fail(operation, this.#closedError(operation.connection || operation.uncertain ? 'unknown' : 'no'));
        }, timeout);
        await drained;
        clearTimeout(timer);
      }
    }
    clearTimeout(this.#pause);
    clearTimeout(this.#sweep);
    this.#failWaiting(this.#closedError('no'));
    if (this.#connecting instanceof Connection) this.#connecting.destroy(this.#closedError('no'));
    for (const connection of [...this.#sent.keys()]) connection.end();
    this.#current = undefined;
  }

  // ---- sending

  #schedule(): void {
    // One write for all that is asked in this turn of the event loop.
    this.#flush ??= setImmediate(() => {
      this.#flush = undefined;
      this.#send();
    });
  }

  #send(): void {
    if (this.#queue.length === 0) return;
    const connection = this.#current;
    if (!connection) return this.#connect();
    const sent = this.#sent.get(connection) as Map<number, Operation>;
    const now = performance.now();
    let taken = 0;
    while (taken < this.#queue.length && connection.isWritable) {
      const batch: Operation[] = [];
      const sizes: number[] = [];
      let total = 0;
      while (taken < this.#queue.length && total < BATCH) {
        const operation = this.#queue[taken++] as Operation;
        if (operation.done) continue;
        if (operation.deadline <= now) {
          this.#late(operation);
          continue;
        }
        if (operation.request.kind === 'list') {
          this.#list(operation, operation.request, connection);
          continue;
        }
        const bodySize = requestSize(operation.request);
        const size = frameSize(operation.sequence, operation.deadline - now, bodySize);
        const refusal = this.#refuse(operation.request, size);
        if (refusal) {
          this.#fail(operation, refusal);
          continue;
        }
        batch.push(operation);
        sizes.push(size, bodySize);
        total += size;
      }
      if (batch.length === 0) break;
      const out = new Writer(total);
      for (let i = 0; i < batch.length; i++) {
        const operation = batch[i] as Operation;
        writeFrame(out, operation.request, operation.sequence, operation.deadline - now, sizes[2 * i] as number, sizes[2 * i + 1] as number);
        operation.connection = connection;
        sent.set(operation.sequence, operation);
      }
      connection.write(out.buffer);
    }
    if (taken > 0) this.#queue = taken === this.#queue.length ? [] : this.#queue.slice(taken);
  }

  /** What the daemon would refuse by ending the stream, for everybody. */
  #refuse(request: WireRequest, size: number): SessiondError | undefined {
    const description = this.description as Description;
    const { limits } = description;
    if (request.kind === 'write') {
      const name = request.engine || 'default';
      const engine = description.engines.find((candidate) => candidate.name === name);
      // 4 KiB are always accepted.
      if (engine && request.set.length > 4096 && Buffer.byteLength(request.set) > Math.max(engine.maxDataBytes, 4096)) {
        return new DataTooLargeError(`the data are larger than max_data_bytes of the engine (${engine.maxDataBytes} bytes)`, {
          reason: 'DATA_TOO_LARGE',
          code: 'INVALID_ARGUMENT',
          field: 'set',
        });
      }
      if (request.unset.length > limits.maxUnset) return tooMany('unset', limits.maxUnset);
    }
    if (request.kind === 'destroy' && request.sessionIds.length > limits.maxSessionIds) return tooMany('sessionIds', limits.maxSessionIds);
    if (limits.maxMessageBytes > 0 && size - 5 > limits.maxMessageBytes) {
      return new DataTooLargeError(`the message is larger than limits.max_message_bytes of the daemon (${limits.maxMessageBytes} bytes)`, {
        reason: 'MESSAGE_TOO_LARGE',
        code: 'INVALID_ARGUMENT',
      });
    }
    return undefined;
  }

  #list(operation: Operation, request: WireRequest & { kind: 'list' }, connection: Connection): void {
    const sent = this.#sent.get(connection) as Map<number, Operation>;
    operation.connection = connection;
    sent.set(operation.sequence, operation);
    listSessions(connection, request, operation.deadline).then(
      (result) => {
        if (!this.#forget(operation, connection)) return;
        this.#worked(connection);
        this.#finish(operation, result);
      },
      (error: unknown) => {
        if (!this.#forget(operation, connection)) return;
        if (!(error instanceof SessiondError)) this.#fail(operation, protocolError(this.#options.address, error));
        else if (error.reason !== 'CONNECTION_FAILED' && error.reason !== 'SHUTTING_DOWN') {
          this.#worked(connection);
          this.#failed(operation, error);
        } else if (connection !== this.#current) this.#repeatIn(0, operation);
        // The connection is there still, and may end the next call as well.
        else if (operation.cuts < MAX_CUTS) this.#repeatIn(pauseAfter(operation.cuts++), operation);
        else this.#fail(operation, error);
      },
    );
  }

  #forget(operation: Operation, connection: Connection): boolean {
    this.#sent.get(connection)?.delete(operation.sequence);
    this.#drained(connection);
    return !operation.done && operation.connection === connection;
  }

  // ---- answers

  #answer(connection: Connection, sequence: number, answer: WireAnswer): void {
    const sent = this.#sent.get(connection);
    const operation = sent?.get(sequence);
    if (!sent || !operation) {
      // An answer to something that has timed out is dropped. One to something that was never sent is a fault.
      if (sequence === 0 || sequence > this.#sequence) connection.destroy(protocolError(this.#options.address, 'an answer to no operation'));
      return;
    }
    sent.delete(sequence);
    this.#worked(connection);
    operation.connection = undefined;
    connection.waitingSince = sent.size === 0 ? undefined : connection.lastReceived;
    if (answer.kind === 'error') this.#failed(operation, statusError(answer.result, operation.uncertain && outcomeUnknown(answer.result.reason)));
    else if (answer.kind === operation.request.kind) this.#finish(operation, answer.result);
    else this.#fail(operation, protocolError(this.#options.address, `a ${operation.request.kind} was answered with ${answer.kind}`));
    this.#drained(connection);
  }

  /** The daemon has answered with an error, or a unary call has failed. */
  #failed(operation: Operation, error: SessiondError): void {
    const { reason, retryAfter } = error;
    if ((reason === 'OVERLOADED' || reason === 'STORE_UNAVAILABLE') && retryAfter !== undefined && operation.retries < MAX_RETRIES) {
      const repeatable = error.applied === 'no' || operation.safe;
      const pause = retryAfter * 1000 * (1 + Math.random() / 4);
      if (repeatable && performance.now() + pause < operation.deadline && !this.#closed) {
        operation.retries++;
        operation.uncertain ||= error.applied !== 'no';
        this.#repeatIn(pause, operation);
        return;
      }
    }
    this.#fail(operation, error);
  }

  #repeatIn(pause: number, operation: Operation): void {
    operation.connection = undefined;
    operation.timer = setTimeout(() => {
      operation.timer = undefined;
      this.#requeue([operation]);
    }, pause);
  }

  #finish(operation: Operation, result: unknown): void {
    this.#remove(operation);
    (operation.resolve as (value: unknown) => void)(result);
    publish.operation(operation, this.#options.address, result, undefined);
  }

  #fail(operation: Operation, error: SessiondError): void {
    if (operation.done) return;
    this.#remove(operation);
    operation.reject(error);
    publish.operation(operation, this.#options.address, undefined, error);
  }

  #remove(operation: Operation): void {
    operation.done = true;
    clearTimeout(operation.timer);
    const { previous, next } = operation;
    if (previous) previous.next = next;
    else this.#first = next;
    if (next) next.previous = previous;
    else this.#last = previous;
    operation.previous = operation.next = undefined;
    if (--this.#count === 0) {
      this.#current?.ref(false);
      this.#idle?.();
    }
  }

  // ---- deadlines

  #busy(): void {
    this.#current?.ref(true);
    if (this.#sweep === undefined) this.#arm();
  }

  /** When something may have to be done: at the first deadline, or when a silent daemon has to be asked. */
  #arm(): void {
    const first = this.#first;
    if (!first) {
      this.#sweep = undefined;
      return;
    }
    const wait = Math.min(first.deadline - performance.now(), this.#options.timeout / 8);
    this.#sweep = setTimeout(() => {
      this.#check();
      this.#arm();
    }, Math.max(1, wait));
    // While an operation is under way, a socket or the pause before the next attempt keeps the process alive.
    this.#sweep.unref();
  }

  #check(): void {
    const now = performance.now();
    while (this.#first && this.#first.deadline <= now) this.#late(this.#first);
    const connection = this.#current;
    if (!connection) return;
    // A daemon that says nothing for a while is asked with a PING. If it does not answer that, the connection is dead.
    const patience = Math.max(this.#options.timeout / 4, MIN_PATIENCE);
    const { waitingSince } = connection;
    const silent = waitingSince !== undefined && now - waitingSince > patience;
    if (!silent) this.#pinged = undefined;
    else if (this.#pinged !== connection) {
      this.#pinged = connection;
      this.#pingedAt = now;
      connection.ping(() => (this.#pinged = undefined));
    } else if (now - this.#pingedAt > patience) {
      connection.destroy(silentError(this.#options.address));
    }
  }

  #late(operation: Operation): void {
    const { connection } = operation;
    const sent = connection !== undefined || operation.uncertain;
    this.#fail(operation, this.#timeoutError(sent));
    if (connection) {
      this.#sent.get(connection)?.delete(operation.sequence);
      this.#drained(connection);
    }
  }

  // ---- connections

  #connect(): void {
    if (this.#current || this.#connecting || this.#pause) return;
    const wait = this.#backoff.left;
    if (wait > 0) {
      this.#pause = setTimeout(() => {
        this.#pause = undefined;
        // Nobody may wait any more.
        if (this.#queue.some((operation) => !operation.done) || this.#waiting.length > 0) this.#connect();
      }, wait);
      return;
    }
    this.#connecting = true;
    this.#readToken().then(
      (token) => {
        if (this.#closed && this.#count === 0) {
          this.#connecting = undefined;
          return;
        }
        const { address, target, timeout } = this.#options;
        const connection = new Connection(
          { address, target, token, timeout: Math.min(timeout, CONNECT_TIMEOUT) },
          {
            ready: (ready, description) => this.#ready(ready, description),
            answer: (from, sequence, answer) => this.#answer(from, sequence, answer),
            writable: () => this.#send(),
            draining: (draining) => this.#draining(draining),
            closed: (closed, end) => this.#disconnected(closed, end),
          },
        );
        this.#connecting = connection;
        this.#sent.set(connection, new Map());
      },
      (error: SessiondError) => {
        this.#connecting = undefined;
        this.#unreachable({ applied: 'no', error, fatal: true });
      },
    );
  }

  async #readToken(): Promise<string | undefined> {
    const { token, tokenFile } = this.#options;
    if (tokenFile === undefined) return token;
    const read = await readToken(tokenFile);
    this.#freshToken = read !== this.#token;
    this.#token = read;
    return read;
  }

  #ready(connection: Connection, description: Description): void {
    this.#connecting = undefined;
    this.#current = connection;
    this.description = description;
    this.#lastError = undefined;
    publish.connect(this.#options.address, description.version);
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { resolve, timer } of waiting) {
      clearTimeout(timer);
      resolve(description);
    }
    if (this.#count === 0) connection.ref(false);
    this.#send();
  }

  /** A connection has answered an operation. */
  #worked(connection: Connection): void {
    connection.answered = true;
    this.#backoff.succeeded();
  }

  /** GOAWAY: what comes from now on goes over a new connection. */
  #draining(connection: Connection): void {
    this.#leave(connection);
    this.#drained(connection);
  }

  /**
   * Nothing more is sent over a connection. The first attempt after one that worked comes at once. One that has answered no
   * operation is an attempt that failed, for a server may end each stream; then this returns true.
   */
  #leave(connection: Connection): boolean {
    if (this.#current !== connection) return false;
    this.#current = undefined;
    if (connection.answered) return false;
    this.#backoff.failed();
    return true;
  }

  /** Closes an old connection as soon as all is answered. */
  #drained(connection: Connection): void {
    if (connection.draining && connection !== this.#connecting && this.#sent.get(connection)?.size === 0) connection.end();
  }

  #disconnected(connection: Connection, end: End): void {
    const wasConnecting = this.#connecting === connection;
    if (wasConnecting) this.#connecting = undefined;
    const failed = this.#leave(connection);
    if (this.#pinged === connection) this.#pinged = undefined;
    const sent = this.#sent.get(connection);
    this.#sent.delete(connection);
    if (wasConnecting) {
      this.#unreachable(end);
      return;
    }
    publish.disconnect(this.#options.address, end.error.reason, sent?.size ?? 0);
    if (failed) this.#lastError = end.error;
    else if (end.fatal) this.#backoff.failed();
    if (!sent) return;
    const again: Operation[] = [];
    for (const operation of sent.values()) {
      if (this.#mayRepeat(operation, end.applied)) again.push(operation);
      else this.#fail(operation, cutError(end.error, end.applied));
    }
    this.#requeue(again);
  }

  #mayRepeat(operation: Operation, applied: 'no' | 'unknown'): boolean {
    operation.connection = undefined;
    if (applied === 'no') return true;
    if (!operation.safe || ++operation.cuts > MAX_CUTS) return false;
    operation.uncertain = true;
    return true;
  }

  /** Puts operations before what is queued, in the order in which they were asked. */
  #requeue(operations: Operation[]): void {
    const again = operations.filter((operation) => !operation.done);
    if (again.length === 0) return;
    again.sort((a, b) => a.sequence - b.sequence);
    this.#queue = again.concat(this.#queue);
    this.#schedule();
  }

  /** An attempt to connect has failed. */
  #unreachable(end: End): void {
    this.#lastError = end.error;
    publish.connectFailed(this.#options.address, end.error);
    // A refused token that has just been read for the first time may have been replaced meanwhile: read it again.
    const retryToken = end.error instanceof AuthenticationError && this.#options.tokenFile !== undefined && this.#freshToken;
    this.#backoff.failed();
    if (end.fatal && !retryToken) {
      const queue = this.#queue;
      this.#queue = [];
      for (const operation of queue) this.#fail(operation, operation.uncertain ? cutError(end.error, 'unknown') : end.error);
      this.#failWaiting(end.error);
      return;
    }
    this.#queue = this.#queue.filter((operation) => !operation.done);
    if (this.#queue.length > 0 || this.#waiting.length > 0) this.#connect();
  }

  #failWaiting(error: SessiondError): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { reject, timer } of waiting) {
      clearTimeout(timer);
      reject(error);
    }
  }

  // ---- errors

  #timeoutError(sent: boolean): SessiondError {
    const { address, timeout } = this.#options;
    const applied = sent ? 'unknown' : 'no';
    if (this.#lastError && !this.#current) {
      return new UnavailableError(`${this.#lastError.message} (for ${timeout} ms)`, {
        reason: 'CONNECTION_FAILED',
        code: 'UNAVAILABLE',
        retryable: true,
        retryAfter: 1,
        applied,
        cause: this.#lastError,
      });
    }
    return new UnavailableError(`no answer within ${timeout} ms from the daemon at ${address}`, {
      reason: 'TIMEOUT',
      code: 'DEADLINE_EXCEEDED',
      retryable: true,
      retryAfter: 1,
      applied,
    });
  }

  #closedError(applied: 'no' | 'unknown'): SessiondError {
    return new UnavailableError('the client is closed', { reason: 'CLOSED', code: 'CANCELLED', applied });
  }
}
