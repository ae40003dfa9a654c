// The messages of proto/, as protobufjs generates them.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const protobuf = require('protobufjs');
protobuf.util.Long = require('long');
protobuf.configure();

export async function load() {
  const folder = fileURLToPath(new URL('../../../../proto/', import.meta.url));
  const root = new protobuf.Root();
  const resolve = root.resolvePath.bind(root);
  root.resolvePath = (origin, target) => (/^google\/protobuf\//.test(target) ? resolve(origin, target) : `${folder}${target.replace(folder, '')}`);
  await root.load('sessiond/v1/session_service.proto');
  root.resolveAll();
  const types = {};
  for (const name of ['PipelineRequest', 'PipelineResponse', 'ResolveResponse', 'TouchResponse', 'WriteResponse', 'DestroyResponse', 'Session', 'DescribeResponse', 'SessionServiceListSessionsRequest', 'SessionServiceListSessionsResponse']) {
    types[name] = root.lookupType(`sessiond.v1.${name}`);
  }
  types.Status = root.lookupType('google.rpc.Status');
  types.Duration = root.lookupType('google.protobuf.Duration');
  return types;
}
