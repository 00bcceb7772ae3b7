"""What a guess of a nameplate costs, and who pays: traps 92 to 94."""

from __future__ import annotations

import hashlib
import re
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from secrets import token_bytes
from typing import Any

import icesignal
import pytest
import trio
from icesignal import http, member_client, wire
from icesignal.client_session import ClientSession
from icesignal.nameplates import Nameplates
from icesignal.room_session import RoomSession
from icesignal.server import Server, serve
from icesignal.sources import Limits, Rate
from icesignal.toll import Pressure, subject_of, tries_for_claim, tries_for_room
from icesignal.transport import ConnectionEnded
from icesignal.websocket import Websockets
from icesignal.wire import RelayErrorCode
from icesignal.work import ALGORITHM, MAX_ROUNDS, Work, WorkStopped, is_solved, make_puzzle, solve
from relay_client import RawClient, connect_raw

LOOPBACK = ["127.0.0.0/8"]
FREE = Rate(10_000, 10_000)
EASY = Limits(work_tries=512, claims=FREE, joins=FREE, doubts=FREE)
"""Work that takes hardly any time, and budgets that are never used up."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "relay-protocol.md"


def allocate() -> wire.Allocate:
    return wire.Allocate(session=token_bytes(16))


def join(nameplate: str, work: bytes | None = None) -> wire.Join:
    if work is None:
        return wire.Join(session=token_bytes(16), nameplate=nameplate)
    return wire.Join(session=token_bytes(16), nameplate=nameplate, work=work)


def worked(frame: wire.Join, puzzle: Work) -> wire.Join:
    solution = solve(puzzle, subject_of(frame))
    return wire.Join(session=frame.session, nameplate=frame.nameplate, work=solution)


async def guess(relay: Server, times: int) -> None:
    """Name nameplates that are nobody's."""
    async with connect_raw(relay.url, source="203.0.113.1") as guesser:
        for number in range(times):
            answer = await guesser.ask(join(str(900_000_000 + number)))
            assert isinstance(answer, wire.Error)


async def asked(client: RawClient, frame: wire.Frame) -> Work:
    """Return the puzzle with which a frame is refused."""
    answer = await client.ask(frame)
    assert isinstance(answer, wire.Error)
    assert answer.code == RelayErrorCode.WORK
    assert isinstance(answer.work, Work)
    return answer.work


# -- the puzzle


def test_the_vector_of_the_document_is_solved() -> None:
    """Whoever writes a client has the page alone."""
    text = PAGE.read_text(encoding="utf-8")
    work = Work(challenge=b"\1" * 16, rounds=2, bits=4, parts=2)
    (solution,) = re.findall(r"`([0-9a-f]{32})`, with", text)
    frame = wire.Join(session=b"\2" * 16, nameplate="7")
    assert is_solved(work, subject_of(frame), bytes.fromhex(solution))
    for part, nonce in enumerate((8, 1)):
        salt = b"icesignal/1 work\0" + work.challenge + bytes([part]) + frame.session + b"7"
        digest = hashlib.pbkdf2_hmac("sha256", nonce.to_bytes(8, "big"), salt, 2)
        assert f"hash({part})  = {digest.hex()}\n" in text


def test_a_puzzle_takes_what_it_says_and_varies_little() -> None:
    """Many parts, so that nobody waits for three times as long as others."""
    random = Random(1)
    work = make_puzzle(256, random.randbytes)
    assert work.tries == 256
    counts = []
    for _ in range(60):
        tries = 0

        def count() -> bool:
            nonlocal tries
            tries += 1
            return False

        cheap = Work(challenge=random.randbytes(16), rounds=1, bits=work.bits, parts=work.parts)
        assert is_solved(cheap, b"x", solve(cheap, b"x", count))
        counts.append(tries)
    assert 200 < statistics.mean(counts) < 320
    assert max(counts) < 3 * 256


def test_what_is_no_solution_is_none() -> None:
    """For another entry, another puzzle, of another length, or nothing."""
    work = Work(challenge=b"c", rounds=1, bits=6, parts=4)
    right = solve(work, b"mine")
    assert is_solved(work, b"mine", right)
    other = Work(challenge=b"d", rounds=1, bits=6, parts=4)
    for puzzle, subject, solution in (
        (work, b"theirs", right),
        (other, b"mine", right),
        (work, b"mine", right[:-8]),
        (work, b"mine", right + right[:8]),
        (work, b"mine", right[8:] + right[:8]),
        (work, b"mine", b""),
    ):
        assert not is_solved(puzzle, subject, solution)


def test_a_solver_that_is_told_to_stop_stops() -> None:
    """A thread cannot be cancelled; it has to look."""
    with pytest.raises(WorkStopped):
        solve(Work(challenge=b"c", rounds=1, bits=32, parts=1), b"", iter([False, False, True]).__next__)


@pytest.mark.parametrize(
    ("guesses", "load", "claim", "room"),
    [
        (0, 0.0, 0, 0),
        (7.9, 0.74, 0, 0),
        (8, 0.0, 512, 0),
        (16, 0.0, 1_024, 0),
        (32, 0.0, 2_048, 0),
        (100_000, 0.0, 2_048, 0),
        (0, 0.75, 512, 512),
        (0, 0.9, 1_024, 1_024),
        (0, 1.0, 2_048, 2_048),
        (8, 1.0, 512, 2_048),
    ],
)
def test_the_price_follows_the_guesses_and_the_load(guesses: float, load: float, claim: int, room: int) -> None:
    """Nothing in quiet times; never more than an honest client does in half a second."""
    pressure = Pressure(guesses, load)
    assert (tries_for_claim(Limits(), pressure), tries_for_room(Limits(), pressure)) == (claim, room)
    assert tries_for_claim(Limits(work_tries=0), pressure) == 0


def test_what_our_relays_ask_for_our_clients_do() -> None:
    """At its dearest, too, and with some to spare for an operator who wants more."""
    limits = Limits()
    for tries in (limits.work_tries, limits.dear_tries, 2 * limits.dear_tries):
        assert make_puzzle(tries, token_bytes).is_bearable


# -- 92: while there is guessing, each guess takes work


async def test_trap_92_guesses_switch_work_on_and_it_goes_off_by_itself(autojump_clock: object) -> None:
    """Eight people may mistype; from then on each claim costs, for everybody, until it is quiet again."""
    async with serve(limits=EASY, trusted_proxies=LOOPBACK) as relay, connect_raw(relay.url) as inviter:
        assert not inviter.welcome.work
        room = await inviter.ask(allocate())
        assert isinstance(room, wire.Joined)
        await guess(relay, 9)
        assert relay.statistics()["work_tries"] == 128
        async with connect_raw(relay.url) as joiner:
            assert isinstance(joiner.welcome.work, Work)
            assert isinstance(await joiner.ask(worked(join(room.room), joiner.welcome.work)), wire.Joined)
        async with connect_raw(relay.url) as another:
            assert isinstance(await another.ask(allocate()), wire.Joined), "to make a code costs none: nobody is hurt"
        await trio.sleep(600)
        assert relay.statistics()["work_tries"] == 0
        async with connect_raw(relay.url) as later:
            assert not later.welcome.work


@pytest.mark.parametrize("waiting", [1, 9, 50, 300])
def test_trap_92_one_guess_of_4500_finds_a_code(waiting: int) -> None:
    """The price of a code that is burnt is that of a guess, 4,500 times."""
    plates = Nameplates(Random(1).randbytes, rest_s=600, max_resting=1_000)
    numbers = [plates.take() for _ in range(waiting)]
    for digits in range(1, 10):
        assert 4_500 * sum(len(number) == digits for number in numbers) <= 9 * 10 ** (digits - 1)


async def test_trap_92_without_work_no_code_is_burnt() -> None:
    """Missing, wrong, for another nameplate, of another connection, a second time: each is told, with a new puzzle."""
    async with serve(limits=EASY, trusted_proxies=LOOPBACK) as relay, connect_raw(relay.url) as inviter:
        room = await inviter.ask(allocate())
        assert isinstance(room, wire.Joined)
        await guess(relay, 9)
        guesses = relay.statistics()["engine_guesses"]
        async with connect_raw(relay.url) as joiner, connect_raw(relay.url) as other:
            puzzle = await asked(joiner, join(room.room))
            puzzle = await asked(joiner, join(room.room, b"wrong..." * 8))
            assert relay.counters["work_wrong"] == 1
            elsewhere = worked(join("999999999"), puzzle)
            puzzle = await asked(joiner, wire.Join(session=elsewhere.session, nameplate=room.room, work=elsewhere.work))
            theirs = worked(join(room.room), puzzle)
            await asked(other, theirs)
            used = worked(join("999999999"), puzzle)
            answer = await joiner.ask(used)
            assert isinstance(answer, wire.Error)
            assert answer.code == RelayErrorCode.UNKNOWN_NAMEPLATE
            puzzle = await asked(joiner, used)
            assert relay.statistics()["engine_guesses"] <= guesses + 1
            assert isinstance(await joiner.ask(worked(join(room.room), puzzle)), wire.Joined), "and the code lives"


async def test_trap_92_cheap_puzzles_are_not_kept_for_dear_times() -> None:
    """Whoever collects puzzles while they cost little would guess for little when it costs."""
    async with serve(limits=EASY, trusted_proxies=LOOPBACK) as relay:
        await guess(relay, 9)
        async with connect_raw(relay.url) as collector:
            cheap = collector.welcome.work
            assert isinstance(cheap, Work)
            assert cheap.tries == 128
            for _ in range(4):
                async with connect_raw(relay.url) as guesser:
                    while relay.statistics()["engine_guesses"] < 34:
                        puzzle = await asked(guesser, join("999999999"))
                        await guesser.ask(worked(join("999999999"), puzzle))
            puzzle = await asked(collector, worked(join("999999998"), cheap))
            assert puzzle.tries == 512


async def test_trap_92_a_source_pays_more_for_each_guess(autojump_clock: object) -> None:
    """500 sources once are what a guesser has at the price of honest people; the same ones again are dearer."""
    async with serve(limits=Limits(work_tries=32, dear_tries=128), trusted_proxies=LOOPBACK) as relay:
        await guess(relay, 9)
        prices = []
        for _ in range(4):
            async with connect_raw(relay.url, source="198.51.100.9") as guesser:
                puzzle = guesser.welcome.work
                assert isinstance(puzzle, Work)
                prices.append(puzzle.tries)
                await guesser.ask(worked(join("999999999"), puzzle))
        assert prices == [8, 16, 32, 32], "twice as much each time, up to four times"
        await trio.sleep(120)
        async with connect_raw(relay.url, source="198.51.100.9") as guesser:
            assert isinstance(guesser.welcome.work, Work)
            assert guesser.welcome.work.tries == 8


async def test_trap_92_a_wrong_solution_costs_frames() -> None:
    """To look at one takes a tenth of a millisecond: at 100 frames a second a source would have the relay busy."""
    limits = Limits(work_tries=512, claims=FREE, joins=FREE, messages=Rate(150, 0))
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay:
        await guess(relay, 9)
        async with connect_raw(relay.url, source="198.51.100.9") as client:
            for _ in range(14):
                await asked(client, join("999999999", b"wrong..." * 8))
            client.say(join("999999999", b"wrong..." * 8))
            assert await client.end() == wire.CloseCode.TOO_FAST


async def test_trap_92_a_relay_that_is_nearly_full_takes_work_for_codes() -> None:
    """79 sources with 128 codes each would have all rooms."""
    engine = icesignal.MemoryEngine(limits=icesignal.RoomLimits(max_rooms=8))
    limits = Limits(work_tries=32)
    async with serve(engine=engine, limits=limits) as relay, trio.open_nursery() as nursery:
        for _ in range(6):
            await nursery.start(hold_code, relay)
        async with connect_raw(relay.url) as one, icesignal.open_client(relay.url) as client:
            frame = allocate()
            puzzle = await asked(one, frame)
            solution = solve(puzzle, subject_of(frame))
            assert isinstance(await one.ask(wire.Allocate(session=frame.session, work=solution)), wire.Joined)
            assert await client.allocate(), "our client does so by itself"
        nursery.cancel_scope.cancel()


async def hold_code(relay: Server, task_status: trio.TaskStatus[None]) -> None:
    async with connect_raw(relay.url) as client:
        assert isinstance(await client.ask(allocate()), wire.Joined)
        task_status.started()
        await trio.sleep_forever()


async def test_a_code_session_works_for_its_place() -> None:
    """Both sides are ours, and nobody notices but for the time."""
    async with serve(limits=EASY, trusted_proxies=LOOPBACK) as relay:
        await guess(relay, 9)
        async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:
            nursery.start_soon(invitation.wait_peer)
            async with icesignal.open_join(relay.url, invitation.code) as channel:
                await channel.send({"n": 1})
        assert relay.counters["work_done"] == 1


async def test_only_the_relay_that_serves_is_worked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several relays the first that answers serves; what the others would ask costs nothing."""
    solved: list[Work] = []

    def noting(puzzle: Work, *rest: Any) -> bytes:
        solved.append(puzzle)
        return solve(puzzle, *rest)

    monkeypatch.setattr(member_client, "solve", noting)
    async with (
        serve(limits=EASY, trusted_proxies=LOOPBACK) as first,
        serve(limits=EASY, trusted_proxies=LOOPBACK) as second,
        icesignal.open_client([first.url]) as inviter,
    ):
        nameplate = await inviter.allocate()
        for relay in (first, second):
            await guess(relay, 9)
        async with icesignal.open_client([first.url, second.url]) as joiner:
            await joiner.join(nameplate)
        assert len(solved) == 1
        assert second.counters["work_done"] == 0


# -- 93: a relay may lie about what it wants


@asynccontextmanager
async def lying(says: list[wire.Frame]) -> AsyncIterator[str]:
    """Run a relay that says one thing as a connection begins, and one upon each frame."""

    async def handle(stream: trio.SocketStream) -> None:
        request = await http.read_request(stream)
        assert request is not None
        websockets = Websockets()
        async with websockets.run(), websockets.accept(stream, http.upgrade(request), b"") as connection:
            with suppress(ConnectionEnded):
                for frame in says:
                    connection.send_nowait(wire.encode(frame))
                    await connection.receive()
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def error(work: Work, code: str = "work") -> wire.Error:
    return wire.Error(code=code, message="", work=work)


@pytest.mark.parametrize(
    "work",
    [
        Work(challenge=b"c", bits=32, parts=1, rounds=1),
        Work(challenge=b"c", bits=0, parts=32, rounds=MAX_ROUNDS),
        Work(challenge=b"c", bits=9, parts=32, rounds=1_025),
        Work(challenge=b"c", bits=1, algorithm="scrypt"),
    ],
    ids=["bits", "rounds", "all", "algorithm"],
)
@pytest.mark.parametrize("entry", [wire.Join(session=b"s" * 16, nameplate="7"), wire.Allocate(session=b"s" * 16)])
def test_trap_93_work_without_measure_is_refused(work: Work, entry: wire.Join | wire.Allocate) -> None:
    """A relay that lies must not have its clients burn hours."""
    session = ClientSession(entry)
    session.begin(wire.Welcome(versions=[1]))
    session.handle_frame(error(work))
    assert session.puzzle is None
    assert isinstance(session.refused, icesignal.RelayRefused)
    if isinstance(entry, wire.Join):
        session = ClientSession(entry)
        assert session.begin(wire.Welcome(versions=[1], work=work)) is None
        assert session.puzzle is None
        assert isinstance(session.refused, icesignal.RelayRefused)


async def test_trap_93_work_without_end_is_refused() -> None:
    """Puzzle after puzzle, each one small: four are enough for every relay that means well."""
    easy = [error(Work(challenge=bytes([number]), bits=0, rounds=1)) for number in range(1, 20)]
    async with lying([wire.Welcome(versions=[1]), *easy]) as url, icesignal.open_client(url) as client:
        with pytest.raises(icesignal.RelayRefused, match="more work"):
            await client.join("7")


@pytest.mark.parametrize("kind", ["meet", "enter"])
def test_trap_93_who_enters_by_name_or_ticket_does_no_work(kind: str) -> None:
    """There is nothing to be guessed, so nothing to be paid for."""
    if kind == "meet":
        session: Any = ClientSession(wire.Meet(session=b"s" * 16, name=b"n" * 32, role="joiner"))
    else:
        key, owner = icesignal.MemberKey.generate(), icesignal.RoomKey.generate()
        session = RoomSession(owner.ticket(key.public), key, randbytes=token_bytes, wall_clock=time.time)
    work = Work(challenge=b"c", bits=1, algorithm=ALGORITHM)
    assert session.begin(wire.Welcome(versions=[1], challenge=bytes(32), work=work)) is not None
    session.handle_frame(error(work))
    assert session.puzzle is None
    assert session.refused is not None


async def test_trap_93_a_client_that_gives_up_leaves_no_thread_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled, it hangs up at once, and the thread ends with its next hash, without a solution."""
    ended, stopped = trio.Event(), []
    token = trio.lowlevel.current_trio_token()

    def watched(puzzle: Work, subject: bytes, is_stopped: Any) -> bytes:
        try:
            return solve(puzzle, subject, is_stopped)
        except WorkStopped as error:
            stopped.append(error)
            raise
        finally:
            token.run_sync_soon(ended.set)

    monkeypatch.setattr(member_client, "solve", watched)
    hard = Work(challenge=b"c", bits=19, parts=32, rounds=1)  # half a minute of a fast machine
    async with lying([wire.Welcome(versions=[1], work=hard)]) as url:
        with trio.move_on_after(0.2) as scope:
            async with icesignal.open_client(url) as client:
                await client.join("7")
        assert scope.cancelled_caught
        with trio.fail_after(60):
            await ended.wait()
        assert stopped, "it went on to the end"


# -- 94: who shares an address with a guesser is not locked out


async def test_trap_94_a_guesser_does_not_lock_out_his_neighbours(autojump_clock: object) -> None:
    """As long as he likes, he takes the budget of his address as soon as there is any: others get in by work."""
    limits = Limits(work_tries=32, dear_tries=64)
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay:
        for _ in range(3):
            async with connect_raw(relay.url) as inviter, connect_raw(relay.url, source="203.0.113.1") as guesser:
                room = await inviter.ask(allocate())
                assert isinstance(room, wire.Joined)
                answer: wire.Frame = room
                while not (isinstance(answer, wire.Error) and answer.code == RelayErrorCode.RATE):
                    frame = join(str(900_000_000 + relay.statistics()["engine_guesses"]))
                    answer = await guesser.ask(frame)
                    if isinstance(answer, wire.Error) and answer.code == RelayErrorCode.WORK:
                        assert isinstance(answer.work, Work)
                        answer = await guesser.ask(worked(frame, answer.work))
                async with connect_raw(relay.url, source="203.0.113.1") as neighbour:
                    frame = join(room.room)
                    answer = await neighbour.ask(frame)
                    assert isinstance(answer, wire.Error)
                    assert answer.code == RelayErrorCode.RATE
                    assert isinstance(answer.work, Work)
                    assert answer.work.tries == 64, "dearer than for everybody else"
                    assert isinstance(await neighbour.ask(worked(frame, answer.work)), wire.Joined)
            await trio.sleep(10)


async def test_trap_94_claims_for_work_have_a_limit_of_their_own(autojump_clock: object) -> None:
    """A guesser with many processors is not without bound; whoever waits gets in after 2 s."""
    limits = Limits(claims=Rate(1, 0), joins=FREE, work_tries=0, dear_tries=8)
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay:
        async with connect_raw(relay.url, source="203.0.113.1") as guesser:
            await guesser.ask(join("999999999"))
            for _ in range(10):
                frame = join("999999999")
                answer = await guesser.ask(frame)
                assert isinstance(answer, wire.Error)
                assert isinstance(answer.work, Work)
                answer = await guesser.ask(worked(frame, answer.work))
                assert isinstance(answer, wire.Error)
                assert answer.code == RelayErrorCode.UNKNOWN_NAMEPLATE
            answer = await guesser.ask(join("999999999"))
            assert isinstance(answer, wire.Error)
            assert (answer.code, bool(answer.work)) == (RelayErrorCode.RATE, False)
            await trio.sleep(2)
            answer = await guesser.ask(join("999999999"))
            assert isinstance(answer, wire.Error)
            assert isinstance(answer.work, Work)
        assert relay.counters["claims_beyond_budget"] == 10


async def test_trap_94_a_lock_out_is_over_ten_seconds_after_the_last_guess(autojump_clock: object) -> None:
    """Also for clients that know nothing of work; whatever was refused meanwhile makes it no longer."""
    limits = Limits(work_tries=0, dear_tries=0)
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay:
        async with connect_raw(relay.url, source="203.0.113.1") as guesser:
            codes = []
            for _ in range(100):
                answer = await guesser.ask(join("999999999"))
                assert isinstance(answer, wire.Error)
                codes.append(answer.code)
            assert codes == [RelayErrorCode.UNKNOWN_NAMEPLATE] * 10 + [RelayErrorCode.RATE] * 90
        await trio.sleep(10.001)
        async with connect_raw(relay.url) as inviter, connect_raw(relay.url, source="203.0.113.1") as neighbour:
            room = await inviter.ask(allocate())
            assert isinstance(room, wire.Joined)
            assert isinstance(await neighbour.ask(join(room.room)), wire.Joined)


async def test_an_old_client_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that knows no work gets the error by its name, and shows it."""
    work = Work(challenge=b"c", bits=1, algorithm="of the future")
    async with lying([wire.Welcome(versions=[1]), error(work)]) as url, icesignal.open_client(url) as client:
        with pytest.raises(icesignal.RelayRefused, match="update it"):
            await client.join("7")
