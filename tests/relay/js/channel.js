// From a code to a sealed channel: docs/relay-protocol.md sections 6 to 8.

import { Inbox, RelayError, Session } from "./session.js";
import {
  Opener, Sealer, bytes, concat, ed25519, encode, equal, expand, extract, hmacSha256, lp, number8, random, readMap,
  readNumber8, sha256,
} from "./wire.js";

const APP_ID = "icesignal/1";
const ELEMENTS = {
  inviter: "15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312",
  joiner: "f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3",
};
const LETTERS = { inviter: 0x41, joiner: 0x42 };
const { Point } = ed25519;
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const other = (role) => (role === "inviter" ? "joiner" : "inviter");

function integerModL(data) {
  return data.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n) % L;
}

export class Pake {
  constructor(role, password, entropy = random(64)) {
    this.role = role;
    this.password = bytes(password);
    this.w = integerModL(expand(sha256, extract(sha256, this.password, new Uint8Array(0)), bytes("SPAKE2 pw"), 48));
    this.scalar = integerModL(entropy);
    const own = Point.BASE.multiply(this.scalar).add(Point.fromHex(ELEMENTS[role]).multiply(this.w));
    this.opening = concat([LETTERS[role]], own.toBytes());
  }

  // What both sides derive; throws where the other's opening is none.
  finish(opening, room) {
    const wrong = new RelayError("code-wrong", "the code is wrong");
    if (opening.length !== 33 || opening[0] !== LETTERS[other(this.role)]) throw wrong;
    let element;
    try {
      element = Point.fromHex(opening.subarray(1), false);
    } catch {
      throw wrong;
    }
    if (element.is0() || !element.isTorsionFree() || equal(opening.subarray(1), this.opening.subarray(1))) throw wrong;
    const blinded = Point.fromHex(ELEMENTS[other(this.role)]).multiply(this.w);
    const z = element.subtract(blinded).multiply(this.scalar).toBytes();
    const [a, b] = this.role === "inviter" ? [this.opening, opening] : [opening, this.opening];
    const k = sha256(
      concat(
        sha256(this.password), sha256(bytes("icesignal/1 inviter")), sha256(bytes("icesignal/1 joiner")),
        a.subarray(1), b.subarray(1), z,
      ),
    );
    return new Keys(this.role, k, a, b, room);
  }
}

export class Keys {
  constructor(role, k, openingA, openingB, room) {
    this.role = role;
    this.k = k;
    this.transcript = sha256(concat(lp(APP_ID), lp("inviter"), lp(openingA), lp("joiner"), lp(openingB), lp(room)));
    this.prk = extract(sha256, k, this.transcript);
  }

  key(label, size = 32) {
    return expand(sha256, this.prk, bytes(`icesignal/1 ${label}`), size);
  }

  confirmation(role) {
    return hmacSha256(this.key(`confirm ${role}`), this.transcript);
  }
}

// Maps to and from the peer, in order, each once.
export class SealedChannel {
  constructor(session, keys) {
    this.session = session;
    this.keys = keys;
    this.sealer = new Sealer(keys.key(`seal ${keys.role}`), keys.transcript);
    this.opener = new Opener(keys.key(`seal ${other(keys.role)}`), keys.transcript);
    this.inbox = new Inbox();
    this.askedFor = -1;
  }

  send(map) {
    this.session.send(this.sealer.seal(concat([0], encode(map))));
  }

  receive() {
    return this.inbox.take();
  }

  // A key of the application's, the same on both sides.
  key(purpose, size = 32) {
    return this.keys.key(`application ${purpose}`, size);
  }

  close() {
    this.session.close("done");
  }

  handle(payload) {
    const found = this.opener.peek(payload);
    if (found === null || found.counter < this.opener.expected) return;
    if (found.counter > this.opener.expected) return this.askToRepeat();
    this.opener.expected += 1;
    const [kind, body] = [found.plaintext[0], found.plaintext.subarray(1)];
    if (kind === 1 && body.length === 8) this.repeat(readNumber8(body));
    const map = kind === 0 ? readMap(body) : null;
    if (map !== null) this.inbox.put(map);
  }

  askToRepeat() {
    if (this.askedFor === this.opener.expected) return;
    this.askedFor = this.opener.expected;
    this.session.send(this.sealer.seal(concat([1], number8(this.opener.expected))));
  }

  repeat(counter) {
    const payloads = this.sealer.since(counter);
    if (payloads === null) this.session.close("left");
    else for (const payload of payloads) this.session.send(payload);
  }
}

function isAskedFor(entry, { room, role }) {
  if (entry.type === "join") return room === entry.nameplate && role === "joiner";
  return /^[1-9][0-9]{0,8}$/.test(room) && role === "inviter";
}

// Enter a room of two, prove that the code is known, and return the channel.
function open(url, entry, pake, { onRoom = () => {}, WebSocketClass } = {}) {
  return new Promise((resolve, reject) => {
    let keys = null;
    let channel = null;
    const meet = ({ room, opening }) => {
      if (keys !== null || opening.length === 0) return;
      try {
        keys = pake.finish(opening, room);
      } catch {
        return wrong();
      }
      session.send(concat([1], keys.confirmation(keys.role)));
    };
    const wrong = () => {
      reject(new RelayError("code-wrong", "the code is wrong, and dead now"));
      session.close("code-wrong");
    };
    const on = {
      place(frame, arrival) {
        if (!isAskedFor(entry, frame)) {
          reject(new RelayError("place", "the relay gave another place than the one that was asked for"));
          return session.close("left");
        }
        if (arrival === "joined") onRoom(frame.room);
        meet(frame);
      },
      other(frame) {
        if (frame.type === "peer") meet({ room: session.place.room, opening: frame.opening });
      },
      message({ payload }) {
        if (channel !== null) return channel.handle(payload);
        if (keys === null || payload[0] !== 1 || !equal(payload.subarray(1), keys.confirmation(other(keys.role)))) return wrong();
        channel = new SealedChannel(session, keys);
        resolve(channel);
      },
      isFull: () => channel?.inbox.isFull ?? false,
      lost() {
        channel?.askToRepeat();
      },
      over(error) {
        channel?.inbox.end(error);
        reject(error);
      },
    };
    const session = new Session(url, (_, id) => ({ ...entry, session: id, opening: pake.opening }), on, WebSocketClass);
  });
}

// Make a code of the given words; `onCode` is told the whole of it, the promise is for the channel.
export function openInvitation(url, words, onCode, options) {
  const onRoom = (room) => onCode(`${room}-${words}`);
  return open(url, { type: "allocate" }, new Pake("inviter", words), { ...options, onRoom });
}

// Use a code.
export function openJoin(url, code, options) {
  const [nameplate, ...words] = code.trim().toLowerCase().split("-");
  return open(url, { type: "join", nameplate }, new Pake("joiner", words.join("-")), options);
}
