// Bytes, cryptography and frames: docs/relay-protocol.md sections 3, 7 and 8. Web APIs only.

import { decode, encode } from "@msgpack/msgpack";
import { chacha20poly1305 } from "@noble/ciphers/chacha";
import { ed25519, x25519 } from "@noble/curves/ed25519";
import { expand, extract } from "@noble/hashes/hkdf";
import { hmac } from "@noble/hashes/hmac";
import { sha256 } from "@noble/hashes/sha2";

export { chacha20poly1305, decode, ed25519, encode, expand, extract, sha256, x25519 };

export const MAX_PAYLOAD = 61440;
const utf8 = new TextEncoder();

export const bytes = (value) => (typeof value === "string" ? utf8.encode(value) : value);

export function concat(...parts) {
  const all = parts.map(bytes);
  const joined = new Uint8Array(all.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of all) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

export function random(size) {
  return crypto.getRandomValues(new Uint8Array(size));
}

export function hex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function equal(a, b) {
  let difference = a.length ^ b.length;
  for (let at = 0; at < Math.min(a.length, b.length); at++) difference |= a[at] ^ b[at];
  return difference === 0;
}

// The order of byte strings.
export function isLess(a, b) {
  return hex(a) < hex(b);
}

// An integer in 8 bytes, big-endian.
export function number8(value) {
  const data = new Uint8Array(8);
  new DataView(data.buffer).setBigUint64(0, BigInt(value));
  return data;
}

export function readNumber8(data) {
  const value = new DataView(data.buffer, data.byteOffset, 8).getBigUint64(0);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : Infinity;
}

// Bytes behind their length.
export function lp(data) {
  const body = bytes(data);
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, body.length);
  return concat(length, body);
}

export const hmacSha256 = (key, data) => hmac(sha256, key, data);

export function isSigned(key, signature, data) {
  try {
    return ed25519.verify(signature, data, key, { zip215: false });
  } catch {
    return false;
  }
}

export const isBytes = (value, size) => value instanceof Uint8Array && (size === undefined || value.length === size);

// A map of msgpack with string keys, as it may come from anybody; null for anything else.
export function readMap(data) {
  try {
    const value = decode(data, { maxStrLength: 65536, maxBinLength: 65536, maxArrayLength: 256, maxMapLength: 256, maxExtLength: 0 });
    return value !== null && typeof value === "object" && !Array.isArray(value) && !isBytes(value) ? value : null;
  } catch {
    return null;
  }
}

// Seals what one side sends; keeps the newest of it, to be repeated byte for byte.
export class Sealer {
  constructor(key, context, keepMessages = 256, keepBytes = 1 << 20) {
    Object.assign(this, { key, context, keepMessages, keepBytes, counter: 0, kept: [], bytes: 0 });
  }

  seal(plaintext) {
    const counter = number8(this.counter++);
    const header = concat([2], counter);
    const aead = chacha20poly1305(this.key, concat(new Uint8Array(4), counter), concat(header, this.context));
    const payload = concat(header, aead.encrypt(plaintext));
    this.kept.push(payload);
    this.bytes += payload.length;
    while (this.kept.length > this.keepMessages || this.bytes > this.keepBytes) this.bytes -= this.kept.shift().length;
    return payload;
  }

  // The payloads from a counter on; null if one of them is no longer kept.
  since(counter) {
    const oldest = this.counter - this.kept.length;
    return counter >= oldest && counter <= this.counter ? this.kept.slice(counter - oldest) : null;
  }
}

// Opens what the other side sealed, in its order and once each.
export class Opener {
  constructor(key, context) {
    Object.assign(this, { key, context, expected: 0 });
  }

  // What a payload is: its counter and its plaintext. Null for what the other side has not sealed.
  peek(payload) {
    if (payload.length < 25 || payload[0] !== 2) return null;
    const header = payload.subarray(0, 9);
    const aead = chacha20poly1305(this.key, concat(new Uint8Array(4), header.subarray(1)), concat(header, this.context));
    if (readNumber8(header.subarray(1)) === Infinity) return null; // nobody counts so far
    try {
      return { counter: readNumber8(header.subarray(1)), plaintext: aead.decrypt(payload.subarray(9)) };
    } catch {
      return null;
    }
  }
}
