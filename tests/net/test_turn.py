"""The Trio shell of the TURN client against a scripted server on the virtual network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from turn_script import OTHER, PEER, USER, Script, deterministic

from iceagent.core import stun, turn
from iceagent.core.address import TransportAddress, make_address
from iceagent.net.turn.allocation import ADDRESS_DELAY_S, MAX_HOPS, TurnLogin, open_turn_socket
from iceagent.net.turn.connect import TurnConnectOptions, TurnServerAddress
from iceagent.net.turn.redirect import ASKED_S, Redirections, is_never_a_server
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

    def open(self, address: TransportAddress, **options: Any) -> Any:
        server, login = TurnServerAddress(address.host, address.port), TurnLogin(USER)
        given = TurnConnectOptions(**options)
        return open_turn_socket(self.host, server, login=login, options=given, randbytes=deterministic())

    def name(self, name: str, *hosts: str) -> None:
        """Let a name have these addresses, in this order."""

        async def resolve(host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
            await trio.lowlevel.checkpoint()
            return [TransportAddress(one, port) for one in (hosts if host == name else (host,))]

        self.host.resolve = resolve  # type: ignore[method-assign]


@asynccontextmanager
async def laboratory(vnet: Any) -> AsyncIterator[Lab]:
    net = vnet()
    lab = Lab(net)
    with trio.fail_after(1000):
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
    """RFC 8489 section 10: whom we have asked within five minutes is not asked again because another says so."""
    async with laboratory(vnet) as lab:
        scripts = [Script() for _ in range(3)]
        places = [await lab.serve(script, f"turn{number}") for number, script in enumerate(scripts)]
        for script, place in zip(scripts, [*places[1:], places[0]], strict=True):
            script.alternate = place
        memory = Redirections()
        for _ in range(10):
            with pytest.raises(turn.TurnError) as caught:
                async with lab.open(places[0], redirections=memory):
                    pass
            assert caught.value.reason is turn.EndReason.ALTERNATE_SERVER
        assert [script.asked[METHOD.ALLOCATE] for script in scripts] == [10, 1, 1]
        await trio.sleep(ASKED_S)
        with pytest.raises(turn.TurnError):
            async with lab.open(places[0], redirections=memory):
                pass
        assert [script.asked[METHOD.ALLOCATE] for script in scripts] == [11, 2, 2]


async def test_a_server_that_gave_an_allocation_may_be_named_again(vnet: Any) -> None:
    """It was restarted, and the one in front of it sends us there again: that is no circle."""
    async with laboratory(vnet) as lab:
        final = await lab.serve(Script(), "final")
        first = await lab.serve(Script(alternate=final), "first")
        memory = Redirections()
        for _ in range(3):
            async with lab.open(first, redirections=memory) as allocation:
                assert allocation.server.host == final.host


async def test_a_long_row_of_redirections_ends(vnet: Any) -> None:
    """Each names one nobody has asked yet; hops are bounded, too."""
    async with laboratory(vnet) as lab:
        scripts = [Script() for _ in range(MAX_HOPS + 3)]
        places = [await lab.serve(script, f"turn{number}") for number, script in enumerate(scripts)]
        for script, place in zip(scripts, places[1:], strict=False):
            script.alternate = place
        with pytest.raises(turn.TurnError) as caught:
            async with lab.open(places[0]):
                pass
        assert caught.value.reason is turn.EndReason.ALTERNATE_SERVER
        assert sum(script.asked[METHOD.ALLOCATE] for script in scripts) == MAX_HOPS + 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "224.0.0.251", "255.255.255.255", "own"]
)
async def test_a_redirection_into_this_machine_is_never_followed(vnet: Any, host: str) -> None:
    """A server that names 127.0.0.1:6379 would have us speak to our own database."""
    async with laboratory(vnet) as lab:
        script = Script()
        address = await lab.serve(script, "turn")
        own = lab.host.addresses()
        script.alternate = make_address(own[0] if host == "own" else host, 6379)
        opened = []
        open_udp = lab.host.open_udp

        async def count(*place: Any) -> Any:
            opened.append(place)
            return await open_udp(*place)

        lab.host.open_udp = count  # type: ignore[method-assign, assignment]
        with pytest.raises(turn.TurnError) as caught:
            async with lab.open(address, own_hosts=lambda: own):
                pass
        assert caught.value.reason is turn.EndReason.ALTERNATE_SERVER
        assert script.asked[METHOD.ALLOCATE] == 1
        assert len(opened) == 1


@pytest.mark.parametrize(
    "host", ["::1", "::", "ff02::fb", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::77"]
)
def test_what_stands_for_this_machine_is_this_machine(host: str) -> None:
    """An IPv6 address may end up at an IPv4 one (trap 33 is the server's half)."""
    assert is_never_a_server(make_address(host, 1).ip, ["2001:db8::77"])


async def test_trap_68_a_certificates_name_that_is_none_is_not_followed(vnet: Any) -> None:
    """ALTERNATE-DOMAIN is the network's word; TLS would raise what nobody expects."""
    for name in (".", "a..b", "x" * 200, "-"):
        ended = turn.Ended(turn.EndReason.ALTERNATE_SERVER, 300, "", make_address("192.0.2.77", 1), name)
        assert Redirections().target(TurnServerAddress("turn.example", transport="tls"), ended, None) is None


@pytest.mark.parametrize("dead", ["silent", "refuses", "capacity", "quota", "stranger"])
async def test_a_name_is_tried_beyond_its_first_address(vnet: Any, dead: str) -> None:
    """RFC 5928: two A records, and the first server is down, full, or none at all."""
    async with laboratory(vnet) as lab:
        codes = {"capacity": 508, "quota": 486, "stranger": 400}
        first = lab.net.host(lab.net.internet, name="down").address
        if dead != "refuses":
            script = Script(answers={METHOD.ALLOCATE: codes.get(dead)})
            first = (await lab.serve(script, "first")).host
        living = Script()
        second = (await lab.serve(living, "second")).host
        lab.name("turn.example", first, first, second)
        started_at = trio.current_time()
        async with lab.open(TransportAddress("turn.example", 3478)) as allocation:
            assert allocation.place == TransportAddress(second, 3478)
            assert trio.current_time() - started_at < 2 * ADDRESS_DELAY_S + 0.5
            await trio.sleep(5)
            assert len(lab.host.sockets) == 1
        assert lab.host.sockets == []


async def test_all_addresses_refusing_says_what_the_server_said(vnet: Any) -> None:
    """486 and 508 are to be asked again after a minute, silence at once: whoever tries the routes needs the code."""
    async with laboratory(vnet) as lab:
        full = Script(answers={METHOD.ALLOCATE: 508})
        lab.name("turn.example", (await lab.serve(full, "full")).host, lab.net.host(lab.net.internet).address)
        with pytest.raises(turn.TurnError) as caught:
            async with lab.open(TransportAddress("turn.example", 3478)):
                pass
        assert caught.value.reason is turn.EndReason.CAPACITY


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
        server = TurnServerAddress(address.host, address.port)
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
