// One engine of the fake: the rules of the daemon over a Map. Every method takes effect at once, so that operations are
// as linearizable as the daemon's.
import { randomBytes } from 'node:crypto';
import { WireSession } from '../protocol/answers.js';
import type { WireRequest } from '../protocol/requests.js';
import type { DestroyResult, Engine, ListResult, ResolveResult, SessionState, TouchResult, WriteResult } from '../types.js';
import { deletion, hash, type Id, isPublicId, newId, present, setCookie, sign } from './cookie.js';
import { members, text } from './data.js';
import { failure } from './errors.js';

/** What an engine has beyond what a client is told. */
export interface Policy {
  /** How long a rolled id can still end its session, in milliseconds. */
  readonly rollGrace: number;
  /** touch_granularity is "auto": a 64th of the session's idle timeout, at most a minute. */
  readonly autoGranularity: boolean;
  /** Live sessions of one principal; 0: any number. */
  readonly maxSessionsPerPrincipal: number;
  /** What happens to a login above that. */
  readonly onLimit: 'refuse_newest' | 'end_idlest';
}

/** What is stored of a session. */
export interface Record {
  readonly id: string;
  verifier: string;
  /** Verifiers from before the last rolls, and when they were rolled. */
  former: { verifier: string; time: number }[];
  version: number;
  readonly createTime: number;
  deadline: number;
  duration: number | undefined;
  principal: string;
  data: Map<string, string>;
  persistent: boolean | undefined;
  label: string;
}

const MAX_KEYS = 4096;
const FORMER = 4;
const RANK: SessionState[] = ['NONE', 'INVALID', 'NOT_FOUND', 'SUPERSEDED', 'EXPIRED'];
const NOTHING: readonly string[] = [];

export class FakeEngine {
  readonly records = new Map<string, Record>();
  readonly #key = randomBytes(32);

  constructor(
    readonly engine: Engine,
    readonly policy: Policy,
    readonly now: () => number,
  ) {}

  resolve(request: WireRequest & { kind: 'resolve' }): ResolveResult {
    const { ids, absence } = present(request.credential, this.engine, this.#key);
    const found = this.#find(ids, absence);
    if ('record' in found) {
      const moved = this.engine.automaticTouch && !request.peek && this.#slide(found.record);
      return { state: 'ACTIVE', session: this.#session(found.record, true), setCookie: this.#renewal(found.record, found.id, moved), token: '' };
    }
    if (!request.create || found.state === 'JUST_SUPERSEDED') {
      return { state: found.state === 'JUST_SUPERSEDED' ? 'SUPERSEDED' : found.state, session: null, setCookie: NOTHING, token: '' };
    }
    const { record, token } = this.#create({ set: '', principal: undefined, duration: undefined, persistent: undefined, label: undefined });
    return { state: 'CREATED', session: this.#session(record, true), setCookie: [this.#cookie(record, token)], token };
  }

  touch(request: WireRequest & { kind: 'touch' }): TouchResult {
    const { ids, absence } = present(request.credential, this.engine, this.#key);
    const found = this.#find(ids, absence);
    if (!('record' in found)) return { state: found.state === 'JUST_SUPERSEDED' ? 'SUPERSEDED' : found.state, session: null, setCookie: NOTHING };
    const moved = this.#use(found.record, rounded(request.duration));
    return { state: 'ACTIVE', session: this.#session(found.record, false), setCookie: this.#renewal(found.record, found.id, moved) };
  }

  write(request: WireRequest & { kind: 'write' }): WriteResult {
    if (Buffer.byteLength(request.set) > Math.max(this.engine.maxDataBytes, 4096)) throw failure('DATA_TOO_LARGE', undefined, 'set');
    if (request.unset.length > 1000) throw failure('INVALID_ARGUMENT', 'unset: at most 1000 keys', 'unset');
    if (request.credential === null) {
      const { record, token } = this.#create(request);
      return { session: this.#session(record, false), setCookie: [this.#cookie(record, token)], token };
    }
    const { ids, absence } = present(request.credential, this.engine, this.#key);
    const found = this.#find(ids, absence);
    if (!('record' in found)) throw failure('SESSION_GONE');
    const { record } = found;
    const changesPrincipal = request.principal !== undefined && request.principal !== record.principal;
    if (changesPrincipal) this.#refuseNewest(request.principal as string);
    if (request.ifVersion !== undefined && request.ifVersion !== record.version) throw failure('VERSION_MISMATCH');
    const fresh = request.replace || (changesPrincipal && record.principal !== '');
    const data = this.#edited(fresh ? new Map() : record.data, request);

    record.data = data;
    record.version++;
    let id = found.id;
    const rolls = request.roll || changesPrincipal;
    if (rolls) {
      id = newId(record.id);
      record.former = [{ verifier: record.verifier, time: this.now() }, ...record.former].slice(0, FORMER);
      record.verifier = hash(id.secret);
    }
    if (request.principal !== undefined) record.principal = request.principal;
    if (request.label !== undefined) record.label = request.label;
    const before = this.#isPersistent(record);
    if (request.persistent !== undefined) record.persistent = request.persistent;
    const moved = this.#use(record, rounded(request.duration));
    if (changesPrincipal) this.#endIdlest(record);
    const token = rolls ? sign(this.#key, id) : '';
    const news = rolls || this.#isPersistent(record) !== before || (moved && this.#isPersistent(record));
    return { session: this.#session(record, false), setCookie: news ? [this.#cookie(record, sign(this.#key, id))] : NOTHING, token };
  }

  destroy(request: WireRequest & { kind: 'destroy' }): DestroyResult {
    if (!request.sessionIds.every(isPublicId)) throw failure('INVALID_ARGUMENT', 'sessionIds: expected public ids of sessions', 'sessionIds');
    const { ids, absence } = present(request.credential, this.engine, this.#key);
    const own = ids.map((id) => this.#live(id)).filter((record) => record !== undefined);
    let destroyed = 0;
    const end = (record: Record): void => {
      if (this.records.delete(record.id) && !this.#expired(record)) destroyed++;
    };
    const byList = request.sessionIds.length > 0;
    if (request.scope >= 2 || byList) {
      const principals = new Set(own.map((record) => record.principal).filter((principal) => principal !== ''));
      for (const record of [...this.records.values()]) {
        const mine = own.includes(record);
        const theirs = principals.has(record.principal) || (byList && mine);
        const meant = byList ? request.sessionIds.includes(record.id) : !mine;
        if (theirs && meant) end(record);
      }
      if (request.scope === 2) return { destroyed, setCookie: NOTHING };
      if (byList) {
        const named = own.length > 0 && own.every((record) => request.sessionIds.includes(record.id));
        return { destroyed, setCookie: named && absence !== 'NONE' ? [deletion(this.engine)] : NOTHING };
      }
    }
    for (const { id, secret } of ids) {
      const record = this.records.get(id);
      if (record && (record.verifier === hash(secret) || this.#justRolled(record, hash(secret)))) end(record);
    }
    return { destroyed, setCookie: absence === 'NONE' ? NOTHING : [deletion(this.engine)] };
  }

  list(request: WireRequest & { kind: 'list' }): ListResult {
    const { ids, absence } = present(request.credential, this.engine, this.#key);
    const found = this.#find(ids, absence);
    if (!('record' in found)) return { state: found.state === 'JUST_SUPERSEDED' ? 'SUPERSEDED' : found.state, sessions: [], currentSessionId: null };
    const own = found.record;
    const all = own.principal === '' ? [own] : this.#of(own.principal);
    all.sort((a, b) => Buffer.compare(Buffer.from(a.id, 'base64url'), Buffer.from(b.id, 'base64url')));
    return { state: 'ACTIVE', sessions: all.map((record) => this.#session(record, false)), currentSessionId: own.id };
  }

  /** A session for a test, and its token. */
  make(set: string, principal: string): { record: Record; token: string } {
    return this.#create({ set, principal, duration: undefined, persistent: undefined, label: undefined });
  }

  /** The live sessions. */
  live(): Record[] {
    return [...this.records.values()].filter((record) => !this.#expired(record));
  }

  #find(ids: Id[], absence: SessionState): { record: Record; id: Id } | { state: SessionState | 'JUST_SUPERSEDED' } {
    let state: SessionState = absence;
    let just = false;
    for (const id of ids) {
      const record = this.records.get(id.id);
      if (!record) continue;
      const verifier = hash(id.secret);
      if (record.verifier === verifier) {
        if (!this.#expired(record)) return { record, id };
        state = 'EXPIRED';
      } else {
        just ||= this.#justRolled(record, verifier) || this.#wasRolledAfter(record);
        if (RANK.indexOf(state) < RANK.indexOf('SUPERSEDED')) state = 'SUPERSEDED';
      }
    }
    return { state: just ? 'JUST_SUPERSEDED' : state };
  }

  #live(id: Id): Record | undefined {
    const record = this.records.get(id.id);
    return record && record.verifier === hash(id.secret) && !this.#expired(record) ? record : undefined;
  }

  #wasRolledAfter(record: Record): boolean {
    return !this.#expired(record) && record.former.some(({ time }) => time > this.now() - this.policy.rollGrace);
  }

  #justRolled(record: Record, verifier: string): boolean {
    return record.former.some((former) => former.verifier === verifier && former.time > this.now() - this.policy.rollGrace);
  }

  #create(request: Pick<WireRequest & { kind: 'write' }, 'set' | 'principal' | 'duration' | 'persistent' | 'label'>): { record: Record; token: string } {
    const principal = request.principal ?? '';
    const data = this.#edited(new Map(), { set: request.set, unset: [] });
    this.#refuseNewest(principal);
    const now = this.now();
    const id = newId();
    const record: Record = {
      id: id.id,
      verifier: hash(id.secret),
      former: [],
      version: 1,
      createTime: now,
      deadline: 0,
      duration: rounded(request.duration),
      principal,
      data,
      persistent: request.persistent,
      label: request.label ?? '',
    };
    record.deadline = this.#deadline(record);
    this.records.set(record.id, record);
    this.#endIdlest(record);
    return { record, token: sign(this.#key, id) };
  }

  #edited(before: ReadonlyMap<string, string>, request: { readonly set: string; readonly unset: readonly string[] }): Map<string, string> {
    const data = new Map(before);
    for (const key of request.unset) data.delete(key);
    for (const [key, value] of members(request.set)) data.set(key, value);
    if (data.size > MAX_KEYS) throw failure('INVALID_DATA', `more than ${MAX_KEYS} keys`, 'set');
    if (Buffer.byteLength(text(data)) > this.engine.maxDataBytes) throw failure('DATA_TOO_LARGE', undefined, 'set');
    return data;
  }

  #of(principal: string): Record[] {
    return this.live().filter((record) => record.principal === principal);
  }

  #refuseNewest(principal: string): void {
    const { maxSessionsPerPrincipal: limit, onLimit } = this.policy;
    if (principal !== '' && limit > 0 && onLimit === 'refuse_newest' && this.#of(principal).length >= limit) throw failure('TOO_MANY_SESSIONS');
  }

  #endIdlest(newest: Record): void {
    const { maxSessionsPerPrincipal: limit, onLimit } = this.policy;
    if (newest.principal === '' || limit === 0 || onLimit !== 'end_idlest') return;
    const others = this.#of(newest.principal).filter((record) => record !== newest);
    others.sort((a, b) => this.#lastUse(a) - this.#lastUse(b));
    for (const record of others.slice(0, Math.max(0, others.length + 1 - limit))) this.records.delete(record.id);
  }

  // ---- lifetimes

  #duration(record: Record): number {
    return record.duration ?? this.engine.duration;
  }

  #granularity(record: Record): number {
    const duration = this.#duration(record);
    return this.policy.autoGranularity ? Math.min(duration / 64, 60_000) : Math.min(this.engine.touchGranularity, duration);
  }

  #end(record: Record): number {
    return this.engine.absoluteDuration === null ? Infinity : record.createTime + this.engine.absoluteDuration;
  }

  #deadline(record: Record): number {
    return Math.min(this.now() + this.#duration(record) + this.#granularity(record), this.#end(record));
  }

  #expireTime(record: Record): number {
    return Math.min(record.deadline, this.#end(record));
  }

  #expired(record: Record): boolean {
    return this.now() >= this.#expireTime(record);
  }

  #lastUse(record: Record): number {
    return Math.max(record.deadline - this.#duration(record) - this.#granularity(record), record.createTime);
  }

  /** Moves the deadline if the stored one does not give the session its idle timeout from now. */
  #slide(record: Record): boolean {
    if (record.deadline >= Math.min(this.now() + this.#duration(record), this.#end(record))) return false;
    record.deadline = this.#deadline(record);
    return true;
  }

  #use(record: Record, duration: number | undefined): boolean {
    if (duration === undefined || duration === record.duration) return this.#slide(record);
    const before = record.deadline;
    record.duration = duration;
    record.deadline = this.#deadline(record);
    return record.deadline !== before;
  }

  // ---- answers

  #isPersistent(record: Record): boolean {
    return record.persistent ?? this.engine.persistent;
  }

  #cookie(record: Record, token: string): string {
    const now = this.now();
    return setCookie(this.engine, token, this.#isPersistent(record) ? this.#expireTime(record) - now : null, now);
  }

  #renewal(record: Record, id: Id, moved: boolean): readonly string[] {
    return moved && this.#isPersistent(record) ? [this.#cookie(record, sign(this.#key, id))] : NOTHING;
  }

  #session(record: Record, withData: boolean): WireSession {
    return new WireSession(
      record.id,
      withData ? text(record.data) : '',
      record.version,
      record.principal === '' ? null : record.principal,
      new Date(record.createTime),
      new Date(this.#expireTime(record)),
      new Date(this.#lastUse(record)),
      this.#duration(record),
      record.label,
    );
  }
}

/** Durations are rounded up to milliseconds, once, where they enter. */
function rounded(duration: number | undefined): number | undefined {
  return duration === undefined ? undefined : Math.ceil(duration);
}
