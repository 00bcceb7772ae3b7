// Proof of work: docs/relay-protocol.md section 10.1.

import { bytes, concat, isBytes, number8 } from "./wire.js";

const MAX_ROUNDS = 1 << 24; // for one puzzle: a relay may lie
const AT_ONCE = 16; // hashes: browsers give them to several threads

const isCount = (value, most) => Number.isSafeInteger(value) && value >= 0 && value <= most;

// Whether a puzzle is one that we know, and not too much.
export function isBearable(puzzle) {
  const { algorithm, challenge, rounds, bits, parts } = puzzle ?? {};
  if (algorithm !== "pbkdf2-sha256" || !isBytes(challenge) || challenge.length < 1 || challenge.length > 64) return false;
  if (!isCount(rounds, MAX_ROUNDS) || !isCount(bits, 32) || !isCount(parts, 32) || rounds < 1 || parts < 1) return false;
  return parts * 2 ** bits * rounds <= MAX_ROUNDS;
}

async function hash({ challenge, rounds }, subject, part, nonce) {
  const key = await crypto.subtle.importKey("raw", nonce, "PBKDF2", false, ["deriveBits"]);
  const salt = concat("icesignal/1 work\0", challenge, [part], subject);
  return new Uint8Array(await crypto.subtle.deriveBits({ name: "PBKDF2", hash: "SHA-256", salt, iterations: rounds }, key, 256));
}

function zeros(digest) {
  const at = digest.findIndex((byte) => byte !== 0);
  return at < 0 ? 8 * digest.length : 8 * at + Math.clz32(digest[at]) - 24;
}

// The solution; null when `isWanted` says that nobody wants it any more.
export async function solve(puzzle, subject, isWanted = () => true) {
  const found = [];
  let number = crypto.getRandomValues(new BigUint64Array(1))[0];
  for (let part = 0; part < puzzle.parts; ) {
    if (!isWanted()) return null;
    const nonces = Array.from({ length: AT_ONCE }, () => number8((number = BigInt.asUintN(64, number + 1n))));
    const digests = await Promise.all(nonces.map((nonce) => hash(puzzle, subject, part, nonce)));
    const hit = digests.findIndex((digest) => zeros(digest) >= puzzle.bits);
    if (hit < 0) continue;
    found.push(nonces[hit]);
    part += 1;
  }
  return concat(...found);
}

// What a solution is bound to.
export const subjectOf = ({ session, nameplate }) => concat(session, bytes(nameplate ?? ""));
