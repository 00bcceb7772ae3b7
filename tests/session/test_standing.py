"""A listener that stays: many joiners, wrong guesses, and who leaves early; real relay, real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icesignal
import pytest
import trio
from icesignal.code import LONG_WORD_COUNT, WORDS, parse_code

import iceagent
from iceagent.errors import IceError, LocalError
from iceagent.net.tasks import open_background
from iceagent.session import standing
from iceagent.session.errors import CodeError, NobodyCame, PeerTurnedAway, RelayError, UnknownPeer
from iceagent.session.pairing.identity import Identity
from iceagent.session.pairing.store import PeerStore
from iceagent.session.standing import GUESSES, StandingListener
from iceagent.tunnel.errors import RefusedError


@dataclass
class Kept:
    """A listener that stays, as a test sees it: its codes and what went wrong, in order."""

    codes: list[str] = field(default_factory=list)
    ends: list[IceError] = field(default_factory=list)
    handled: int = 0

    async def code(self, number: int = 0) -> str:
        """Wait for a code by its place in the order."""
        return await wait_for(self.codes, number)

    async def end(self, number: int = 0) -> IceError:
        """Wait for what went wrong, by its place in the order."""
        return await wait_for(self.ends, number)


async def wait_for(values: list[Any], number: int) -> Any:
    with trio.fail_after(30):
        while len(values) <= number:
            await trio.sleep(0.01)
    return values[number]


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Kept]:
    """Run a listener that says hello to each joiner, and waits until it has left."""
    kept = Kept()

    async def greet(link: iceagent.Link) -> None:
        kept.handled += 1
        async with await link.open_stream("hello") as stream:
            await stream.send_all(b"hello")
        await link.wait_closed()

    async def serve() -> None:
        await iceagent.serve_joiners(
            greet, on_code=lambda invitation: kept.codes.append(invitation.code), on_end=kept.ends.append, **options
        )

    async with open_background() as nursery:
        nursery.start_soon(serve)
        yield kept


async def hear_hello(link: iceagent.Link) -> None:
    async with await link.accept_stream() as stream:
        assert b"".join([part async for part in stream]) == b"hello"


def wrong(code: str) -> str:
    """Return a code that another nobody could tell from, and whose words are others."""
    parsed = parse_code(code)
    words = tuple(WORDS[WORDS.index(word) - 1] for word in parsed.words)
    return str(icesignal.Code(parsed.nameplate, words, parsed.address))


async def guess_wrong(code: str) -> None:
    with pytest.raises(CodeError):
        async with iceagent.join(wrong(code)):
            pass


async def test_each_joiner_has_a_link_of_its_own_and_the_next_code_is_there_at_once():
    """Nobody has to wait until the one before has left."""
    async with listening() as kept, iceagent.join(await kept.code()) as first:
        await hear_hello(first)
        async with iceagent.join(await kept.code(1)) as second:
            await hear_hello(second)
        async with iceagent.join(await kept.code(2)) as third:
            await hear_hello(third)
            assert kept.ends == []
    assert len({*kept.codes}) == len(kept.codes) == 4


async def test_a_wrong_guess_costs_that_code_and_nothing_else():
    """The listener makes the next one, and whoever is connected stays so."""
    async with listening() as kept, iceagent.join(await kept.code()) as first:
        await hear_hello(first)
        await guess_wrong(await kept.code(1))
        assert isinstance(await kept.end(), CodeError)
        async with iceagent.join(await kept.code(2)) as second:
            await hear_hello(second)
            with trio.move_on_after(0.2):
                await first.wait_closed()
                pytest.fail("who guessed wrong has ended another session")


async def test_trap_116_a_guesser_does_not_get_one_short_code_after_the_other(monkeypatch: pytest.MonkeyPatch):
    """A listener that stays gives away guesses without end: its codes have to become longer than anybody can guess."""
    monkeypatch.setattr(standing, "AGAIN_S", 0.01)
    async with listening() as kept:
        for number in range(GUESSES):
            assert len(parse_code(await kept.code(number)).words) == 2
            await guess_wrong(kept.codes[number])
        assert len(parse_code(await kept.code(GUESSES)).words) == LONG_WORD_COUNT
        async with iceagent.join(kept.codes[GUESSES]) as link:
            await hear_hello(link)


async def test_no_more_than_may_be_are_there_at_once():
    """While as many are there as may be, there is no code; once one leaves, there is."""
    async with listening(most_peers=2) as kept, iceagent.join(await kept.code()) as first:
        await hear_hello(first)
        async with iceagent.join(await kept.code(1)) as second:
            await hear_hello(second)
            await trio.sleep(0.3)
            assert len(kept.codes) == 2
        async with iceagent.join(await kept.code(2)) as third:
            await hear_hello(third)


async def test_a_handler_that_raises_ends_its_own_link_alone(caplog: pytest.LogCaptureFixture):
    """A fault in a program's handler is logged with its traceback, and the listener goes on."""
    codes: list[str] = []
    calls = 0

    async def handle(link: iceagent.Link) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        await link.wait_closed()

    async def serve() -> None:
        await iceagent.serve_joiners(handle, on_code=lambda invitation: codes.append(invitation.code))

    async with open_background() as nursery:
        nursery.start_soon(serve)
        with suppress(IceError):
            async with iceagent.join(await wait_for(codes, 0)) as link:
                await link.wait_closed()
        async with iceagent.join(await wait_for(codes, 1)):
            assert calls == 2
    assert "ZeroDivisionError" in caplog.text


async def test_who_asks_for_what_is_not_allowed_is_told_and_the_listener_stays():
    """A slip of one side costs the other one nothing."""
    kept = Kept()

    async def serve_nothing(link: iceagent.Link) -> None:
        async with link.serve_forwards([]):
            await link.wait_closed()

    async def serve() -> None:
        await iceagent.serve_joiners(
            serve_nothing, on_code=lambda invitation: kept.codes.append(invitation.code), on_end=kept.ends.append
        )

    async with open_background() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(RefusedError):
            async with iceagent.join(await kept.code()) as link, link.forward_local("0:localhost:9"):
                pass
        assert isinstance(await kept.end(), PeerTurnedAway)
        async with iceagent.join(await kept.code(1)):
            pass


async def test_a_relay_that_is_not_there_at_first_ends_it():
    """Mistyped, most likely; one that was there is waited for."""
    with pytest.raises(RelayError):
        async with listening(relay="ws://127.0.0.1:9"):
            await trio.sleep(20)


async def test_a_relay_that_is_started_again_gets_the_next_code(monkeypatch: pytest.MonkeyPatch):
    """It has forgotten the code that there was; whoever waits makes another there, by itself."""
    monkeypatch.setattr(standing, "LONGEST_PAUSE_S", 0.2)

    async def run_relay(port: int, task_status: trio.TaskStatus[tuple[int, trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with icesignal.serve(port=port) as relay:
                task_status.started((relay.port, scope))
                await trio.sleep_forever()
        ended.set()

    ended = trio.Event()
    async with open_background() as nursery:
        port, scope = await nursery.start(run_relay, 0)
        url = f"ws://127.0.0.1:{port}"
        async with listening(relay=url) as kept:
            await kept.code()
            scope.cancel()
            await ended.wait()
            await nursery.start(run_relay, port)
            async with iceagent.join(await kept.code(1), relay=url) as link:
                await hear_hello(link)


async def test_nobody_could_come():
    """Neither codes nor peers: it would wait for ever."""
    with pytest.raises(LocalError, match="nobody could come"):
        await iceagent.serve_joiners(trio.sleep_forever)  # type: ignore[arg-type]


@pytest.fixture
def paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Identity, Identity]:
    """Two identities that know each other as `there`, each with files of its own."""
    one, two = (Identity.load(tmp_path / name / "identity") for name in ("one", "two"))
    PeerStore.beside(one).pin("there", two.public)
    PeerStore.beside(two).pin("there", one.public)
    return one, two


async def test_several_processes_of_a_paired_peer_are_there_at_once(paired: tuple[Identity, Identity]):
    """As ssh has one per connection. Where the two meet they only meet, and leave the place to the next."""
    here, there = paired
    async with icesignal.serve() as relay:
        handled = 0

        async def handle(link: iceagent.Link) -> None:
            nonlocal handled
            handled += 1
            await link.wait_closed()

        async def serve() -> None:
            await iceagent.serve_joiners(handle, peers=["there"], relay=relay.url, identity=here)

        async def come(task_status: trio.TaskStatus[None]) -> None:
            async with iceagent.join(peer="there", relay=relay.url, identity=there) as link:
                task_status.started()
                await link.wait_closed()

        async with open_background() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(30):
                for _ in range(3):
                    await nursery.start(come)
            assert handled == 3


async def test_a_peer_that_is_unknown_ends_it(paired: tuple[Identity, Identity]):
    """It is a name that was mistyped, or has been removed: nobody will come by it."""
    with pytest.raises(UnknownPeer):
        await iceagent.serve_joiners(trio.sleep, peers=["nobody"], relay="ws://127.0.0.1:9", identity=paired[0])  # type: ignore[arg-type]


async def test_nobody_comes_in_time():
    """`timeout_s` is for the first joiner."""

    @asynccontextmanager
    async def attempt(_: str | None) -> AsyncIterator[Any]:
        yield Silent()

    with pytest.raises(NobodyCame):
        await StandingListener(iceagent.Link, attempt).run_codes(timeout_s=0.2)


class Silent:
    """Does nothing about anybody."""

    def __init__(self) -> None:
        from iceagent.session.progress import Progress

        self.progress = Progress()

    def show_code(self, invitation: object) -> None:
        """Nothing."""

    async def serve(self, session: object) -> None:
        """Nothing."""

    def report_end(self, error: IceError) -> None:
        """Nothing."""
