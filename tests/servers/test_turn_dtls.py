"""Clients of the TURN server over DTLS: who comes in, who begins anew, and who only knocks. Virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from OpenSSL import SSL
from turn_wire import WireClient, make_certificate, options

from iceagent.core.address import TransportAddress
from iceagent.net.api import UdpSocket
from iceagent.net.dtls import DtlsConnection, is_client_hello, prepare
from iceagent.net.turn.dtls import DtlsTransport
from iceagent.servers import TurnService, open_turn_server
from iceagent.servers.turn_stream import AUTHENTICATE_S, HANDSHAKE_S
from iceagent.vnet import Host


@asynccontextmanager
async def serving(vnet: Any, folder: Path, **changes: object) -> AsyncGenerator[tuple[TurnService, Host]]:
    """A server with DTLS, and another host."""
    net = vnet()
    server, host = net.host(net.internet), net.host(net.internet)
    listen = {
        "listen": [TransportAddress(server.address, 3478)],
        "tls_listen": [TransportAddress(server.address, 5349)],
        "loopback": False,
    }
    async with (
        net,
        open_turn_server(options(tls=make_certificate(folder), **listen, **changes), network=server) as service,
    ):
        yield service, host


def at(service: TurnService) -> TransportAddress:
    return next(address for kind, address in service.addresses if kind == "dtls")


def new_connection() -> DtlsConnection:
    return DtlsConnection.connect(prepare(SSL.Context(SSL.DTLS_METHOD)))


async def shake_hands(service: TurnService, sock: UdpSocket) -> DtlsTransport:
    transport = DtlsTransport(sock, new_connection(), at(service))
    await transport.do_handshake()
    return transport


def wire_client(transport: DtlsTransport) -> WireClient:
    async def send(data: bytes) -> None:
        await transport.send([data])

    async def receive() -> bytes:
        while True:
            for batch in await transport.receive():
                return batch.datagrams()[0]

    return WireClient(send, receive)


async def test_a_client_that_begins_anew_from_the_same_port_takes_its_own_place(vnet: Any, tmp_path: Path) -> None:
    """It was killed and came back: what it had ends with its old association. RFC 6347 section 4.2.8."""
    async with serving(vnet, tmp_path) as (service, host):
        sock = await host.open_udp(host.address, 5000)
        await wire_client(await shake_hands(service, sock)).allocate()
        assert len(service.core.allocations) == 1
        again = wire_client(await shake_hands(service, sock))
        await trio.testing.wait_all_tasks_blocked()
        assert len(service.core.allocations) == 0
        assert len(service.doorkeeper) == 1
        await again.allocate()
        assert len(service.core.allocations) == 1
        sock.close()


async def test_an_old_client_hello_that_comes_again_changes_nothing(vnet: Any, tmp_path: Path) -> None:
    """Networks double datagrams, and whoever watches can repeat them."""
    async with serving(vnet, tmp_path) as (service, host):
        sock = await host.open_udp(host.address, 5000)
        hellos: list[bytes] = []
        sending = sock.send_nowait

        def watch(datagrams: Any, *place: Any, **more: Any) -> int:
            hellos.extend(filter(is_client_hello, datagrams))
            return sending(datagrams, *place, **more)

        sock.send_nowait = watch  # type: ignore[method-assign]
        client = wire_client(await shake_hands(service, sock))
        relayed = await client.allocate()
        assert len(hellos) == 2
        sending(hellos, at(service))
        await client.permit(relayed)
        assert len(service.core.allocations) == len(service.doorkeeper) == 1
        sock.close()


async def test_half_a_handshake_is_shed(vnet: Any, tmp_path: Path) -> None:
    """Ten seconds, and the place is free again."""
    async with serving(vnet, tmp_path) as (service, host):
        sock, connection = await host.open_udp(host.address), new_connection()
        for _ in range(2):
            await sock.send(connection.take_datagrams(), at(service))
            for batch in await sock.receive():
                for datagram in batch.datagrams():
                    connection.handle_datagram(datagram)
        assert len(service.doorkeeper) == 1
        await trio.sleep(HANDSHAKE_S + 1)
        assert len(service.doorkeeper) == 0
        assert service.counters["connections_shed"] == 1
        sock.close()


async def test_a_client_without_an_allocation_does_not_live_on(vnet: Any, tmp_path: Path) -> None:
    """As over TCP; it is told, and its place is free again."""
    async with serving(vnet, tmp_path) as (service, host):
        transport = await shake_hands(service, await host.open_udp(host.address))
        began = trio.current_time()
        assert await transport.receive() == []
        with pytest.raises(trio.BrokenResourceError, match="the other side closed it"):
            await transport.receive()
        assert trio.current_time() - began == pytest.approx(AUTHENTICATE_S, abs=0.1)
        assert len(service.doorkeeper) == 0
        transport.close()


async def test_who_never_shows_a_cookie_takes_no_place(vnet: Any, tmp_path: Path) -> None:
    """Forged sources cost an answer that is shorter than the question, and nothing else."""
    async with serving(vnet, tmp_path) as (service, host):
        for port in range(5000, 5100):
            sock = await host.open_udp(host.address, port)
            await sock.send(new_connection().take_datagrams(), at(service))
            await sock.receive()
            sock.close()
        assert len(service.doorkeeper) == 0


async def test_connections_of_one_source_are_bounded(vnet: Any, tmp_path: Path) -> None:
    """One more is refused, and comes in when another has gone."""
    async with serving(vnet, tmp_path, max_connections_per_source=2) as (service, host), AsyncExitStack() as stack:
        inside = [await shake_hands(service, await host.open_udp(host.address)) for _ in range(2)]
        for transport in inside:
            stack.callback(transport.close)
        late = await host.open_udp(host.address)
        stack.callback(late.close)
        with trio.move_on_after(5) as patience:
            await shake_hands(service, late)
        assert patience.cancelled_caught
        assert service.counters["connections_over_limit"] >= 1
        inside.pop().close()
        await trio.sleep(1)
        await wire_client(await shake_hands(service, late)).allocate()
