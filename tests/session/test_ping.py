"""Pings of a session: what they measure, what of them gets lost, and that answering them is bounded."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from fake_link import link_of, linked_sessions
from virtual_sessions import RTT_S, connected

from iceagent import vnet
from iceagent.errors import IceError
from iceagent.session import echo
from iceagent.session.errors import PeerLeft, VersionMismatch
from iceagent.session.ping import Pinger, _refusal, open_pinger
from iceagent.session.session import Session
from iceagent.session.streams import PING_SERVICE, RESET_BUSY, RESET_UNKNOWN


def test_a_ping_takes_the_round_trip_of_the_path():
    """And while the line is cut it is lost, as payload is; afterwards the next one is answered."""

    async def main() -> None:
        async with connected(1) as lab:
            session = lab.sessions[0]
            async with open_pinger(session) as pinger:
                for _ in range(3):
                    rtt_s = await pinger.ping(2.0)
                    assert rtt_s is not None
                    assert RTT_S <= rtt_s < RTT_S + 0.05
                lab.hosts[0].link.cut()
                assert await pinger.ping(0.5) is None
                lab.hosts[0].link.restore()
                answers = [await pinger.ping(1.0) for _ in range(10)]
                assert answers[-1] is not None

    vnet.run(main, seed=1)


async def test_each_side_answers_the_other_at_once():
    """Whatever the session is for; nobody has to be started for it."""
    async with linked_sessions() as (one, two):
        async with open_pinger(one) as here, open_pinger(two) as there:
            assert await here.ping(5) is not None
            assert await there.ping(5) is not None
        await trio.testing.wait_all_tasks_blocked()
        assert one.datagrams._flows == two.datagrams._flows == {}


async def open_echo(session: Session, flow: int) -> Any:
    stream = await session.streams.open_service(PING_SERVICE)
    await stream.send_all(flow.to_bytes(8, "big"))
    return stream


async def test_trap_112_pings_are_answered_at_a_bounded_rate(autojump_clock):
    """Else the other side could make this one send what it likes, as fast as it likes."""
    async with linked_sessions() as (one, two):
        answers: list[bytes] = []
        flow = one.datagrams.new_flow_id()
        one.datagrams.open_flow(flow, answers.append)
        stream = await open_echo(one, flow)
        assert await stream.receive_some(1) == b"+"
        for _ in range(500):
            await one.datagrams.send(flow, b"x" * 16)
        await trio.sleep(2)
        assert echo.PER_S <= len(answers) <= 3 * echo.PER_S
        answers.clear()
        await trio.sleep(5)
        await one.datagrams.send(flow, b"x" * (echo.MAX_SIZE + 1))
        await trio.sleep(1)
        assert answers == []
        await one.datagrams.send(flow, b"x" * echo.MAX_SIZE)
        await trio.sleep(1)
        assert len(answers) == 1
        assert two.datagrams._flows.keys() == {flow}


async def test_trap_112_few_are_answered_at_once(autojump_clock):
    """Each takes a stream, a task and a flow; who is refused is told, and others get in when one has left."""
    async with linked_sessions() as (one, _):
        streams = []
        for number in range(echo.MAX_ASKERS):
            streams.append(await open_echo(one, 2 + 2 * number))
            assert await streams[-1].receive_some(1) == b"+"
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await (await open_echo(one, 100)).receive_some(1)
        await streams[0].aclose()
        await trio.sleep(1)
        again = await open_echo(one, 102)
        assert await again.receive_some(1) == b"+"


@pytest.mark.parametrize("said", [b"", b"\0\0\0", b"\xff" * 8, bytes(8), b"x" * 1000], ids=range(5))
async def test_trap_112_a_request_that_is_none_ends_nothing(said, autojump_clock):
    """Too short, an id that no flow can have, that of the application; nobody waits for the rest of it for ever."""
    async with linked_sessions() as (one, two):
        stream = await one.streams.open_service(PING_SERVICE)
        await stream.send_all(said)
        await trio.sleep(2 * echo.ANSWER_S)
        assert two.datagrams._flows.keys() <= {int.from_bytes(said[:8], "big")}
        stream.reset()
        async with open_pinger(one) as pinger:
            assert await pinger.ping(5) is not None


async def test_what_answers_no_ping_of_ours_is_dropped(autojump_clock):
    """A late answer must not count for the next one; nor what the other side makes up."""
    async with linked_sessions() as (one, two), open_pinger(one) as pinger:
        lost = link_of(two)
        lost.max_datagram_size = 1200
        pinger.take_untrusted(b"")
        pinger.take_untrusted(b"made up")
        two_flows = dict(two.datagrams._flows)
        two.datagrams._flows.clear()
        assert await pinger.ping(1.0) is None
        awaited = pinger._awaited
        two.datagrams._flows.update(two_flows)
        pinger.take_untrusted(awaited)
        assert await pinger.ping(1.0) is not None


@pytest.mark.parametrize(("code", "error"), [(RESET_UNKNOWN, VersionMismatch), (RESET_BUSY, PeerLeft)])
def test_who_answers_none_says_why(code: int, error: type[IceError]) -> None:
    """An older version knows no such service; another one may have enough of them."""
    from iceagent.link import StreamReset

    assert isinstance(_refusal(StreamReset("iceagent.ping", code)), error)


async def test_a_silent_other_side_is_not_waited_for_for_ever(autojump_clock):
    async with linked_sessions() as (one, two):
        await trio.testing.wait_all_tasks_blocked()
        two.streams._queues.pop(PING_SERVICE)[0].close()
        two.streams._queues[PING_SERVICE] = trio.open_memory_channel(10)
        with pytest.raises(PeerLeft, match="20 s"):
            async with open_pinger(one):
                pass
        assert one.datagrams._flows == {}


def test_a_pinger_that_asked_nothing_takes_nothing() -> None:
    session: Any = None
    pinger = Pinger(session, 2)
    pinger.take_untrusted(b"")
    assert pinger._answered_at is None
