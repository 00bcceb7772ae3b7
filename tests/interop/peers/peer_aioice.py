"""aioice as a peer; see `common` for what it prints and reads. It gathers everything before it describes itself."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aioice
from common import Received, component_of, datagram, options, say


def connection(given: dict[str, Any]) -> aioice.Connection:
    """Return the connection that the options ask for."""
    keys = {"stun": "stun_server", "turn": "turn_server", "username": "turn_username", "password": "turn_password"}
    chosen = {name: given[key] for key, name in keys.items() if key in given}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    policy = aioice.TransportPolicy.RELAY if given.get("relay_only") else aioice.TransportPolicy.ALL
    return aioice.Connection(
        components=given.get("components", 1),
        ice_controlling=given["role"] == "controlling",
        use_ipv4=given["family"] == 4,
        use_ipv6=given["family"] == 6,
        transport_policy=policy,
        **chosen,
    )


def candidate_from(text: str | None) -> aioice.Candidate | None:
    """Return a candidate as aioice reads it: without `candidate:`."""
    return aioice.Candidate.from_sdp(text.removeprefix("candidate:")) if text else None


class Peer:
    """One connection, and what it has received."""

    def __init__(self, ice: aioice.Connection, trickle: bool, components: int) -> None:
        self.ice = ice
        self.trickle = trickle
        self.received = Received(components)
        self.tasks: set[asyncio.Task[None]] = set()

    def describe(self) -> None:
        """Print the description."""
        candidates = [f"candidate:{candidate.to_sdp()}" for candidate in self.ice.local_candidates]
        at_once = [] if self.trickle else candidates
        say("description", ufrag=self.ice.local_username, pwd=self.ice.local_password, candidates=at_once)
        if self.trickle:
            for candidate in candidates:
                say("candidate", candidate=candidate)
            say("candidate", candidate=None)

    async def connect(self) -> None:
        """Connect, tell, and receive for ever."""
        try:
            await self.ice.connect()
        except ConnectionError as error:
            say("failed", reason=str(error))
            return
        pair = self.ice._nominated[1]
        ends = (("local", pair.local_candidate), ("remote", pair.remote_candidate))
        say("connected", **{name: [one.type, one.host, one.port] for name, one in ends})
        while True:
            self.received.put(*await self.ice.recvfrom())

    async def obey(self, line: dict[str, Any]) -> None:
        """Do what a line says."""
        match line["kind"]:
            case "description":
                self.ice.remote_username, self.ice.remote_password = line["ufrag"], line["pwd"]
                for candidate in line["candidates"]:
                    await self.ice.add_remote_candidate(candidate_from(candidate))
                if not line.get("trickle"):
                    await self.ice.add_remote_candidate(None)
                self.start(self.connect())
            case "candidate":
                await self.ice.add_remote_candidate(candidate_from(line["candidate"]))
            case "send":
                self.start(self.send(line["first"], line["end"]))
            case "report":
                self.received.report()

    def start(self, work: Any) -> None:
        """Run a coroutine beside the others."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)

    async def send(self, first: int, end: int) -> None:
        """Send numbered datagrams."""
        for number in range(first, end):
            await self.ice.sendto(datagram(number), component_of(number, self.received.components))


async def main() -> None:
    """Be a peer until standard input ends."""
    given = options()
    peer = Peer(connection(given), given["trickle"], given.get("components", 1))
    await peer.ice.gather_candidates()
    peer.describe()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        await peer.obey(json.loads(line))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
