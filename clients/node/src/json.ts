// Session data as JSON: strictly, because what JSON.stringify drops or changes without a word would be lost.
import { InvalidArgumentError } from './errors.js';
import type { SessionData } from './types.js';

const MAX_DEPTH = 64;

/** Whether it is an object of `{}` or of Object.create(null), also one of another realm, such as a test's. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value) as object | null;
  return prototype === Object.prototype || prototype === null || (Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, 'hasOwnProperty'));
}

function invalid(key: string, what: string): InvalidArgumentError {
  return new InvalidArgumentError(`session data: the value of ${JSON.stringify(key)} holds ${what}`, {
    reason: 'INVALID_DATA',
    code: 'INVALID_ARGUMENT',
    field: 'set',
  });
}

function check(value: unknown, key: string, ancestors: unknown[]): void {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return;
    case 'number':
      if (!Number.isFinite(value)) throw invalid(key, `${value}, which is not JSON`);
      return;
    case 'object':
      break;
    default:
      throw invalid(key, `${value === undefined ? 'undefined in an array' : `a ${typeof value}`}, which is not JSON`);
  }
  if (value === null) return;
  if (ancestors.includes(value)) throw invalid(key, 'a cycle');
  if (ancestors.length + 2 > MAX_DEPTH) throw invalid(key, `more than ${MAX_DEPTH} levels`);
  ancestors.push(value);
  if (Array.isArray(value)) {
    // Not forEach, which passes over holes.
    for (const item of value) check(item, key, ancestors);
  } else if (isPlainObject(value)) {
    // A member that is undefined is as good as absent.
    for (const name of Object.keys(value)) if (value[name] !== undefined) check(value[name], key, ancestors);
  } else {
    const name = (value.constructor as { name?: string } | undefined)?.name ?? 'object';
    const hint = value instanceof Date ? '; store its toISOString() or getTime()' : value instanceof Uint8Array ? '; store it as base64 text' : '';
    throw invalid(key, `a value of class ${name}, which is not JSON${hint}`);
  }
  ancestors.pop();
}

/** The JSON text of one value. Throws INVALID_DATA for what JSON cannot hold. `key`: the top-level key, for the message. */
export function stringify(value: unknown, key: string): string {
  check(value, key, []);
  return JSON.stringify(value);
}

/** The JSON text of an object's members; members that are undefined are left out. */
export function stringifyMembers(members: Iterable<readonly [string, unknown]>): string {
  const parts: string[] = [];
  for (const [key, value] of members) {
    if (value === undefined) continue;
    if (!isWellFormed(key)) throw invalid(key, 'a key with half a surrogate pair');
    parts.push(`${JSON.stringify(key)}:${stringify(value, key)}`);
  }
  return parts.length === 0 ? '' : `{${parts.join(',')}}`;
}

/** Whether text can be sent as UTF-8 without loss. */
export function isWellFormed(text: string): boolean {
  return text.isWellFormed();
}

/** Parses session data. An own `__proto__` stays an ordinary key. */
export function parse(json: string): SessionData {
  return (json === '' ? {} : JSON.parse(json)) as SessionData;
}

/** Whether two values are the same as JSON text, the order of keys included. */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a)) {
    if (!Array.isArray(b) || a.length !== b.length) return false;
    for (let i = 0; i < a.length; i++) if (!same(a[i], b[i])) return false;
    return true;
  }
  if (Array.isArray(b) || !isPlainObject(a) || !isPlainObject(b)) return false;
  const keys = present(a);
  const others = present(b);
  if (keys.length !== others.length) return false;
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i] as string;
    if (key !== others[i] || !same(a[key], b[key])) return false;
  }
  return true;
}

/** Whether it is what JSON.parse could have made: JSON.stringify drops and changes nothing of it. */
export function isJson(value: unknown, depth = 0): boolean {
  if (typeof value !== 'object') return typeof value === 'string' || typeof value === 'boolean' || Number.isFinite(value);
  if (value === null) return true;
  if (depth === MAX_DEPTH) return false;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) if (!isJson(value[i], depth + 1)) return false;
    return true;
  }
  if (!isPlainObject(value)) return false;
  for (const key of Object.keys(value)) if (!isJson(value[key], depth + 1)) return false;
  return true;
}

function present(object: Record<string, unknown>): string[] {
  const keys = Object.keys(object);
  for (const key of keys) if (object[key] === undefined) return keys.filter((name) => object[name] !== undefined);
  return keys;
}

/** What a Write has to send so that `before` becomes `after`. */
export interface Difference {
  /** JSON text of an object; empty: nothing to set. */
  readonly set: string;
  readonly unset: string[];
  /** The keys of both. */
  readonly keys: string[];
}

/** The difference of the top-level keys, or null if there is none. Throws INVALID_DATA. */
export function difference(before: SessionData, after: SessionData): Difference | null {
  const set: [string, unknown][] = [];
  const unset: string[] = [];
  for (const key of Object.keys(after)) {
    const value: unknown = after[key];
    if (value === undefined) continue;
    if (!Object.hasOwn(before, key) || !same(before[key], value)) set.push([key, value]);
  }
  for (const key of Object.keys(before)) {
    if (!Object.hasOwn(after, key) || after[key] === undefined) unset.push(key);
  }
  if (set.length === 0 && unset.length === 0) return null;
  return { set: stringifyMembers(set), unset, keys: [...set.map(([key]) => key), ...unset] };
}
