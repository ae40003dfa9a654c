// The code blocks of the documents that speak of this package.
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const guides = fileURLToPath(new URL('../../../../docs/guides/', import.meta.url));
const readme = fileURLToPath(new URL('../../README.md', import.meta.url));
const LANGUAGES = ['js', 'ts', 'tsx'];

/**
 * All blocks in the languages of this package: `document` (such as `express.md`), `line`, `language`, `code`, `commands` (what
 * is shown below a program: `{ command, output }`), and `file`, if the first line is a comment with a name.
 */
export function codeBlocks() {
  const documents = [['README.md', readme], ...readdirSync(guides).filter((name) => name.endsWith('.md')).map((name) => [name, guides + name])];
  return documents.flatMap(([document, path]) => {
    const all = fences(readFileSync(path, 'utf8'));
    return all.flatMap(({ line, info, code }, at) => {
      if (!LANGUAGES.includes(info)) return [];
      const file = /^\/\/ ([\w./-]+\.[a-z]+)\n/.exec(code)?.[1];
      const below = all[at + 1];
      return [{ document, line, language: info, code, file, commands: below ? commandsIn(below.code) : [] }];
    });
  });
}

function fences(text) {
  const found = [];
  let open;
  for (const [number, line] of text.split('\n').entries()) {
    if (!line.startsWith('```')) open?.lines.push(line);
    else if (open) {
      found.push({ line: open.line, info: open.info, code: `${open.lines.join('\n')}\n` });
      open = undefined;
    } else open = { line: number + 1, info: line.slice(3).trim(), lines: [] };
  }
  return found;
}

/** `$ command`, and the lines that it prints. */
function commandsIn(code) {
  const found = [];
  for (const line of code.trimEnd().split('\n')) {
    if (line.startsWith('$ ')) found.push({ command: line.slice(2), output: '' });
    else if (found.length === 0) return [];
    else found.at(-1).output += `${line}\n`;
  }
  return found;
}
