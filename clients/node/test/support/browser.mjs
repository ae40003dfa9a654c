// Asks a server over HTTP, raw enough to see every header line, and keeps cookies as a browser does.
import http from 'node:http';
import { once } from 'node:events';

/** Serves a listener on a free port of loopback until the test is over. Resolves to its port. */
export async function serve(t, listener) {
  const server = http.createServer(listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return server.address().port;
}

/** Asks once. Resolves to `{ status, headers, cookies, body, text }`; `cookies`: the Set-Cookie lines. */
export function ask(port, path = '/', { method = 'GET', headers = {}, body, form, signal } = {}) {
  const data = form === undefined ? body : new URLSearchParams(form).toString();
  const all = { ...headers };
  if (form !== undefined) all['content-type'] = 'application/x-www-form-urlencoded';
  if (data !== undefined) all['content-length'] = Buffer.byteLength(data);
  return new Promise((resolve, reject) => {
    const request = http.request({ host: '127.0.0.1', port, path, method, headers: all, agent: false, signal }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', reject);
      response.on('aborted', () => reject(Object.assign(new Error('the response was cut off'), { code: 'CUT_OFF', status: response.statusCode })));
      response.on('end', () => {
        const octets = Buffer.concat(chunks);
        resolve({
          status: response.statusCode,
          headers: response.headers,
          cookies: response.headers['set-cookie'] ?? [],
          octets,
          text: octets.toString(),
          get json() {
            return JSON.parse(this.text);
          },
        });
      });
    });
    request.on('error', reject);
    request.end(data);
  });
}

/** A browser with a cookie jar: names and values, no attributes. */
export class Browser {
  constructor(port, jar = {}) {
    this.port = port;
    this.jar = new Map(Object.entries(jar));
  }

  get header() {
    return [...this.jar].map(([name, value]) => `${name}=${value}`).join('; ');
  }

  async ask(path, options = {}) {
    const headers = this.jar.size > 0 ? { cookie: this.header, ...options.headers } : (options.headers ?? {});
    const response = await ask(this.port, path, { ...options, headers });
    for (const line of response.cookies) {
      const [pair] = line.split(';');
      const at = pair.indexOf('=');
      if (/max-age=0(;|$)|expires=thu, 01 jan 1970/i.test(line)) this.jar.delete(pair.slice(0, at));
      else this.jar.set(pair.slice(0, at), pair.slice(at + 1));
    }
    return response;
  }

  get(path, options) {
    return this.ask(path, options);
  }

  post(path, form = {}, options = {}) {
    return this.ask(path, { method: 'POST', form, ...options });
  }

  /** Another browser with the same cookies. */
  copy() {
    return new Browser(this.port, Object.fromEntries(this.jar));
  }
}
