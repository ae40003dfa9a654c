import { readList } from '../protocol/answers.js';
import { unaryFrame, type WireRequest } from '../protocol/requests.js';
import type { ListResult, Session } from '../types.js';
import type { Connection } from './connection.js';

/** All pages of a list, over unary calls. `deadline`: by performance.now(). */
export async function listSessions(connection: Connection, request: WireRequest & { kind: 'list' }, deadline: number): Promise<ListResult> {
  const sessions: Session[] = [];
  let pageToken = '';
  for (;;) {
    const left = deadline - performance.now();
    const page = readList(await connection.unary('ListSessions', unaryFrame({ ...request, pageToken }), left));
    sessions.push(...(page.sessions as Session[]));
    pageToken = page.nextPageToken;
    if (pageToken === '') return { state: page.state, sessions, currentSessionId: page.currentSessionId };
  }
}
