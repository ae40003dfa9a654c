/**
 * A client in memory, for the tests of an application: the behaviour of the daemon without a daemon.
 *
 * @module sessiond/testing
 */
import { type SessiondError, UnavailableError } from './errors.js';
import { FakeEngine } from './fake/engine.js';
import { failure } from './fake/errors.js';
import { text } from './fake/data.js';
import { publish } from './diagnostics.js';
import { stringifyMembers } from './json.js';
import type { WireRequest } from './protocol/requests.js';
import { destroyRequest, listRequest, resolveRequest, touchRequest, writeRequest } from './requests.js';
import type {
  Client,
  Credential,
  Description,
  DestroyOptions,
  DestroyResult,
  Engine,
  ListOptions,
  ListResult,
  ResolveOptions,
  ResolveResult,
  SessionData,
  TouchOptions,
  TouchResult,
  WriteOptions,
  WriteResult,
} from './types.js';
import { VERSION } from './version.js';

/** An engine of the fake. Everything has the daemon's default, but the cookie is called `session`. */
export interface FakeEngineOptions extends Partial<Omit<Engine, 'name'>> {
  /** How long an id from before a roll can still end its session, in milliseconds. Default: a minute. */
  readonly rollGrace?: number;
  /** Live sessions that a principal may have. Default: 0, any number. */
  readonly maxSessionsPerPrincipal?: number;
  /** What happens to a login above that. Default: `refuse_newest`. */
  readonly onLimit?: 'refuse_newest' | 'end_idlest';
}

/** Options of {@link createFake}. */
export interface FakeOptions {
  /** The engines by name. Default: one, called `default`. */
  readonly engines?: Readonly<Record<string, FakeEngineOptions>>;
  /** Name of the engine for operations that name none. Default: `""`, which is `default`. */
  readonly engine?: string;
  /** The clock, in milliseconds since 1970. Default: `Date.now`. `advance` comes on top of it. */
  readonly clock?: () => number;
}

/** A session in the fake, for a test to look at. */
export interface FakeSession {
  readonly id: string;
  readonly principal: string | null;
  readonly version: number;
  readonly label: string;
  readonly data: SessionData;
}

/** A fake of a {@link Client}. */
export interface FakeClient extends Client {
  /** The time of the fake, in milliseconds since 1970. */
  readonly now: number;
  /** Moves the clock forward by so many milliseconds: sessions expire, grace periods end. */
  advance(milliseconds: number): void;
  /**
   * From now on operations fail with this reason, such as `STORE_UNAVAILABLE`; nothing is changed. `null`: no more.
   *
   * @param reason - a reason of {@link SessiondError}
   * @param options - `times`: how many operations fail; default: all until `fail(null)`. `operation`: only these.
   */
  fail(reason: string | null, options?: { readonly times?: number; readonly operation?: 'resolve' | 'touch' | 'write' | 'destroy' | 'list' }): void;
  /** Makes a session, and returns the Cookie header that a browser would send for it. */
  cookie(session?: { readonly principal?: string; readonly data?: SessionData; readonly engine?: string }): string;
  /** The live sessions of an engine. */
  sessions(engine?: string): FakeSession[];
}

/** Makes a fake. Nothing listens, nothing is stored outside of it. */
export function createFake(options: FakeOptions = {}): FakeClient {
  return new Fake(options);
}

const NO_OPTIONS = Object.freeze({});
const DAY = 24 * 3600 * 1000;

class Fake implements FakeClient {
  readonly address = 'fake';
  readonly engine: string;
  readonly description: Description;
  readonly #engines = new Map<string, FakeEngine>();
  readonly #clock: () => number;
  #offset = 0;
  #failure: { reason: string; times: number; operation: string | undefined } | undefined;
  #closed = false;

  constructor({ engines = { default: {} }, engine = '', clock = Date.now }: FakeOptions) {
    this.#clock = clock;
    this.engine = engine;
    for (const [name, given] of Object.entries(engines)) {
      const { rollGrace = 60_000, maxSessionsPerPrincipal = 0, onLimit = 'refuse_newest', ...rest } = given;
      const duration = rest.duration ?? 30 * 60_000;
      const described: Engine = {
        name,
        cookieName: 'session',
        cookieFormat: 'PLAIN',
        persistent: true,
        absoluteDuration: null,
        touchGranularity: Math.min(duration / 64, 60_000),
        automaticTouch: true,
        maxDataBytes: 64 << 10,
        ...rest,
        duration,
      };
      this.#engines.set(name, new FakeEngine(described, { rollGrace, maxSessionsPerPrincipal, onLimit, autoGranularity: given.touchGranularity === undefined }, () => this.now));
    }
    this.description = {
      version: VERSION,
      limits: {
        maxMessageBytes: 1 << 20,
        pipelineInFlight: 256,
        maxCookieHeaderBytes: 64 << 10,
        maxPrincipalBytes: 256,
        maxLabelBytes: 256,
        maxKeys: 4096,
        maxUnset: 1000,
        maxDuration: 400 * DAY,
        maxSessionIds: 1000,
      },
      engines: [...this.#engines.values()].map((fake) => fake.engine).sort((a, b) => (a.name < b.name ? -1 : 1)),
    };
  }

  get now(): number {
    return this.#clock() + this.#offset;
  }

  advance(milliseconds: number): void {
    this.#offset += milliseconds;
  }

  fail(reason: string | null, { times = Infinity, operation }: { readonly times?: number; readonly operation?: string } = {}): void {
    if (reason !== null) failure(reason); // throws if there is no such reason
    this.#failure = reason === null ? undefined : { reason, times, operation };
  }

  cookie({ principal = '', data = {}, engine }: { readonly principal?: string; readonly data?: SessionData; readonly engine?: string } = {}): string {
    const fake = this.#engineOf(engine ?? this.engine);
    const { token } = fake.make(stringifyMembers(Object.entries(data)), principal);
    return `${fake.engine.cookieName}=${fake.engine.cookieFormat === 'EXPRESS' ? 's:' : ''}${token}`;
  }

  sessions(engine = this.engine): FakeSession[] {
    return this.#engineOf(engine)
      .live()
      .map(({ id, principal, version, label, data }) => ({ id, principal: principal || null, version, label, data: JSON.parse(text(data)) as SessionData }));
  }

  resolve(credential: Credential | null, options: ResolveOptions = NO_OPTIONS): Promise<ResolveResult> {
    return this.#run(resolveRequest, credential, options, (engine, request) => engine.resolve(request));
  }

  touch(credential: Credential | null, options: TouchOptions = NO_OPTIONS): Promise<TouchResult> {
    return this.#run(touchRequest, credential, options, (engine, request) => engine.touch(request));
  }

  write(credential: Credential | null, options: WriteOptions = NO_OPTIONS): Promise<WriteResult> {
    return this.#run(writeRequest, credential, options, (engine, request) => engine.write(request));
  }

  destroy(credential: Credential | null, options: DestroyOptions = NO_OPTIONS): Promise<DestroyResult> {
    return this.#run(destroyRequest, credential, options, (engine, request) => engine.destroy(request));
  }

  listSessions(credential: Credential | null, options: ListOptions = NO_OPTIONS): Promise<ListResult> {
    return this.#run(listRequest, credential, options, (engine, request) => engine.list(request));
  }

  async describe(): Promise<Description> {
    if (this.#closed) throw closedError();
    return this.description;
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  async #run<O, R extends WireRequest, T>(
    read: (credential: Credential | null, options: O, engine: string) => R,
    credential: Credential | null,
    options: O,
    run: (engine: FakeEngine, request: R) => T,
  ): Promise<T> {
    const startTime = performance.now();
    const request = read(credential, options, this.engine);
    // As if over the wire: never at once.
    await Promise.resolve();
    const { kind, engine } = request;
    try {
      if (this.#closed) throw closedError();
      const planned = this.#failure;
      if (planned && (planned.operation === undefined || planned.operation === kind)) {
        if (--planned.times <= 0) this.#failure = undefined;
        throw failure(planned.reason);
      }
      const result = run(this.#engineOf(engine), request);
      publish.finished('fake', kind, engine, startTime, 0, result, undefined);
      return result;
    } catch (error) {
      publish.finished('fake', kind, engine, startTime, 0, undefined, error as SessiondError);
      throw error;
    }
  }

  #engineOf(name: string): FakeEngine {
    const engine = this.#engines.get(name || 'default');
    if (!engine) throw failure('UNKNOWN_ENGINE', undefined, 'engine');
    return engine;
  }
}

function closedError(): SessiondError {
  return new UnavailableError('the client is closed', { reason: 'CLOSED', code: 'CANCELLED' });
}
