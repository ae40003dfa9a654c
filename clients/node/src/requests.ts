// From the arguments of a Client's methods to requests, with every check that needs no daemon. The fake uses it too.
import { InvalidArgumentError } from './errors.js';
import { isPlainObject, isWellFormed, stringifyMembers } from './json.js';
import { type WireCredential, wireCredential, type WireRequest } from './protocol/requests.js';
import type { Credential, DestroyOptions, ListOptions, ResolveOptions, TouchOptions, WriteOptions } from './types.js';

const MAX_DURATION = 400 * 24 * 3600 * 1000;
/** A longer header is INVALID to the daemon. One octet more is sent, so that it can say so. */
const MAX_HEADER = 64 << 10;
const SCOPES = { THIS: 1, OTHERS: 2, ALL: 3 } as const;

function invalid(field: string, message: string): InvalidArgumentError {
  return new InvalidArgumentError(`${field}: ${message}`, { reason: 'INVALID_ARGUMENT', code: 'INVALID_ARGUMENT', field });
}

function credentialOf(credential: Credential | null | undefined): WireCredential | null {
  if (credential === null || credential === undefined) return null;
  if (typeof credential === 'object') {
    const { cookieHeader, token } = credential as { cookieHeader?: unknown; token?: unknown };
    if ((cookieHeader === undefined) !== (token === undefined)) {
      const value = cookieHeader ?? token;
      if (typeof value === 'string' || (value instanceof Uint8Array && token === undefined)) {
        return wireCredential(token === undefined ? 0x0a : 0x12, value.length > MAX_HEADER ? value.slice(0, MAX_HEADER + 1) : value);
      }
    }
  }
  throw invalid('credential', 'expected { cookieHeader: string or Uint8Array }, { token: string } or null');
}

function text(field: string, value: unknown, maxBytes?: number): string {
  if (typeof value !== 'string') throw invalid(field, 'expected a string');
  if (!isWellFormed(value)) throw invalid(field, 'it has half a surrogate pair');
  if (maxBytes !== undefined && Buffer.byteLength(value) > maxBytes) throw invalid(field, `at most ${maxBytes} octets of UTF-8`);
  return value;
}

function flag(field: string, value: unknown): boolean {
  if (value === undefined) return false;
  if (typeof value !== 'boolean') throw invalid(field, 'expected true or false');
  return value;
}

function duration(value: unknown): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'number' || !(value > 0 && value <= MAX_DURATION)) {
    throw invalid('duration', 'expected milliseconds: more than 0, at most 400 days');
  }
  return value;
}

function list(field: string, value: unknown): readonly string[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw invalid(field, 'expected an array of strings');
  return value.map((item) => text(field, item));
}

function engineOf(options: { readonly engine?: string | undefined }, engine: string): string {
  return options.engine === undefined ? engine : text('engine', options.engine);
}

/** A resolve. */
export function resolveRequest(credential: Credential | null, options: ResolveOptions, engine: string): WireRequest & { kind: 'resolve' } {
  return {
    kind: 'resolve',
    engine: engineOf(options, engine),
    credential: credentialOf(credential),
    peek: flag('peek', options.peek),
    create: flag('create', options.create),
  };
}

/** A touch. */
export function touchRequest(credential: Credential | null, options: TouchOptions, engine: string): WireRequest & { kind: 'touch' } {
  return { kind: 'touch', engine: engineOf(options, engine), credential: credentialOf(credential), duration: duration(options.duration) };
}

/** A write. */
export function writeRequest(credential: Credential | null, options: WriteOptions, engine: string): WireRequest & { kind: 'write' } {
  const { set, ifVersion, principal, persistent, label } = options;
  let json = '';
  if (typeof set === 'string') json = text('set', set);
  else if (isPlainObject(set)) json = stringifyMembers(Object.entries(set));
  else if (set !== undefined) throw invalid('set', 'expected a plain object, or the JSON text of one');
  if (ifVersion !== undefined && !(Number.isSafeInteger(ifVersion) && ifVersion >= 1)) throw invalid('ifVersion', 'expected a whole number of at least 1');
  if (ifVersion !== undefined && (credential === null || credential === undefined)) throw invalid('ifVersion', 'not when creating');
  return {
    kind: 'write',
    engine: engineOf(options, engine),
    credential: credentialOf(credential),
    set: json,
    unset: list('unset', options.unset),
    replace: flag('replace', options.replace),
    ifVersion,
    roll: flag('roll', options.roll),
    principal: principal === undefined ? undefined : text('principal', principal ?? '', 256),
    duration: duration(options.duration),
    persistent: persistent === undefined ? undefined : flag('persistent', persistent),
    label: label === undefined ? undefined : text('label', label, 256),
  };
}

/** A destroy. */
export function destroyRequest(credential: Credential | null, options: DestroyOptions, engine: string): WireRequest & { kind: 'destroy' } {
  const { scope, sessionIds } = options;
  if (scope !== undefined && !Object.hasOwn(SCOPES, scope)) throw invalid('scope', 'expected "THIS", "OTHERS" or "ALL"');
  if (scope !== undefined && sessionIds !== undefined) throw invalid('sessionIds', 'not together with a scope');
  const ids = list('sessionIds', sessionIds);
  // None at all would be taken as no list, and end the session of the credential.
  if (sessionIds !== undefined && ids.length === 0) throw invalid('sessionIds', 'expected at least one id');
  if (ids.length > 1000) throw invalid('sessionIds', 'at most 1000');
  return { kind: 'destroy', engine: engineOf(options, engine), credential: credentialOf(credential), scope: scope === undefined ? 0 : SCOPES[scope], sessionIds: ids };
}

/** A list. */
export function listRequest(credential: Credential | null, options: ListOptions, engine: string): WireRequest & { kind: 'list' } {
  return { kind: 'list', engine: engineOf(options, engine), credential: credentialOf(credential), pageToken: '' };
}
