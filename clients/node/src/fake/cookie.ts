// Ids, tokens and cookies as the daemon makes and reads them, so that a test sees what a browser would see.
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { WireCredential } from '../protocol/requests.js';
import type { Engine } from '../types.js';

const MAX_HEADER = 64 << 10;
const MAX_CANDIDATES = 8;
const PUBLIC_ID = /^[A-Za-z0-9_-]{16}$/;
const SHAPE = /^([A-Za-z0-9_-]{40})\.([A-Za-z0-9+/]{43})$/;

/** A session id: 16 characters that are public, 24 that are secret. */
export interface Id {
  readonly id: string;
  readonly secret: string;
}

/** A new id; `id`: for the same session. */
export function newId(id = randomBytes(12).toString('base64url')): Id {
  return { id, secret: randomBytes(18).toString('base64url') };
}

/** Whether a session can have this public id. */
export function isPublicId(text: string): boolean {
  return PUBLIC_ID.test(text);
}

/** What a record keeps of the secret half. */
export function hash(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

function mac(key: Buffer, id: string): Buffer {
  return createHmac('sha256', key).update(id).digest();
}

/** The token of an id. */
export function sign(key: Buffer, { id, secret }: Id): string {
  return `${id}${secret}.${mac(key, id + secret).toString('base64').replace(/=+$/, '')}`;
}

/** The ids that a credential proves, and why there is none if none of them is live. */
export function present(credential: WireCredential | null, engine: Engine, key: Buffer): { ids: Id[]; absence: 'NONE' | 'INVALID' | 'NOT_FOUND' } {
  if (credential === null) return { ids: [], absence: 'NONE' };
  const octets = typeof credential.value === 'string' ? Buffer.from(credential.value, credential.encoding) : Buffer.from(credential.value);
  if (octets.length > MAX_HEADER) return { ids: [], absence: 'INVALID' };
  const text = octets.toString('latin1');
  const values = credential.tag === 0x12 ? [text] : cookieValues(text, engine.cookieName);
  const ids: Id[] = [];
  let absence: 'NONE' | 'INVALID' | 'NOT_FOUND' = values.length > 0 ? 'INVALID' : 'NONE';
  let candidates = 0;
  for (const value of values) {
    const match = SHAPE.exec(spelled(value));
    if (!match) continue;
    if (++candidates > MAX_CANDIDATES) break;
    const [, id, signature] = match as unknown as [string, string, string];
    const given = Buffer.from(signature, 'base64');
    const expected = mac(key, id);
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) continue;
    absence = 'NOT_FOUND';
    ids.push({ id: id.slice(0, 16), secret: id.slice(16) });
  }
  return { ids, absence };
}

function cookieValues(header: string, name: string): string[] {
  const values: string[] = [];
  for (const pair of header.split(';')) {
    const equals = pair.indexOf('=');
    if (equals >= 0 && trim(pair.slice(0, equals)) === name) values.push(trim(pair.slice(equals + 1)).replace(/^"(.*)"$/s, '$1'));
  }
  return values;
}

/** SP and HTAB only. */
function trim(text: string): string {
  return text.replace(/^[ \t]+|[ \t]+$/g, '');
}

/** A token may have the prefix of express-session, and be percent-encoded. */
function spelled(value: string): string {
  return value
    .replace(/^s(:|%3a)/i, '')
    .replace(/%2b/gi, '+')
    .replace(/%2f/gi, '/');
}

/** The value of a Set-Cookie line; `maxAge` in milliseconds, null: not persistent. */
export function setCookie(engine: Engine, token: string, maxAge: number | null, now: number): string {
  const prefix = engine.cookieFormat === 'EXPRESS' ? 's:' : '';
  const age = maxAge === null ? '' : `; Max-Age=${Math.ceil(maxAge / 1000)}; Expires=${new Date(now + maxAge).toUTCString()}`;
  return `${engine.cookieName}=${prefix}${token}${age}${scope(engine)}`;
}

/** The value of the Set-Cookie line that deletes the cookie. */
export function deletion(engine: Engine): string {
  return `${engine.cookieName}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT${scope(engine)}`;
}

function scope(engine: Engine): string {
  const secure = /^__(Host|Secure)-/.test(engine.cookieName) ? '; Secure' : '';
  return `; Path=/; HttpOnly${secure}; SameSite=Lax`;
}
