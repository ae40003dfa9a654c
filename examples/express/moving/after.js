// After: sessiond owns the sessions. `principal`: what the daemon's engine.default.adopt.principal points to.
import { session } from 'sessiond/express';
import { start } from './handlers.js';

start(session({ address: process.env.SESSIOND ?? '127.0.0.1:50051', principal: (data) => data.user }));
