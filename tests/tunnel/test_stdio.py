"""The pipe between two commands."""

from __future__ import annotations

import os
from functools import partial

import pytest
import trio
import trio.testing
from fake_link import link_of, linked_sessions

from iceagent.link import LinkClosedByPeer, LinkLost
from iceagent.session.errors import PeerLeft, PeerLost
from iceagent.tunnel import stdio
from iceagent.tunnel.errors import LocalIOError, RefusedError
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.stdio import StandardStreams, run_pipe


class Ends:
    """Standard streams made of two real pipes."""

    def __init__(self) -> None:
        stdin, self.feed = os.pipe()
        self.drain, stdout = os.pipe()
        self.fds = [stdin, stdout]
        self.streams = StandardStreams(stdin, stdout)

    async def give(self, data: bytes) -> None:
        await trio.to_thread.run_sync(self._give, data)

    def _give(self, data: bytes) -> None:
        with open(self.feed, "wb") as file:
            file.write(data)

    async def take(self) -> bytes:
        return await trio.to_thread.run_sync(self._take)

    def _take(self) -> bytes:
        with open(self.drain, "rb") as file:
            return file.read()

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def ends():
    pair = (Ends(), Ends())
    yield pair
    for end in pair:
        end.close()


async def test_both_ways_to_both_ends(ends):
    """A pipe is done when both inputs have ended and everything was written, whichever ends first."""
    near, far = ends
    results: dict[str, bytes] = {}

    async def take(name: str, end: Ends) -> None:
        results[name] = await end.take()

    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
        for end, session, opener in ((near, joiner, True), (far, inviter, False)):
            nursery.start_soon(partial(run_pipe, session, end.streams, opener=opener))
        nursery.start_soon(near.give, b"a" * 300_000)
        nursery.start_soon(far.give, b"")
        nursery.start_soon(take, "near", near)
        nursery.start_soon(take, "far", far)
    assert results == {"near": b"", "far": b"a" * 300_000}


async def test_trap_45_a_side_that_is_done_succeeds_although_the_other_closes_first(ends, monkeypatch):
    """The other side's word may be lost with the link; everything was delivered all the same."""
    near, far = ends
    say_farewell = stdio._say_farewell

    async def speechless(session, stream, service):
        if session is joiner:
            await say_farewell(session, stream, service)
        else:
            await stream.aclose()
            await service.done.wait()

    monkeypatch.setattr(stdio, "_say_farewell", speechless)
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:

        async def inviter_side() -> None:
            await run_pipe(inviter, far.streams, opener=False)
            link_of(joiner).close()

        nursery.start_soon(inviter_side)
        nursery.start_soon(near.give, b"x")
        nursery.start_soon(far.give, b"y")
        await run_pipe(joiner, near.streams, opener=True)


class Slow:
    """Standard streams of a program with an empty input that takes its time over what it reads."""

    def __init__(self, pause_s: float) -> None:
        self.taken = b""
        self._pause_s = pause_s

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return b""

    async def send_all(self, data: bytes) -> None:
        await trio.sleep(self._pause_s)
        self.taken += data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Given(Slow):
    """Standard streams of a program that says `data` and reads nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0.0)
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        data, self._data = self._data, b""
        return data


async def test_trap_45_a_slow_reader_gets_everything(autojump_clock):
    """`iceagent connect CODE | less`: who has sent it all waits, for an hour if need be, and does not cut it off."""
    slow = Slow(3600.0)
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:

        async def writer() -> None:
            await run_pipe(inviter, Given(b"the final messages"), opener=False)
            link_of(inviter).close()

        nursery.start_soon(writer)
        await run_pipe(joiner, slow, opener=True)
    assert slow.taken == b"the final messages"


async def test_trap_45_an_interrupted_reader_is_no_success_of_the_writer(autojump_clock):
    """Ctrl-C over there, before all was read: this side has sent everything, and yet not all of it arrived."""
    ended = LinkClosedByPeer("the other side was interrupted", interrupted=True)
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:

        async def reader() -> None:
            with pytest.raises(PeerLeft):
                await run_pipe(joiner, Slow(3600.0), opener=True)

        async def interrupt() -> None:
            await trio.sleep(60.0)
            link_of(joiner).close(ended)

        nursery.start_soon(reader)
        nursery.start_soon(interrupt)
        with pytest.raises(PeerLeft, match="before the end of the data"):
            await run_pipe(inviter, Given(b"the final messages"), opener=False)


@pytest.mark.parametrize(("lost", "expected"), [(None, PeerLeft), (LinkLost("silent"), PeerLost)])
async def test_an_early_end_is_an_error_with_its_reason(ends, lost, expected):
    """Half a file must not look like a whole one to the script that waits for the exit code."""
    near, far = ends
    try:
        async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:

            async def cut() -> None:
                await trio.testing.wait_all_tasks_blocked(0.02)
                link_of(joiner).close(lost)

            async def other() -> None:
                with pytest.raises(expected):
                    await run_pipe(inviter, far.streams, opener=False)

            nursery.start_soon(other)
            nursery.start_soon(cut)
            with pytest.raises(expected):
                await run_pipe(joiner, near.streams, opener=True)
    finally:
        for end in ends:
            os.close(end.feed)
            os.close(end.drain)


async def test_a_closed_output_is_a_local_error_here_and_an_early_end_there(ends):
    """`iceagent connect CODE | head -c 1` must end both sides."""
    near, far = ends
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
        os.close(near.drain)

        async def other() -> None:
            with pytest.raises(PeerLeft):
                await run_pipe(inviter, far.streams, opener=False)

        nursery.start_soon(other)
        nursery.start_soon(far.give, b"x" * 1000)
        with pytest.raises(LocalIOError, match="standard output"):
            await run_pipe(joiner, near.streams, opener=True)
    os.close(near.feed)
    os.close(far.drain)


async def test_a_pipe_meets_forwards_and_is_told_so(ends, autojump_clock):
    """The two commands must fit; the message names the one that does."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        with pytest.raises(RefusedError, match="forward"):
            await run_pipe(joiner, ends[0].streams, opener=True)
    for end in ends:
        os.close(end.feed)
        os.close(end.drain)


async def test_closed_standard_input_is_an_empty_one():
    """`iceagent connect CODE <&-` has nothing to say; that is no failure."""
    stdin, other = os.pipe()
    os.close(stdin)
    os.close(other)
    assert await StandardStreams(stdin, other).receive_some() == b""
