"""A client that is told of a change of the network leaves dead connections within seconds, and keeps living ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import icesignal
import pytest
import trio
import trio.testing
from icesignal import transport
from icesignal.server import Server

EVER_S = 1e6


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PING_TIMEOUT_S", EVER_S)


class Line:
    """What is between a client and its relay."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._generation = 0
        self.connections = 0
        self.url = ""

    def forget(self) -> None:
        """Let the bytes of all connections there are vanish from now on, as a NAT does that has forgotten them."""
        self._generation += 1

    async def carry(self, client: trio.SocketStream) -> None:
        self.connections += 1
        generation = self._generation

        async def pump(source: trio.SocketStream, target: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await source.receive_some():
                    if generation == self._generation:
                        await target.send_all(data)
            if generation == self._generation:
                await target.aclose()
            else:
                await trio.sleep_forever()  # nor does anybody hear that a connection has ended

        async with await trio.open_tcp_stream("127.0.0.1", self._port) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(pump, client, relay)
            nursery.start_soon(pump, relay, client)


@asynccontextmanager
async def line_to(relay: Server) -> AsyncIterator[Line]:
    line = Line(relay.port)

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(line.carry, listeners)

    async with trio.open_nursery() as nursery:
        line.url = f"ws://127.0.0.1:{await nursery.start(serve)}"
        yield line
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def over(line: Line, relay: Server) -> AsyncIterator[tuple[icesignal.Client, icesignal.Client]]:
    """Yield a client whose connection goes over the line, and its peer at the relay itself.

    What the client waits for without being told of a change, it waits for without end: so it is the telling that helps.
    """
    async with icesignal.open_client(line.url, timeout_s=EVER_S) as moving, icesignal.open_client(relay.url) as peer:
        await peer.join(await moving.allocate(b"A"), b"B")
        await moving.wait_peer()
        yield moving, peer


async def test_a_connection_whose_address_is_gone_is_left_at_once(
    relay: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither TCP nor the relay say so: the peer heard of a host's new address after most of a minute."""
    monkeypatch.setattr(transport, "PROBE_TIMEOUT_S", EVER_S)
    async with line_to(relay) as line, over(line, relay) as (moving, peer):
        line.forget()
        await moving.send(b"lost with the old address")
        moving.look_again({"192.0.2.7"})
        assert await peer.receive() == b"lost with the old address"
        assert line.connections == 2


async def test_a_dead_connection_is_noticed_within_seconds(relay: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is still there, and the way is not: a router was changed, or another interface is used now."""
    monkeypatch.setattr(transport, "PROBE_TIMEOUT_S", 0.2)
    async with line_to(relay) as line, over(line, relay) as (moving, peer):
        line.forget()
        await moving.send(b"on its way")
        moving.look_again({"127.0.0.1"})
        assert await peer.receive() == b"on its way"
        assert line.connections == 2


async def test_a_living_connection_is_kept(relay: Server, autojump_clock: trio.testing.MockClock) -> None:
    """A Wi-Fi that comes beside a cable, a lease renewed: most changes are about something else."""
    async with line_to(relay) as line, over(line, relay) as (moving, peer):
        for _ in range(5):
            moving.look_again({"127.0.0.1", "192.0.2.7"})
            moving.look_again()
            await trio.sleep(0.05)
            await moving.send(b"still here")
            assert await peer.receive() == b"still here"
        assert line.connections == 1


async def test_a_probe_shortens_the_wait_for_a_ping_that_is_under_way(
    relay: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual ping may have been sent a moment before the network changed, with 20 s of patience."""
    monkeypatch.setattr(transport, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(transport, "PROBE_TIMEOUT_S", 0.2)
    async with line_to(relay) as line, over(line, relay) as (moving, peer):
        line.forget()
        await trio.sleep(0.3)
        moving.look_again({"127.0.0.1"})
        await moving.send(b"at last")
        assert await peer.receive() == b"at last"


async def test_an_attempt_over_the_old_network_makes_room_for_one_over_the_new(relay: Server) -> None:
    """What was being dialled as the network changed may hang for 10 s, and the pauses between attempts grow to 5 s."""
    async with line_to(relay) as line, over(line, relay) as (moving, peer):
        line.forget()
        moving.look_again({"192.0.2.7"})
        await moving.send(b"between networks")
        while line.connections < 2:
            await trio.sleep(0)
        line.forget()
        moving.look_again({"127.0.0.1"})
        assert await peer.receive() == b"between networks"


async def test_who_has_no_network_is_away_and_has_not_hung_up(
    relay: Server, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A phone between two networks, a machine that sleeps: its silence says nothing about its program."""
    monkeypatch.setattr(transport, "PING_TIMEOUT_S", 20.0)
    async with line_to(relay) as line, over(line, relay) as (moving, peer):
        back = trio.Event()
        moving._keeper.pause = lambda seconds: back.wait()  # type: ignore[method-assign]
        line.forget()
        while not peer.is_peer_away:
            await peer.wait_change()
        assert not peer.has_peer_hung_up
        back.set()
        await moving.send(b"back")
        assert await peer.receive() == b"back"
        assert not peer.is_peer_away
