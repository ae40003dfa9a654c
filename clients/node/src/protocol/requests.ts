// How requests stand on the wire. Field numbers are those of proto/sessiond/v1/session_service.proto.
import { delimitedSize, textSize, varintSize, Writer } from './wire.js';

/** A credential in the form in which it is sent. */
export interface WireCredential {
  /** 0x0a: cookie_header; 0x12: token. */
  readonly tag: 0x0a | 0x12;
  readonly value: string | Uint8Array;
  readonly encoding: 'latin1' | 'utf8';
  readonly length: number;
}

/** One operation in the form in which it is sent. */
export type WireRequest =
  | { readonly kind: 'resolve'; readonly engine: string; readonly credential: WireCredential | null; readonly peek: boolean; readonly create: boolean }
  | { readonly kind: 'touch'; readonly engine: string; readonly credential: WireCredential | null; readonly duration: number | undefined }
  | {
      readonly kind: 'write';
      readonly engine: string;
      readonly credential: WireCredential | null;
      readonly set: string;
      readonly unset: readonly string[];
      readonly replace: boolean;
      readonly ifVersion: number | undefined;
      readonly roll: boolean;
      readonly principal: string | undefined;
      readonly duration: number | undefined;
      readonly persistent: boolean | undefined;
      readonly label: string | undefined;
    }
  | {
      readonly kind: 'destroy';
      readonly engine: string;
      readonly credential: WireCredential | null;
      readonly scope: 0 | 1 | 2 | 3;
      readonly sessionIds: readonly string[];
    }
  | { readonly kind: 'list'; readonly engine: string; readonly credential: WireCredential | null; readonly pageToken: string };

// Tags of the operations in a PipelineRequest.
const TAGS = { resolve: 0x12, touch: 0x1a, write: 0x22, destroy: 0x2a, list: 0 } as const;

/** The header of a gRPC message: a flag that says it is not compressed, and the length. */
const HEADER = 5;

const NON_LATIN1 = /[^\0-\xff]/;

/** A Cookie header or a token, ready to send. Node gives header lines as latin1: one character for each octet. */
export function wireCredential(tag: 0x0a | 0x12, value: string | Uint8Array): WireCredential {
  if (typeof value !== 'string') return { tag, value: Uint8Array.from(value), encoding: 'latin1', length: value.length };
  const length = Buffer.byteLength(value);
  // In UTF-8, text has as many octets as characters only if it is ASCII.
  if (length !== value.length && NON_LATIN1.test(value)) return { tag, value, encoding: 'utf8', length };
  return { tag, value, encoding: 'latin1', length: value.length };
}

/** Seconds and nanoseconds of a duration in milliseconds, which may have a fraction. */
function durationParts(milliseconds: number): [number, number] {
  const seconds = Math.floor(milliseconds / 1000);
  const nanos = Math.round((milliseconds - seconds * 1000) * 1e6);
  return nanos < 1e9 ? [seconds, nanos] : [seconds + 1, 0];
}

function durationSize(milliseconds: number): number {
  const [seconds, nanos] = durationParts(milliseconds);
  return (seconds === 0 ? 0 : 1 + varintSize(seconds)) + (nanos === 0 ? 0 : 1 + varintSize(nanos));
}

function writeDuration(out: Writer, tag: number, milliseconds: number): void {
  const [seconds, nanos] = durationParts(milliseconds);
  out.delimited(tag, durationSize(milliseconds));
  out.uint(0x08, seconds);
  out.uint(0x10, nanos);
}

function optionalDurationSize(milliseconds: number | undefined): number {
  return milliseconds === undefined ? 0 : delimitedSize(durationSize(milliseconds));
}

function presentTextSize(text: string | undefined): number {
  return text === undefined ? 0 : delimitedSize(Buffer.byteLength(text));
}

function credentialSize(credential: WireCredential | null): number {
  return credential === null ? 0 : delimitedSize(delimitedSize(credential.length));
}

function writeCredential(out: Writer, credential: WireCredential | null): void {
  if (credential === null) return;
  const { tag, value, encoding, length } = credential;
  out.delimited(0x12, delimitedSize(length));
  out.delimited(tag, length);
  if (typeof value === 'string') out.buffer.write(value, out.position, length, encoding);
  else out.buffer.set(value, out.position);
  out.position += length;
}

/** Octets of an operation's message. */
export function requestSize(request: WireRequest): number {
  let size = textSize(request.engine) + credentialSize(request.credential);
  switch (request.kind) {
    case 'resolve':
      return size + (request.peek ? 2 : 0) + (request.create ? 2 : 0);
    case 'touch':
      return size + optionalDurationSize(request.duration);
    case 'write':
      size += textSize(request.set);
      for (const key of request.unset) size += delimitedSize(Buffer.byteLength(key));
      if (request.replace) size += 2;
      if (request.ifVersion !== undefined) size += 1 + varintSize(request.ifVersion);
      if (request.roll) size += 2;
      size += presentTextSize(request.principal) + optionalDurationSize(request.duration);
      if (request.persistent !== undefined) size += 2;
      return size + presentTextSize(request.label);
    case 'destroy':
      if (request.scope !== 0) size += 2;
      for (const id of request.sessionIds) size += delimitedSize(Buffer.byteLength(id));
      return size;
    case 'list':
      // page_size 1000
      return size + 3 + textSize(request.pageToken);
  }
}

function writeRequest(out: Writer, request: WireRequest): void {
  out.text(0x0a, request.engine);
  writeCredential(out, request.credential);
  switch (request.kind) {
    case 'resolve':
      out.flag(0x18, request.peek);
      out.flag(0x20, request.create);
      return;
    case 'touch':
      if (request.duration !== undefined) writeDuration(out, 0x1a, request.duration);
      return;
    case 'write':
      out.text(0x1a, request.set);
      for (const key of request.unset) out.presentText(0x22, key);
      out.flag(0x28, request.replace);
      if (request.ifVersion !== undefined) {
        out.buffer[out.position++] = 0x30;
        out.varint(request.ifVersion);
      }
      out.flag(0x38, request.roll);
      if (request.principal !== undefined) out.presentText(0x42, request.principal);
      if (request.duration !== undefined) writeDuration(out, 0x4a, request.duration);
      if (request.persistent !== undefined) {
        out.buffer[out.position++] = 0x50;
        out.buffer[out.position++] = request.persistent ? 1 : 0;
      }
      if (request.label !== undefined) out.presentText(0x5a, request.label);
      return;
    case 'destroy':
      out.uint(0x18, request.scope);
      for (const id of request.sessionIds) out.presentText(0x22, id);
      return;
    case 'list':
      out.uint(0x18, 1000);
      out.text(0x22, request.pageToken);
  }
}

/** Octets of a PipelineRequest in its gRPC frame. */
export function frameSize(sequence: number, timeout: number, bodySize: number): number {
  return HEADER + 1 + varintSize(sequence) + delimitedSize(bodySize) + delimitedSize(durationSize(timeout));
}

/** Writes a PipelineRequest in its gRPC frame: `size` and `bodySize` are from {@link frameSize} and {@link requestSize}. */
export function writeFrame(out: Writer, request: WireRequest, sequence: number, timeout: number, size: number, bodySize: number): void {
  out.position = writeHeader(out.buffer, out.position, size - HEADER);
  out.uint(0x08, sequence);
  out.delimited(TAGS[request.kind], bodySize);
  writeRequest(out, request);
  writeDuration(out, 0x32, timeout);
}

/** The message of a unary call in its gRPC frame. `null`: an empty message. */
export function unaryFrame(request: WireRequest | null): Buffer {
  const size = request === null ? 0 : requestSize(request);
  const out = new Writer(HEADER + size);
  out.position = writeHeader(out.buffer, 0, size);
  if (request !== null) writeRequest(out, request);
  return out.buffer;
}

function writeHeader(buffer: Buffer, at: number, length: number): number {
  buffer[at] = 0;
  return buffer.writeUInt32BE(length, at + 1);
}
