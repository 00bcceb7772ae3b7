// A session at a relay, which survives its connections: docs/relay-protocol.md sections 3, 4 and 11.

import { encode, isBytes, random, readMap } from "./wire.js";
import { isBearable, solve, subjectOf } from "./work.js";

const FINAL = new Set([1000, 1009, 4000, 4001, 4002, 4006]);
const MAX_UNACKNOWLEDGED = 64;
const MAX_UNACKNOWLEDGED_BYTES = 512 << 10;
const MAX_WAITING = 1024; // messages that the relay has not been given yet; what is beyond is asked for by whom it was for
const MAX_INBOX = 512; // twice what a relay replays at most
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
const MAX_PUZZLES = 4; // for one place
const ENTRIES = new Set(["joined", "resumed", "resync", "entered"]);

const isCount = (...values) => values.every((value) => Number.isSafeInteger(value) && value >= 0);

export class RelayError extends Error {
  constructor(code, text) {
    super(text ?? `the relay says: ${code}`);
    this.code = code;
  }
}

export class Session {
  // `entry` gives the frame that asks for the place, given the welcome and the session's id. `on` has functions: `place`
  // (the answer), `message` (the frame), `other` (any other frame), `lost` (messages are missing), `over` (an error), and
  // perhaps `forgotten` (the relay knows nothing of us, and is entered anew).
  constructor(url, entry, on, WebSocketClass = globalThis.WebSocket) {
    Object.assign(this, { url, entry, on, WebSocketClass, id: random(16), place: null, token: null, isLive: false });
    Object.assign(this, { clientSeq: 0, pending: [], pendingBytes: 0, waiting: [], error: null, pause: FIRST_PAUSE_MS });
    Object.assign(this, { position: [0, 0], entries: 0, puzzles: 0 }); // how often we have asked for our place, and worked
    this.connect();
  }

  connect() {
    if (this.error !== null) return;
    if (this.on.isFull?.()) return void setTimeout(() => this.connect(), this.pause); // a replay would find no place
    const socket = (this.socket = new this.WebSocketClass(this.url));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => socket === this.socket && this.handle(readMap(new Uint8Array(data)));
    socket.onerror = () => {};
    socket.onclose = ({ code }) => {
      if (socket !== this.socket) return;
      this.isLive = false;
      if (FINAL.has(code)) return this.finish(new RelayError("closed", `the relay closed the session (${code})`));
      setTimeout(() => this.connect(), this.pause * (0.75 + 0.5 * Math.random()));
      this.pause = Math.min(2 * this.pause, LONGEST_PAUSE_MS);
    };
  }

  transmit(frame) {
    if (this.socket.readyState === 1) this.socket.send(encode({ v: 1, ...frame }));
  }

  handle(frame) {
    if (this.error !== null || frame === null || frame.v !== 1) return;
    if (frame.type === "welcome") this.begin(frame);
    else if (ENTRIES.has(frame.type)) this.take(frame);
    else if (frame.type === "message") this.hear(frame);
    else if (frame.type === "ack") this.acknowledge(frame.client_seq);
    else if (frame.type === "closed") this.finish(new RelayError(frame.reason, `the relay closed the room: ${frame.reason}`));
    else if (frame.type === "error") this.fail(frame);
    else if (this.on.isFull?.()) this.socket.close(); // all members are told again after a resume
    else this.on.other?.(frame);
  }

  begin(welcome) {
    this.welcome = welcome;
    if (!Array.isArray(welcome.versions) || !welcome.versions.includes(1)) return this.finish(new RelayError("version"));
    const [epoch, seq] = this.position;
    if (this.place === null) {
      this.entries += 1;
      const frame = this.entry(welcome, this.id);
      if (frame.type === "join" && welcome.work) this.work(frame, welcome.work);
      else this.transmit(frame);
    } else this.transmit({ type: "resume", session: this.id, token: this.token, epoch, seq });
  }

  // Solve what the relay asks for, and ask for the place with the solution.
  async work(frame, puzzle) {
    const socket = this.socket;
    if (++this.puzzles > MAX_PUZZLES || !isBearable(puzzle)) return this.finish(new RelayError("work", "it asks for too much work"));
    const isWanted = () => socket === this.socket && this.error === null && this.place === null;
    const work = await solve(puzzle, subjectOf(frame), isWanted);
    if (work !== null && isWanted()) this.transmit({ ...frame, work });
  }

  take(frame) {
    if (this.isLive) return; // one answer for each connection
    if (!isCount(frame.epoch, frame.seq, frame.client_seq) || !isBytes(frame.token, 16)) return;
    const arrival = frame.type === "entered" ? frame.arrival : frame.type;
    const was = this.place;
    if (was !== null && (frame.room !== was.room || frame.role !== was.role)) {
      return this.finish(new RelayError("place", "the relay gave another place than the one before"));
    }
    this.place = frame;
    this.token = frame.token;
    if (arrival === "joined" && was === null) this.position = [frame.epoch, frame.seq];
    if (arrival === "resync") this.position = [frame.epoch, frame.seq];
    this.isLive = true;
    this.pause = FIRST_PAUSE_MS;
    this.acknowledge(frame.client_seq);
    for (const one of this.pending) this.transmit(one);
    if (arrival === "resync") this.on.lost();
    this.on.place(frame, arrival);
  }

  hear(frame) {
    const [epoch, seq] = this.position;
    if (!isCount(frame.epoch, frame.seq) || !isBytes(frame.payload)) return;
    if (frame.epoch < epoch || (frame.epoch === epoch && frame.seq <= seq)) return;
    if (this.on.isFull?.()) return this.socket.close(); // the position stays, and the relay replays it
    this.position = [frame.epoch, frame.seq];
    this.on.message(frame);
  }

  acknowledge(clientSeq) {
    while (isCount(clientSeq) && this.pending.length && this.pending[0].client_seq <= clientSeq) {
      this.pendingBytes -= this.pending.shift().payload.length;
    }
    this.moveOn();
  }

  fail({ code, work }) {
    const frame = work && this.place === null ? this.entry(this.welcome, this.id) : null;
    if (frame?.type === "join" || frame?.type === "allocate") return void this.work(frame, work);
    const isForgotten = code === "unknown-session" || code === "bad-token";
    if (this.place !== null && !this.isLive && isForgotten && this.on.forgotten) {
      Object.assign(this, { id: random(16), place: null, token: null, position: [0, 0], clientSeq: 0, pending: [] });
      Object.assign(this, { entries: 1, pendingBytes: 0, waiting: [] });
      this.on.forgotten();
      this.transmit(this.entry(this.welcome, this.id));
    } else if (this.place !== null && (code === "busy" || code === "gap" || code === "rate")) {
      this.socket.close(); // what was refused goes out again after the pause
    } else {
      this.finish(new RelayError(code));
    }
  }

  // Queue a message; it goes out when the relay has acknowledged enough of what went before.
  send(payload, to) {
    if (this.waiting.length >= MAX_WAITING) return;
    this.waiting.push(to ? { payload, to } : { payload });
    this.moveOn();
  }

  moveOn() {
    while (this.waiting.length && this.pending.length < MAX_UNACKNOWLEDGED && this.pendingBytes < MAX_UNACKNOWLEDGED_BYTES) {
      const frame = { type: "send", client_seq: ++this.clientSeq, ...this.waiting.shift() };
      this.pending.push(frame);
      this.pendingBytes += frame.payload.length;
      if (this.isLive) this.transmit(frame);
    }
  }

  close(reason) {
    if (this.error !== null) return;
    if (this.place !== null) this.transmit({ type: "close", reason });
    this.finish(new RelayError("left", "the conversation was ended here"));
    this.socket.close(1000);
  }

  // Lose the connection, as a network does; the session goes on with another one.
  cut() {
    this.socket.close(3000);
  }

  finish(error) {
    if (this.error !== null) return;
    this.error = error;
    this.isLive = false;
    this.on.over(error);
  }
}

// What arrives, to be awaited one by one; after `end` each wait is refused with its error.
export class Inbox {
  constructor() {
    Object.assign(this, { items: [], takers: [], error: null });
  }

  put(item) {
    const taker = this.takers.shift();
    if (taker) taker.resolve(item);
    else this.items.push(item);
  }

  get isFull() {
    return this.items.length >= MAX_INBOX;
  }

  end(error) {
    this.error ??= error;
    for (const taker of this.takers.splice(0)) taker.reject(this.error);
  }

  take() {
    if (this.items.length) return Promise.resolve(this.items.shift());
    if (this.error) return Promise.reject(this.error);
    return new Promise((resolve, reject) => this.takers.push({ resolve, reject }));
  }
}
