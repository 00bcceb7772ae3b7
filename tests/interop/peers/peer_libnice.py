"""libnice as a peer, under the system's Python; see `common` for what it prints and reads.

Receiving and sending go through ctypes: the bindings leave out the callback that receives.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections import deque
from typing import Any

import gi

gi.require_version("Nice", "0.1")
from common import Received, component_of, datagram, options, say  # noqa: E402
from gi.repository import GLib, Nice  # noqa: E402

FULL_MS = 5
LIBRARY = ctypes.CDLL("libnice.so.10")
ON_DATA = ctypes.CFUNCTYPE(
    None,
    *(ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(ctypes.c_char), ctypes.c_void_p),
)
KINDS = {
    Nice.CandidateType.HOST: "host",
    Nice.CandidateType.SERVER_REFLEXIVE: "srflx",
    Nice.CandidateType.PEER_REFLEXIVE: "prflx",
    Nice.CandidateType.RELAYED: "relay",
}


class Peer:
    """One agent with one stream."""

    def __init__(self, given: dict[str, Any], loop: GLib.MainLoop) -> None:
        self.loop = loop
        self.trickle = given["trickle"]
        self.family = given["family"]
        self.components = given.get("components", 1)
        self.received = Received(self.components)
        self.ready: set[int] = set()
        self.unsent: deque[int] = deque()
        self.selected: dict[str, Any] = {}
        self.buffer = b""
        self.agent = Nice.Agent.new(GLib.MainContext.default(), Nice.Compatibility.RFC5245)
        for name, value in properties(given).items():
            self.agent.set_property(name, value)
        self.agent.connect("candidate-gathering-done", self.gathered)
        self.agent.connect("new-candidate-full", self.found)
        self.agent.connect("new-selected-pair-full", self.chosen)
        self.agent.connect("component-state-changed", self.changed)
        self.stream = self.agent.add_stream(self.components)
        self.on_data = ON_DATA(lambda _a, _s, component, size, data, _u: self.received.put(data[:size], component))
        self.pointer = ctypes.c_void_p(hash(self.agent))
        for component in range(1, self.components + 1):
            if "turn" in given:
                host, port = given["turn"]
                secret = (given["username"], given["password"])
                self.agent.set_relay_info(self.stream, component, host, port, *secret, Nice.RelayType.UDP)
            LIBRARY.nice_agent_attach_recv(self.pointer, self.stream, component, None, self.on_data, None)
        if self.trickle:
            self.describe([])
        self.agent.gather_candidates(self.stream)

    def describe(self, candidates: list[str]) -> None:
        _, ufrag, pwd = self.agent.get_local_credentials(self.stream)
        say("description", ufrag=ufrag, pwd=pwd, candidates=candidates)

    def text_of(self, candidate: Nice.Candidate) -> str | None:
        """Return a candidate as text; None for a family that was not asked for, or a transport other than UDP."""
        text = self.agent.generate_local_candidate_sdp(candidate).removeprefix("a=")
        host = text.split()[4]
        wanted = (":" in host) == (self.family == 6) and text.split()[2].upper() == "UDP"
        return text if wanted else None

    def found(self, _agent: Nice.Agent, candidate: Nice.Candidate) -> None:
        text = self.text_of(candidate)
        if self.trickle and text is not None:
            say("candidate", candidate=text)

    def gathered(self, _agent: Nice.Agent, _stream: int) -> None:
        if self.trickle:
            say("candidate", candidate=None)
            return
        components = range(1, self.components + 1)
        candidates = [
            one for component in components for one in self.agent.get_local_candidates(self.stream, component)
        ]
        found = [self.text_of(candidate) for candidate in candidates]
        self.describe([text for text in found if text is not None])

    def chosen(self, _a: Nice.Agent, _s: int, component: int, local: Nice.Candidate, remote: Nice.Candidate) -> None:
        if component != 1:
            return
        ends = (("local", local), ("remote", remote))
        self.selected = {name: [KINDS[one.type], one.addr.dup_string(), one.addr.get_port()] for name, one in ends}

    def changed(self, _agent: Nice.Agent, _stream: int, component: int, state: int) -> None:
        if state == Nice.ComponentState.READY and component not in self.ready:
            self.ready.add(component)
            if len(self.ready) == self.components:
                say("connected", **self.selected)
        elif state == Nice.ComponentState.FAILED:
            say("failed", reason="libnice says FAILED")

    def read(self, channel: int, _condition: GLib.IOCondition) -> bool:
        chunk = os.read(channel, 65536)
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))
        if not chunk:
            self.loop.quit()
        return bool(chunk)

    def obey(self, line: dict[str, Any]) -> None:
        """Do what a line says."""
        match line["kind"]:
            case "description":
                self.agent.set_remote_credentials(self.stream, line["ufrag"], line["pwd"])
                self.add(line["candidates"])
                if not line.get("trickle"):
                    self.agent.peer_candidate_gathering_done(self.stream)
            case "candidate" if line["candidate"] is None:
                self.agent.peer_candidate_gathering_done(self.stream)
            case "candidate":
                self.add([line["candidate"]])
            case "send":
                self.send(line["first"], line["end"])
            case "report":
                self.received.report()

    def add(self, texts: list[str]) -> None:
        for component in range(1, self.components + 1):
            own = [text for text in texts if text.split()[1] == str(component)]
            found = [self.agent.parse_remote_candidate_sdp(self.stream, f"a={text}") for text in own]
            if found:
                self.agent.set_remote_candidates(self.stream, component, found)

    def send(self, first: int, end: int) -> None:
        """Send what the numbers stand for; what libnice does not take, its socket being full (TCP), is sent later."""
        self.unsent.extend(range(first, end))
        if self.flush():
            GLib.timeout_add(FULL_MS, self.flush)

    def flush(self) -> bool:
        """Return whether something is left."""
        while self.unsent:
            number = self.unsent[0]
            data = datagram(number)
            place = component_of(number, self.components)
            if LIBRARY.nice_agent_send(self.pointer, self.stream, place, len(data), data) != len(data):
                return True
            self.unsent.popleft()
        return False


def properties(given: dict[str, Any]) -> dict[str, Any]:
    """Return the agent's properties that the options ask for."""
    chosen = {
        "controlling-mode": given["role"] == "controlling",
        "ice-trickle": given["trickle"],
        "upnp": False,
        "ice-tcp": bool(given.get("tcp")),
        "ice-udp": not given.get("tcp"),
        "force-relay": bool(given.get("relay_only")),
    }
    if "stun" in given:
        chosen["stun-server"], chosen["stun-server-port"] = given["stun"]
    return chosen


def main() -> None:
    """Be a peer until standard input ends."""
    loop = GLib.MainLoop()
    peer = Peer(options(), loop)
    GLib.io_add_watch(sys.stdin.fileno(), GLib.IOCondition.IN | GLib.IOCondition.HUP, peer.read)
    loop.run()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
