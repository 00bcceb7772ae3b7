"""Members of a room of many and the relay between them, honest or not, without a network: what is said, what is heard.

A `World` writes down who says what to whom, and complains as soon as anybody hears what it must not.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from icesignal import tickets, wire
from icesignal.circle import Circle
from icesignal.room_events import MemberCame, MemberRemoved, MessagesMissed, RoomEvent, RoomMessage
from icesignal.room_keys import MemberKey, RoomKey, make_statement

START = 1_800_000_000.0  # Unix time


def seeded_bytes(rng: random.Random) -> Callable[[int], bytes]:
    return rng.randbytes


def room_key(number: int) -> RoomKey:
    return RoomKey.from_private_bytes(b"room" + number.to_bytes(28, "big"))


def member_key(number: int) -> MemberKey:
    return MemberKey.from_private_bytes(b"key " + number.to_bytes(28, "big"))


def issue(owner: RoomKey, key: MemberKey, member_id: bytes, *, can: tuple[str, ...] = (), expires: float) -> bytes:
    """Return a ticket that is good until a time of the test's."""
    fields = tickets.Ticket(
        room=owner.public, id=member_id, key=key.public, role="member", can=list(can), expires=int(expires)
    )
    return tickets.issue(owner._private, fields)


@dataclass(eq=False)
class Stay:
    """One session of a member, and what it has heard.

    Attributes:
        number: of the session, in the order in which they began.
        heard: payloads of the application, in this order.
        missed: by sender, how many it was told to have missed since it heard something of it last.
    """

    number: int
    who: int
    circle: Circle
    ticket: bytes
    heard: list[RoomMessage] = field(default_factory=list)
    events: list[RoomEvent] = field(default_factory=list)
    last: dict[tuple[int, bool], int] = field(default_factory=dict)
    missed: defaultdict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    knows_removed: set[bytes] = field(default_factory=set)
    is_over: bool = False


@dataclass(frozen=True)
class Sent:
    """What a session handed to the relay."""

    stay: int
    sender: bytes
    payload: bytes
    to: bytes | None


@dataclass(eq=False)
class Said:
    """What an application said: which session, whether to all, and to whom, with its number among what it said so."""

    stay: Stay
    to_all: bool
    to: dict[bytes, int]


class World:
    """A room, its members, and everything that goes through the relay."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = random.Random(seed)
        self.now = START
        self.owner = room_key(1)
        self.ids = [bytes([number]) * 16 for number in range(size)]
        self.keys = [member_key(number) for number in range(size)]
        self.tickets = [
            issue(self.owner, self.keys[who], self.ids[who], can=("remove",) if who == 0 else (), expires=START + 9_999)
            for who in range(size)
        ]
        self.stays: list[Stay] = []
        self.current: dict[int, Stay] = {}
        self.removed: set[int] = set()
        self.sent: list[Sent] = []
        self.said: dict[bytes, Said] = {}
        self._said_to_all: Counter[int] = Counter()
        self._said_to_one: Counter[tuple[int, bytes]] = Counter()

    # -- what members do

    def enter(self, who: int, removals: tuple[bytes, ...] = ()) -> Stay:
        ticket = tickets.read_untrusted(self.tickets[who])
        circle = Circle(
            ticket,
            self.keys[who],
            randbytes=self.rng.randbytes,
            wall_clock=lambda: self.now,
            removals=removals,
        )
        stay = Stay(len(self.stays), who, circle, self.tickets[who])
        self.stays.append(stay)
        if who in self.current:
            self.current[who].is_over = True
        self.current[who] = stay
        return stay

    def say(self, stay: Stay, to: list[bytes] | None = None) -> None:
        body = b"said by %d: %d" % (stay.number, len(self.said))
        here = frozenset(member.id for member in stay.circle.members)
        if to is None:
            stay.circle.send_to_all(body)
            reached = here | _readers(stay.circle) if here else here
        else:
            reached = stay.circle.send_to(to, body)
            assert reached <= here
        assert not reached & stay.knows_removed, "it speaks to somebody of whose removal it knows"
        assert stay.circle.id not in reached
        self.said[body] = Said(stay, to is None, {one: self._count(stay, to is None, one) for one in reached})
        if to is None and reached:
            self._said_to_all[stay.number] += 1
        self.collect(stay)

    def _count(self, stay: Stay, to_all: bool, member: bytes) -> int:
        """Return the how-manieth this is that a session says to all, or to this member alone."""
        if to_all:
            return self._said_to_all[stay.number]
        self._said_to_one[stay.number, member] += 1
        return self._said_to_one[stay.number, member]

    def remove(self, by: Stay, who: int) -> bytes:
        self.removed.add(who)
        statement = make_statement(self.keys[by.who], self.owner.public, self.ids[who], by.ticket)
        by.circle.spread_removal(self.ids[who], statement)
        self.collect(by)
        return statement

    def collect(self, stay: Stay) -> None:
        """Take what a session sends and what it tells its application; complain about what must not be."""
        while stay.circle.outbox:
            one = stay.circle.outbox.popleft()
            for body in self.said:
                assert body not in one.payload, "the relay can read it"
            self.sent.append(Sent(stay.number, stay.circle.id, one.payload, one.to))
        while stay.circle.events:
            self._check(stay, stay.circle.events.popleft())

    # -- what members hear

    def show(self, stay: Stay, other: Stay, state: wire.MemberPresence = "present") -> None:
        """Tell a session of another one, as it is."""
        self.show_as(stay, other.circle.id, other.ticket, other.circle.opening, state)

    def show_as(
        self, stay: Stay, member: bytes, ticket: bytes, opening: bytes, state: wire.MemberPresence = "present"
    ) -> None:
        """Tell a session of a member, in whatever words."""
        stay.circle.handle_member(wire.Member(member=member, state=state, ticket=ticket, opening=opening))
        self.collect(stay)

    def give(self, stay: Stay, sent: Sent) -> None:
        """Give a session a message."""
        self.give_as(stay, sent.sender, sent.payload)

    def give_as(self, stay: Stay, sender: bytes, payload: bytes) -> None:
        """Give a session a message, whoever is said to have sent it."""
        stay.circle.handle_message(sender, payload)
        self.collect(stay)

    def _check(self, stay: Stay, event: RoomEvent) -> None:
        stay.events.append(event)
        match event:
            case RoomMessage():
                self._check_message(stay, event)
            case MessagesMissed(sender=sender, count=count) if sender is not None and count is not None:
                stay.missed[sender] += count
            case MemberCame(member=member):
                assert member.id in self.ids, "a stranger is a member"
                assert member.public_key == self.keys[self.ids.index(member.id)].public
                assert member.id not in stay.knows_removed, "a removed member came back"
            case MemberRemoved(member=removed):
                assert self.ids.index(removed) in self.removed, "nobody has removed it"
                stay.knows_removed.add(removed)
            case _:
                pass

    def _check_message(self, stay: Stay, event: RoomMessage) -> None:
        said = self.said.get(event.payload)
        assert said is not None, "nobody said that"
        assert event.sender == said.stay.circle.id, "another one said it"
        assert event.to_all == said.to_all
        assert stay.circle.id in said.to, "it was not for us"
        assert event.sender not in stay.knows_removed, "it was removed before"
        assert event.payload not in {one.payload for one in stay.heard}, "it was said once"
        number, before = said.to[stay.circle.id], stay.last.get((said.stay.number, said.to_all))
        if before is not None:
            assert number > before, "it was said in another order"
            # What a pair says to each other is more than an application's messages.
            gap = number - before - 1
            assert stay.missed[event.sender] >= gap, "something is missing, and nobody was told"
            stay.missed[event.sender] -= gap
        stay.last[said.stay.number, said.to_all] = number
        stay.heard.append(event)


def _readers(circle: Circle) -> frozenset[bytes]:
    """Return who has the chain of what was said last: also who is said to be gone, and has asked for it."""
    return frozenset(one for one, peer in circle._peers.items() if peer.given == circle._chain.generation > 0)


class Hub:
    """An honest relay: everything in its order, to whom it is for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._given = 0

    def enter(self, who: int, removals: tuple[bytes, ...] = ()) -> Stay:
        """Let somebody in; the others hear of it, and it of them."""
        world = self.world
        self.settle()
        former = world.current.get(who)
        stay = world.enter(who, removals)
        for other in list(world.current.values()):
            if other is stay:
                continue
            if former is not None:
                world.show(other, former, "gone")
            world.show(stay, other)
            world.show(other, stay)
        self.settle()
        return stay

    def leave(self, who: int) -> None:
        """Let somebody go."""
        self.settle()
        gone = self.world.current.pop(who)
        gone.is_over = True
        for other in list(self.world.current.values()):
            self.world.show(other, gone, "gone")
        self.settle()

    def settle(self) -> None:
        """Give everything that is under way, until nobody has anything more to say."""
        while self._given < len(self.world.sent):
            sent = self.world.sent[self._given]
            self._given += 1
            for stay in list(self.world.current.values()):
                if stay.circle.id != sent.sender and sent.to in (None, stay.circle.id):
                    self.world.give(stay, sent)
