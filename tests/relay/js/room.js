// Rooms of many: docs/relay-protocol.md sections 13 and 14.

import { Inbox, RelayError, Session } from "./session.js";
import {
  Opener, Sealer, chacha20poly1305, concat, ed25519, encode, equal, expand, extract, hex, hmacSha256,
  isBytes, isLess, isSigned, lp, number8, random, readMap, readNumber8, sha256, x25519,
} from "./wire.js";

const KIND = { application: 0, repeat: 1, hello: 2, removals: 3, chain: 4, chainPlease: 5, goOn: 6 };
const MAX_PEERS = 256;
const MAX_OPENINGS = 256;
const MAX_ALL_OPENINGS = 16384;
const MAX_STATEMENTS = 256;
const MAX_STATEMENT = 1280;
const MAX_STEPS = 1024;
const ASK_AGAIN_AFTER = 16;
const LEEWAY_S = 300;
const nowS = () => Date.now() / 1000;

// -- keys, tickets, openings, removals

export class SigningKey {
  constructor(secret = random(32)) {
    this.secret = secret;
    this.public = ed25519.getPublicKey(secret);
  }

  sign(...parts) {
    return ed25519.sign(concat(...parts), this.secret);
  }
}

export function makeTicket(roomKey, key, { id = random(16), role = "member", can = [], lifeS = 3600 } = {}) {
  const expires = Math.floor(nowS() + lifeS);
  const body = encode({ room: roomKey.public, id, key, role, can, expires });
  return concat(body, roomKey.sign("icesignal/1 ticket\0", body));
}

// What a ticket says; null if it is none, or nobody who owns its room has signed it.
export function readTicket(data) {
  if (!isBytes(data) || data.length < 65 || data.length > 1024) return null;
  const [body, signature] = [data.slice(0, -64), data.slice(-64)];
  const map = readMap(body);
  if (map === null || !isBytes(map.room, 32) || !isBytes(map.id, 16) || !isBytes(map.key, 32)) return null;
  const can = map.can ?? [];
  if (typeof map.role !== "string" || !Array.isArray(can) || can.length > 16) return null;
  if (!can.every((one) => typeof one === "string") || !Number.isSafeInteger(map.expires)) return null;
  if (!isSigned(map.room, signature, concat("icesignal/1 ticket\0", body))) return null;
  return { room: map.room, id: map.id, key: map.key, role: map.role, can, expires: map.expires };
}

function isOpeningOf(ticket, opening) {
  if (!isBytes(opening, 96)) return false;
  const signed = concat("icesignal/1 opening\0", ticket.room, ticket.id, opening.subarray(0, 32));
  return isSigned(ticket.key, opening.subarray(32), signed);
}

function makeStatement(signer, room, member, ticket) {
  const body = encode({ room, member, ticket });
  return concat(body, signer.sign("icesignal/1 removal\0", body));
}

// Whom a statement removes, by hexadecimal id; null if nobody who may has signed it.
function readStatement(room, data) {
  if (data.length < 65 || data.length > MAX_STATEMENT) return null;
  const [body, signature] = [data.slice(0, -64), data.slice(-64)];
  const map = readMap(body);
  if (map === null || !isBytes(map.room, 32) || !equal(map.room, room)) return null;
  if (!isBytes(map.member, 16) || !isBytes(map.ticket)) return null;
  const ticket = map.ticket.length ? readTicket(map.ticket) : null;
  if (map.ticket.length && (ticket === null || !equal(ticket.room, room) || !ticket.can.includes("remove"))) return null;
  if (!isSigned(ticket?.key ?? room, signature, concat("icesignal/1 removal\0", body))) return null;
  return { member: hex(map.member), isOwners: ticket === null, data };
}

// Says when to ask for something again: once for each place, and after so many more that wait for it.
class Patience {
  isOver(place) {
    if (place !== this.place) {
      [this.place, this.waited] = [place, 0];
      return true;
    }
    return ++this.waited % ASK_AGAIN_AFTER === 0;
  }
}

// How often we repeat for a peer that asks: eight times at once, then once in ten seconds.
class Allowance {
  constructor() {
    [this.left, this.at] = [8, nowS()];
  }

  take() {
    const now = nowS();
    this.left = Math.min(8, this.left + Math.max(0, now - this.at) / 10);
    this.at = now;
    if (this.left < 1) return false;
    this.left -= 1;
    return true;
  }
}

// -- what two members seal for each other

class Pair {
  constructor(room, secret, own, peer) {
    const [low, high] = isLess(own.id, peer.id) ? [own, peer] : [peer, own];
    const parts = ["icesignal/1 pair", room, low.id, low.opening, high.id, high.opening];
    const transcript = sha256(concat(...parts.map(lp)));
    const prk = extract(sha256, x25519.getSharedSecret(secret, peer.opening.slice(0, 32)), transcript);
    const key = (id) => expand(sha256, prk, concat("icesignal/1 member ", id), 32);
    this.sealer = new Sealer(key(own.id), transcript, 64, 256 << 10);
    this.opener = new Opener(key(peer.id), transcript);
    this.patience = new Patience();
  }

  // What a payload says: its plaintext if it is the next one, how many before it are lost, whether to ask for them.
  open(payload) {
    const found = this.opener.peek(payload);
    const expected = this.opener.expected;
    if (found === null || found.counter < expected) return { lost: 0 };
    if (found.counter > expected && !(found.plaintext.length === 1 && found.plaintext[0] === KIND.goOn)) {
      return { lost: 0, asks: this.patience.isOver(expected) };
    }
    this.opener.expected = found.counter + 1;
    return { lost: found.counter - expected, plaintext: found.plaintext };
  }
}

// -- what a member says to all

class Chain {
  constructor(room, id, opening) {
    Object.assign(this, { room, id, opening, generation: 0, index: 0, key: null });
  }

  signed(numbers, body) {
    return concat("icesignal/1 all\0", this.room, this.id, sha256(this.opening), numbers, body);
  }

  aead(header, index, key) {
    const nonce = concat(new Uint8Array(4), number8(index));
    return chacha20poly1305(hmacSha256(key, new Uint8Array([1])), nonce, concat(header, this.room, this.id));
  }

  gift() {
    return concat(number8(this.generation), number8(this.index), this.key);
  }

  renew() {
    this.generation += 1;
    this.key = random(32);
  }

  say(signer, body) {
    const numbers = concat(number8(this.generation), number8(this.index));
    const header = concat([3], numbers);
    const signature = signer.sign(this.signed(numbers, body));
    const ciphertext = this.aead(header, this.index, this.key).encrypt(concat(signature, body));
    this.key = next(this.key);
    this.index += 1;
    return concat(header, ciphertext);
  }

  // Take what a peer gave; return how many messages are lost with it, -1 if it is of no use.
  take(gift) {
    if (gift.length !== 48) return -1;
    const [generation, index] = [readNumber8(gift.subarray(0, 8)), readNumber8(gift.subarray(8, 16))];
    if (generation < Math.max(this.generation, 1) || index < this.index || !isNumber(generation, index)) return -1;
    const lost = this.generation ? index - this.index : 0;
    [this.generation, this.index, this.key] = [generation, index, gift.slice(16)];
    return lost;
  }

  // What a payload says: its body and how many before it are lost; or that the chain is wanted.
  hear(key, payload) {
    if (payload.length < 17 + 64 + 16) return {};
    const [header, numbers] = [payload.subarray(0, 17), payload.subarray(1, 17)];
    const [generation, index] = [readNumber8(numbers.subarray(0, 8)), readNumber8(numbers.subarray(8, 16))];
    if (generation < this.generation || index < this.index || !isNumber(generation, index)) return {};
    if (!this.generation || generation > this.generation || index - this.index > MAX_STEPS) return { isWanted: true };
    let chainKey = this.key;
    for (let at = this.index; at < index; at++) chainKey = next(chainKey);
    let plaintext;
    try {
      plaintext = this.aead(header, index, chainKey).decrypt(payload.subarray(17));
    } catch {
      return {};
    }
    const [signature, body] = [plaintext.subarray(0, 64), plaintext.subarray(64)];
    if (!isSigned(key, signature, this.signed(numbers, body))) return {};
    const lost = index - this.index;
    [this.index, this.key] = [index + 1, next(chainKey)];
    return { body, lost };
  }
}

const isNumber = (...values) => values.every(Number.isSafeInteger);
const next = (key) => hmacSha256(key, new Uint8Array([2]));

// -- the room

// One stay of one member. Events, by `type`: came, went, away, back (`member`), message (`sender`, `payload`, `toAll`),
// missed (`sender`, `count`), removed (`member`); ids are hexadecimal.
export class Room {
  constructor(url, ticketData, key, { removals = [], WebSocketClass } = {}) {
    const ticket = readTicket(ticketData);
    if (ticket === null || !equal(ticket.key, key.public)) throw new RelayError("bad-ticket", "this is no ticket of ours");
    Object.assign(this, { ticket, ticketData, key, room: ticket.room, id: ticket.id, name: hex(ticket.id) });
    Object.assign(this, { statements: new Map(), statementCount: 0, sentAway: new Set(), inbox: new Inbox() });
    this.beginStay();
    const on = {
      place: (frame) => this.handlePlace(frame),
      isFull: () => this.inbox.isFull,
      message: ({ sender, payload }) => isBytes(sender, 16) && this.handleMessage(hex(sender), payload),
      other: (frame) => frame.type === "member" && this.handleListed(frame),
      lost: () => (this.whenListed = () => this.handleResync()),
      forgotten: () => this.handleForgotten(),
      over: (error) => this.inbox.end(error),
    };
    this.session = new Session(url, (welcome, id) => this.entry(welcome, id), on, WebSocketClass);
    for (const data of removals) this.believe(data);
  }

  // Make fresh keys: nothing of a former session counts any more.
  beginStay() {
    this.secret = random(32);
    const x = x25519.getPublicKey(this.secret);
    this.opening = concat(x, this.key.sign("icesignal/1 opening\0", this.room, this.id, x));
    this.chain = new Chain(this.room, this.id, this.opening);
    Object.assign(this, { isStale: true, peers: new Map(), seen: new Map(), seenCount: 0, whenListed: null });
  }

  handleForgotten() {
    for (const member of this.members) this.inbox.put({ type: "went", member });
    this.inbox.put({ type: "missed", sender: null, count: null });
    this.beginStay();
  }

  entry({ challenge }, session) {
    const proof = this.key.sign("icesignal/1 enter\0", challenge, session, sha256(this.ticketData));
    return { type: "enter", session, ticket: this.ticketData, proof, opening: this.opening };
  }

  // The next event; refused with an error when the stay is over.
  receive() {
    return this.inbox.take();
  }

  get members() {
    return [...this.peers.values()].filter(isHere).map(({ name }) => name);
  }

  // -- what we say

  send(payload) {
    this.dropExpired();
    const here = [...this.peers.values()].filter(isHere);
    if (!here.length) return;
    if (this.isStale) this.chain.renew();
    this.isStale = false;
    for (const peer of here) if (peer.given !== this.chain.generation) this.giveChain(peer);
    this.session.send(this.chain.say(this.key, payload));
  }

  sendTo(names, payload) {
    this.dropExpired();
    for (const name of names) {
      const peer = this.peers.get(name);
      if (!peer || !isHere(peer)) continue;
      this.sayRemovals(peer);
      this.say(peer, KIND.application, payload);
    }
  }

  remove(name) {
    const member = new Uint8Array(name.match(/../g).map((pair) => parseInt(pair, 16)));
    const statement = makeStatement(this.key, this.room, member, this.ticketData);
    this.believe(statement);
    this.session.send(concat([4], lp(statement)));
    this.sentAway.add(member);
    this.session.transmit({ type: "remove", member });
  }

  leave() {
    this.session.close("left");
  }

  say(peer, kind, body = []) {
    this.session.send(peer.pair.sealer.seal(concat([kind], body)), [peer.ticket.id]);
  }

  giveChain(peer) {
    peer.given = this.chain.generation;
    this.sayRemovals(peer);
    this.say(peer, KIND.chain, this.chain.gift());
  }

  // Say the removals that we have not said to a peer, in front of what it is to hear only if it knows them.
  sayRemovals(peer) {
    const all = [...this.statements.values()].filter(({ number }) => number > (peer.told ?? 0));
    peer.told = this.statementCount;
    for (let at = 0; at < all.length; at += 32) {
      this.say(peer, KIND.removals, concat(...all.slice(at, at + 32).map(({ data }) => lp(data))));
    }
  }

  // -- what the relay says

  handlePlace(frame) {
    if (frame.room !== hex(this.room) || !isBytes(frame.member, 16) || !equal(frame.member, this.id)) {
      return this.session.finish(new RelayError("place", "the relay gave another place than the one that was asked for"));
    }
    // The answer to our first `enter` was lost, and with it who said hello to us.
    if (frame.arrival === "joined" && this.session.entries > 1) this.whenListed = () => this.askAgain();
    [this.toList, this.listed] = [frame.members, new Set()];
    if (!this.toList) this.handleAllListed();
    for (const member of this.sentAway) this.session.transmit({ type: "remove", member }); // it may have been lost
  }

  handleListed(frame) {
    this.handleMember(frame);
    if (!this.toList) return;
    if (isBytes(frame.member, 16)) this.listed.add(hex(frame.member));
    if (!--this.toList) this.handleAllListed();
  }

  handleAllListed() {
    for (const peer of [...this.peers.values()]) if (!this.listed.has(peer.name)) this.setPresence(peer, "gone");
    this.whenListed?.(); // who came while we were away is asked as well
    this.whenListed = null;
  }

  handleMember({ member, state, ticket: data, opening }) {
    const ticket = readTicket(data);
    if (ticket === null || !isBytes(member, 16) || !equal(member, ticket.id)) return;
    if (!equal(ticket.room, this.room) || equal(ticket.id, this.id) || this.statements.has(hex(member))) return;
    if (ticket.expires + LEEWAY_S <= nowS() || !isOpeningOf(ticket, opening)) return;
    const peer = this.peers.get(hex(member));
    if (!peer || !equal(peer.opening, opening)) {
      if (state !== "gone") this.begin(ticket, opening, state);
      return;
    }
    if (equal(ticket.key, peer.ticket.key) && ticket.expires > peer.ticket.expires) {
      Object.assign(peer, { ticket, isExpired: false });
    }
    this.setPresence(peer, state);
  }

  begin(ticket, opening, state) {
    const name = hex(ticket.id);
    const former = this.peers.get(name);
    if (!former && this.peers.size >= MAX_PEERS && !this.makePlace()) return;
    if (!this.isFresh(name, hex(opening.subarray(0, 32)))) return;
    let pair;
    try {
      pair = new Pair(this.room, this.secret, this, { id: ticket.id, opening });
    } catch {
      return; // its key is none
    }
    if (former) this.drop(former);
    const chain = new Chain(this.room, ticket.id, opening);
    const presence = state === "away" ? "away" : "present";
    const peer = { name, ticket, opening, pair, chain, presence, isConfirmed: false, given: 0, patience: new Patience(), allowance: new Allowance() };
    this.peers.set(name, peer);
    this.sayRemovals(peer);
    this.say(peer, KIND.hello);
  }

  // Whether an opening was not seen in this stay; it is remembered.
  isFresh(name, opening) {
    const seen = this.seen.get(name) ?? new Set();
    if (seen.has(opening) || seen.size >= MAX_OPENINGS || this.seenCount >= MAX_ALL_OPENINGS) return false;
    this.seen.set(name, seen.add(opening));
    this.seenCount += 1;
    return true;
  }

  makePlace() {
    const gone = [...this.peers.values()].find(({ presence }) => presence === null);
    return gone ? this.peers.delete(gone.name) : false;
  }

  setPresence(peer, state) {
    const [before, after] = [peer.presence, state === "gone" ? null : state];
    peer.presence = after;
    if (before === after) return;
    if (after === null) {
      this.isStale = true;
      this.peers.delete(peer.name);
      this.peers.set(peer.name, peer); // in the order in which they go
    }
    if (!peer.isConfirmed) return;
    const type = before === null ? "came" : after === null ? "went" : after === "away" ? "away" : "back";
    this.inbox.put({ type, member: peer.name });
  }

  drop(peer) {
    this.isStale = true;
    this.peers.delete(peer.name);
    if (isHere(peer)) this.inbox.put({ type: "went", member: peer.name });
  }

  dropExpired() {
    const now = nowS();
    for (const peer of [...this.peers.values()]) {
      if (peer.isExpired || peer.ticket.expires + LEEWAY_S > now) continue;
      peer.isExpired = this.isStale = true; // its keys stay: a newer ticket may be under way
      this.setPresence(peer, "gone");
    }
  }

  handleResync() {
    this.inbox.put({ type: "missed", sender: null, count: null });
    this.askAgain();
  }

  askAgain() {
    for (const peer of this.peers.values()) {
      if (peer.presence === null) continue;
      this.say(peer, KIND.repeat, number8(peer.pair.opener.expected));
      if (peer.isConfirmed) this.say(peer, KIND.chainPlease);
    }
  }

  // -- what members say

  handleMessage(sender, payload) {
    this.dropExpired();
    const peer = this.peers.get(sender);
    if (payload[0] === 4) this.hearRemovals(payload.subarray(1));
    else if (peer?.isExpired) return;
    else if (peer && payload[0] === 2) this.hearPair(peer, payload);
    else if (peer?.isConfirmed && payload[0] === 3) this.hearToAll(peer, payload);
  }

  hearPair(peer, payload) {
    const { plaintext, lost, asks } = peer.pair.open(payload);
    if (asks) this.say(peer, KIND.repeat, number8(peer.pair.opener.expected));
    if (lost) this.inbox.put({ type: "missed", sender: peer.name, count: lost });
    if (plaintext) this.obey(peer, plaintext[0], plaintext.subarray(1));
  }

  obey(peer, kind, body) {
    if (kind === KIND.repeat && body.length === 8) return this.repeat(peer, readNumber8(body));
    if (kind === KIND.removals) return this.hearRemovals(body);
    if (kind === KIND.hello && !peer.isConfirmed) {
      peer.isConfirmed = true;
      if (peer.presence !== null) this.inbox.put({ type: "came", member: peer.name });
      return undefined;
    }
    if (!peer.isConfirmed) return undefined;
    if (kind === KIND.application) this.inbox.put({ type: "message", sender: peer.name, payload: body, toAll: false });
    if (kind === KIND.chainPlease) {
      this.sayRemovals(peer);
      if (this.chain.generation && !this.isStale) this.giveChain(peer);
    }
    if (kind === KIND.chain) {
      const lost = peer.chain.take(body);
      if (lost > 0) this.inbox.put({ type: "missed", sender: peer.name, count: lost });
    }
    return undefined;
  }

  repeat(peer, counter) {
    if (counter >= peer.pair.sealer.counter || !peer.allowance.take()) return;
    const payloads = peer.pair.sealer.since(counter);
    if (payloads !== null) {
      for (const payload of payloads) this.session.send(payload, [peer.ticket.id]);
      return;
    }
    this.say(peer, KIND.goOn);
    peer.told = 0;
    this.sayRemovals(peer);
    this.say(peer, KIND.hello);
  }

  hearToAll(peer, payload) {
    const { body, lost, isWanted } = peer.chain.hear(peer.ticket.key, payload);
    if (isWanted && peer.patience.isOver(peer.chain.generation)) this.say(peer, KIND.chainPlease);
    if (lost) this.inbox.put({ type: "missed", sender: peer.name, count: lost });
    if (body) this.inbox.put({ type: "message", sender: peer.name, payload: body, toAll: true });
  }

  // -- removals

  hearRemovals(body) {
    for (let count = 0; count < 32 && body.length >= 4; count++) {
      const length = new DataView(body.buffer, body.byteOffset, 4).getUint32(0);
      if (length === 0 || length > body.length - 4) return;
      this.believe(body.slice(4, 4 + length));
      body = body.subarray(4 + length);
    }
  }

  believe(data) {
    const statement = readStatement(this.room, data);
    if (statement === null) return;
    const former = this.statements.get(statement.member);
    if (former && (former.isOwners || !statement.isOwners)) return;
    if ([...this.statements.values()].filter(({ isOwners }) => isOwners === statement.isOwners).length >= MAX_STATEMENTS) return;
    this.statements.delete(statement.member);
    this.statements.set(statement.member, { ...statement, number: ++this.statementCount });
    if (former) return;
    this.isStale = true;
    const peer = this.peers.get(statement.member);
    if (peer) {
      peer.presence = null; // that it went is told as its removal
      this.drop(peer);
    }
    this.inbox.put({ type: "removed", member: statement.member });
    if (statement.member === this.name) {
      this.session.finish(new RelayError("removed", "we were removed from the room"));
      this.session.socket.close(1000);
    }
  }
}

const isHere = (peer) => peer.isConfirmed && peer.presence !== null;

// -- invitations

// Give whoever has used our code a ticket to a room whose key we have.
export async function admit(channel, roomKey, relays, removals = []) {
  const { type, key, proof } = await channel.receive();
  const binding = channel.key("room invitation");
  const isTheirs = isBytes(key, 32) && isBytes(proof, 64) && isSigned(key, proof, concat("icesignal/1 invited\0", binding));
  if (type !== "room-request" || !isTheirs) {
    channel.send({ type: "room-refusal", v: 1, reason: "the key is not yours" });
    throw new RelayError("refused", "the other side asks for no ticket for a key of its own");
  }
  const ticket = makeTicket(roomKey, key);
  channel.send({ type: "room-admission", v: 1, room: roomKey.public, ticket, relays, removals: removals.slice(-32) });
  if ((await channel.receive()).type !== "room-thanks") throw new RelayError("refused", "the other side did not get it");
}

// Ask whoever has invited us for a ticket to its room.
export async function askAdmission(channel, key) {
  const proof = key.sign("icesignal/1 invited\0", channel.key("room invitation"));
  channel.send({ type: "room-request", v: 1, key: key.public, proof });
  const answer = await channel.receive();
  const ticket = answer.type === "room-admission" ? readTicket(answer.ticket) : null;
  const isOurs = ticket !== null && equal(ticket.key, key.public) && equal(ticket.room, answer.room) && ticket.expires > nowS();
  if (!isOurs) throw new RelayError("refused", "the other side gives no ticket that is of use");
  const removals = (answer.removals ?? []).filter((data) => isBytes(data) && readStatement(ticket.room, data) !== null);
  channel.send({ type: "room-thanks", v: 1 });
  return { ticket: answer.ticket, relays: answer.relays, removals };
}


