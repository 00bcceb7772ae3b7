// A program of the tests: `node peer.js WHAT ...`. Reads commands from stdin and writes what it hears to stdout, as lines
// of JSON in which bytes are hexadecimal.

import { createInterface } from "node:readline";

import { Keys, Pake, openInvitation, openJoin } from "./channel.js";
import { Room, SigningKey, admit, askAdmission } from "./room.js";
import { Sealer, bytes, concat, encode, hex } from "./wire.js";

const tell = (what) => process.stdout.write(`${JSON.stringify(what, (_, value) => (value instanceof Uint8Array ? hex(value) : value))}\n`);
const unhex = (text) => new Uint8Array((text.match(/../g) ?? []).map((pair) => parseInt(pair, 16)));
const [what, ...args] = process.argv.slice(2);

async function echo(channel) {
  tell({ open: true, key: channel.key("test") });
  try {
    for (;;) {
      const map = await channel.receive();
      if (map.cut) channel.session.cut();
      channel.send({ echo: map });
    }
  } catch (error) {
    tell({ over: error.code });
  }
}

async function live(room) {
  createInterface({ input: process.stdin }).on("line", (line) => {
    const { send, to, remove, cut, leave } = JSON.parse(line);
    if (send !== undefined && to) room.sendTo(to, bytes(send));
    else if (send !== undefined) room.send(bytes(send));
    if (remove) room.remove(remove);
    if (cut) room.session.cut();
    if (leave) room.leave();
  });
  tell({ id: room.name });
  try {
    for (;;) {
      const event = await room.receive();
      tell(event.payload ? { ...event, payload: new TextDecoder().decode(event.payload) } : event);
    }
  } catch (error) {
    tell({ over: error.code });
    process.exit(0);
  }
}

const programs = {
  // The test vector of the document.
  vector() {
    const [a, b] = [new Pake("inviter", "guitar-ozone", new Uint8Array(64).fill(1)), new Pake("joiner", "guitar-ozone", new Uint8Array(64).fill(2))];
    const [ours, theirs] = [a.finish(b.opening, "7"), b.finish(a.opening, "7")];
    const sealed = new Sealer(ours.key("seal inviter"), ours.transcript).seal(concat([0], encode({})));
    tell({ a: a.opening, b: b.opening, k: ours.k, k2: theirs.k, transcript: ours.transcript, confirmation: ours.confirmation("inviter"), sealed });
    tell({ isKeys: ours instanceof Keys });
  },
  // Make a code of these words.
  async invite(url, words) {
    await echo(await openInvitation(url, words, (code) => tell({ code })));
  },
  // Use a code.
  async join(url, code) {
    const channel = await openJoin(url, code);
    channel.send({ hello: bytes("from javascript"), number: 2 ** 40, list: [1, "two", null, true, -5] });
    await echo(channel);
  },
  // Enter a room of many by a code.
  async enter(url, code) {
    const [channel, key] = [await openJoin(url, code), new SigningKey()];
    const { ticket, relays, removals } = await askAdmission(channel, key);
    channel.close();
    await live(new Room(relays[0], ticket, key, { removals }));
  },
  // Enter with a ticket.
  async room(url, ticket, secret) {
    await live(new Room(url, unhex(ticket), new SigningKey(unhex(secret))));
  },
  // Let somebody into a room of our own.
  async admit(url, words, secret) {
    const channel = await openInvitation(url, words, (code) => tell({ code }));
    await admit(channel, new SigningKey(unhex(secret)), [url]);
    await channel.receive().catch((error) => tell({ over: error.code }));
    process.exit(0);
  },
};

await Promise.resolve(programs[what](...args)).catch((error) => {
  tell({ error: error.code ?? String(error) });
  process.exit(1);
});
if (what !== "enter" && what !== "room") process.exit(0);
