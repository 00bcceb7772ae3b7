// libdatachannel (with libjuice) as a peer; see common.py for what it prints and reads. It speaks DTLS and SCTP over
// the path, so numbered datagrams cannot be asked of it: it says `connected` with `datagrams: false`, and `secured`
// when the DTLS handshake has gone through, which takes datagrams both ways.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { join } from "node:path";

const { PeerConnection } = createRequire(join(process.argv[3], "package.json"))("node-datachannel");
const given = JSON.parse(process.argv[2]);
const say = (kind, fields) => process.stdout.write(JSON.stringify({ kind, ...fields }) + "\n");

const iceServers = [];
if (given.stun) iceServers.push(`stun:${given.stun[0]}:${given.stun[1]}`);
if (given.turn) {
  const [hostname, port] = given.turn;
  iceServers.push({ hostname, port, username: given.username, password: given.password, relayType: "TurnUdp" });
}
const peer = new PeerConnection("peer", { iceServers, iceTransportPolicy: given.relay_only ? "relay" : "all" });

const candidates = [];
let description = null;
let described = false;
let connected = false;

const ofFamily = (text) => text.split(" ")[4].includes(":") === (given.family === 6);
const plain = (text) => text.replace(/^a=/, "");
const attribute = (name) => new RegExp(`^a=${name}:(\\S+)`, "m").exec(description)[1];

function describe(found) {
  if (described || description === null) return;
  described = true;
  say("description", { ufrag: attribute("ice-ufrag"), pwd: attribute("ice-pwd"), candidates: found });
}

peer.onLocalDescription((sdp) => {
  description = sdp;
  if (given.trickle) describe([]);
});
peer.onLocalCandidate((text) => {
  if (!ofFamily(plain(text))) return;
  if (given.trickle) say("candidate", { candidate: plain(text) });
  else candidates.push(plain(text));
});
peer.onGatheringStateChange((state) => {
  if (state !== "complete") return;
  if (given.trickle) say("candidate", { candidate: null });
  else describe(candidates);
});
peer.onIceStateChange((state) => {
  if ((state === "connected" || state === "completed") && !connected) {
    connected = true;
    const pair = peer.getSelectedCandidatePair();
    const end = (one) => [one.type, one.address, one.port];
    say("connected", { local: end(pair.local), remote: end(pair.remote), datagrams: false });
  }
  if (state === "failed") say("failed", { reason: "libdatachannel says failed" });
});
peer.onStateChange((state) => {
  if (state === "connected") say("secured", {});
});

function remoteDescription(line) {
  return [
    "v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", "a=mid:0", "a=sendrecv",
    `a=setup:${given.role === "controlling" ? "passive" : "actpass"}`,
    `a=ice-ufrag:${line.ufrag}`, `a=ice-pwd:${line.pwd}`, "a=ice-options:trickle",
    `a=fingerprint:sha-256 ${line.fingerprint ?? Array(32).fill("00").join(":")}`,
    "a=sctp-port:5000", "a=max-message-size:65536", "",
  ].join("\r\n");
}

createInterface({ input: process.stdin }).on("line", (text) => {
  const line = JSON.parse(text);
  if (line.kind === "description") {
    peer.setRemoteDescription(remoteDescription(line), given.role === "controlling" ? "answer" : "offer");
    for (const candidate of line.candidates) peer.addRemoteCandidate(candidate, "0");
  } else if (line.kind === "candidate" && line.candidate !== null) {
    peer.addRemoteCandidate(line.candidate, "0");
  } else if (line.kind === "report") {
    say("received", { count: 0, strange: 0 });
  }
}).on("close", () => process.exit(0));

if (given.role === "controlling") peer.createDataChannel("data");
