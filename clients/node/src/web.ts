/**
 * Sessions for whatever speaks `Request`, `Response` and `Headers`: Hono, Next.js, Remix and others, on Node.
 *
 * @module sessiond/web
 */
import { type ClientOrAddress, clientOf, isSafe } from './adapter.js';
import { SessiondError, SupersededError } from './errors.js';
import { noStore } from './headers.js';
import { RequestSession, type RequestSessionOptions } from './request-session.js';
import type { Client } from './types.js';

export { RequestSession };
export type { ClientOrAddress };

/** Something with request headers: `Request`, `Headers`, or what `headers()` of Next.js resolves to. */
export type HasHeaders = HeaderReader | { readonly headers: HeaderReader };

/** The one method of `Headers` that is needed. */
export interface HeaderReader {
  get(name: string): string | null;
}

/** A handler as Next.js and others call it, with the session after the request. */
export type SessionHandler<Q extends HasHeaders, A extends unknown[]> = (request: Q, session: RequestSession, ...rest: A) => Response | Promise<Response>;

/** What {@link webSessions} makes. */
export interface WebSessions {
  /** The client that the sessions go through. */
  readonly client: Client;
  /**
   * Loads the session of a request. Rejects if the daemon or its store is away: {@link errorResponse} answers 503, never
   * "nobody".
   */
  load(request: HasHeaders): Promise<RequestSession>;
  /**
   * Saves what changed, and adds the Set-Cookie line and Cache-Control to a response. Returns it, or a copy if its headers
   * cannot be changed. Call it once, when everything else is done.
   */
  commit(session: RequestSession, response: Response): Promise<Response>;
  /** The same for headers. Resolves to false if the session ended meanwhile and the changes were dropped. */
  commit(session: RequestSession, headers: Headers): Promise<boolean>;
  /**
   * Makes a handler that loads the session before and commits it after. An error of the daemon becomes its response, see
   * {@link errorResponse}. Other errors are thrown on, and nothing is saved then. In a request with a safe method (GET), changes
   * with an id from before a login are dropped without an error.
   */
  handler<Q extends HasHeaders = Request, A extends unknown[] = []>(handle: SessionHandler<Q, A>): (request: Q, ...rest: A) => Promise<Response>;
  /**
   * Middleware of Hono: sets the variable `session`, and commits it after the handlers.
   *
   * ```ts
   * const app = new Hono<{ Variables: { session: RequestSession } }>();
   * app.use(sessions.hono());
   * ```
   */
  hono(): (context: HonoContext, next: () => Promise<void>) => Promise<void>;
}

/** As much of Hono's Context as the middleware uses. */
export interface HonoContext {
  readonly req: { readonly raw: Request };
  res: Response;
  // Hono's own type depends on the variables of the application.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  set: any;
  error: Error | undefined;
}

/** Options of {@link webSessions}: a client, or an address and the options of a client. */
export type WebSessionsOptions = ClientOrAddress & RequestSessionOptions;

/** Sessions over the Fetch API. Make one for each process and share it. */
export function webSessions(options: WebSessionsOptions): WebSessions {
  const through = clientOf(options, ['engine'], 'webSessions()');
  const engine = options.engine;
  const load = (request: HasHeaders): Promise<RequestSession> => {
    // What `headers()` of Next.js resolves to has a member `headers`, too: an object without methods.
    const headers = 'get' in request ? request : request.headers;
    return RequestSession.open(through, headers.get('cookie'), { engine });
  };

  function commit(session: RequestSession, response: Response): Promise<Response>;
  function commit(session: RequestSession, headers: Headers): Promise<boolean>;
  async function commit(session: RequestSession, target: Response | Headers): Promise<Response | boolean> {
    const kept = await session.save();
    if ('append' in target) {
      addHeaders(session, target);
      return kept;
    }
    return withHeaders(session, target);
  }

  /** At the end of a request by itself: with a safe method, a stranger's changes are a side effect and are dropped. */
  const finish = async (session: RequestSession, response: Response, method: string | undefined): Promise<Response> => {
    try {
      return await commit(session, response);
    } catch (error) {
      if (error instanceof SupersededError && isSafe(method)) return response;
      throw error;
    }
  };

  return {
    client: through,
    load,
    commit,
    handler:
      (handle) =>
      async (request, ...rest) => {
        let session: RequestSession | undefined;
        try {
          session = await load(request);
          return await finish(session, await handle(request, session, ...rest), (request as { method?: string }).method);
        } catch (error) {
          const response = errorResponse(error);
          if (response === null) throw error;
          // What a login, say, has done before is told to the browser all the same.
          return session ? withHeaders(session, response) : response;
        }
      },
    hono: () => async (context, next) => {
      let session: RequestSession | undefined;
      try {
        session = await load(context.req.raw);
        context.set('session', session);
        await next();
        // Hono turns an error of a handler into a response, and tells here.
        if (context.error) throw context.error;
        replace(context, await finish(session, context.res, context.req.raw.method));
      } catch (error) {
        const response = errorResponse(error);
        const handled = context.error === error;
        if (response === null && !handled) throw error;
        // An onError of the application that knows the error has the last word.
        const answer = response === null || (handled && context.res.status !== 500) ? context.res : response;
        replace(context, session ? withHeaders(session, answer) : answer);
      }
    },
  };
}

/**
 * The response to an error of the daemon: 503 with Retry-After while it or its store is away, 409 for an id from before a
 * login, 413 for data that are too large. The body is `{}`. `null` for every other error: it is the application's.
 */
export function errorResponse(error: unknown): Response | null {
  if (!(error instanceof SessiondError) || error.status === 500) return null;
  return Response.json({}, { status: error.status, headers: { 'Cache-Control': 'no-store', ...error.headers } });
}

/** A cookie in the form that `cookies().set` of Next.js takes. */
export interface CookieToSet {
  readonly name: string;
  readonly value: string;
  readonly path?: string;
  readonly domain?: string;
  /** Seconds. */
  readonly maxAge?: number;
  readonly httpOnly: boolean;
  readonly secure: boolean;
  readonly sameSite?: 'strict' | 'lax' | 'none';
  readonly partitioned: boolean;
}

/**
 * The cookie that a session has to set, in parts, for places that give no access to the response's headers, such as a
 * Server Action of Next.js. Call `save()` first. `null`: there is nothing to set.
 */
export function cookieToSet(session: RequestSession): CookieToSet | null {
  if (session.setCookie === null) return null;
  const [pair = '', ...attributes] = session.setCookie.split('; ');
  const equals = pair.indexOf('=');
  const found = new Map(attributes.map((attribute) => {
    const [name = '', value = ''] = attribute.split('=');
    return [name.toLowerCase(), value] as const;
  }));
  const [path, domain, maxAge, sameSite] = [found.get('path'), found.get('domain'), found.get('max-age'), found.get('samesite')];
  return {
    name: pair.slice(0, equals),
    value: pair.slice(equals + 1),
    ...(path === undefined ? {} : { path }),
    ...(domain === undefined ? {} : { domain }),
    ...(maxAge === undefined ? {} : { maxAge: Number(maxAge) }),
    ...(sameSite === undefined ? {} : { sameSite: sameSite.toLowerCase() as 'strict' | 'lax' | 'none' }),
    httpOnly: found.has('httponly'),
    secure: found.has('secure'),
    partitioned: found.has('partitioned'),
  };
}

/** Sets the response as a whole: Hono's setter would put the cookies of the one before in place of the new ones. */
function replace(context: HonoContext, response: Response): void {
  if (context.res === response) return;
  (context as { res: Response | undefined }).res = undefined;
  context.res = response;
}

function addHeaders(session: RequestSession, headers: Headers): void {
  if (session.setCookie === null) return;
  headers.append('Set-Cookie', session.setCookie);
  const cacheControl = noStore(headers.get('cache-control'));
  if (cacheControl !== null) headers.set('Cache-Control', cacheControl);
}

function withHeaders(session: RequestSession, response: Response): Response {
  if (session.setCookie === null) return response;
  try {
    addHeaders(session, response.headers);
    return response;
  } catch {
    // Those of a redirect or of a fetched response cannot be changed.
    const copy = new Response(response.body, response);
    addHeaders(session, copy.headers);
    return copy;
  }
}
