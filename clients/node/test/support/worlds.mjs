// The same behaviours are asked of the fake and of the real daemon: here are the two.
import { after, before, describe } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { createClient } from 'sessiond';
import { createFake } from 'sessiond/testing';
import { findDaemon, startDaemon } from './daemon.mjs';

/** Milliseconds, and long enough for a busy machine. `short` lives so long; an id that was rolled in `short` counts as just rolled for so long. */
export const SHORT = 5000;
export const GRACE = 4000;

const ENGINES = {
  default: {},
  short: { cookieName: 'short', duration: SHORT, touchGranularity: 1, rollGrace: GRACE },
  still: { cookieName: 'still', automaticTouch: false, duration: SHORT, touchGranularity: 1 },
  brief: { cookieName: 'brief', duration: 60_000, absoluteDuration: SHORT },
  two: { cookieName: 'two', maxSessionsPerPrincipal: 2 },
  idlest: { cookieName: 'idlest', maxSessionsPerPrincipal: 2, onLimit: 'end_idlest', touchGranularity: 1 },
  express: { cookieName: 'connect.sid', cookieFormat: 'EXPRESS', persistent: false },
  small: { cookieName: 'small', maxDataBytes: 5000 },
};

const KEYS = {
  cookieName: ['cookie.name', String],
  cookieFormat: ['cookie.format', (format) => format.toLowerCase()],
  persistent: ['cookie.persistent', String],
  duration: ['duration', (ms) => `${ms}ms`],
  touchGranularity: ['touch_granularity', (ms) => `${ms}ms`],
  absoluteDuration: ['absolute_duration', (ms) => `${ms}ms`],
  rollGrace: ['roll_grace', (ms) => `${ms}ms`],
  automaticTouch: ['automatic_touch', String],
  maxDataBytes: ['max_data_bytes', String],
  maxSessionsPerPrincipal: ['max_sessions_per_principal', String],
  onLimit: ['on_limit', String],
};

function settings() {
  const lines = [];
  for (const [engine, options] of Object.entries(ENGINES)) {
    for (const [name, value] of Object.entries({ cookieName: 'session', ...options })) {
      const [key, format] = KEYS[name];
      lines.push(`engine.${engine}.${key}=${format(value)}`);
    }
    lines.push(`engine.${engine}.cookie.secure=false`);
  }
  return lines;
}

/** Runs `behaviours(world)` for each world. Within a test, `world.start()` gives a client, and `pass(milliseconds)`. */
export function worlds(behaviours) {
  describe('the fake', { concurrency: true }, () => {
    // Each test has a fake of its own: its clock is moved.
    behaviours({
      start() {
        const start = Date.now();
        const client = createFake({ engines: ENGINES, clock: () => start });
        return { client, pass: async (ms) => client.advance(ms) };
      },
    });
  });

  const binary = findDaemon();
  describe('the daemon', { concurrency: true, skip: binary ? false : 'no daemon: set SESSIOND_BIN' }, () => {
    let daemon;
    let client;
    before(async () => {
      daemon = await startDaemon(binary, { set: settings() });
      client = createClient(daemon.address);
    });
    after(async () => {
      await client.close();
      await daemon.stop();
    });
    behaviours({ start: () => ({ client, pass: (ms) => setTimeout(ms) }) });
  });
}

let users = 0;
/** A user that no other test has. */
export function someone() {
  return `user-${process.pid}-${++users}`;
}

/** What a browser sends back after these Set-Cookie values. */
export function cookieOf(setCookie) {
  return (Array.isArray(setCookie) ? setCookie.at(-1) : setCookie).split(';')[0];
}
