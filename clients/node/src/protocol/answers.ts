// How answers are read. Field numbers are those of proto/sessiond/v1/session_service.proto; unknown fields are ignored.
import type { Description, DestroyResult, Engine, Limits, ListResult, ResolveResult, Session, SessionData, SessionState, TouchResult, WriteResult } from '../types.js';
import { Reader, WireError } from './wire.js';

/** A google.rpc.Status with the details that sessiond sends. */
export interface WireStatus {
  readonly code: number;
  readonly message: string;
  readonly reason: string;
  readonly applied: string;
  /** Seconds; undefined: no RetryInfo. */
  readonly retryAfter: number | undefined;
  readonly field: string;
}

/** What a Pipeline answers. */
export type WireAnswer =
  | { readonly kind: 'resolve'; readonly result: ResolveResult }
  | { readonly kind: 'touch'; readonly result: TouchResult }
  | { readonly kind: 'write'; readonly result: WriteResult }
  | { readonly kind: 'destroy'; readonly result: DestroyResult }
  | { readonly kind: 'error'; readonly result: WireStatus }
  | { readonly kind: 'none'; readonly result: null };

const STATES: readonly (SessionState | undefined)[] = [undefined, 'ACTIVE', 'CREATED', 'NONE', 'INVALID', 'NOT_FOUND', 'EXPIRED', 'SUPERSEDED'];
const NOTHING: readonly string[] = Object.freeze([]);

/** A session as the daemon sent it. */
export class WireSession implements Session {
  constructor(
    readonly id: string,
    readonly json: string,
    readonly version: number,
    readonly principal: string | null,
    readonly createTime: Date,
    readonly expireTime: Date,
    readonly lastUseTime: Date,
    readonly duration: number,
    readonly label: string,
  ) {}

  data(): SessionData {
    return (this.json === '' ? {} : JSON.parse(this.json)) as SessionData;
  }
}

function readState(reader: Reader): SessionState {
  const state = STATES[reader.varint()];
  // A client must never take a state that it does not know for "nobody".
  if (state === undefined) throw new WireError('an unknown session state');
  return state;
}

/** A Timestamp or a Duration, in milliseconds. */
function readTime(reader: Reader): number {
  const outer = reader.end;
  reader.end = reader.stop();
  let milliseconds = 0;
  while (reader.position < reader.end) {
    const tag = reader.varint();
    if (tag === 0x08) milliseconds += reader.int64() * 1000;
    else if (tag === 0x10) milliseconds += Math.floor(reader.varint() / 1e6);
    else reader.skip(tag);
  }
  reader.end = outer;
  return milliseconds;
}

function readSession(reader: Reader): Session {
  const outer = reader.end;
  reader.end = reader.stop();
  let id = '';
  let json = '';
  let version = 0;
  let principal = '';
  let created = 0;
  let expires = 0;
  let lastUse = 0;
  let duration = 0;
  let label = '';
  while (reader.position < reader.end) {
    const tag = reader.varint();
    switch (tag) {
      case 0x0a:
        id = reader.ascii();
        break;
      case 0x12:
        json = reader.text();
        break;
      case 0x18:
        version = reader.varint();
        break;
      case 0x22:
        principal = reader.text();
        break;
      case 0x2a:
        created = readTime(reader);
        break;
      case 0x32:
        expires = readTime(reader);
        break;
      case 0x3a:
        duration = readTime(reader);
        break;
      case 0x42:
        lastUse = readTime(reader);
        break;
      case 0x4a:
        label = reader.text();
        break;
      default:
        reader.skip(tag);
    }
  }
  reader.end = outer;
  return new WireSession(id, json, version, principal === '' ? null : principal, new Date(created), new Date(expires), new Date(lastUse), duration, label);
}

function readResolve(reader: Reader): ResolveResult {
  const outer = reader.end;
  reader.end = reader.stop();
  let state: SessionState | undefined;
  let session: Session | null = null;
  let setCookie: string[] | undefined;
  let token = '';
  while (reader.position < reader.end) {
    const tag = reader.varint();
    if (tag === 0x08) state = readState(reader);
    else if (tag === 0x12) session = readSession(reader);
    else if (tag === 0x1a) (setCookie ??= []).push(reader.text());
    else if (tag === 0x22) token = reader.text();
    else reader.skip(tag);
  }
  reader.end = outer;
  return { state: consistent(state, session), session, setCookie: setCookie ?? NOTHING, token };
}

function readTouch(reader: Reader): TouchResult {
  let state: SessionState | undefined;
  let session: Session | null = null;
  let setCookie: string[] | undefined;
  reader.message((tag) => {
    if (tag === 0x08) state = readState(reader);
    else if (tag === 0x12) session = readSession(reader);
    else if (tag === 0x1a) (setCookie ??= []).push(reader.text());
    else reader.skip(tag);
  });
  return { state: consistent(state, session), session, setCookie: setCookie ?? NOTHING };
}

function readWrite(reader: Reader): WriteResult {
  let session: Session | undefined;
  let setCookie: string[] | undefined;
  let token = '';
  reader.message((tag) => {
    if (tag === 0x0a) session = readSession(reader);
    else if (tag === 0x12) (setCookie ??= []).push(reader.text());
    else if (tag === 0x1a) token = reader.text();
    else reader.skip(tag);
  });
  if (session === undefined) throw new WireError('an answer to a Write without a session');
  return { session, setCookie: setCookie ?? NOTHING, token };
}

function readDestroy(reader: Reader): DestroyResult {
  let destroyed = 0;
  let setCookie: string[] | undefined;
  reader.message((tag) => {
    if (tag === 0x08) destroyed = reader.varint();
    else if (tag === 0x12) (setCookie ??= []).push(reader.text());
    else reader.skip(tag);
  });
  return { destroyed, setCookie: setCookie ?? NOTHING };
}

function consistent(state: SessionState | undefined, session: Session | null): SessionState {
  if (state === undefined) throw new WireError('an answer without a state');
  if ((state === 'ACTIVE' || state === 'CREATED') !== (session !== null)) throw new WireError(`the state ${state} does not fit`);
  return state;
}

/** Reads a PipelineResponse; returns its sequence and its result. */
export function readPipelineResponse(reader: Reader): { sequence: number; answer: WireAnswer } {
  let sequence = 0;
  let answer: WireAnswer = { kind: 'none', result: null };
  while (reader.position < reader.end) {
    const tag = reader.varint();
    switch (tag) {
      case 0x08:
        sequence = reader.varint();
        break;
      case 0x12:
        answer = { kind: 'resolve', result: readResolve(reader) };
        break;
      case 0x1a:
        answer = { kind: 'touch', result: readTouch(reader) };
        break;
      case 0x22:
        answer = { kind: 'write', result: readWrite(reader) };
        break;
      case 0x2a:
        answer = { kind: 'destroy', result: readDestroy(reader) };
        break;
      case 0x32: {
        const outer = reader.end;
        reader.end = reader.stop();
        answer = { kind: 'error', result: readStatus(reader) };
        reader.end = outer;
        break;
      }
      default:
        reader.skip(tag);
    }
  }
  return { sequence, answer };
}

/** Reads a SessionServiceListSessionsResponse: one page. */
export function readList(buffer: Buffer): ListResult & { nextPageToken: string } {
  const reader = new Reader(buffer);
  let state: SessionState | undefined;
  const sessions: Session[] = [];
  let current = '';
  let nextPageToken = '';
  while (reader.position < reader.end) {
    const tag = reader.varint();
    if (tag === 0x08) state = readState(reader);
    else if (tag === 0x12) sessions.push(readSession(reader));
    else if (tag === 0x1a) current = reader.ascii();
    else if (tag === 0x22) nextPageToken = reader.text();
    else reader.skip(tag);
  }
  if (state === undefined) throw new WireError('an answer without a state');
  return { state, sessions, currentSessionId: current === '' ? null : current, nextPageToken };
}

/** Reads a DescribeResponse. */
export function readDescription(buffer: Buffer): Description {
  const reader = new Reader(buffer);
  let version = '';
  let limits: Limits = readLimits(new Reader(Buffer.of(0)));
  const engines: Engine[] = [];
  while (reader.position < reader.end) {
    const tag = reader.varint();
    if (tag === 0x0a) version = reader.text();
    else if (tag === 0x12) limits = readLimits(reader);
    else if (tag === 0x1a) engines.push(readEngine(reader));
    else reader.skip(tag);
  }
  return { version, limits, engines };
}

function readLimits(reader: Reader): Limits {
  const found: number[] = [];
  reader.message((tag) => {
    if (tag === 0x42) found[8] = readTime(reader);
    else if ((tag & 7) === 0) found[tag >> 3] = reader.varint();
    else reader.skip(tag);
  });
  return {
    maxMessageBytes: found[1] ?? 0,
    pipelineInFlight: found[2] ?? 0,
    maxCookieHeaderBytes: found[3] ?? 0,
    maxPrincipalBytes: found[4] ?? 0,
    maxLabelBytes: found[5] ?? 0,
    maxKeys: found[6] ?? 0,
    maxUnset: found[7] ?? 0,
    maxDuration: found[8] ?? 0,
    maxSessionIds: found[9] ?? 0,
  };
}

function readEngine(reader: Reader): Engine {
  let name = '';
  let cookieName = '';
  let format = 0;
  let persistent = false;
  let duration = 0;
  let absoluteDuration: number | null = null;
  let touchGranularity = 0;
  let automaticTouch = false;
  let maxDataBytes = 0;
  reader.message((tag) => {
    if (tag === 0x0a) name = reader.text();
    else if (tag === 0x12) cookieName = reader.text();
    else if (tag === 0x18) format = reader.varint();
    else if (tag === 0x20) persistent = reader.varint() !== 0;
    else if (tag === 0x2a) duration = readTime(reader);
    else if (tag === 0x32) absoluteDuration = readTime(reader);
    else if (tag === 0x3a) touchGranularity = readTime(reader);
    else if (tag === 0x40) automaticTouch = reader.varint() !== 0;
    else if (tag === 0x48) maxDataBytes = reader.varint();
    else reader.skip(tag);
  });
  const cookieFormat = format === 2 ? 'EXPRESS' : 'PLAIN';
  return { name, cookieName, cookieFormat, persistent, duration, absoluteDuration, touchGranularity, automaticTouch, maxDataBytes };
}

/** Reads a google.rpc.Status and the details that sessiond sends: ErrorInfo, RetryInfo and BadRequest. */
export function readStatus(reader: Reader): WireStatus {
  let code = 0;
  let message = '';
  const details = { reason: '', applied: '', retryAfter: undefined as number | undefined, field: '' };
  while (reader.position < reader.end) {
    const tag = reader.varint();
    if (tag === 0x08) code = reader.varint();
    else if (tag === 0x12) message = reader.text();
    else if (tag === 0x1a) readDetail(reader, details);
    else reader.skip(tag);
  }
  return { code, message, ...details };
}

function readDetail(reader: Reader, details: { reason: string; applied: string; retryAfter: number | undefined; field: string }): void {
  let type = '';
  let value: Reader | undefined;
  reader.message((tag) => {
    if (tag === 0x0a) type = reader.text();
    else if (tag === 0x12) {
      const stop = reader.stop();
      value = new Reader(reader.buffer, reader.position, stop);
      reader.position = stop;
    } else reader.skip(tag);
  });
  const inner = value;
  const name = type.slice(type.lastIndexOf('/') + 1);
  if (inner === undefined || !/^google\.rpc\.(ErrorInfo|RetryInfo|BadRequest)$/.test(name)) return;
  while (inner.position < inner.end) {
    const tag = inner.varint();
    if (name === 'google.rpc.ErrorInfo' && tag === 0x0a) details.reason = inner.text();
    else if (name === 'google.rpc.ErrorInfo' && tag === 0x1a) {
      const [key, metadata] = readEntry(inner);
      if (key === 'applied') details.applied = metadata;
    } else if (name === 'google.rpc.RetryInfo' && tag === 0x0a) details.retryAfter = readTime(inner) / 1000;
    else if (name === 'google.rpc.BadRequest' && tag === 0x0a) {
      const [field] = readEntry(inner);
      // As the argument is called here.
      details.field ||= field.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    } else inner.skip(tag);
  }
}

/** A message whose fields 1 and 2 are text: an entry of a map, or a FieldViolation. */
function readEntry(reader: Reader): [string, string] {
  let first = '';
  let second = '';
  reader.message((tag) => {
    if (tag === 0x0a) first = reader.text();
    else if (tag === 0x12) second = reader.text();
    else reader.skip(tag);
  });
  return [first, second];
}
