"""A link that carries nothing, and every way in which it may end: silence alone is none. Hours, in virtual time."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest
import trio

from iceagent.errors import LocalError
from iceagent.link import LinkClosedByPeer, LinkConfig, LinkError, LinkLost, LinkUnanswered, PeerRefused, WishRefused
from iceagent.link.errors import LinkCode, error_of_close
from iceagent.link.liveness import QUESTIONS, Due, Liveness
from iceagent.link.quic import QuicClose

NIGHT_S = 4 * 3600.0


async def test_a_night_without_a_byte_ends_nothing(ends, autojump_clock) -> None:
    """A tunnel to a machine that nobody uses at night must be there in the morning."""
    pair = ends()
    async with pair.links() as (client, server):
        await trio.sleep(NIGHT_S)
        stream = await client.open_stream("morning")
        await stream.send_all(b"hello")
        assert await (await server.accept_stream()).receive_some() == b"hello"


async def test_idle_costs_a_question_and_an_answer_each_half_minute(ends, autojump_clock) -> None:
    """What is idle must not keep a radio awake: the path has keepalives of its own."""
    pair = ends()
    async with pair.links():
        await trio.sleep(60)
        sent = pair.client_transport.sent + pair.server_transport.sent
        await trio.sleep(3600)
        sent = pair.client_transport.sent + pair.server_transport.sent - sent
    assert sent <= 4 * 3600 / 30


async def test_a_link_used_one_way_only_asks_no_more_than_an_idle_one(ends, autojump_clock) -> None:
    """Acknowledgements are answers, too, but bring no event: a question each half minute is what that costs."""
    pair = ends()
    async with pair.links() as (client, server):
        stream = await client.open_stream("log")
        other = await server.accept_stream()
        for _ in range(600):
            await stream.send_all(b"x")
            assert await other.receive_some() == b"x"
            await trio.sleep(1)
        assert client._protocol._pings <= 600 / 30 + 1
        assert server._protocol._pings == 0


async def test_an_outage_of_any_length_ends_nothing_while_the_path_is_known_to_be_gone(ends, autojump_clock) -> None:
    """ICE decides how long a peer may be gone: whoever lets a session wait an hour for a network means an hour."""
    pair = ends()
    for transport in (pair.client_transport, pair.server_transport):
        transport.is_answering = True
    async with pair.links() as (client, server):
        stream = await client.open_stream("patient")
        other = await server.accept_stream()
        for transport in (pair.client_transport, pair.server_transport):
            transport.cut, transport.is_answering = True, False
        await stream.send_all(b"written into the outage")
        await trio.sleep(3600)
        for transport in (pair.client_transport, pair.server_transport):
            transport.cut, transport.is_answering = False, True
        client.notify_path_changed()
        server.notify_path_changed()
        with trio.fail_after(1):
            assert await other.receive_some() == b"written into the outage"
        await trio.sleep(600)
        assert client.close_reason is server.close_reason is None


@pytest.mark.parametrize(
    ("knows", "words"),
    [
        (True, "the path to the other side works, but its end of the link has answered nothing for 40 s"),
        (False, "the other side's end of the link has answered nothing for 40 s: it has ended, or nothing leads to it"),
    ],
)
async def test_a_peer_whose_link_is_gone_while_its_path_answers_is_found_out(ends, autojump_clock, knows, words):
    """Its final messages were lost, and whatever carries the link goes on: nobody but the link itself can notice.

    That the path works is said where it is known, and there alone.
    """
    pair = ends(config=LinkConfig(idle_timeout_s=40))
    if knows:
        pair.client_transport.is_answering = True
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            async with pair.server():
                await trio.sleep(1)
                pair.server_transport.cut = True

        nursery.start_soon(leave)
        async with pair.client() as client:
            await client.wait_closed()
        assert isinstance(client.close_reason, LinkUnanswered)
        assert words in str(client.close_reason)
        assert 40 < trio.current_time() < 60


async def test_a_peer_that_is_given_up_is_told_so(ends, autojump_clock) -> None:
    """Packets may be lost one way only; then this is all the other side will ever hear."""
    pair = ends(config=LinkConfig(idle_timeout_s=400))
    patient = pair.server()
    pair.config = LinkConfig(idle_timeout_s=40)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            async with patient as server:
                await trio.sleep(1)
                pair.server_transport.cut = True
                await server.wait_closed()
                assert type(server.close_reason) is LinkError
                assert "got no answer from this end" in str(server.close_reason)

        nursery.start_soon(serve)
        async with pair.client() as client:
            await client.wait_closed()
            assert isinstance(client.close_reason, LinkUnanswered)


def test_a_clock_that_leaps_over_a_sleep_is_one_question() -> None:
    """Where the clock runs on while the machine sleeps, waking up must not look like hours of silence."""
    liveness = Liveness(120)
    liveness.heard(0)
    now = 8 * 3600.0
    assert liveness.advance(now, path_works=True) is Due.ASK
    assert liveness.advance(now, path_works=True) is Due.NOTHING
    liveness.heard(now + 1)
    dues: list[Due] = []
    while dues[-1:] != [Due.GIVE_UP]:
        now = liveness.due_at
        dues.append(liveness.advance(now, path_works=True))
    assert dues == [Due.ASK] * QUESTIONS + [Due.GIVE_UP]


def test_questions_over_a_path_that_does_not_work_do_not_count() -> None:
    """Four questions before the outage and one after it are no reason to give up."""
    liveness = Liveness(120)
    liveness.heard(0)
    for _ in range(QUESTIONS):
        assert liveness.advance(liveness.due_at, path_works=True) is Due.ASK
    assert liveness.advance(liveness.due_at, path_works=False) is Due.NOTHING
    assert liveness.advance(liveness.due_at, path_works=True) is Due.ASK


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_timeout_that_is_none_is_refused(seconds: float) -> None:
    """The caller's mistake, said at once."""
    with pytest.raises(LocalError, match="idle_timeout_s"):
        LinkConfig(idle_timeout_s=seconds)


async def _end(ends, failure: BaseException | None) -> BaseException | None:
    """Let the client's body end so; return why the server's link ended."""
    pair = ends()
    reasons: list[BaseException | None] = []
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            async with pair.server() as server:
                await server.wait_closed()
                reasons.append(server.close_reason)

        nursery.start_soon(serve)
        with suppress(ValueError, PeerRefused):
            async with pair.client():
                await trio.sleep(1)
                if failure is not None:
                    raise failure
    return reasons[0]


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (None, LinkClosedByPeer, "has closed the session"),
        (ValueError("a secret of ours"), LinkError, "its application failed"),
        (PeerRefused("no", wish="tcp:db:5432"), WishRefused, "asked for tcp:db:5432, which is not allowed here, and"),
    ],
)
async def test_each_end_of_a_body_has_its_own_sentence_at_the_peer(ends, autojump_clock, failure, kind, words) -> None:
    """What was refused is no failure of an application, and nothing of an error's text leaves this side."""
    reason = await _end(ends, failure)
    assert type(reason) is kind
    assert words in str(reason)
    assert "secret" not in str(reason)


async def test_an_interrupt_is_told_as_one(ends, autojump_clock) -> None:
    """Ctrl-C there is a decision of a person: not a failure, and not the end of the work either."""
    pair = ends()
    async with trio.open_nursery() as nursery:

        async def interrupted() -> None:
            with trio.move_on_after(1):
                async with pair.client():
                    await trio.sleep_forever()

        nursery.start_soon(interrupted)
        async with pair.server() as server:
            await server.wait_closed()
            assert isinstance(server.close_reason, LinkClosedByPeer)
            assert "interrupted" in str(server.close_reason)


@pytest.mark.parametrize("code", [*LinkCode, 99])
@pytest.mark.parametrize("by_application", [True, False])
def test_trap_44_no_word_of_the_peers_is_obeyed_by_a_terminal(code: int, by_application: bool) -> None:
    """The reason phrase is the peer's text, up to a packet of it (trap 44)."""
    error = error_of_close(QuicClose(code, "\x1b]0;pwned\x07\r\n" + "x" * 5000, by_application))
    assert str(error).isprintable()
    assert len(str(error)) < 400


async def test_ordinary_closes_log_no_warning(ends, autojump_clock, caplog) -> None:
    """Under `logging.basicConfig` each of 7,298 sessions left a line that looked like trouble."""
    with caplog.at_level(logging.INFO):
        await _end(ends, None)
        await _end(ends, ValueError("a secret of ours"))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [record for record in caplog.records if record.name == "quic" and record.levelno > logging.INFO] == []


async def test_the_error_of_a_call_says_why_the_link_has_ended(ends, autojump_clock) -> None:
    """Not everybody who catches an error looks at its cause."""
    pair = ends()
    async with pair.links() as (client, _):
        pair.client_transport.break_down()
        await client.wait_closed()
        assert isinstance(client.close_reason, LinkLost)
        with pytest.raises(trio.BrokenResourceError, match="the path under the link is gone: the path died"):
            await client.open_stream("x")
