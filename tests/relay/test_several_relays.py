"""Several relays given at once: which one serves, what a code says of it, and where a session stays."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import icesignal
import pytest
import trio
import trio.testing
from icesignal import wire
from icesignal.code import MAX_CODE_CHARACTERS
from icesignal.member_session import RESUME_S
from icesignal.race import RELAY_DELAY_S, Choice, Way, dial_first
from icesignal.rooms import RoomLimits
from icesignal.url import MAX_RELAYS, parse_relay_url
from memory_relay import MemoryRelay, open_memory_relay, play_relay

URLS = [f"ws://relay{number}.example" for number in range(MAX_RELAYS)]


@dataclass
class Doing:
    """What a relay does once it is dialled: answer or refuse after `delay_s`; `delay_s` None: nothing, ever."""

    delay_s: float | None
    refuses: bool = False


class Dialled:
    """Relays that do what they are given to do; remembers when each was dialled, and who holds a connection."""

    def __init__(self, doings: list[Doing], nursery: trio.Nursery) -> None:
        self.at: dict[int, float] = {}
        self.open = 0
        self._nursery = nursery
        self._doings = doings

    def ways(self) -> list[Way]:
        return [Way(parse_relay_url(URLS[number]), self._opener(number)) for number in range(len(self._doings))]

    def _opener(self, number: int) -> icesignal.OpenStream:
        async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
            doing, self.at[number] = self._doings[number], trio.current_time()
            await (trio.sleep_forever() if doing.delay_s is None else trio.sleep(doing.delay_s))
            if doing.refuses:
                raise OSError(f"relay {number} refuses")
            ours, theirs = trio.testing.memory_stream_pair()
            self._nursery.start_soon(self._play, theirs)
            return ours

        return open_stream

    async def _play(self, stream: trio.abc.Stream) -> None:
        self.open += 1
        try:
            await play_relay([], stream)
        finally:
            self.open -= 1


def expected(doings: list[Doing], timeout_s: float) -> tuple[int | None, dict[int, float]]:
    """Return which relay serves and when each is dialled: another writing of the rule."""
    starts, ends = {0: 0.0}, []
    for number, doing in enumerate(doings):
        ends.append(starts[number] + (timeout_s if doing.delay_s is None else doing.delay_s))
        fails = doing.refuses or doing.delay_s is None
        next_at = starts[number] + RELAY_DELAY_S
        starts[number + 1] = min(next_at, ends[number]) if fails else next_at
    answers = [
        (end, number) for number, end in enumerate(ends) if not doings[number].refuses and doings[number].delay_s
    ]
    end, winner = min(answers, default=(float("inf"), None))
    return winner, {number: at for number, at in starts.items() if number < len(doings) and at < end}


@pytest.mark.parametrize("seed", range(60))
def test_the_first_that_answers_serves_and_no_other_is_held(seed: int) -> None:
    """Whatever each of them does, in virtual time: who is dialled when, who serves, and that nothing is left."""
    draw = random.Random(seed)
    doings = [
        Doing(None if draw.random() < 0.25 else draw.randrange(1, 20) / 10 + (number + 1) / 128, draw.random() < 0.35)
        for number in range(draw.randrange(1, 6))
    ]
    winner, starts = expected(doings, 10.0)

    async def main() -> None:
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            dialled = Dialled(doings, nursery)
            said = ""
            try:
                async with dial_first(dialled.ways(), ssl_context=None, timeout_s=10.0) as reached:
                    assert winner is not None
                    assert reached.way.url == parse_relay_url(URLS[winner])
                    await trio.testing.wait_all_tasks_blocked()
                    assert dialled.open == 1
            except icesignal.RelayUnreachable as error:
                said = str(error)
            assert bool(said) == (winner is None)
            assert winner is not None or all(URLS[number] in said for number in range(len(doings)))
            assert "\n" not in said
            assert {number: at - began_at for number, at in dialled.at.items()} == pytest.approx(starts)
            await trio.sleep(5)
            assert dialled.open == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_cancelled_race_leaves_nothing(autojump_clock: object) -> None:
    """Ctrl-C between two attempts, and while a connection is used."""
    for seconds in (0.1, 0.7, 3.0):
        async with trio.open_nursery() as nursery:
            dialled = Dialled([Doing(None), Doing(1.0), Doing(1.1)], nursery)
            with trio.move_on_after(seconds):
                async with dial_first(dialled.ways(), ssl_context=None, timeout_s=10.0):
                    await trio.sleep_forever()
            await trio.sleep(5)
            assert dialled.open == 0


async def test_relays_that_are_all_full_are_told_as_full(autojump_clock: object) -> None:
    """To look for the fault in the network would be in vain."""

    async def be_full(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:

        async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(be_full, theirs)
            await trio.lowlevel.checkpoint()
            return ours

        with pytest.raises(icesignal.RelayRefused, match=r"none of 2 relays.*relay0.*503.*relay1.*503"):
            async with icesignal.open_client(URLS[:2], open_stream=open_stream):
                pass


@pytest.mark.parametrize(
    ("relays", "why"),
    [
        ([URLS[0], "gopher://x"], "relay 2 of 2: this is not the URL of a relay: it begins with neither"),
        ([], "no relay is named"),
        ([f"{URLS[0]}:{number}" for number in range(1, MAX_RELAYS + 2)], "are too many"),
    ],
)
async def test_one_malformed_url_is_refused_before_any_relay_is_dialled(relays: list[str], why: str) -> None:
    """The others would serve, and the mistake be found on the day when they do not."""
    dialled = []

    async def open_stream(host: str, _port: int) -> trio.abc.Stream:
        dialled.append(host)
        await trio.lowlevel.checkpoint()
        raise OSError

    with pytest.raises(ValueError, match=why):
        async with icesignal.open_client(relays, open_stream=open_stream):
            pass
    assert dialled == []


@asynccontextmanager
async def two_relays() -> AsyncIterator[tuple[MemoryRelay, MemoryRelay]]:
    async with open_memory_relay() as first, open_memory_relay() as second:
        yield first, second


def client_of(relays: tuple[MemoryRelay, MemoryRelay]) -> AbstractAsyncContextManager[icesignal.Client]:
    return icesignal.open_client(URLS[:2], open_stream=[relay.way() for relay in relays])


async def test_a_session_stays_at_its_relay_and_is_lost_with_it(autojump_clock: object) -> None:
    """Another relay does not know it; the one that has it may come back, as one node of several."""
    async with two_relays() as relays, AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of(relays))
        assert client.url == URLS[0]
        await client.allocate()
        await relays[0].cut()
        await trio.sleep(RESUME_S / 2)
        assert not client.is_connected
        relays[0].is_up = True
        await trio.sleep(6)
        assert (client.is_connected, client.url, client.over) == (True, URLS[0], None)
        await relays[0].cut()
        await trio.sleep(RESUME_S + 20)
        assert isinstance(client.over, icesignal.RelayUnreachable)
        assert relays[1].connections == []


async def test_a_client_without_a_place_goes_to_whoever_answers(autojump_clock: object) -> None:
    """It has nothing to lose at the relay that went away."""
    async with two_relays() as relays, AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of(relays))
        assert client.url == URLS[0]
        await relays[0].cut()
        await trio.sleep(1)
        assert await client.allocate()
        assert client.url == URLS[1]


@pytest.mark.parametrize("is_first_up", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,), (1,)])
async def test_a_code_is_found_by_whoever_has_the_same_relays_in_any_order(
    autojump_clock: object, order: tuple[int, ...], is_first_up: bool
) -> None:
    """Or a part of them, or none: the code names the relay as soon as there was a choice."""
    async with two_relays() as relays, AsyncExitStack() as stack:
        relays[0].is_up = is_first_up
        inviter = await stack.enter_async_context(client_of(relays))
        invitation = await stack.enter_async_context(icesignal.open_invitation(inviter))
        serving = 0 if is_first_up else 1
        assert invitation.code.endswith(f"@relay{serving}.example:80")
        code = icesignal.parse_code(invitation.code)
        found = code.relay_among([URLS[number] for number in order])
        assert found is not None
        assert parse_relay_url(found).is_same_place(parse_relay_url(URLS[serving]))
        joiner = await stack.enter_async_context(icesignal.open_client(found, open_stream=relays[serving].way()))
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(invitation.wait_peer)
        async with icesignal.open_join(joiner, code) as channel:
            assert channel.role == "joiner"


def test_a_code_takes_of_the_list_what_no_code_carries() -> None:
    """User, password and query stay where they are; the relay behind a gateway is found all the same."""
    secret = "wss://me:secret@relay.example/v1?token=secret"
    url = parse_relay_url(secret)
    assert url.in_code == "wss://relay.example/v1"
    code = icesignal.parse_code(f"7-Guitar Ozone@{url.in_code}")
    assert code.relay_url == "wss://relay.example/v1"
    assert code.relay_among(["ws://relay.example/v1", secret]) == secret
    assert code.relay_among([]) == "wss://relay.example/v1"
    assert str(code) == "7-guitar-ozone@wss://relay.example/v1"
    assert icesignal.parse_code(str(code)) == code


def test_a_code_that_names_no_relay_is_looked_for_at_one_alone() -> None:
    """At the wrong one of two the nameplate may be somebody else's, whose code would be used up."""
    code = icesignal.parse_code("7-guitar-ozone")
    assert code.relay_among(URLS[:1]) == URLS[0]
    assert code.relay_among(URLS[:2]) is None
    assert code.relay_among([]) is None


@pytest.mark.parametrize(
    "place",
    [
        "relay.example:8080",
        "192.0.2.1:80",
        "[2001:db8::1]:8080",
        "wss://relay.example",
        "wss://[2001:db8::1]:8443",
        "wss://relay.example/a%20b/v1",
        "ws://relay.example/v1",
        "wss://relay.example./v1",
    ],
)
def test_every_relay_is_written_into_a_code_and_read_again(place: str) -> None:
    """As it stands, and pasted with a full stop behind it."""
    url = parse_relay_url(place)
    code = icesignal.parse_code(f"7-guitar-ozone@{url.in_code}.")
    assert code.relay_url is not None
    assert parse_relay_url(code.relay_url).is_same_place(url)
    assert icesignal.parse_code(str(code)) == code
    assert len(str(code)) < MAX_CODE_CHARACTERS


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("wss://me:secret@relay.example", "a user, a password or a query"),
        ("wss://relay.example?token=secret", "a user, a password or a query"),
        ("gopher://relay.example", "names no relay"),
        ("wss://", "names no relay"),
        ("wss://relay.example#x", "names no relay"),
    ],
)
def test_a_code_with_more_than_a_relay_behind_it_is_refused(place: str, why: str) -> None:
    """It was not made by us; nothing of it is repeated, as it may be a password."""
    with pytest.raises(icesignal.CodeMalformed, match=why) as caught:
        icesignal.parse_code(f"7-guitar-ozone@{place}")
    assert "secret" not in str(caught.value)


async def test_the_relay_of_a_part_of_the_list_is_said_with_the_code_only(autojump_clock: object) -> None:
    """Whoever has one relay reads a short code out."""
    async with open_memory_relay() as relay, relay.client() as client, icesignal.open_invitation(client) as invitation:
        assert "@" not in invitation.code
        assert wire.is_nameplate(invitation.nameplate)


# -- rooms of many: those who are at different relays do not meet


@pytest.mark.parametrize(
    ("doings", "winner", "at"),
    [
        ([Doing(9.0), Doing(0.1)], 0, 9.0),
        ([Doing(None), Doing(0.1)], 1, 10.1),
        ([Doing(0.3, refuses=True), Doing(0.1)], 1, 0.4),
    ],
)
async def test_in_turn_a_relay_is_slow_and_not_left_for_that(
    autojump_clock: object, doings: list[Doing], winner: int, at: float
) -> None:
    """It is slow for us alone, perhaps; the next one is dialled when it has failed."""
    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        ways = Dialled(doings, nursery).ways()
        async with dial_first(ways, ssl_context=None, timeout_s=10.0, choice=Choice(in_turn=True)) as reached:
            assert reached.way is ways[winner]
            assert trio.current_time() - began_at == pytest.approx(at)


async def test_a_relay_that_does_not_offer_what_is_needed_has_failed(autojump_clock: object) -> None:
    """Another one may; if none does, that is what is said."""
    async with trio.open_nursery() as nursery:
        ways = Dialled([Doing(0.1), Doing(0.1)], nursery).ways()
        with pytest.raises(icesignal.RelayRefused, match=r"relay0\S* has no rooms of many; .*relay1") as caught:
            async with dial_first(ways, ssl_context=None, timeout_s=10.0, choice=Choice(needs=wire.OFFERS_ROOMS)):
                pass
        assert caught.value.code == ""


async def test_members_meet_at_the_relay_that_is_slow_for_one_of_them(autojump_clock: object) -> None:
    """And it is the first in the list that has rooms of many."""
    owner, keys = icesignal.RoomKey.generate(), [icesignal.MemberKey.generate() for _ in range(2)]
    async with two_relays() as relays, trio.open_nursery() as nursery, AsyncExitStack() as stack:
        bare, slow = Dialled([Doing(0.1)], nursery).ways()[0].open_stream, relays[0].way()

        async def late(host: str, port: int) -> trio.abc.Stream:
            await trio.sleep(5)
            return await slow(host, port)

        rooms = [
            await stack.enter_async_context(
                icesignal.open_room(URLS[:3], owner.ticket(key.public), key, open_stream=[bare, way, relays[1].way()])
            )
            for key, way in zip(keys, (relays[0].way(), late), strict=True)
        ]
        assert [room.url for room in rooms] == [URLS[1], URLS[1]]
        with trio.fail_after(60):
            while not all(room.members for room in rooms):
                await rooms[1].wait_change()


async def test_a_member_enters_anew_where_it_was(autojump_clock: object) -> None:
    """The others do so there, too, when a relay was started anew; nobody goes elsewhere because it is busy then."""
    owner, key = icesignal.RoomKey.generate(), icesignal.MemberKey.generate()
    async with two_relays() as relays:
        ways = [relay.way() for relay in relays]
        async with icesignal.open_room(URLS[:2], owner.ticket(key.public), key, open_stream=ways) as room:
            session = room._require_session()
            session.handle_end(wire.CloseCode.GOING_AWAY)
            session.begin(wire.Welcome(versions=[1], challenge=b"c" * 32))
            session.handle_frame(wire.Error(code=wire.RelayErrorCode.UNKNOWN_SESSION, message=""))
            assert not session.has_place
            await relays[0].cut()
            await trio.sleep(30)
            assert relays[1].connections == []
            relays[0].is_up = True
            with trio.fail_after(60):
                while not session.has_place:
                    await room.wait_change()
            assert room.url == URLS[0]


async def test_who_is_refused_when_it_enters_anew_is_told_at_last(autojump_clock: object) -> None:
    """The relay was started anew and is full: that is asked again, for as long as a session could be resumed."""
    owner, key = icesignal.RoomKey.generate(), icesignal.MemberKey.generate()
    async with open_memory_relay() as relay, open_memory_relay(limits=RoomLimits(max_rooms=0)) as full:
        way, anew = relay.way(), full.way()

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            return await (way if relay.is_up else anew)(host, port)

        async with icesignal.open_room(URLS[0], owner.ticket(key.public), key, open_stream=open_stream) as room:
            await relay.cut()
            await trio.sleep(RESUME_S / 2)
            assert room.over is None
            assert room.state is icesignal.RelayState.LOST
            await trio.sleep(RESUME_S)
            assert isinstance(room.over, icesignal.RelayRefused)
            assert room.over.code == "busy"


async def test_a_client_with_several_relays_uses_a_code_where_it_was_made(autojump_clock: object) -> None:
    """Where it was not made its nameplate may be somebody else's, whose code would be used up."""
    async with two_relays() as relays, AsyncExitStack() as stack:
        elsewhere = await stack.enter_async_context(icesignal.open_client(URLS[1], open_stream=relays[1].way()))
        made = await stack.enter_async_context(icesignal.open_invitation(elsewhere))
        client = await stack.enter_async_context(client_of(relays))
        number, _, words = made.code.partition("@")[0].partition("-")
        with pytest.raises(icesignal.CodeMalformed, match="does not say at which relay"):
            async with icesignal.open_join(client, f"{number}-{words}"):
                pass
        with pytest.raises(icesignal.CodeUnknown, match=r"made at ws://relay1\S*, and not at ws://relay0"):
            async with icesignal.open_join(client, f"{number}-{words}@relay1.example:80"):
                pass
        invitation = await stack.enter_async_context(icesignal.open_invitation(client))
        other = await stack.enter_async_context(client_of(relays))
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(invitation.wait_peer)
        async with icesignal.open_join(other, invitation.code) as channel:
            assert channel.role == "joiner"
