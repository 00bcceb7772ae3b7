"""Streams over a link, both QUIC backends, in virtual time."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
import trio
import trio.testing

from iceagent.errors import LocalError
from iceagent.link import LinkConfig, StreamCode, StreamReset
from iceagent.link.config import MAX_STREAMS


async def test_stream_carries_its_name_and_data_both_ways(ends, autojump_clock) -> None:
    """The main thing: what one side writes under a name, the other reads, and answers."""
    async with ends().links() as (client, server):
        stream = await client.open_stream("forward tcp:localhost:22")
        await stream.send_all(b"hello")
        other = await server.accept_stream()
        assert other.name == "forward tcp:localhost:22"
        assert await other.receive_some() == b"hello"
        await other.send_all(b"world")
        await other.send_eof()
        assert await stream.receive_some() == b"world"
        assert await stream.receive_some() == b""
        await stream.send_all(b"after eof of the other half")
        assert await other.receive_some() == b"after eof of the other half"


async def test_either_side_opens_streams(ends, autojump_clock) -> None:
    """A link is symmetric once it is open: the QUIC server forwards ports too."""
    async with ends().links() as (client, server):
        stream = await server.open_stream("back")
        other = await client.accept_stream()
        assert other.name == "back"
        await stream.send_all(b"x")
        assert await other.receive_some() == b"x"


async def test_accept_needs_no_data_after_the_name(ends, autojump_clock) -> None:
    """A protocol in which the accepting side speaks first (SSH, SMTP) must not hang."""
    async with ends().links() as (client, server):
        stream = await client.open_stream("smtp")
        other = await server.accept_stream()
        await other.send_all(b"220 ready")
        assert await stream.receive_some() == b"220 ready"


async def test_bulk_arrives_intact_in_spite_of_loss(ends, autojump_clock) -> None:
    """Retransmission and reordering must not show in the stream."""
    data = random.Random(2).randbytes(3_000_000)
    async with ends(delay_s=0.01, loss=0.01).links() as (client, server):
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                async with await client.open_stream("bulk") as stream:
                    await stream.send_all(data)

            nursery.start_soon(write)
            digest = hashlib.sha256()
            async with await server.accept_stream() as other:
                async for chunk in other:
                    digest.update(chunk)
        assert digest.digest() == hashlib.sha256(data).digest()


async def test_sixty_four_streams_at_once_keep_their_data_apart(ends, autojump_clock) -> None:
    """Many forwarded connections share one link: each gets its own bytes, whole."""
    payloads = {f"stream {number}": random.Random(number).randbytes(60_000) for number in range(64)}
    results: dict[str, bytes] = {}
    async with ends(delay_s=0.002).links() as (client, server), trio.open_nursery() as nursery:

        async def write(name: str) -> None:
            async with await client.open_stream(name) as stream:
                await stream.send_all(payloads[name])

        async def read(stream: trio.abc.HalfCloseableStream, name: str) -> None:
            async with stream:
                results[name] = b"".join([chunk async for chunk in stream])

        for name in payloads:
            nursery.start_soon(write, name)
        for _ in payloads:
            stream = await server.accept_stream()
            nursery.start_soon(read, stream, stream.name)
    assert results == payloads


async def test_streams_beyond_the_concurrent_limit_wait_their_turn(ends, autojump_clock) -> None:
    """The peer's limit on open streams delays a stream, it breaks nothing; closed ones make room."""
    count = MAX_STREAMS + 100
    most = 0
    async with ends(delay_s=0.001).links() as (client, server), trio.open_nursery() as nursery:

        async def write(number: int) -> None:
            async with await client.open_stream(str(number)) as stream:
                assert await stream.receive_some() == b"ok"

        async def answer() -> None:
            nonlocal most
            await trio.sleep(1)
            most = len(server._protocol.incoming)
            for _ in range(count):
                async with await server.accept_stream() as stream:
                    await stream.send_all(b"ok")

        nursery.start_soon(answer)
        for number in range(count):
            nursery.start_soon(write, number)
    assert most == MAX_STREAMS - 1  # the control stream is the first


async def test_trap_46_a_stopped_reader_stops_the_writer_and_nobody_else(ends, autojump_clock) -> None:
    """Trap 46: without credit of our own, QUIC would buffer all the writer has; other streams must not notice."""
    config = LinkConfig(stream_window=256 * 1024, initial_window=16 * 1024, link_ceiling=1024 * 1024, send_buffer=65536)
    async with ends(config=config).links() as (client, server), trio.open_nursery() as nursery:
        written = 0

        async def write() -> None:
            nonlocal written
            stream = await client.open_stream("stalled")
            while True:
                await stream.send_all(bytes(10_000))
                written += 10_000

        nursery.start_soon(write)
        stalled = await server.accept_stream()
        await trio.sleep(10)
        assert 16 * 1024 <= written <= 256 * 1024
        stood_at = written
        other = await client.open_stream("lively")
        peer = await server.accept_stream()
        for _ in range(100):
            await other.send_all(bytes(5_000))
            got = 0
            while got < 5_000:
                got += len(await peer.receive_some())
        await trio.sleep(10)
        assert written == stood_at
        got = 0
        while got < 1_000_000:
            got += len(await stalled.receive_some())
        assert written >= 1_000_000 - 10_000
        nursery.cancel_scope.cancel()


async def test_many_stalled_streams_stay_below_the_ceiling(ends, autojump_clock) -> None:
    """What is held for streams nobody reads is bounded for the link as a whole, not only for each."""
    config = LinkConfig(stream_window=256 * 1024, initial_window=8 * 1024, link_ceiling=512 * 1024)
    async with ends(config=config).links() as (client, server), trio.open_nursery() as nursery:

        async def write(number: int) -> None:
            stream = await client.open_stream(str(number))
            await stream.send_all(bytes(10_000_000))

        for number in range(20):
            nursery.start_soon(write, number)
        accepted = [await server.accept_stream() for _ in range(20)]
        await trio.sleep(5)
        held = sum(stream._state.size for stream in accepted)
        assert 20 * 7 * 1024 <= held <= 512 * 1024 + 20 * 8 * 1024
        nursery.cancel_scope.cancel()


async def test_reset_carries_its_code_to_both_calls_of_the_peer(ends, autojump_clock) -> None:
    """A tunnel says with the code why the far socket failed; both a reader and a writer must learn it."""
    async with ends().links() as (client, server):
        stream = await client.open_stream("doomed")
        other = await server.accept_stream()
        other.reset(77)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
        assert caught.value.__cause__.code == 77
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.send_all(b"x")
        assert isinstance(caught.value.__cause__, StreamReset)
        assert stream.reset_code == 77
        with pytest.raises(trio.ClosedResourceError):
            await other.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await other.receive_some()


async def test_reset_wakes_a_writer_that_waits_for_credit(ends, autojump_clock) -> None:
    """A writer blocked by back-pressure must not sleep for ever when the reader goes away."""
    async with ends().links() as (client, server), trio.open_nursery() as nursery:
        stream = await client.open_stream("blocked")

        async def write() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(bytes(20_000_000))

        nursery.start_soon(write)
        other = await server.accept_stream()
        await trio.sleep(5)
        await other.aclose()


async def test_close_after_sending_delivers_everything(ends, autojump_clock) -> None:
    """`async with stream` around a `send_all` is the common case: it must not cut the tail off."""
    async with ends(delay_s=0.05).links() as (client, server):
        async with await client.open_stream("letter") as stream:
            await stream.send_all(bytes(20_000))
        other = await server.accept_stream()
        assert sum([len(chunk) async for chunk in other]) == 20_000
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await other.send_all(b"nobody listens")


async def test_cancelled_send_makes_close_a_reset(ends, autojump_clock) -> None:
    """A peer must never take a truncated stream for a complete one."""
    async with ends().links() as (client, server):
        stream = await client.open_stream("truncated")
        with trio.move_on_after(5) as scope:
            await stream.send_all(bytes(20_000_000))
        assert scope.cancelled_caught
        await stream.aclose()
        other = await server.accept_stream()
        with pytest.raises(trio.BrokenResourceError) as caught:
            async for _ in other:
                pass
        assert isinstance(caught.value.__cause__, StreamReset)
        assert caught.value.__cause__.code == StreamCode.CANCELLED


async def test_forceful_close_resets_but_spares_what_ended_before(ends, autojump_clock) -> None:
    """`trio.aclose_forcefully` cuts an open stream, but what `send_eof` completed stays complete."""
    async with ends().links() as (client, server):
        cut = await client.open_stream("cut")
        await cut.send_all(b"partial")
        await trio.aclose_forcefully(cut)
        whole = await client.open_stream("whole")
        await whole.send_all(b"complete")
        await whole.send_eof()
        await trio.aclose_forcefully(whole)
        first, second = await server.accept_stream(), await server.accept_stream()
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await first.receive_some()
        assert await second.receive_some() == b"complete"
        assert await second.receive_some() == b""


async def test_two_tasks_on_one_half_are_told_so(ends, autojump_clock) -> None:
    """Trio's rule for streams: concurrent use of one direction is a bug that must show."""
    async with ends().links() as (client, server), trio.open_nursery() as nursery:
        stream = await client.open_stream("shared")
        await server.accept_stream()

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_receive_some_honours_max_bytes(ends, autojump_clock) -> None:
    """Framing above a stream reads exact sizes; what is not taken stays."""
    async with ends().links() as (client, server):
        stream = await client.open_stream("sizes")
        await stream.send_all(b"0123456789")
        other = await server.accept_stream()
        assert await other.receive_some(3) == b"012"
        assert await other.receive_some(3) == b"345"
        assert await other.receive_some() == b"6789"
        with pytest.raises(ValueError, match="at least 1"):
            await other.receive_some(0)


async def test_streams_nobody_accepts_are_refused_beyond_the_backlog(ends, autojump_clock) -> None:
    """A peer that opens streams without end must not fill our memory."""
    async with ends(config=LinkConfig(accept_backlog=3)).links() as (client, server):
        streams = [await client.open_stream(str(number)) for number in range(5)]
        await trio.sleep(1)
        for stream in streams[3:]:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, StreamReset)
            assert caught.value.__cause__.code == StreamCode.BACKLOG_FULL
        assert [(await server.accept_stream()).name for _ in range(3)] == ["0", "1", "2"]


async def test_a_name_beyond_its_limit_is_the_callers_mistake(ends, autojump_clock) -> None:
    """The peer would reject it; say so here, with the numbers."""
    async with ends().links() as (client, _server):
        with pytest.raises(LocalError, match="1024 bytes"):
            await client.open_stream("x" * 1025)
        await client.open_stream("é" * 512)


async def test_a_link_stream_passes_trios_own_checks(ends, autojump_clock) -> None:
    """Trio's conformance suite for half-closeable streams: what generic code over streams relies on."""
    config = LinkConfig(stream_window=4096, initial_window=4096)
    async with ends(delay_s=0.0001, config=config).links() as (client, server):

        async def pair() -> tuple[Any, Any]:
            stream = await client.open_stream("check")
            return stream, await server.accept_stream()

        async def clogged() -> tuple[Any, Any]:
            stream, other = await pair()
            for end in (stream, other):
                await trio.sleep(1)
                await end.send_all(bytes(client._protocol.writable(end._state)))
            return stream, other

        await trio.testing.check_half_closeable_stream(pair, clogged)
