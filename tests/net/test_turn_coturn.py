"""Our client against coturn, over every transport it speaks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import trio
from coturn import PASSWORD, USER, Coturn, running_coturn

from iceagent.core import turn
from iceagent.net import SystemNetwork
from iceagent.net.turn.allocation import TurnAllocation, TurnLogin, open_turn_socket
from iceagent.net.turn.connect import TurnConnectOptions, TurnServerAddress

pytestmark = pytest.mark.processes

LOGIN = TurnLogin(turn.TurnCredentials(USER, PASSWORD))


@pytest.fixture(scope="module")
def coturn() -> Iterator[Coturn]:
    with running_coturn() as server:
        yield server


def server_of(coturn: Coturn, transport: str) -> tuple[TurnServerAddress, TurnConnectOptions]:
    port = coturn.tls_port if transport in ("tls", "dtls") else coturn.port
    return TurnServerAddress(coturn.host, port, transport), TurnConnectOptions(ca_file=str(coturn.ca_file))


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls", "dtls"])
async def test_datagrams_go_both_ways_in_order(coturn, transport):
    """Bound channel or not, batch or not: what a peer gets is what was sent, in order, each datagram whole."""
    server, options = server_of(coturn, transport)
    network = SystemNetwork()
    peer = await network.open_udp("127.0.0.1")
    with trio.fail_after(60):
        async with open_turn_socket(network, server, login=LOGIN, options=options) as allocation:
            (relay,) = allocation.sockets
            got: list[bytes] = []
            sent = [b"%03d" % number + bytes(range(256)) * 3 for number in range(60)]
            for at in range(0, 60, 20):
                await relay.send(sent[at : at + 20], peer.local_address)
                while len(got) < at + 20:
                    for batch in await peer.receive():
                        assert batch.remote == relay.local_address
                        got += batch.datagrams()
            assert got == sent
            back: list[bytes] = []
            for at in range(0, 60, 20):
                await peer.send(sent[at : at + 20], relay.local_address)
                while len(back) < at + 20:
                    for batch in await relay.receive():
                        assert batch.remote == peer.local_address
                        back += batch.datagrams()
            assert back == sent
            assert allocation.transport_name == transport
        assert allocation.ended == turn.Ended(turn.EndReason.CLOSED)
    peer.close()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_wrong_password_is_told_at_once(coturn, transport):
    """A user who mistypes must read that, not wait for a timeout."""
    server, options = server_of(coturn, transport)
    login = TurnLogin(turn.TurnCredentials(USER, "wrong"))
    with trio.fail_after(60), pytest.raises(turn.TurnError) as caught:
        async with open_turn_socket(SystemNetwork(), server, login=login, options=options):
            pass
    assert caught.value.reason is turn.EndReason.CREDENTIALS_REFUSED


@pytest.mark.parametrize("transport", ["tls", "dtls"])
async def test_trap_5_a_certificate_for_another_name_is_refused(coturn, transport):
    """TLS without the name verified is TLS with whoever is in between."""
    server, options = server_of(coturn, transport)
    server = TurnServerAddress(server.host, server.port, transport, tls_name="turn.example.org")
    with trio.fail_after(60), pytest.raises(OSError, match="certificate"):
        async with open_turn_socket(SystemNetwork(), server, login=LOGIN, options=options):
            pass


@pytest.mark.parametrize("transport", ["tls", "dtls"])
async def test_trap_5_a_certificate_nobody_vouches_for_is_refused(coturn, transport):
    """A self-signed certificate proves nothing unless it was named."""
    server, _ = server_of(coturn, transport)
    with trio.fail_after(60), pytest.raises(OSError, match="certificate"):
        async with open_turn_socket(SystemNetwork(), server, login=LOGIN):
            pass


async def test_short_lived_credentials_are_rotated_without_a_new_allocation():
    """The relay's credentials live for minutes, a session for days; coturn serves the allocation on."""
    with running_coturn("--use-auth-secret", "--static-auth-secret", "north") as coturn:
        server, options = server_of(coturn, "udp")
        asked = 0

        def source() -> turn.TurnCredentials:
            nonlocal asked
            asked += 1
            return turn.shared_secret_credentials(b"north", "peer", 2000000000 + asked)

        # A clock that says that all but one tenth of a second of their life is over.
        login = TurnLogin(source, wall_clock=lambda: 2000000000 + asked - 0.1)
        with trio.fail_after(60):
            async with open_turn_socket(SystemNetwork(), server, login=login, options=options) as allocation:
                while asked < 2:
                    await trio.sleep(0.05)
                relayed = allocation.relayed_addresses
                await trio.sleep(0.3)
                assert not allocation.lost.is_set()
                assert allocation.relayed_addresses == relayed


async def allocate_in_time(
    stack: AsyncExitStack, server: TurnServerAddress, options: TurnConnectOptions
) -> tuple[TurnAllocation, TurnLogin, int]:
    """Return an allocation, its credentials and when they expire: soon, and yet not before it was made."""
    for life_s in itertools.count(2):
        expires_at = int(time.time()) + life_s
        login = TurnLogin(turn.shared_secret_credentials(b"north", "peer", expires_at))
        try:
            opening = open_turn_socket(SystemNetwork(), server, login=login, options=options)
            return await stack.enter_async_context(opening), login, expires_at
        except turn.TurnError:
            if time.time() < expires_at:
                raise
    raise AssertionError


async def test_an_allocation_outlives_the_credentials_it_was_made_with():
    """A session's relay gives credentials for 12 hours, once; servers refresh with them what there is, for days."""
    with running_coturn("--use-auth-secret", "--static-auth-secret", "north") as coturn:
        server, options = server_of(coturn, "udp")
        async with AsyncExitStack() as stack:
            allocation, login, expires_at = await allocate_in_time(stack, server, options)
            with trio.fail_after(60):
                await trio.sleep(expires_at + 1.5 - time.time())
                client = allocation.client
                until = client._expires_at
                assert until is not None
                client._refresh(trio.current_time())  # as it would by itself some minutes from now
                allocation.settle()
                while client._expires_at is None or client._expires_at <= until:
                    await trio.sleep(0.05)
                    assert not allocation.lost.is_set()
        with trio.fail_after(60), pytest.raises(turn.TurnError) as caught:
            async with open_turn_socket(SystemNetwork(), server, login=login, options=options):
                pass
        assert caught.value.reason is turn.EndReason.CREDENTIALS_REFUSED
