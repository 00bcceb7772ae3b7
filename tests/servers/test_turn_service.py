"""The TURN server on real sockets: every transport, every kind of relay, and its end."""

from __future__ import annotations

import errno
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing
from turn_bench import error_of
from turn_wire import (
    LOOPBACK,
    WireClient,
    dtls_client,
    echoing_peer,
    make_certificate,
    options,
    stream_client,
    trusting,
    udp_client,
)

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import TurnLimits
from iceagent.errors import LocalError
from iceagent.net import SystemNetwork
from iceagent.servers import TlsFiles, TurnOptions, TurnOptionsError, TurnService, open_turn_server
from iceagent.servers.turn_metrics import serve_metrics


def where(service: TurnService, transport: str) -> TransportAddress:
    return next(address for kind, address in service.addresses if kind == transport)


async def tcp_stream(address: TransportAddress) -> trio.SocketStream:
    return await trio.open_tcp_stream(address.host, address.port)


async def check_echo(client: WireClient, peer: TransportAddress) -> None:
    """A Send indication and a channel, both there and back."""
    await client.allocate()
    await client.permit(peer)
    indication = stun.Message(
        stun.MessageClass.INDICATION, stun.Method.SEND, bytes(12), (stun.XorPeerAddress(peer), stun.Data(b"indicated"))
    )
    await client.send(stun.encode(indication, fingerprint=False))
    answer = stun.decode(await client.receive())
    assert (answer.method, answer.get(stun.Data)) == (stun.Method.DATA, stun.Data(b"indicated"))
    await client.bind(0x4000, peer)
    await client.send(b"\x40\x00\x00\x04word")
    assert await client.receive() == b"\x40\x00\x00\x04word"


async def test_udp_client_reaches_its_peer() -> None:
    """The plain case: UDP on both sides."""
    async with (
        open_turn_server(options()) as service,
        echoing_peer() as peer,
        udp_client(service.address) as (client, _),
    ):
        await check_echo(client, peer)


async def test_bulk_flow_crosses_in_order_and_whole() -> None:
    """Ten batches of fifty, echoed: what GRO merges and GSO cuts comes out as it went in."""
    async with (
        open_turn_server(options()) as service,
        echoing_peer() as peer,
        udp_client(service.address) as (client, sock),
    ):
        await client.allocate()
        await client.bind(0x4000, peer)
        expected = [b"\x40\x00\x04\xb0" + n.to_bytes(4, "big") * 300 for n in range(500)]
        received: list[bytes] = []
        for at in range(0, 500, 50):
            await sock.send(expected[at : at + 50], service.address)
            while len(received) < at + 50:
                received.append(await client.receive())
        assert received == expected
        assert service.core.traffic()["datagrams_to_peer"] == 500


async def test_tcp_client_reaches_its_peer() -> None:
    """Where UDP is blocked: the same over one TCP connection."""
    async with (
        open_turn_server(options()) as service,
        echoing_peer() as peer,
        await tcp_stream(where(service, "tcp")) as stream,
    ):
        await check_echo(stream_client(stream), peer)


async def test_tls_client_reaches_its_peer(tmp_path: Path) -> None:
    """Where only TLS passes."""
    files = make_certificate(tmp_path)
    async with open_turn_server(options(tls=files)) as service, echoing_peer() as peer:
        stream = trio.SSLStream(await tcp_stream(where(service, "tls")), trusting(files), server_hostname="127.0.0.1")
        async with stream:
            await check_echo(stream_client(stream), peer)


async def test_dtls_client_reaches_its_peer(tmp_path: Path) -> None:
    """RFC 7350: UDP that nobody reads on the way."""
    files = make_certificate(tmp_path)
    async with (
        open_turn_server(options(tls=files)) as service,
        echoing_peer() as peer,
        dtls_client(where(service, "dtls")) as client,
    ):
        await check_echo(client, peer)


async def test_ipv6_client_and_relay() -> None:
    """Everything above, in the other family."""
    try:
        async with (
            open_turn_server(options(listen=[TransportAddress("::1", 0)])) as service,
            await tcp_stream(where(service, "tcp")) as stream,
        ):
            client = stream_client(stream)
            answer = await client.request(stun.Method.ALLOCATE, stun.RequestedTransport(17))
            assert error_of(answer) == 440
            family = stun.RequestedAddressFamily(stun.FAMILY_IPV6)
            assert (await client.allocate(stun.TRANSPORT_UDP, family)).host == "::1"
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            pytest.skip("no IPv6 here")
        raise


async def test_two_relays_of_one_server_meet() -> None:
    """Both sides relayed by the same server: its own address is a peer, because it is a relay."""
    async with open_turn_server(options()) as service, AsyncExitStack() as stack:
        one, _ = await stack.enter_async_context(udp_client(service.address))
        two, _ = await stack.enter_async_context(udp_client(service.address))
        first, second = await one.allocate(), await two.allocate()
        await one.bind(0x4000, second)
        await two.bind(0x4001, first)
        await one.send(b"\x40\x00\x00\x02hi")
        assert await two.receive() == b"\x40\x01\x00\x02hi"


async def test_binding_request_is_answered_on_every_transport() -> None:
    """A TURN server is a STUN server."""
    async with open_turn_server(options()) as service:
        async with udp_client(service.address) as (client, sock):
            await client.send(stun.encode(stun.binding_request(bytes(12))))
            answer = stun.decode(await client.receive())
            assert answer.get(stun.XorMappedAddress) == stun.XorMappedAddress(sock.local_address)
        async with await tcp_stream(where(service, "tcp")) as stream:
            client = stream_client(stream)
            await client.send(stun.encode(stun.binding_request(bytes(12))))
            assert stun.decode(await client.receive()).get(stun.XorMappedAddress) is not None


async def test_tcp_relay_connects_to_a_peer() -> None:
    """RFC 6062: Connect, ConnectionBind on a second connection, then bytes."""
    async with open_turn_server(options()) as service, AsyncExitStack() as stack:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        stack.push_async_callback(listener.aclose)
        control = stream_client(await stack.enter_async_context(await tcp_stream(where(service, "tcp"))))
        relayed = await control.allocate(stun.TRANSPORT_TCP)
        peer = TransportAddress("127.0.0.1", listener.socket.getsockname()[1])
        answer = await control.request(stun.Method.CONNECT, stun.XorPeerAddress(peer))
        number = answer.get(stun.ConnectionId)
        assert number is not None, error_of(answer)
        accepted = await stack.enter_async_context(await listener.accept())
        assert accepted.socket.getpeername() == tuple(relayed)
        again = await control.request(stun.Method.CONNECT, stun.XorPeerAddress(peer))
        assert error_of(again) == 446
        data = await stack.enter_async_context(await tcp_stream(where(service, "tcp")))
        bound = await stream_client(data).request(stun.Method.CONNECTION_BIND, number)
        assert error_of(bound) is None
        await data.send_all(b"to the peer")
        assert await accepted.receive_some(100) == b"to the peer"
        await accepted.send_all(b"to the client")
        assert await data.receive_some(100) == b"to the client"
        await accepted.send_eof()
        assert await data.receive_some(100) == b""
        await data.send_all(b"half closed")
        assert await accepted.receive_some(100) == b"half closed"


async def test_peer_connects_to_a_tcp_relay() -> None:
    """RFC 6062: with a permission a ConnectionAttempt, without one a closed door."""
    async with open_turn_server(options()) as service, AsyncExitStack() as stack:
        control = stream_client(await stack.enter_async_context(await tcp_stream(where(service, "tcp"))))
        relayed = await control.allocate(stun.TRANSPORT_TCP)
        async with await tcp_stream(relayed) as stranger:
            assert await stranger.receive_some(1) == b""
        await control.permit(TransportAddress("127.0.0.1", 0))
        peer = await stack.enter_async_context(await tcp_stream(relayed))
        attempt = stun.decode(await control.receive())
        assert attempt.method == stun.Method.CONNECTION_ATTEMPT
        number = attempt.get(stun.ConnectionId)
        assert number is not None
        data = await stack.enter_async_context(await tcp_stream(where(service, "tcp")))
        assert error_of(await stream_client(data).request(stun.Method.CONNECTION_BIND, number)) is None
        await peer.send_all(b"hello")
        assert await data.receive_some(100) == b"hello"


async def test_unreachable_tcp_peer_is_447_and_a_wrong_connection_id_400() -> None:
    """The client learns at once that nobody listens there."""
    async with open_turn_server(options()) as service:
        async with await tcp_stream(where(service, "tcp")) as stream:
            client = stream_client(stream)
            await client.allocate(stun.TRANSPORT_TCP)
            nobody = stun.XorPeerAddress(TransportAddress("127.0.0.1", 1))
            assert error_of(await client.request(stun.Method.CONNECT, nobody)) == 447
        async with await tcp_stream(where(service, "tcp")) as stream:
            answer = await stream_client(stream).request(stun.Method.CONNECTION_BIND, stun.ConnectionId(7))
            assert error_of(answer) == 400


async def test_closed_connection_takes_its_allocation_along() -> None:
    """RFC 8656 section 5: over TCP there is nobody left to refresh it."""
    async with open_turn_server(options()) as service:
        async with await tcp_stream(where(service, "tcp")) as stream:
            await stream_client(stream).allocate()
            assert len(service.core.allocations) == 1
        with trio.fail_after(60):
            while service.core.allocations:
                await trio.lowlevel.checkpoint()


async def test_a_path_that_is_in_use_is_not_served_twice() -> None:
    """Proxies may claim the same client: the second must not get the first one's allocation, nor end it."""
    local, remote = TransportAddress("127.0.0.1", 443), TransportAddress("127.0.0.1", 1111)
    async with open_turn_server(options()) as service, trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(service.serve_stream, theirs, local, remote, lambda: None)
        client = stream_client(ours)
        with trio.fail_after(60):
            await client.allocate()
            _, second = trio.testing.memory_stream_pair()
            await service.serve_stream(second, local, remote, lambda: None)
            assert (service.counters["path_in_use"], len(service.core.allocations)) == (1, 1)
            await client.permit(LOOPBACK)
        await ours.aclose()
    assert service.counters["internal_errors"] == 0


async def test_refused_datagrams_are_reported_as_icmp() -> None:
    """A peer that is not there costs the client no timeout."""
    async with open_turn_server(options()) as service, udp_client(service.address) as (client, _):
        await client.allocate()
        closed = TransportAddress("127.0.0.1", 1)
        await client.bind(0x4000, closed)
        await client.send(b"\x40\x00\x00\x01x")
        told = stun.decode(await client.receive())
        assert told.get(stun.Icmp) == stun.Icmp(3, 3)
        assert told.get(stun.XorPeerAddress) == stun.XorPeerAddress(closed)


async def test_all_sockets_are_closed_at_the_end(tmp_path: Path) -> None:
    """Return, error or cancellation: nothing is left open."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").exists():
        pytest.skip("counts descriptors in /proc")

    async def use() -> None:
        async with (
            open_turn_server(options(tls=make_certificate(tmp_path))) as service,
            echoing_peer() as peer,
            udp_client(service.address) as (client, _),
            await tcp_stream(where(service, "tcp")) as stream,
        ):
            await check_echo(client, peer)
            await check_echo(stream_client(stream), peer)
            raise ZeroDivisionError

    before = descriptors()
    with pytest.raises(BaseException) as caught:  # in groups: the peer of this test has a nursery
        await use()
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ZeroDivisionError)
    assert descriptors() == before


async def test_drain_waits_for_the_last_allocation_and_no_longer_than_told() -> None:
    """New ones are refused meanwhile, old ones are served."""
    async with open_turn_server(options()) as service, AsyncExitStack() as stack:
        client, _ = await stack.enter_async_context(udp_client(service.address))
        other, _ = await stack.enter_async_context(udp_client(service.address))
        await client.allocate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.drain, 3600)
            await trio.testing.wait_all_tasks_blocked()
            assert error_of(await other.request(stun.Method.ALLOCATE, stun.RequestedTransport(17))) == 508
            assert error_of(await client.request(stun.Method.REFRESH)) is None
            assert error_of(await client.request(stun.Method.REFRESH, stun.Lifetime(0))) is None
        await service.drain(0)


async def test_reloaded_certificate_is_shown_to_the_next_client(tmp_path: Path) -> None:
    """And one that cannot be used leaves the old one in place."""
    files, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")

    async def is_shown(service: TurnService, trusted: TlsFiles) -> bool:
        stream = trio.SSLStream(await tcp_stream(where(service, "tls")), trusting(trusted), server_hostname="127.0.0.1")
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return False
        finally:
            await trio.aclose_forcefully(stream)
        return True

    async with open_turn_server(options(tls=files)) as service:
        original = TlsFiles(tmp_path / "kept.crt", tmp_path / "kept.key")
        original.certificate.write_bytes(files.certificate.read_bytes())
        assert await is_shown(service, original)
        files.certificate.write_bytes(other.certificate.read_bytes())
        with pytest.raises(TurnOptionsError, match="cannot use"):
            service.reload_certificates()
        assert await is_shown(service, original)
        files.key.write_bytes(other.key.read_bytes())
        service.reload_certificates()
        assert await is_shown(service, other)


async def test_metrics_tell_what_is_going_on() -> None:
    """In Prometheus' format, over HTTP, without a user or a client's address in it."""
    async with open_turn_server(options()) as service, echoing_peer() as peer, trio.open_nursery() as nursery:
        address = await nursery.start(serve_metrics, service, LOOPBACK)
        async with udp_client(service.address) as (client, sock):
            await check_echo(client, peer)
            async with await tcp_stream(address) as stream:
                await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b"".join([bytes(part) async for part in stream]).decode()
            assert answer.startswith("HTTP/1.1 200")
            assert "iceagent_turn_allocations 1.0" in answer
            assert 'iceagent_turn_relayed_bytes_total{direction="to_peer"} 13.0' in answer
            assert "george" not in answer
            assert str(sock.local_address.port) not in answer
        for path, status in ((b"/healthz", b"200"), (b"/readyz", b"200"), (b"/nothing", b"404")):
            async with await tcp_stream(address) as stream:
                await stream.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive_some(100)).split()[1] == status
        nursery.cancel_scope.cancel()


async def test_bandwidth_limit_is_of_the_user() -> None:
    """What passes the limit is dropped, as by any slow link."""
    async with (
        open_turn_server(options(limits=TurnLimits(bytes_per_s=2000))) as service,
        echoing_peer() as peer,
        udp_client(service.address) as (client, sock),
    ):
        await client.allocate()
        await client.bind(0x4000, peer)
        await sock.send([b"\x40\x00\x03\xe8" + bytes(1000)] * 10, service.address)
        with trio.fail_after(60):
            while service.counters["bandwidth_exceeded"] < 8:
                await trio.lowlevel.checkpoint()
        assert service.core.traffic()["datagrams_to_peer"] == 2


async def test_behaviour_discovery_answers_from_all_four_addresses() -> None:
    """RFC 5780: the other address, the other port, and both."""
    first, second = TransportAddress("127.0.0.1", 0), TransportAddress("127.0.0.2", 0)
    ports: list[int] = []
    async with AsyncExitStack() as stack:
        for host in (first.host, second.host):
            sock, _ = (await stack.enter_async_context(udp_client(first)))[1], host
            ports.append(sock.local_address.port)
    first, second = TransportAddress(first.host, ports[0]), TransportAddress(second.host, ports[1])
    async with (
        open_turn_server(options(listen=[first], alternate=second, tcp_listen=())) as service,
        udp_client(service.address) as (client, sock),
    ):
        for change in (stun.ChangeRequest(), stun.ChangeRequest(True, False), stun.ChangeRequest(True, True)):
            request = stun.binding_request(bytes(12), change, stun.Padding(bytes(600)))
            await sock.send([stun.encode(request)], service.address)
            (batch,) = await sock.receive()
            answer = stun.decode(batch.data)
            assert answer.get(stun.ResponseOrigin) == stun.ResponseOrigin(batch.remote)
            assert answer.get(stun.OtherAddress) == stun.OtherAddress(second)
            assert (batch.remote.host == second.host) is change.change_ip
            assert (batch.remote.port == second.port) is change.change_port
            padding = answer.get(stun.Padding)
            assert padding is not None
            assert len(padding.value) == 600
        await client.send(stun.encode(stun.binding_request(bytes(12), stun.Padding(b"x"), stun.ResponsePort(1))))
        assert error_of(stun.decode(await client.receive())) == 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"listen": []}, "address to listen"),
        ({"users": {}}, "users or a secret"),
        ({"users": {"": "x"}}, "users of the TURN server"),
        ({"secrets": ["short"]}, "16 characters"),
        ({"ports": (5, 4)}, "range of ports"),
        ({"external": ["example.org"]}, "no IP address"),
        ({"external": ["1.1.1.1", "1.0.0.1"]}, "at most one"),
        ({"external": ["2606:4700::1"]}, "family"),
        ({"allow_peers": ["10.0.0.1/8"]}, "peer rule"),
        ({"alternate": TransportAddress("127.0.0.2", 3479)}, "behaviour discovery"),
    ],
)
async def test_options_that_cannot_work_stop_the_start(changes: dict[str, object], words: str) -> None:
    """With a sentence that says what to do."""
    with pytest.raises(LocalError, match=words):
        async with open_turn_server(options(**changes)):
            pass


def test_service_without_secret_makes_no_credentials() -> None:
    """Short-lived credentials need something to be made with."""

    async def main() -> None:
        async with open_turn_server(options()) as service:
            with pytest.raises(TurnOptionsError):
                service.make_credentials("alice", 60)
        async with open_turn_server(options(secrets=["a secret of some length"])) as service:
            username, password = service.make_credentials("alice", 60)
            async with udp_client(service.address) as (client, _):
                client.maker.username, client.maker.password = username, password
                await client.allocate()

    trio.run(main)


def test_options_keep_passwords_out_of_their_text() -> None:
    """Options end up in logs and tracebacks."""
    text = repr(TurnOptions([LOOPBACK], users={"george": "hush"}, secrets=["hush hush hush hush"]))
    assert "hush" not in text


async def test_a_cancelled_server_leaves_no_relay_behind() -> None:
    """Cancellation is how servers end; sockets of allocations must go with them, not with the process."""
    client_holds = trio.Event()
    with trio.CancelScope() as scope:
        async with open_turn_server(options()) as service, udp_client(service.address) as (client, _):
            await client.allocate()
            client_holds.set()
            scope.cancel()
            await trio.sleep_forever()
    assert client_holds.is_set()
    assert not service.core.allocations


async def test_a_port_of_the_systems_choice_is_free_for_tcp_too() -> None:
    """The system's free UDP port may be a taken TCP port; a server that gives up there starts nine times of ten."""

    class Unlucky(SystemNetwork):
        refusals = 3

        async def listen_tcp(self, host: str, port: int = 0, *, share_port: bool = False) -> trio.SocketListener:
            if Unlucky.refusals:
                Unlucky.refusals -= 1
                raise OSError(errno.EADDRINUSE, "taken")
            return await super().listen_tcp(host, port)

    async with open_turn_server(options(), network=Unlucky()) as service:
        assert where(service, "udp").port == where(service, "tcp").port
    assert Unlucky.refusals == 0
