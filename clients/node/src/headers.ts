/** Whether a Cookie header has a cookie of this name, octet by octet. SP and HTAB around a name do not count. */
export function hasCookie(header: string | Uint8Array | null, name: string): boolean {
  if (header === null) return false;
  const text = typeof header === 'string' ? header : Buffer.from(header).toString('latin1');
  for (let at = text.indexOf(name); at >= 0; at = text.indexOf(name, at + 1)) {
    let before = at - 1;
    while (before >= 0 && isSpace(text.charCodeAt(before))) before--;
    let after = at + name.length;
    while (isSpace(text.charCodeAt(after))) after++;
    if ((before < 0 || text[before] === ';') && text[after] === '=') return true;
  }
  return false;
}

function isSpace(code: number): boolean {
  return code === 0x20 || code === 0x09;
}

/**
 * The Cache-Control to answer with where a cookie is set: `no-store`, unless `existing` already forbids shared caches to
 * store the answer (`no-store` or `private`). Returns null if nothing is to change.
 */
export function noStore(existing?: string | number | readonly string[] | null): string | null {
  const text = Array.isArray(existing) ? existing.join(',') : String(existing ?? '');
  return /(^|[\s,])(no-store|private)\s*($|,)/i.test(text) ? null : 'no-store';
}
