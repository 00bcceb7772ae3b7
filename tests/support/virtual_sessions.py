"""Two whole sessions on the virtual network, and what becomes of transfers when the network changes under them.

All but the relay is the real thing: agents with automatic restart, QUIC, streams. The relay's sealed channel is played
by a queue that works only while both sides have a network, as a websocket would.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import icesignal
import msgpack
import trio

from iceagent.agent import AgentConfig, IceServer
from iceagent.core.address import TransportAddress
from iceagent.link import generate_identity
from iceagent.net import monitor
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.session.establish import establish
from iceagent.session.session import Session
from iceagent.vnet import Host, Link, Nat, Network, Router, run

DELAY_S = 0.020  # of each line, one way
RTT_S = 0.084  # from one host to the other and back: two lines, and 1 ms for each of the two networks, twice
SIGNALING_S = 0.030
TURN_URL = "turn:stun.example?transport=udp"
RATE_BPS = 4_000_000
QUEUE_BYTES = 16 * 1024
HOUR_S = 3600.0
SIZE = 512 * 1024
"""Bytes each way: a second of the line."""

HOME = Nat(filtering="address-and-port-dependent")
RANDOM_HOME = Nat(filtering="address-and-port-dependent", port_allocation="random")


class Channel:
    """One end of a sealed channel: maps to the peer, in order, while both sides are on the network."""

    ice_servers: tuple[()] = ()
    is_peer_away = False
    has_peer_hung_up = False

    def __init__(self, role: str, is_up: Callable[[], bool]) -> None:
        self.role = role
        self.peer: Channel | None = None
        self._is_up = is_up
        self._put, self._take = trio.open_memory_channel[bytes](1000)
        self._over: Exception | None = None

    async def send(self, message: dict[str, Any]) -> None:
        assert self.peer is not None
        packed = msgpack.packb(message)
        await trio.sleep(SIGNALING_S)
        while not self._is_up() and self._over is None:
            await trio.sleep(SIGNALING_S)
        if self._over is not None:
            raise self._over
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self.peer._put.send_nowait(packed)

    async def receive(self) -> dict[str, Any]:
        try:
            return msgpack.unpackb(await self._take.receive())
        except trio.EndOfChannel:
            assert self._over is not None
            raise self._over from None

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be said."""
        return self._over is not None

    def finish(self, reason: Exception) -> None:
        """End the conversation, as the relay does."""
        if self._over is None:
            self._over = reason
            self._put.close()

    def key(self, purpose: str, length: int = 32) -> bytes:
        return hashlib.sha256(purpose.encode()).digest()[:length]

    def report_outcome(self, outcome: str, why: str, seconds: float) -> None:
        """Report to nobody."""

    def look_again(self, present: Collection[str] | None = None) -> None:
        """See whether the connection works: it does as soon as there is a network."""

    async def wait_peer_gone(self, seconds: float = 0.0) -> None:
        """Wait for what the relay says of the peer's connection: nothing, until the conversation ends."""
        while self._over is None:
            await trio.sleep(SIGNALING_S)
        raise self._over

    @property
    def is_alone(self) -> bool:
        """Whether the other side is away, or all is over."""
        return self.is_over or self.is_peer_away

    async def wait_alone(self, seconds: float) -> None:
        """Wait until it has been so for a while, or all is over."""
        while not self.is_alone:
            await trio.sleep(SIGNALING_S)

    def close(self) -> None:
        """End the conversation."""


class Relay:
    """Where two sides meet again: a room for one conversation after the other, while both are on the network.

    Attributes:
        channels: of the present conversation, the joiner's and the inviter's; also of the first one.
        is_open: whether the relay runs; without it nobody meets, and nothing is said.
        meetings: how many conversations there have been.
    """

    def __init__(self, is_up: Callable[[], bool]) -> None:
        self.channels: list[Channel] = []
        self.is_open = True
        self.meetings = 0
        self._is_up = is_up
        self._present: set[int] = set()
        self._has_begun = False
        self.begin()

    def begin(self) -> None:
        """Begin a conversation."""
        ends = [Channel("joiner", self._works), Channel("inviter", self._works)]
        ends[0].peer, ends[1].peer = reversed(ends)
        self.channels = ends
        self.meetings += 1

    def restart(self) -> None:
        """Forget all that there is."""
        for channel in self.channels:
            channel.finish(icesignal.SessionLost("the relay no longer knows this session"))

    def _works(self) -> bool:
        return self.is_open and self._is_up()

    @asynccontextmanager
    async def meet(self, number: int) -> AsyncIterator[Channel]:
        """Wait for the other side, and talk to it until the conversation ends."""
        self._present.add(number)
        try:
            while len(self._present) < 2 or not self._works():
                await trio.sleep(SIGNALING_S)
            if not self._has_begun:
                self.begin()
                self._has_begun = True
            yield self.channels[number]
        finally:
            self._present.discard(number)
            self._has_begun = False


@dataclass
class MeetAgain:
    """What a session is given, in the place of `iceagent.session.reunion.Reunion`."""

    relay: Relay
    number: int
    peers_relay_has_ended: bool = False
    moves_on: bool = False

    def open(self) -> Any:
        """Meet the other side."""
        return self.relay.meet(self.number)

    async def has_peers_relay_ended(self) -> bool:
        """Whether it is known to have."""
        return self.peers_relay_has_ended


@dataclass
class VirtualSessions:
    """A network with two hosts whose sessions are connected."""

    net: Network
    hosts: list[Host]
    homes: list[Router]
    relay: Relay
    more: list[Router] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    reunions: list[MeetAgain] = field(default_factory=list)

    def another_home(self, nat: Nat = HOME) -> Router:
        """Return a home that nobody is in yet."""
        self.more.append(self.net.router(self.net.internet, nat=nat))
        return self.more[-1]

    def line(self) -> Link:
        """Return a new line of the usual kind."""
        link = Link(delay_s=DELAY_S)
        link.change(rate_bps=RATE_BPS, queue_bytes=QUEUE_BYTES)
        return link

    def wire_in_use(self) -> Any:
        """Return alice's interface that the path goes over."""
        path = self.sessions[0].path
        assert path is not None
        return next(one for one in self.hosts[0].attachments() if path.local.host in [a.host for a in one.addresses])


def _built(seed: int, nat: Nat, loss: float) -> VirtualSessions:
    """Return two hosts, each behind a home, and the relay where they meet; nobody is connected yet."""
    net = Network(seed)
    homes = [net.router(net.internet, nat=nat) for _ in range(2)]
    hosts = [net.host(home, name=name) for home, name in zip(homes, ("alice", "bob"), strict=True)]
    for host in hosts:
        host.link.change(delay_s=DELAY_S, rate_bps=RATE_BPS, queue_bytes=QUEUE_BYTES, loss=loss)

    def is_up() -> bool:
        return all(any(_works(wire) for wire in host.attachments()) for host in hosts)

    relay = Relay(is_up)
    reunions = [MeetAgain(relay, number) for number in (0, 1)]
    return VirtualSessions(net, hosts, homes, relay, channels=relay.channels, reunions=reunions)


@asynccontextmanager
async def connected(
    seed: int,
    *,
    nat: Nat = HOME,
    backup: bool = False,
    loss: float = 0.0,
    turn: bool = False,
    outage_s: float | None = None,
    meet_again: bool = False,
    insisting: Collection[int] = (),
) -> AsyncIterator[VirtualSessions]:
    """Yield two connected sessions, each behind a home.

    Args:
        seed: of the network.
        nat: of both homes.
        backup: alice has a second line in another home.
        loss: of the lines of both.
        turn: the server on the internet relays, too.
        outage_s: of the agents' configuration.
        meet_again: whether the two can meet again when their conversation has ended.
        insisting: those of the two (0, 1) that take direct paths alone.
    """
    lab = _built(seed, nat, loss)
    net = lab.net
    if backup:
        lab.hosts[0].attach(lab.another_home(nat), lab.line())
    stun = net.host(net.internet, name="stun.example")

    async def open_session(number: int, *, task_status: Any) -> None:
        host = lab.hosts[number]
        servers = [IceServer("stun:stun.example"), *[IceServer(TURN_URL, username="u", credential="p")] * turn]
        config = AgentConfig(servers=servers, network=host, randbytes=host.randbytes, outage_s=outage_s)
        if number in insisting:
            config = replace(config, candidate_types=("host", "srflx", "prflx"))
        end: Any = lab.channels[number]
        reunion: Any = lab.reunions[number] if meet_again else None
        async with establish(Session, end, generate_identity(), config, reunion=reunion) as session:
            task_status.started(session)
            await trio.sleep_forever()

    async with net, _server(stun, turn=turn), trio.open_nursery() as nursery:
        found: list[Session | None] = [None, None]

        async def start(number: int) -> None:
            found[number] = await nursery.start(partial(open_session, number))

        async with trio.open_nursery() as opening:
            opening.start_soon(start, 0)
            opening.start_soon(start, 1)
        lab.sessions = [session for session in found if session is not None]
        yield lab
        nursery.cancel_scope.cancel()
    assert net.statistics().sockets_left_open == 0


@asynccontextmanager
async def _server(host: Host, *, turn: bool) -> AsyncIterator[None]:
    if not turn:
        async with open_stun_server("0.0.0.0", network=host):
            yield
        return
    options = TurnOptions(
        listen=[TransportAddress(host.address, 3478)], users={"u": "p"}, allow_peers=["0.0.0.0/0"], realm="example"
    )
    async with open_turn_server(options, network=host, randbytes=host.randbytes):
        yield


def _works(wire: Any) -> bool:
    return wire.is_up and not wire.link.is_cut


@dataclass
class Figures:
    """What a change did to two transfers.

    Attributes:
        gap_s: the longest time from the change on in which one side received nothing.
        after_s: from the moment the network worked again until both sides received; None where it never stopped.
        seconds: how long the transfers took.
    """

    gap_s: float = 0.0
    after_s: float | None = None
    seconds: float = 0.0


Change = Callable[[VirtualSessions], Awaitable[float | None]]
"""Changes the network, and returns when it worked again; None where something worked all the time."""


async def carry(lab: VirtualSessions, change: Change, *, size: int = SIZE) -> Figures:
    """Send `size` bytes each way; when a third has arrived, change the network. Every byte must come, in order."""
    figures = Figures()
    arrivals: list[list[float]] = [[], []]
    changed_at = trio.current_time()
    works_at: float | None = None
    third = trio.Event()
    start = trio.current_time()

    async def send(number: int) -> None:
        data = random.Random(number).randbytes(size)
        async with await lab.sessions[number].open_stream(f"file {number}") as stream:
            await stream.send_all(data)
            await stream.send_eof()

    async def receive(number: int) -> None:
        digest, length = hashlib.sha256(), 0
        async with await lab.sessions[number].accept_stream() as stream:
            async for chunk in stream:
                arrivals[number].append(trio.current_time())
                digest.update(chunk)
                length += len(chunk)
                if length > size / 3:
                    third.set()
        assert length == size
        assert digest.digest() == hashlib.sha256(random.Random(1 - number).randbytes(size)).digest()

    async with trio.open_nursery() as nursery:
        for number in (0, 1):
            nursery.start_soon(send, number)
            nursery.start_soon(receive, number)
        await third.wait()
        changed_at = trio.current_time()
        works_at = await change(lab)
    for times in arrivals:
        later = [changed_at, *(at for at in times if at > changed_at)]
        figures.gap_s = max([figures.gap_s, *(b - a for a, b in pairwise(later))])
        if works_at is not None:
            first = next((at for at in times if at > works_at), works_at)
            figures.after_s = max(figures.after_s or 0.0, first - works_at)
    figures.seconds = trio.current_time() - start
    return figures


def measure(seed: int, change: Change, *, size: int = SIZE, **options: Any) -> Figures:
    """Carry it out in virtual time."""

    async def main() -> Figures:
        with trio.fail_after(300):
            async with connected(seed, **options) as lab:
                await trio.sleep(1 + random.Random(seed).random())
                return await carry(lab, change, size=size)

    return run(main, seed=seed)


def endures(change: Change, *, seed: int = 1, within_s: float, longest_s: float = 2 * HOUR_S, **options: Any) -> None:
    """Demand that transfers both ways survive a change, and go on so soon after the network is back."""

    async def main() -> None:
        with trio.fail_after(longest_s):
            async with connected(seed, meet_again=True, **({"outage_s": 2 * HOUR_S} | options)) as lab:
                await trio.sleep(3)
                figures = await carry(lab, change)
                assert figures.after_s is not None
                assert figures.after_s <= within_s

    run(main, seed=seed)


# What may happen to a network. Alice's it is, but where it says otherwise.


async def path_dies(lab: VirtualSessions) -> None:
    """The line in use carries nothing any more, and nobody says so."""
    lab.wire_in_use().link.cut()


async def interface_goes(lab: VirtualSessions) -> None:
    """The interface in use is switched off."""
    lab.hosts[0].set_up(lab.wire_in_use(), up=False)


async def default_route_moves(lab: VirtualSessions) -> None:
    """The line in use dies, and the system's routes change with it."""
    wire = lab.wire_in_use()
    wire.link.cut()
    lab.hosts[0].set_up(wire, up=True)  # no address comes or goes


def cable_out(seconds: float) -> Change:
    """The line carries nothing for a while."""

    async def change(lab: VirtualSessions) -> float:
        lab.hosts[0].partition()
        await trio.sleep(seconds)
        lab.hosts[0].heal()
        return trio.current_time()

    return change


def interface_off(seconds: float, *, new_address: bool) -> Change:
    """The interface is away for a while, and comes back with the same address or with another."""

    async def change(lab: VirtualSessions) -> float:
        lab.hosts[0].set_up(up=False)
        await trio.sleep(seconds)
        lab.hosts[0].set_up(up=True)
        if new_address:
            lab.hosts[0].renew()
        return trio.current_time()

    return change


async def address_changes(lab: VirtualSessions) -> float:
    """The interface gets another address."""
    lab.hosts[0].renew()
    return trio.current_time()


async def moves(lab: VirtualSessions) -> float:
    """From one Wi-Fi to another."""
    lab.hosts[0].move(lab.another_home(), lab.line())
    return trio.current_time()


def sleeps(seconds: float) -> Change:
    """The lid is closed, and opened again: nothing came or left, and the clocks have jumped."""

    async def change(lab: VirtualSessions) -> float:
        lab.hosts[0].partition()
        await trio.sleep(seconds)
        lab.hosts[0].heal()
        monitor._watches.get()[id(lab.hosts[0])]._notify(monitor.Change.WOKE)
        return trio.current_time()

    return change


async def nat_reboots(lab: VirtualSessions) -> float:
    """Alice's router forgets all mappings; its new ones have other ports where they are random."""
    lab.homes[0].reboot()
    return trio.current_time()


async def both_nats_reboot(lab: VirtualSessions) -> float:
    """A power cut in the quarter."""
    for home in lab.homes:
        home.reboot()
    return trio.current_time()


async def public_address_changes(lab: VirtualSessions) -> float:
    """The provider renews the router's address; nobody in the house is told."""
    lab.homes[0].renew()
    return trio.current_time()


@dataclass(frozen=True)
class Scenario:
    """A change, the place where it happens, and how long data may stand still.

    Attributes:
        change: what happens.
        options: of `connected`.
        gap_s: the longest pause of either direction; None where it depends on how long the network is away.
        after_s: the longest time from the moment the network works again until data has come both ways.
    """

    change: Change
    options: dict[str, Any] = field(default_factory=dict)
    gap_s: float | None = None
    after_s: float | None = None


RESTART_S = 2 + 2 * RTT_S
NOBODY_TELLS_S = 2.5  # silence alone says that the path is dead, and a restart is to follow
SCENARIOS = {
    "path dies, backup": Scenario(path_dies, {"backup": True}, gap_s=1.0),
    "interface goes, backup": Scenario(interface_goes, {"backup": True}, gap_s=1.0),
    "default route moves, backup": Scenario(default_route_moves, {"backup": True}, gap_s=1.0),
    "cable out 3 s": Scenario(cable_out(3), after_s=RESTART_S),
    "cable out 10 s": Scenario(cable_out(10), after_s=RESTART_S),
    "cable out 20 s": Scenario(cable_out(20), after_s=RESTART_S),
    "interface off 10 s": Scenario(interface_off(10, new_address=False), after_s=RESTART_S),
    "interface off 20 s, new address": Scenario(interface_off(20, new_address=True), after_s=RESTART_S),
    "new address": Scenario(address_changes, gap_s=RESTART_S, after_s=RESTART_S),
    "another network": Scenario(moves, gap_s=RESTART_S, after_s=RESTART_S),
    "asleep 8 s": Scenario(sleeps(8), after_s=RESTART_S),
    "asleep 25 s": Scenario(sleeps(25), after_s=RESTART_S),
    "NAT reboots, same ports": Scenario(nat_reboots, gap_s=1.0),
    "NAT reboots, other ports": Scenario(nat_reboots, {"nat": RANDOM_HOME}, gap_s=NOBODY_TELLS_S),
    "both NATs reboot, other ports": Scenario(both_nats_reboot, {"nat": RANDOM_HOME}, gap_s=NOBODY_TELLS_S),
    "router has a new public address": Scenario(public_address_changes, gap_s=NOBODY_TELLS_S),
}
