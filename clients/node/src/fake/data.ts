// Session data as the daemon keeps them: top-level keys in order, each with the exact text of its value.
import { InvalidArgumentError } from '../errors.js';

const MAX_LEVELS = 64;

function invalid(problem: string): InvalidArgumentError {
  return new InvalidArgumentError(`set: ${problem}`, { reason: 'INVALID_DATA', code: 'INVALID_ARGUMENT', field: 'set' });
}

/** The members of a JSON object, each value as it is written. Throws INVALID_DATA for what the daemon refuses. */
export function members(json: string): Map<string, string> {
  const found = new Map<string, string>();
  if (json === '') return found;
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw invalid('expected a JSON object');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid('expected a JSON object');
  // The text is valid, so a scan for the marks at the first level is enough.
  let level = 0;
  let start = 0;
  let key: string | undefined;
  for (let at = 0; at < json.length; at++) {
    const mark = json[at] as string;
    if (mark === '"') {
      const from = at;
      for (at++; json[at] !== '"'; at++) if (json[at] === '\\') at++;
      if (level === 1 && key === undefined) {
        key = JSON.parse(json.slice(from, at + 1)) as string;
        if (!key.isWellFormed()) throw invalid('a key with half a surrogate pair');
      }
    } else if (mark === ':' && level === 1) {
      start = at + 1;
    } else if (mark === '{' || mark === '[') {
      if (++level > MAX_LEVELS) throw invalid(`more than ${MAX_LEVELS} levels`);
    } else if (mark === '}' || mark === ']' || (mark === ',' && level === 1)) {
      if (level === 1 && key !== undefined) {
        found.set(key, json.slice(start, at).trim());
        key = undefined;
      }
      if (mark !== ',') level--;
    }
  }
  return found;
}

/** The JSON text of an object with these members. */
export function text(of: ReadonlyMap<string, string>): string {
  return `{${[...of].map(([key, value]) => `${JSON.stringify(key)}:${value}`).join(',')}}`;
}
