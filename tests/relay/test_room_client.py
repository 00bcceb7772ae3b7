"""Rooms of many over the real relay and real websockets: section 13 and 14 of docs/relay-protocol.md, end to end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import icesignal
import pytest
import trio
import trio.testing
from icesignal import MemberKey, Room, RoomKey, RoomMessage, tickets
from icesignal.engines import MemoryEngine
from icesignal.room_invitations import ask_admission
from icesignal.rooms import RoomLimits
from icesignal.server import Server, serve
from memory_relay import open_memory_relay
from relay_client import Restartable, cut, sealed_pair

E = TypeVar("E")


class Person:
    """Somebody with a key and a ticket, and what it has heard."""

    def __init__(self, owner: RoomKey, *, can: tuple[str, ...] = (), life_s: float = 3600.0) -> None:
        self.key = MemberKey.generate()
        self.ticket = owner.ticket(self.key.public, can=can, life_s=life_s)
        self.heard: list[Any] = []
        self.room: Room
        self._news = trio.Event()

    @asynccontextmanager
    async def inside(self, url: str, **options: Any) -> AsyncIterator[Room]:
        """Enter, and note what is heard until the block ends."""
        async with (
            icesignal.open_room(url, self.ticket, self.key, **options) as room,
            trio.open_nursery() as nursery,
        ):
            self.room = room
            nursery.start_soon(self._listen, room)
            yield room
            nursery.cancel_scope.cancel()

    async def _listen(self, room: Room) -> None:
        async for event in room:
            self.heard.append(event)
            self._news.set()
            self._news = trio.Event()

    async def wait(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so, which can change with what is heard only."""
        with trio.fail_after(60):
            while not is_so():
                await self._news.wait()

    async def wait_event(self, kind: type[E]) -> E:
        """Wait until something of this kind was heard; return the first."""
        await self.wait(lambda: any(isinstance(event, kind) for event in self.heard))
        return next(event for event in self.heard if isinstance(event, kind))

    @property
    def texts(self) -> list[bytes]:
        return [event.payload for event in self.heard if isinstance(event, RoomMessage)]


@asynccontextmanager
async def crowd(url: str, owner: RoomKey, size: int, **options: Any) -> AsyncIterator[list[Person]]:
    """Let so many in, all of whom may do everything; they know each other."""
    people = [Person(owner, can=("remove", "end")) for _ in range(size)]
    async with AsyncExitStack() as stack:
        for person in people:
            await stack.enter_async_context(person.inside(url, **options))
        for person in people:
            await person.wait(lambda person=person: len(person.room.members) == size - 1)  # type: ignore[misc]
        yield people


async def test_sixteen_hear_all_in_one_order_while_connections_are_cut(relay: Server) -> None:
    """Whoever was away hears what it missed; nothing is lost, nothing doubled, and all have the same order."""
    owner = RoomKey.generate()
    async with crowd(relay.url, owner, 16) as people:
        total = 48
        for turn in range(total):
            await people[turn % 16].room.send(b"%d" % turn)
            if turn % 3 == 0:
                cut(people[(5 * turn + 1) % 16].room)
        for number, person in enumerate(people):
            others = total - len(range(number, total, 16))
            await person.wait(lambda person=person, others=others: len(person.texts) >= others)  # type: ignore[misc]
        for number, person in enumerate(people):
            own = {b"%d" % turn for turn in range(number, total, 16)}
            assert sorted(person.texts, key=int) == [b"%d" % turn for turn in range(total) if b"%d" % turn not in own]
            assert not any(isinstance(event, icesignal.MessagesMissed) for event in person.heard)
        # One order for all: what any two of them have heard, they have heard in the same order.
        order = {text: place for place, text in enumerate(people[0].texts)}
        for person in people[1:]:
            places = [order[text] for text in person.texts if text in order]
            assert places == sorted(places)


async def test_who_is_removed_is_out_for_good(relay: Server) -> None:
    """It hears why, the others hear that; it does not come back, and has no key for what is said then."""
    owner = RoomKey.generate()
    async with crowd(relay.url, owner, 4) as people:
        removed = people[3]
        await people[0].room.remove(removed.room.id)
        ended = await removed.wait_event(icesignal.RoomEnded)
        assert isinstance(ended.why, icesignal.RoomOver)
        assert ended.why.reason == "removed"
        for person in people[1:3]:
            event = await person.wait_event(icesignal.MemberRemoved)
            assert (event.member, event.by) == (removed.room.id, people[0].room.id)
        reached = await people[1].room.send(b"among us")
        assert reached == {people[0].room.id, people[2].room.id}
        await people[2].wait(lambda: people[2].texts == [b"among us"])
        with pytest.raises(icesignal.RoomOver, match="removed"):
            async with icesignal.open_room(relay.url, removed.ticket, removed.key):
                pass
        assert len(people[0].room.removals) == 1


async def test_what_is_for_some_is_heard_by_them(relay: Server) -> None:
    """And by nobody else; who was there to hear it is returned."""
    async with crowd(relay.url, RoomKey.generate(), 3) as people:
        one = people[1].room.id
        assert await people[0].room.send(b"for you", to=[one, b"x" * 16]) == {one}
        await people[0].room.send(b"for all")
        for person in people[1:]:
            await person.wait(lambda person=person: b"for all" in person.texts)  # type: ignore[misc]
        assert [person.texts for person in people] == [[], [b"for you", b"for all"], [b"for all"]]


async def test_a_joiner_is_let_in_by_a_code(relay: Server) -> None:
    """Whoever has the room's key gives the ticket; what was removed is known from the start."""
    owner, joiner = RoomKey.generate(), MemberKey.generate()
    async with crowd(relay.url, owner, 2) as people, trio.open_nursery() as nursery:
        gone = b"g" * 16
        await people[0].room.remove(gone)

        async def vouch(key: bytes) -> bytes:
            return owner.ticket(key, role="guest")

        async with icesignal.open_invitation(relay.url) as invitation:

            async def invite() -> None:
                channel = await invitation.wait_peer()
                admitted = await icesignal.admit(channel, vouch, relays=[relay.url], removals=people[0].room.removals)
                assert admitted == joiner.public

            nursery.start_soon(invite)
            admission = await icesignal.accept_invitation(relay.url, invitation.code, joiner)
        assert admission.room == owner.public
        async with icesignal.open_room(
            list(admission.relays), admission.ticket, joiner, removals=list(admission.removals)
        ) as room:
            assert len(room.removals) == 1
            came = [await anext(room), await anext(room)]
            assert {event.member.id for event in came if isinstance(event, icesignal.MemberCame)} == {
                person.room.id for person in people
            }
            await room.send(b"hello")
            for person in people:
                await person.wait(lambda person=person: person.texts == [b"hello"])  # type: ignore[misc]
            (member,) = [one for one in people[0].room.members if one.id == room.id]
            assert member.role == "guest"


async def test_whoever_may_ends_the_room_for_all(relay: Server) -> None:
    """The others hear that it was ended, not that somebody is lost."""
    owner = RoomKey.generate()
    async with crowd(relay.url, owner, 3) as people:
        await people[1].room.end()
        for person in (people[0], people[2]):
            ended = await person.wait_event(icesignal.RoomEnded)
            assert isinstance(ended.why, icesignal.RoomOver)
            assert ended.why.reason == "done"
            with pytest.raises(icesignal.RoomOver, match="ended for all"):
                await person.room.send(b"anybody?")


async def test_only_who_may_removes_or_ends(relay: Server) -> None:
    """It is said at once, before anything is sent; the owner removes with the room's key."""
    owner = RoomKey.generate()
    plain, other = Person(owner), Person(owner)
    async with plain.inside(relay.url) as room, other.inside(relay.url):
        await plain.wait_event(icesignal.MemberCame)
        with pytest.raises(ValueError, match="does not let us end"):
            await room.end()
        with pytest.raises(ValueError, match="does not let us remove"):
            await room.remove(other.room.id)
        with pytest.raises(ValueError, match="name another member"):
            await room.remove(room.id)
        with pytest.raises(ValueError, match="another room's key"):
            await room.remove(other.room.id, by=RoomKey.generate())
        await room.remove(other.room.id, by=owner)
        ended = await other.wait_event(icesignal.RoomEnded)
        assert str(ended.why) == "we were removed from the room"


async def test_a_ticket_has_one_place(relay: Server) -> None:
    """A program that is started anew takes over; the former one is told, the others hear it go and come."""
    owner = RoomKey.generate()
    async with crowd(relay.url, owner, 2) as people:
        first, twice = people
        async with icesignal.open_room(relay.url, twice.ticket, twice.key) as room:
            ended = await twice.wait_event(icesignal.RoomEnded)
            assert isinstance(ended.why, icesignal.RoomOver)
            assert ended.why.reason == "replaced"
            await first.wait_event(icesignal.MemberWent)
            await first.wait(lambda: [one.id for one in first.room.members] == [room.id])
            await first.room.send(b"again")
            async for event in room:
                if isinstance(event, RoomMessage):
                    assert event.payload == b"again"
                    break


async def test_one_person_may_be_in_a_room_twice(relay: Server) -> None:
    """With two tickets for its key: two members, who hear each other."""
    owner = RoomKey.generate()
    at_home, elsewhere = Person(owner), Person(owner)
    elsewhere.key, elsewhere.ticket = at_home.key, owner.ticket(at_home.key.public)
    async with at_home.inside(relay.url), elsewhere.inside(relay.url):
        for one, other in ((at_home, elsewhere), (elsewhere, at_home)):
            await one.wait_event(icesignal.MemberCame)
            await one.room.send(b"here I am")
            await other.wait(lambda other=other: b"here I am" in other.texts)  # type: ignore[misc]
        assert at_home.room.members[0].public_key == elsewhere.room.members[0].public_key


async def test_a_renewed_ticket_is_shown_to_all(relay: Server) -> None:
    """Also after the connection was lost: the relay may have only the former one."""
    owner = RoomKey.generate()
    async with crowd(relay.url, owner, 2) as people:
        one, other = people
        before = one.room.expires
        one.room.renew(owner.ticket(one.key.public, member_id=one.room.id, life_s=7200))
        cut(one.room)
        await one.room.send(b"renewed")
        await other.wait(lambda: b"renewed" in other.texts)
        await other.wait_event(icesignal.MemberBack)
        with trio.fail_after(60):
            while other.room.members[0].expires <= before:
                await other.room.wait_change()
        with pytest.raises(ValueError, match="for the same room and id"):
            one.room.renew(owner.ticket(one.key.public, life_s=9999))


async def test_a_relay_that_was_started_anew_is_entered_anew() -> None:
    """Members of a room of many need no code for it; what was under way is told as missing."""
    owner = RoomKey.generate()
    async with trio.open_nursery() as nursery:
        relay = Restartable(nursery)
        await relay.start()
        async with crowd(relay.url, owner, 3) as people:
            await people[0].room.send(b"before")
            for person in people[1:]:
                await person.wait(lambda person=person: person.texts == [b"before"])  # type: ignore[misc]
            await relay.stop()
            await relay.start()
            for person in people:
                await person.wait_event(icesignal.MessagesMissed)
                await person.wait(lambda person=person: len(person.room.members) == 2)  # type: ignore[misc]
            await people[0].room.send(b"after")
            for person in people[1:]:
                await person.wait(lambda person=person: person.texts == [b"before", b"after"])  # type: ignore[misc]
        await relay.stop()


async def test_what_a_resync_lost_is_told() -> None:
    """The log is short: who was away for longer hears that something is missing, and what is said then."""
    owner = RoomKey.generate()
    gate, one, other = trio.Event(), Person(owner), Person(owner)
    gate.set()

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        await gate.wait()
        return await trio.open_tcp_stream(host, port)

    engine = MemoryEngine(limits=RoomLimits(log_messages=4))
    async with (
        serve(engine=engine) as relay,
        one.inside(relay.url),
        other.inside(relay.url, open_stream=open_stream),
    ):
        for person in (one, other):
            await person.wait_event(icesignal.MemberCame)
        await one.room.send(b"first")
        await other.wait(lambda: other.texts == [b"first"])
        gate = trio.Event()
        cut(other.room)
        await one.wait_event(icesignal.MemberAway)
        for number in range(20):
            await one.room.send(b"%d" % number)
            if number % 5 == 4:
                await one.room.send(b"to you %d" % number, to=[other.room.id])
        gate.set()
        await other.wait(lambda: b"to you 19" in other.texts)
        await one.room.send(b"last")
        await other.wait(lambda: b"last" in other.texts)
        missed = [event.count for event in other.heard if isinstance(event, icesignal.MessagesMissed)]
        to_all = [text for text in other.texts if not text.startswith(b"to you")]
        assert missed[0] is None
        assert sum(count or 0 for count in missed) + len(to_all) == 22
        assert [text for text in other.texts if text.startswith(b"to you")] == [
            b"to you %d" % number for number in range(4, 20, 5)
        ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("another owner's signature", "this is no ticket to a room"),
        ("another key", "for another member's key"),
        ("no ticket", "this is no ticket to a room"),
    ],
)
async def test_a_ticket_that_is_none_is_refused_before_anything_is_sent(relay: Server, change: str, words: str) -> None:
    """In a sentence, as whoever has it from a file may have taken the wrong one."""
    owner, key = RoomKey.generate(), MemberKey.generate()
    ticket = owner.ticket(key.public)
    if change == "another owner's signature":
        ticket = ticket[:-64] + RoomKey.generate().ticket(key.public)[-64:]
    elif change == "another key":
        key = MemberKey.generate()
    else:
        ticket = b"ticket"
    with pytest.raises(ValueError, match=words):
        async with icesignal.open_room(relay.url, ticket, key):
            pass


async def test_an_expired_ticket_is_refused_in_a_sentence(relay: Server) -> None:
    """And says what to look at: the clocks, or a new one."""
    owner, key = RoomKey.generate(), MemberKey.generate()
    with pytest.raises(icesignal.RelayRefused, match=r"expired, or .* clock .* Ask for a new one") as caught:
        async with icesignal.open_room(relay.url, owner.ticket(key.public, life_s=-10), key):
            pass
    assert caught.value.code == "expired-ticket"


async def test_whoever_is_gone_is_found_gone_after_a_resume(relay: Server) -> None:
    """It went while our connection was away: it is not in the list that we get."""
    owner = RoomKey.generate()
    async with crowd(relay.url, owner, 2) as people:
        third = Person(owner)
        async with third.inside(relay.url):
            await people[0].wait(lambda: len(people[0].room.members) == 2)
            cut(people[0].room)
        await people[0].wait_event(icesignal.MemberWent)
        assert [one.id for one in people[0].room.members] == [people[1].room.id]


async def test_cancelling_leaves_the_room_and_nothing_else(relay: Server) -> None:
    """The others hear it at once; the fixtures look for sockets and tasks."""
    owner = RoomKey.generate()
    async with crowd(relay.url, owner, 1) as people:
        person = Person(owner)
        with trio.CancelScope() as scope:
            async with person.inside(relay.url):
                await people[0].wait_event(icesignal.MemberCame)
                scope.cancel()
                await trio.sleep_forever()
        await people[0].wait_event(icesignal.MemberWent)


async def test_a_slow_reader_slows_the_relay_and_loses_nothing(relay: Server) -> None:
    """What it does not take waits at the relay, within the bounds of both."""
    owner = RoomKey.generate()
    talker, slow = Person(owner), Person(owner)
    async with talker.inside(relay.url), icesignal.open_room(relay.url, slow.ticket, slow.key) as room:
        await talker.wait_event(icesignal.MemberCame)
        assert isinstance(await anext(room), icesignal.MemberCame)
        for number in range(200):
            await talker.room.send(b"%d" % number)
        heard: list[int] = []
        with trio.fail_after(60):
            while len(heard) < 200:
                event = await anext(room)
                assert isinstance(event, RoomMessage)
                heard.append(int(event.payload))
        assert heard == list(range(200))


async def test_a_key_that_is_asked_for_by_another_is_not_vouched_for(relay: Server) -> None:
    """And whoever uses a code for something else than a room is told so."""
    vouched: list[bytes] = []

    async def vouch(key: bytes) -> bytes | None:
        vouched.append(key)
        return None

    async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:
        outcome: list[object] = []

        async def invite() -> None:
            channel = await invitation.wait_peer()
            outcome.append(await icesignal.admit(channel, vouch, relays=[relay.url]))

        nursery.start_soon(invite)
        with pytest.raises(icesignal.RelayRefused, match="does not let us into the room"):
            await icesignal.accept_invitation(relay.url, invitation.code, MemberKey.generate())
    assert outcome == [None]
    assert len(vouched) == 1


def test_tickets_last_for_hours_unless_asked_otherwise() -> None:
    """So that who was removed and a relay that lies cannot do much together for long."""
    owner, key = RoomKey.generate(), MemberKey.generate()
    said = tickets.read_untrusted(owner.ticket(key.public))
    assert 0 < said.expires - time.time() <= 12 * 3600


async def test_a_room_is_ended_though_the_connection_is_away(relay: Server) -> None:
    """The word waits for it; who ends a room knows when it has ended."""
    owner, gate = RoomKey.generate(), trio.Event()
    gate.set()

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        await gate.wait()
        return await trio.open_tcp_stream(host, port)

    one, other = Person(owner), Person(owner, can=("end",))
    async with one.inside(relay.url), other.inside(relay.url, open_stream=open_stream):
        await one.wait_event(icesignal.MemberCame)
        gate = trio.Event()
        cut(other.room)
        await one.wait_event(icesignal.MemberAway)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.room.end)
            await trio.testing.wait_all_tasks_blocked()
            assert other.room.over is None
            gate.set()
        for person in (one, other):
            ended = await person.wait_event(icesignal.RoomEnded)
            assert isinstance(ended.why, icesignal.RoomOver)
            assert ended.why.reason == "done"
        with pytest.raises(icesignal.RoomOver):
            await one.room.send(b"after the end")
        await other.room.end()  # it has


@pytest.mark.parametrize(
    "relays",
    [[], ["ws://r.example"] * 9, ["ws://r.example/" + "x" * 256], ["gopher://r.example"]],
    ids=["none", "too many", "too long", "no relay"],
)
async def test_relays_that_nobody_could_use_are_in_no_invitation(relay: Server, relays: list[str]) -> None:
    """Whoever invites is told before anything is said; whoever is invited believes nobody in that."""
    owner, joiner = RoomKey.generate(), MemberKey.generate()

    async def vouch(key: bytes) -> bytes:
        return owner.ticket(key)

    async with sealed_pair(relay.url) as (inviter, invited), trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="relay"):
            await icesignal.admit(inviter, vouch, relays=relays)

        async def admit_all_the_same() -> None:
            ticket = owner.ticket((await inviter.receive())["key"])
            answer = {"type": "room-admission", "v": 1, "room": owner.public, "ticket": ticket, "relays": relays}
            await inviter.send(answer)

        nursery.start_soon(admit_all_the_same)
        with pytest.raises(icesignal.ChannelBroken):
            await ask_admission(invited, joiner)


async def test_who_lets_in_hears_whether_the_ticket_came(relay: Server) -> None:
    """The other side leaves, or takes it for none: that is no success."""
    owner, joiner = RoomKey.generate(), MemberKey.generate()

    async def vouch(key: bytes) -> bytes:
        return owner.ticket(key, life_s=-10)

    async with sealed_pair(relay.url) as (inviter, invited), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(icesignal.ChannelBroken, match="expired"):
                await ask_admission(invited, joiner)
            invited.close()

        nursery.start_soon(ask)
        with pytest.raises(icesignal.PeerLeft):
            await icesignal.admit(inviter, vouch, relays=[relay.url])


async def test_who_does_not_say_thanks_is_not_waited_for_without_end(autojump_clock: object) -> None:
    """It may be there and silent."""
    owner, joiner = RoomKey.generate(), MemberKey.generate()

    async def vouch(key: bytes) -> bytes:
        return owner.ticket(key)

    async with open_memory_relay() as relay, relay.channels() as (inviter, invited):
        proof = joiner.sign(b"icesignal/1 invited\0" + invited.key("room invitation"))
        await invited.send({"type": "room-request", "v": 1, "key": joiner.public, "proof": proof})
        with pytest.raises(icesignal.ChannelBroken, match="does not say that it got the ticket"):
            await icesignal.admit(inviter, vouch, relays=["ws://relay.example"])
