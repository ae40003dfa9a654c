import { readFile } from 'node:fs/promises';
import { AuthenticationError, InvalidArgumentError } from '../errors.js';

/** The bearer token on the first line of a file. */
export async function readToken(file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    const detail = (cause as NodeJS.ErrnoException).code ?? 'it cannot be read';
    throw new AuthenticationError(`the token file ${file}: ${detail}`, { reason: 'TOKEN_REQUIRED', code: 'UNAUTHENTICATED', field: 'tokenFile', cause });
  }
  const token = (text.split('\n', 1)[0] as string).trim();
  if (/^[!-~]+$/.test(token)) return token;
  throw new InvalidArgumentError(`the first line of the token file ${file} is not a token`, { reason: 'INVALID_ARGUMENT', code: 'INVALID_ARGUMENT', field: 'tokenFile' });
}
