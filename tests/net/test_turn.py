"""The Trio shell of the TURN client against a scripted server on the virtual network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from turn_script import OTHER, PEER, USER, Script, deterministic

from iceagent.core import stun, turn
from iceagent.core.address import TransportAddress
from iceagent.net.turn import MAX_HOPS, TurnLogin, open_turn_socket
from iceagent.net.turn_connect import TurnServer
from iceagent.vnet import Network

METHOD = stun.Method


class Lab:
    """A host, and scripted servers where it may look for them."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.host = net.host(net.internet, name="client")
        self.nursery: trio.Nursery

    async def serve(self, script: Script, name: str) -> TransportAddress:
        host = self.net.host(self.net.internet, name=name)
        sock = await host.open_udp("0.0.0.0", 3478)

        async def answer() -> None:
            while True:
                for batch in await sock.receive():
                    for datagram in batch.datagrams():
                        response = None if turn.is_channel_data(datagram) else script.answer(datagram)
                        if response is not None:
                            sock.send_nowait([response], batch.remote)

        self.nursery.start_soon(answer)
        return TransportAddress(host.address, 3478)

    def open(self, address: TransportAddress) -> Any:
        server = TurnServer(address.host, address.port)
        return open_turn_socket(self.host, server, login=TurnLogin(USER), randbytes=deterministic())


@asynccontextmanager
async def laboratory(vnet: Any) -> AsyncIterator[Lab]:
    net = vnet()
    lab = Lab(net)
    with trio.fail_after(300):
        async with net, trio.open_nursery() as nursery:
            lab.nursery = nursery
            yield lab
            nursery.cancel_scope.cancel()
    assert net.statistics().sockets_left_open <= len(net.hosts())


async def test_trap_30_a_permission_that_fails_wakes_its_senders_and_no_other(vnet: Any) -> None:
    """A sender that waits for ever holds up whatever is above it; and 403 concerns one peer alone (trap 31)."""
    async with laboratory(vnet) as lab:
        script = Script()
        address = await lab.serve(script, "turn")
        async with lab.open(address) as allocation:
            (relay,) = allocation.sockets
            script.answers[METHOD.CREATE_PERMISSION] = 403
            await relay.send([b"\0"] * 200, PEER)  # more than is held: it has to wait, and must come back
            assert relay.statistics().send_errors >= 200 - 64
            assert any(error.remote == PEER for error in relay.take_errors())
            script.answers.clear()
            await relay.send([b"\0"], OTHER)
            await trio.sleep(0.1)
            assert allocation.client.permission(OTHER.host) is turn.PeerState.READY
            assert not allocation.lost.is_set()


async def test_trap_32_senders_wait_for_the_permission_and_keep_their_order(vnet: Any) -> None:
    """Back-pressure from the first datagram on, and nobody overtakes."""
    async with laboratory(vnet) as lab:
        script = Script()
        address = await lab.serve(script, "turn")
        async with lab.open(address) as allocation:
            (relay,) = allocation.sockets
            datagrams = [b"\0%04d" % number for number in range(300)]
            async with trio.open_nursery() as nursery:
                for at in range(0, 300, 100):
                    nursery.start_soon(relay.send, datagrams[at : at + 100], PEER)
                    await trio.lowlevel.checkpoint()
            await trio.sleep(0.1)
            sent = [message.get(stun.Data) for message in script.log if message.method == METHOD.SEND]
            got = [data.value for data in sent if data is not None]
            assert len(got) == 300
            for at in range(0, 300, 100):  # each sender's are together and in order
                assert datagrams[at] in got
                start = got.index(datagrams[at])
                assert got[start : start + 100] == datagrams[at : at + 100]


async def test_an_alternate_server_is_followed(vnet: Any) -> None:
    """300 Try Alternate: how big services spread their users."""
    async with laboratory(vnet) as lab:
        final = await lab.serve(Script(), "final")
        first = await lab.serve(Script(alternate=final), "first")
        async with lab.open(first) as allocation:
            assert allocation.server.host == final.host


async def test_servers_that_send_us_in_circles_are_given_up(vnet: Any) -> None:
    """RFC 8489 section 10 warns of it; hops are bounded."""
    async with laboratory(vnet) as lab:
        script = Script()
        address = await lab.serve(script, "turn")
        script.alternate = address
        with pytest.raises(turn.TurnError) as caught:
            async with lab.open(address):
                pass
        assert caught.value.reason is turn.EndReason.ALTERNATE_SERVER
        assert script.asked[METHOD.ALLOCATE] == MAX_HOPS + 1


async def test_a_taken_five_tuple_is_left_for_another_socket(vnet: Any) -> None:
    """437 to Allocate: our port was somebody's before (a NAT's, a crashed run's). RFC 8656 section 7.4."""
    async with laboratory(vnet) as lab:
        script = Script(answers={METHOD.ALLOCATE: 437})
        address = await lab.serve(script, "turn")
        with pytest.raises(turn.TurnError) as caught:
            async with lab.open(address):
                pass
        assert caught.value.code == 437
        ports = {message.transaction_id for message in script.log}
        assert len(ports) == script.asked[METHOD.ALLOCATE] == 2 * 4  # challenged and repeated, on four sockets


@pytest.mark.parametrize("how", ["return", "error", "cancel"])
async def test_whatever_way_the_body_ends_the_allocation_is_given_back(vnet: Any, how: str) -> None:
    """Shielded and bounded: no socket, no task, and LIFETIME 0 at the server."""
    async with laboratory(vnet) as lab:
        script = Script()
        address = await lab.serve(script, "turn")
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.CancelScope() as scope:
            try:
                async with lab.open(address):
                    if how == "error":
                        raise ZeroDivisionError
                    if how == "cancel":
                        scope.cancel()
                        await trio.sleep_forever()
            except ZeroDivisionError:
                assert how == "error"
        last = script.log[-1]
        assert (last.method, last.get(stun.Lifetime)) == (METHOD.REFRESH, stun.Lifetime(0))
        assert lab.host.sockets == []
        assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize("steps", range(12))
async def test_trap_26_a_cancelled_opening_leaves_nothing(vnet: Any, steps: int) -> None:
    """Trap 26, at each of the first checkpoints."""
    async with laboratory(vnet) as lab:
        address = await lab.serve(Script(), "turn")

        async def cancel(scope: trio.CancelScope) -> None:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel, nursery.cancel_scope)
            async with lab.open(address):
                await trio.sleep_forever()
        assert lab.host.sockets == []


async def test_credentials_are_asked_for_again_before_they_expire(vnet: Any) -> None:
    """Rotated without a new allocation; a source that fails is asked again, and the old ones serve on."""
    async with laboratory(vnet) as lab:
        script = Script()
        address = await lab.serve(script, "turn")
        asked: list[float] = []

        def source() -> turn.TurnCredentials:
            asked.append(trio.current_time())
            if len(asked) == 2:
                raise RuntimeError("the service is down")
            return turn.TurnCredentials("george", "secret", expires_at=trio.current_time() + 300)

        login = TurnLogin(source, wall_clock=trio.current_time)
        server = TurnServer(address.host, address.port)
        async with open_turn_socket(lab.host, server, login=login, randbytes=deterministic()) as allocation:
            await trio.sleep(280)
            assert [round(at - asked[0]) for at in asked] == [0, 240, 250]
            assert not allocation.lost.is_set()
            assert script.asked[METHOD.ALLOCATE] == 2


async def test_a_server_that_forgets_us_is_told_apart_from_silence(vnet: Any) -> None:
    """`lost` is set, with the reason, and the socket raises what any closed socket raises."""
    async with laboratory(vnet) as lab:
        script = Script()
        address = await lab.serve(script, "turn")
        async with lab.open(address) as allocation:
            allocation.permit([PEER.host])
            await trio.sleep(0.1)
            (relay,) = allocation.sockets
            await relay.send([b"data"], PEER)
            await trio.sleep(0.1)
            script.answers[METHOD.REFRESH] = 437
            await relay.send([b"data"], PEER)
            with pytest.raises(trio.ClosedResourceError):
                await relay.receive()
            await allocation.lost.wait()
            assert allocation.ended is not None
            assert allocation.ended.reason is turn.EndReason.MISMATCH
