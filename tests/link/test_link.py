"""Opening, authenticating, closing and surviving: the life of a link, both QUIC backends, in virtual time."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from iceagent.errors import LocalError, NetworkError
from iceagent.link import (
    AuthenticationError,
    Ledger,
    LinkClosedByPeer,
    LinkConfig,
    LinkError,
    LinkLost,
    LinkRole,
    generate_identity,
    open_link,
)
from iceagent.link.protocol import LinkProtocol


async def open_both_expecting(ends, error) -> list[BaseException]:
    """Open both ends and return what each raised."""
    raised: list[BaseException] = []

    async def expect(manager) -> None:
        with pytest.raises(error) as caught:
            async with manager:
                pytest.fail("the link opened")
        raised.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, ends.client())
        nursery.start_soon(expect, ends.server())
    return raised


async def test_another_session_key_is_refused_by_both(ends, autojump_clock) -> None:
    """Whoever did not take part in the signaling gets no byte in or out."""
    pair = ends()
    pair.server_key = b"x" * 32
    raised = await open_both_expecting(pair, AuthenticationError)
    assert len(raised) == 2
    assert trio.current_time() < 1


async def test_another_server_certificate_is_refused_by_both(ends, autojump_clock) -> None:
    """A man in the middle has a certificate of his own; the client pins the announced one."""
    pair = ends()
    announced = generate_identity()

    def client():
        return open_link(
            pair.client_transport,
            role=LinkRole.CLIENT,
            identity=pair.client_identity,
            peer_fingerprint=announced.fingerprint,
            session_key=pair.client_key,
            backend=pair.backend,
        )

    pair.client = client
    raised = await open_both_expecting(pair, LinkError)
    assert any(isinstance(error, AuthenticationError) for error in raised)
    assert trio.current_time() < 1


async def test_another_client_fingerprint_is_refused_by_both(ends, autojump_clock) -> None:
    """TLS has no client certificate here; the proof covers the announced one all the same."""
    pair = ends()
    announced = generate_identity()

    def server():
        return open_link(
            pair.server_transport,
            role=LinkRole.SERVER,
            identity=pair.server_identity,
            peer_fingerprint=announced.fingerprint,
            session_key=pair.server_key,
            backend=pair.backend,
        )

    pair.server = server
    assert len(await open_both_expecting(pair, AuthenticationError)) == 2


async def test_a_silent_peer_ends_the_opening_with_a_clear_error(ends, autojump_clock) -> None:
    """A path without a peer on it must not hang the caller."""
    pair = ends()
    with pytest.raises(NetworkError, match="within 30 s"):
        async with pair.client():
            pytest.fail("the link opened")
    assert trio.current_time() == pytest.approx(30, abs=0.1)


async def test_wrong_arguments_are_told_before_anything_is_sent(ends, autojump_clock) -> None:
    """The caller's mistakes are LocalErrors."""
    pair = ends()
    common = {"role": LinkRole.CLIENT, "identity": pair.client_identity, "session_key": b"k" * 32}
    with pytest.raises(LocalError, match="32 bytes"):
        async with open_link(pair.client_transport, peer_fingerprint=b"short", **common):
            pass
    with pytest.raises(LocalError, match="quiche"):
        async with open_link(pair.client_transport, peer_fingerprint=b"f" * 32, backend="quiche", **common):
            pass
    pair.client_transport.max_datagram_size = 500
    with pytest.raises(LocalError, match="1200"):
        async with open_link(pair.client_transport, peer_fingerprint=b"f" * 32, **common):
            pass
    with pytest.raises(LocalError):
        LinkConfig(initial_window=1)
    with pytest.raises(LocalError):
        LinkConfig(packet_size=9000)
    assert pair.client_transport.sent == 0


async def test_no_packet_exceeds_the_configured_size(ends, autojump_clock) -> None:
    """With DF set a larger packet vanishes; probing for more would hang a link that moves to a smaller path."""
    pair = ends()
    async with pair.links() as (client, server):
        stream = await client.open_stream()
        other = await server.accept_stream()
        await stream.send_all(bytes(500_000))
        got = 0
        while got < 500_000:
            got += len(await other.receive_some())
        await client.send_datagram(bytes(10_000))
        await server.receive_datagram()
        await trio.sleep(20)
    assert pair.client_transport.largest_sent <= 1200
    assert pair.server_transport.largest_sent <= 1200


async def test_close_is_seen_by_the_peer_at_once(ends, autojump_clock) -> None:
    """A peer that left is no mystery of 30 seconds: every waiting call ends with the reason."""
    pair = ends(delay_s=0.02)
    async with trio.open_nursery() as nursery:
        opened = trio.Event()
        closed_at = 0.0

        async def serve() -> None:
            async with pair.server() as server, trio.open_nursery() as waiters:
                opened.set()
                stream = await server.open_stream("waiting")

                async def expect(call) -> None:
                    with pytest.raises(trio.BrokenResourceError) as caught:
                        await call()
                    assert isinstance(caught.value.__cause__, LinkClosedByPeer)
                    assert str(caught.value.__cause__) == "the other side has closed the session"
                    assert trio.current_time() - closed_at < 0.1

                for call in (server.accept_stream, server.receive_datagram, stream.receive_some):
                    waiters.start_soon(expect, call)
                await server.wait_closed()
                assert isinstance(server.close_reason, LinkClosedByPeer)

        nursery.start_soon(serve)
        async with pair.client():
            await opened.wait()
            await trio.sleep(1)
            closed_at = trio.current_time()


async def test_what_was_written_before_close_still_arrives(ends, autojump_clock) -> None:
    """`send_all`, then leave the block: the reader gets all of it and the end, not an error."""
    pair = ends(delay_s=0.05)
    got = bytearray()

    async def serve() -> None:
        async with pair.server() as server:
            stream = await server.accept_stream()
            await server.wait_closed()
            async for chunk in stream:
                got.extend(chunk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with pair.client() as client, await client.open_stream("final messages") as stream:
            await stream.send_all(b"x" * 100_000)
    assert len(got) == 100_000


async def test_the_bodys_own_exception_leaves_unwrapped_and_the_peer_learns(ends, autojump_clock) -> None:
    """No exception group around a user's error; the peer must not take the crash for a clean close."""
    pair = ends()

    async def serve() -> None:
        async with pair.server() as server:
            await server.wait_closed()
            assert isinstance(server.close_reason, LinkError)
            assert "application failed" in str(server.close_reason)

    async def crash() -> None:
        async with pair.client():
            await trio.sleep(0.1)
            raise KeyError("mine")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(KeyError) as caught:
            await crash()
        assert caught.value.__cause__ is None


async def test_cancellation_passes_through_and_still_closes(ends, autojump_clock) -> None:
    """Ctrl-C and timeouts end a link like anything else in Trio, and the peer is told."""
    pair = ends()

    async def serve() -> None:
        async with pair.server() as server:
            await server.wait_closed()
            assert trio.current_time() < 6

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.move_on_after(5) as scope:
            async with pair.client():
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_calls_on_a_closed_link_say_it_was_closed_here(ends, autojump_clock) -> None:
    """Trio's distinction: ClosedResourceError is your own doing."""
    async with ends().links() as (client, _server):
        stream = await client.open_stream()
    for call in (client.open_stream, client.accept_stream, client.receive_datagram, stream.receive_some):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_datagram(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")
    await stream.aclose()
    await client.wait_closed()


async def test_a_dead_path_ends_the_link_with_its_cause(ends, autojump_clock) -> None:
    """When ICE gives up, everything that waits must learn why."""
    pair = ends()
    async with trio.open_nursery() as nursery:

        async def one(manager) -> None:
            async with manager as link:
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await link.accept_stream()
                assert isinstance(caught.value.__cause__, LinkLost)
                assert isinstance(caught.value.__cause__.__cause__, OSError)

        nursery.start_soon(one, pair.client())
        nursery.start_soon(one, pair.server())
        await trio.sleep(1)
        pair.client_transport.break_down()
        pair.server_transport.break_down()


async def test_a_transfer_cut_for_a_minute_goes_on_once_the_path_is_back(ends, autojump_clock) -> None:
    """An ICE restart may take that long; without the ping on both sides the probe back-off would cost many seconds."""
    pair = ends(delay_s=0.02, config=LinkConfig(stream_window=256 * 1024, send_buffer=65536))
    received = 0

    async def write(client) -> None:
        async with await client.open_stream("bulk") as stream:
            await stream.send_all(bytes(4_000_000))

    async def read(server) -> None:
        nonlocal received
        async with await server.accept_stream() as stream:
            async for chunk in stream:
                received += len(chunk)

    async with pair.links() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(write, client)
        nursery.start_soon(read, server)
        while received < 200_000:
            await trio.sleep(0.01)
        pair.client_transport.cut = pair.server_transport.cut = True
        await trio.sleep(60)
        before = received
        pair.client_transport.cut = pair.server_transport.cut = False
        client.notify_path_changed()
        server.notify_path_changed()
        await trio.sleep(0.5)
        assert received > before
    assert received == 4_000_000


async def test_a_lost_ping_after_a_path_change_is_repeated(ends, autojump_clock) -> None:
    """The first packet on a fresh path is the likeliest to get lost."""
    pair = ends(delay_s=0.02)
    async with pair.links() as (client, server):
        stream = await client.open_stream("quiet")
        other = await server.accept_stream()
        pair.client_transport.cut = pair.server_transport.cut = True
        await stream.send_all(b"into the void")
        await trio.sleep(60)
        client.notify_path_changed()
        server.notify_path_changed()
        await trio.sleep(0.2)
        pair.client_transport.cut = pair.server_transport.cut = False
        with trio.fail_after(1):
            assert await other.receive_some() == b"into the void"


async def test_silence_beyond_the_idle_timeout_ends_the_link(ends, autojump_clock) -> None:
    """A peer that was killed sends nothing: the link must end by itself in the end."""
    pair = ends(config=LinkConfig(idle_timeout_s=20))
    async with pair.links() as (client, server):
        pair.client_transport.cut = pair.server_transport.cut = True
        await client.wait_closed()
        await server.wait_closed()
        assert isinstance(client.close_reason, LinkLost)
        assert trio.current_time() < 70


async def test_random_datagrams_are_dropped_and_counted(ends, autojump_clock) -> None:
    """Anybody who can spoof the peer's address can inject; nothing may raise, nothing may reach the streams."""
    rng = random.Random(5)
    pair = ends()
    for transport in (pair.client_transport, pair.server_transport):
        for _ in range(300):
            transport.inject(rng.randbytes(rng.choice((0, 1, 20, 100, 1200, 1400))), 0)
    async with pair.links() as (client, server):
        stream = await client.open_stream("s")
        other = await server.accept_stream()
        for _ in range(2000):
            data = bytearray(rng.randbytes(rng.randrange(1, 1300)))
            data[0] = rng.choice((data[0], 0x40, 0x41, 0xC0, 0xC3, 0xD0, 0xE0, 0xF0))
            if rng.random() < 0.5:
                data[1:5] = b"\x00\x00\x00\x01"
            rng.choice((pair.client_transport, pair.server_transport)).inject(bytes(data), trio.current_time())
        await stream.send_all(b"unharmed")
        assert await other.receive_some() == b"unharmed"
        await other.send_all(b"too")
        assert await stream.receive_some() == b"too"


async def test_mutated_packets_of_the_handshake_do_not_prevent_it(ends, autojump_clock) -> None:
    """Copies of real packets with flipped bits arrive besides the real ones, as from somebody on the path."""
    rng = random.Random(6)
    pair = ends()

    def mutate(transport) -> None:
        real = transport.inject

        def inject(datagram: bytes, at: float) -> None:
            for _ in range(2):
                copy = bytearray(datagram)
                for _ in range(rng.randrange(1, 4)):
                    copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
                real(bytes(copy), at)
            real(datagram, at)

        transport.inject = inject

    mutate(pair.client_transport)
    mutate(pair.server_transport)
    async with pair.links() as (client, server):
        stream = await client.open_stream("s")
        await stream.send_all(bytes(20_000))
        other = await server.accept_stream()
        got = 0
        while got < 20_000:
            got += len(await other.receive_some())


async def test_a_link_leaves_nothing_on_the_books(ends, autojump_clock) -> None:
    """The process-wide ledger must not shrink with every link that ends with unread data."""
    pair = ends()
    ledger = Ledger(10_000_000)

    async def serve() -> None:
        async with open_link(
            pair.server_transport,
            role=LinkRole.SERVER,
            identity=pair.server_identity,
            peer_fingerprint=pair.client_identity.fingerprint,
            session_key=pair.server_key,
            backend=pair.backend,
            ledger=ledger,
        ) as server:
            for _ in range(3):
                await server.accept_stream()
            await trio.sleep(1)
            assert ledger.promised > 3 * 50_000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with pair.client() as client:
            for number in range(3):
                stream = await client.open_stream(str(number))
                await stream.send_all(bytes(50_000))
                if number == 1:
                    await stream.aclose()
            await client.wait_closed()
    assert ledger.promised == 0


async def test_no_task_is_left_after_a_link(ends, autojump_clock) -> None:
    """Who opens a link gets all its tasks back."""
    before = trio.lowlevel.current_statistics().tasks_living
    async with ends().links() as (client, server):
        await client.open_stream("left open")
        await server.accept_stream()
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_peer_that_ignores_its_credit_is_refused(ends, autojump_clock) -> None:
    """Back-pressure is no courtesy: who sends beyond it loses the link, or memory would be the peer's to fill."""
    async with ends(config=LinkConfig(stream_window=65536)).links() as (client, server):
        stream = await client.open_stream("greedy")
        await server.accept_stream()
        stream._state.send_credit.limit = 1 << 40
        await stream.send_all(bytes(100_000))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert "beyond the credit" in str(caught.value.__cause__)
        assert isinstance(server.close_reason, LinkError)


async def test_no_byte_is_accepted_before_the_proofs(ends, autojump_clock, monkeypatch) -> None:
    """A stranger who gets through TLS must not reach a stream, not even by being early."""
    original = LinkProtocol.on_handshake_completed

    def early(self) -> None:
        original(self)
        if self.endpoint.role is LinkRole.CLIENT:
            self.endpoint.send_stream(self.endpoint.open_stream(), b"\0\1xearly")

    monkeypatch.setattr(LinkProtocol, "on_handshake_completed", early)
    raised = await open_both_expecting(ends(), LinkError)
    assert sorted("before authentication" in str(error) for error in raised) == [True, True]


@pytest.mark.parametrize("frame", [b"\xff\xff\xff", b"\x04\x00\x01x", b"\x03\x00\x08" + bytes(8)])
async def test_a_malformed_control_stream_ends_the_link(ends, autojump_clock, frame) -> None:
    """Bytes of the control stream never raise in a task; they end the link with a reason."""
    async with ends().links() as (client, server):
        client._protocol._send(0, frame)
        await client.wait_closed()
        await server.wait_closed()
        assert isinstance(server.close_reason, LinkError)
        assert isinstance(client.close_reason, LinkError)
