// Sends many operations at once over some pipelines of one connection, and prints how many were
// answered. ADDRESS and PIPELINES are in the environment.
'use strict';
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const { loadSync } = require('@grpc/proto-loader');

const definition = loadSync('sessiond/v1/session_service.proto', {
  includeDirs: [path.join(__dirname, '../../proto')],
});
const { SessionService } = grpc.loadPackageDefinition(definition).sessiond.v1;

const OPERATIONS = 2000;
const pipelines = Number(process.env.PIPELINES);
const client = new SessionService(process.env.ADDRESS, grpc.credentials.createInsecure());
client.waitForReady(Date.now() + 60_000, (error) => {
  if (error) throw error;
  let answered = 0;
  let open = pipelines;
  for (let n = 0; n < pipelines; n += 1) {
    const stream = client.Pipeline();
    stream.on('data', () => { answered += 1; });
    stream.on('error', (problem) => { throw problem; });
    stream.on('end', () => {
      open -= 1;
      if (open === 0) {
        console.log(`${answered} answered`);
        client.close();
      }
    });
    for (let sequence = 0; sequence < OPERATIONS / pipelines; sequence += 1) {
      stream.write({ sequence, write: { set: '{}' } });
    }
    stream.end();
  }
});
