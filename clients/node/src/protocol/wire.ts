// Protocol buffers by hand: what the messages of sessiond.v1 need and no more. Sizes are computed before anything is
// written, so that a batch of messages is one allocation and one pass.

/** The other side sent something that cannot be decoded. */
export class WireError extends Error {
  override name = 'WireError';
}

/** Octets that a varint takes. `value` is a whole number from 0 to 2^53 - 1. */
export function varintSize(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x200000) return 3;
  if (value < 0x10000000) return 4;
  let size = 4;
  for (value = Math.floor(value / 0x10000000); value > 0; value = Math.floor(value / 0x80)) size++;
  return size;
}

/** Octets of a length-delimited field with a tag of one octet. */
export function delimitedSize(length: number): number {
  return 1 + varintSize(length) + length;
}

/** Octets of a text field with a tag of one octet; none if the text is empty. */
export function textSize(text: string): number {
  return text === '' ? 0 : delimitedSize(Buffer.byteLength(text));
}

/** Writes into a buffer that is large enough. */
export class Writer {
  readonly buffer: Buffer;
  position = 0;

  constructor(size: number) {
    this.buffer = Buffer.allocUnsafe(size);
  }

  varint(value: number): void {
    const { buffer } = this;
    let at = this.position;
    while (value >= 0x80) {
      buffer[at++] = (value % 0x80) | 0x80;
      value = Math.floor(value / 0x80);
    }
    buffer[at++] = value;
    this.position = at;
  }

  /** A tag of one octet and a whole number; nothing for 0. */
  uint(tag: number, value: number): void {
    if (value === 0) return;
    this.buffer[this.position++] = tag;
    this.varint(value);
  }

  /** A tag of one octet and true; nothing for false. */
  flag(tag: number, value: boolean | undefined): void {
    if (value !== true) return;
    this.buffer[this.position++] = tag;
    this.buffer[this.position++] = 1;
  }

  /** A tag of one octet and a length. The octets follow. */
  delimited(tag: number, length: number): void {
    this.buffer[this.position++] = tag;
    this.varint(length);
  }

  /** A text field; nothing for an empty one. */
  text(tag: number, text: string): void {
    if (text !== '') this.presentText(tag, text);
  }

  /** A text field that is there even if it is empty. */
  presentText(tag: number, text: string): void {
    const length = Buffer.byteLength(text);
    this.delimited(tag, length);
    this.position += this.buffer.write(text, this.position, length, 'utf8');
  }
}

/** Reads a message. Every method throws {@link WireError} where the octets end too early. */
export class Reader {
  readonly buffer: Buffer;
  position: number;
  end: number;

  constructor(buffer: Buffer, position = 0, end = buffer.length) {
    this.buffer = buffer;
    this.position = position;
    this.end = end;
  }

  /** A varint as a number: exact up to 2^53. A negative one (of ten octets) is as large as its octets say. */
  varint(): number {
    const { buffer } = this;
    const first = this.position < this.end ? (buffer[this.position++] as number) : truncated();
    if (first < 0x80) return first;
    let value = first & 0x7f;
    let scale = 0x80;
    for (let size = 1; size < 10; size++) {
      if (this.position >= this.end) truncated();
      const octet = buffer[this.position++] as number;
      value += (octet & 0x7f) * scale;
      if (octet < 0x80) return value;
      scale *= 0x80;
    }
    throw new WireError('a varint of more than ten octets');
  }

  /** A signed varint (int64). */
  int64(): number {
    const from = this.position;
    const value = this.varint();
    if (value <= Number.MAX_SAFE_INTEGER) return value;
    let exact = 0n;
    for (let at = this.position - 1; at >= from; at--) exact = (exact << 7n) | BigInt((this.buffer[at] as number) & 0x7f);
    return Number(BigInt.asIntN(64, exact));
  }

  /** The position after the length-delimited value that begins here. */
  stop(): number {
    const length = this.varint();
    const stop = this.position + length;
    if (stop > this.end) truncated();
    return stop;
  }

  text(): string {
    const stop = this.stop();
    const from = this.position;
    this.position = stop;
    return this.buffer.toString('utf8', from, stop);
  }

  /** Text that is ASCII, such as an id; faster than {@link text}. */
  ascii(): string {
    const stop = this.stop();
    const from = this.position;
    this.position = stop;
    return this.buffer.toString('latin1', from, stop);
  }

  /** Reads a message that begins here with `read`, which is called for each of its fields. */
  message(read: (tag: number) => void): void {
    const outer = this.end;
    this.end = this.stop();
    while (this.position < this.end) read(this.varint());
    this.end = outer;
  }

  /** Passes over the value of an unknown field. */
  skip(tag: number): void {
    switch (tag & 7) {
      case 0:
        this.varint();
        return;
      case 1:
        this.position += 8;
        break;
      case 2:
        this.position = this.stop();
        break;
      case 3:
        for (;;) {
          const inner = this.varint();
          if ((inner & 7) === 4) return;
          this.skip(inner);
        }
      case 5:
        this.position += 4;
        break;
      default:
        throw new WireError('an unknown wire type');
    }
    if (this.position > this.end) truncated();
  }
}

function truncated(): never {
  throw new WireError('the message ends too early');
}
