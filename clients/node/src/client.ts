import { InvalidArgumentError } from './errors.js';
import { destroyRequest, listRequest, resolveRequest, touchRequest, writeRequest } from './requests.js';
import { parseAddress } from './transport/address.js';
import { Dispatcher } from './transport/dispatcher.js';
import type {
  Client,
  ClientOptions,
  Credential,
  Description,
  DestroyOptions,
  DestroyResult,
  ListOptions,
  ListResult,
  ResolveOptions,
  ResolveResult,
  TouchOptions,
  TouchResult,
  WriteOptions,
  WriteResult,
} from './types.js';

const NO_OPTIONS = Object.freeze({});

/**
 * Makes a client of the daemon at `address`: `host:port`, or `unix:/path/to.sock`.
 *
 * It connects at the first operation, and again by itself. While it does, operations wait, at most until their deadline.
 * It does not keep the process alive while nothing is under way.
 *
 * @throws InvalidArgumentError if the address or an option is not allowed
 */
export function createClient(address: string, options: ClientOptions = {}): Client {
  return new PipelineClient(address, options);
}

class PipelineClient implements Client {
  readonly address: string;
  readonly engine: string;
  readonly #timeout: number;
  readonly #dispatcher: Dispatcher;

  constructor(address: string, options: ClientOptions) {
    const { token, tokenFile, timeout = 5000, maxInFlight = 10_000, engine = '' } = options;
    const target = parseAddress(address, options.tls);
    if (!(timeout >= 1 && timeout <= 2 ** 31 - 1)) throw invalid('timeout', 'expected milliseconds, at least 1');
    if (!(Number.isSafeInteger(maxInFlight) && maxInFlight >= 1)) throw invalid('maxInFlight', 'expected a whole number of at least 1');
    if (token !== undefined && tokenFile !== undefined) throw invalid('tokenFile', 'not together with token');
    if (token !== undefined && !/^[!-~]+$/.test(token)) throw invalid('token', 'expected visible ASCII without spaces');
    if (typeof engine !== 'string') throw invalid('engine', 'expected a string');
    this.address = address;
    this.engine = engine;
    this.#timeout = timeout;
    this.#dispatcher = new Dispatcher({ address, target, token, tokenFile, timeout, maxInFlight });
  }

  get description(): Description | null {
    return this.#dispatcher.description;
  }

  resolve(credential: Credential | null, options: ResolveOptions = NO_OPTIONS): Promise<ResolveResult> {
    return this.#run(() => {
      const request = resolveRequest(credential, options, this.engine);
      return this.#dispatcher.run(request, !request.create);
    });
  }

  touch(credential: Credential | null, options: TouchOptions = NO_OPTIONS): Promise<TouchResult> {
    return this.#run(() => this.#dispatcher.run(touchRequest(credential, options, this.engine), true));
  }

  write(credential: Credential | null, options: WriteOptions = NO_OPTIONS): Promise<WriteResult> {
    return this.#run(() => {
      const request = writeRequest(credential, options, this.engine);
      // With ifVersion it is never applied twice.
      return this.#dispatcher.run(request, request.ifVersion !== undefined);
    });
  }

  destroy(credential: Credential | null, options: DestroyOptions = NO_OPTIONS): Promise<DestroyResult> {
    return this.#run(() => this.#dispatcher.run(destroyRequest(credential, options, this.engine), true));
  }

  listSessions(credential: Credential | null, options: ListOptions = NO_OPTIONS): Promise<ListResult> {
    return this.#run(() => this.#dispatcher.run(listRequest(credential, options, this.engine), true));
  }

  describe(): Promise<Description> {
    return this.#dispatcher.describe();
  }

  close(options: { readonly timeout?: number | undefined } = NO_OPTIONS): Promise<void> {
    return this.#dispatcher.close(options.timeout ?? this.#timeout);
  }

  /** An argument that is not allowed rejects like every other error. */
  #run<T>(start: () => Promise<T>): Promise<T> {
    try {
      return start();
    } catch (error) {
      return Promise.reject(error as Error);
    }
  }
}

function invalid(field: string, message: string): InvalidArgumentError {
  return new InvalidArgumentError(`${field}: ${message}`, { reason: 'INVALID_ARGUMENT', code: 'INVALID_ARGUMENT', field });
}
