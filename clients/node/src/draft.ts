import { type Difference, difference, isJson, parse, same, stringifyMembers } from './json.js';
import type { SessionData } from './types.js';

/** Session data as a handler changes them, beside what is stored. */
export class Draft {
  /** What is stored, as JSON text, as far as this request knows. */
  base = '';
  #data: SessionData | undefined;
  #written: string | undefined;

  /** Parsed at the first use: many requests never look. */
  get data(): SessionData {
    return (this.#data ??= parse(this.base));
  }

  set data(data: SessionData) {
    this.#data = data;
  }

  /** Whether anybody has looked at the data: only then can they have changed. */
  get opened(): boolean {
    return this.#data !== undefined;
  }

  get changed(): boolean {
    if (this.#data === undefined) return false;
    // Most requests change nothing: then the text is mostly the same, too.
    if (isJson(this.#data) && (JSON.stringify(this.#data) === this.base || (this.base === '' && isEmpty(this.#data)))) return false;
    return !same(sorted(this.#data), sorted(parse(this.base)));
  }

  /** What a write has to send; null: nothing changed. Throws INVALID_DATA. */
  difference(): Difference | null {
    const found = this.#data === undefined ? null : difference(parse(this.base), this.#data);
    // A handler may change more while the difference is on its way: that is not stored then.
    this.#written = found === null ? undefined : stringifyMembers(Object.entries(this.#data as SessionData));
    return found;
  }

  /** What {@link difference} has found has been stored. */
  written(): void {
    if (this.#written !== undefined) this.base = this.#written;
    this.#written = undefined;
  }

  /** There are no data any more. */
  clear(): void {
    this.base = '';
    this.reset();
  }

  /** Drops what is not stored. */
  reset(): void {
    if (this.#data !== undefined) this.#refill(parse(this.base));
  }

  /** Takes `base` as what is stored. Unsaved changes stay, except those of the keys `overwritten`. */
  rebase(base: string, overwritten: readonly string[]): void {
    const data = this.#data;
    if (data !== undefined) {
      const before = parse(this.base);
      const after = parse(base);
      const keys = new Set([...Object.keys(before), ...Object.keys(data)]);
      for (const key of overwritten) keys.delete(key);
      for (const key of keys) {
        const value: unknown = own(data, key);
        if (same(own(before, key), value)) continue;
        if (value === undefined) delete after[key];
        else define(after, key, value);
      }
      this.#refill(after);
    }
    this.base = base;
  }

  /** Fills the object that handlers may hold. */
  #refill(data: SessionData): void {
    const held = this.data;
    for (const key of Object.keys(held)) delete held[key];
    for (const key of Object.keys(data)) define(held, key, data[key]);
  }
}

function isEmpty(data: SessionData): boolean {
  return Object.keys(data).length === 0;
}

function own(data: SessionData, key: string): unknown {
  return Object.hasOwn(data, key) ? data[key] : undefined;
}

/** Sets a key, also `__proto__`. */
function define(data: SessionData, key: string, value: unknown): void {
  Object.defineProperty(data, key, { value, writable: true, enumerable: true, configurable: true });
}

/** In one order, and without what is undefined: the order of top-level keys is the daemon's. */
function sorted(data: SessionData): SessionData {
  const copy = Object.create(null) as SessionData;
  for (const key of Object.keys(data).sort()) if (data[key] !== undefined) copy[key] = data[key];
  return copy;
}
