"""Traps 85 to 88: what a relay cannot do to a room of many, with members that work for it and without."""

from __future__ import annotations

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from icesignal import ChannelBroken, MemberKey, RelayRefused, RoomKey, SealedChannel, admit, ask_admission, wire
from icesignal.circle import MAX_OPENINGS, Circle
from icesignal.room_events import MemberCame, MemberRemoved, RoomMessage
from icesignal.room_keys import make_opening, make_statement
from icesignal.room_pairs import CHAIN, HELLO, Pair, lp
from icesignal.room_removals import REMOVAL
from icesignal.server import serve
from malicious_relay import EVIL, forged
from relay_client import sealed_pair
from room_worlds import START, Hub, Stay, World, issue, member_key, room_key


def crowd(size: int) -> tuple[World, Hub, list[Stay]]:
    world = World(7, size)
    hub = Hub(world)
    return world, hub, [hub.enter(who) for who in range(size)]


def enter_as(stay: Stay, member: bytes, ticket: bytes, key: MemberKey, room: bytes) -> None:
    """Show a session of somebody that one makes up: its opening in a room, its hello, something for it alone."""
    circle = stay.circle
    private = X25519PrivateKey.from_private_bytes(b"e" * 32)
    opening = make_opening(key, room, member, private)
    circle.handle_member(wire.Member(member=member, state="present", ticket=ticket, opening=opening))
    pair = Pair(circle.room, private, (member, opening), (circle.id, circle.opening))
    circle.handle_message(member, pair.seal(HELLO))
    circle.handle_message(member, pair.seal(b"\0evil"))


def members(circle: Circle) -> set[bytes]:
    return {member.id for member in circle.members}


def test_trap_85_a_relay_cannot_add_a_member() -> None:
    """It has no room's key to sign a ticket with, under a new id or that of somebody who is here."""
    world, _, stays = crowd(2)
    evil = member_key(EVIL)
    for member in (b"e" * 16, world.ids[1]):
        for room in (world.owner.public, room_key(EVIL).public):
            enter_as(stays[0], member, issue(room_key(EVIL), evil, member, expires=START + 99), evil, room)
    own = tickets_of_our_room_signed_by_another(world, evil)
    enter_as(stays[0], b"e" * 16, own, evil, world.owner.public)
    assert members(stays[0].circle) == {world.ids[1]}
    assert not [event for event in stays[0].circle.events if isinstance(event, RoomMessage | MemberCame)]


def tickets_of_our_room_signed_by_another(world: World, evil: MemberKey) -> bytes:
    """Return a ticket that says that it is for our room, with the signature of another one's owner."""
    fair = issue(world.owner, evil, b"e" * 16, expires=START + 99)
    other = issue(room_key(EVIL), evil, b"e" * 16, expires=START + 99)
    return fair[:-64] + other[-64:]


def test_trap_85_a_ticket_that_was_seen_makes_nobody_a_member() -> None:
    """Tickets are no secret; the opening is signed by whom the ticket is for."""
    world, _, stays = crowd(3)
    stays[0].circle._peers.clear()
    enter_as(stays[0], world.ids[1], world.tickets[1], member_key(EVIL), world.owner.public)
    enter_as(stays[0], world.ids[2], world.tickets[1], world.keys[1], world.owner.public)
    assert members(stays[0].circle) == set()
    assert not [event for event in stays[0].circle.events if isinstance(event, RoomMessage | MemberCame)]


def test_trap_85_a_member_cannot_speak_for_another() -> None:
    """It has the key with which that one's words are read, not the one with which they are signed."""
    world, hub, stays = crowd(3)
    world.say(stays[1])
    hub.settle()
    traitor = stays[2]
    payload = forged(traitor.circle, world.ids[1], traitor.circle._peers[world.ids[1]].chain, world.keys[2])
    assert payload is not None
    stays[0].circle.handle_message(world.ids[1], payload)
    assert stays[0].circle.counters["refused"] == 1
    world.say(stays[1])
    hub.settle()
    assert len(stays[0].heard) == 2, "what was forged has cost something that was not"


def test_trap_85_nobody_is_believed_before_its_hello() -> None:
    """An opening can be shown by anybody; the hello shows that who made it is here, and what it knows of removals."""
    world, hub, stays = crowd(1)
    late = world.enter(0)
    assert late.circle.opening != stays[0].circle.opening
    world = World(7, 2)
    hub = Hub(world)
    first, second = world.enter(0), world.enter(1)
    world.show(first, second)
    assert first.circle.members == []
    assert first.circle.send_to([world.ids[1]], b"secret") == frozenset()
    first.circle.send_to_all(b"secret")
    assert len(world.sent) == 1
    world.show(second, first)
    hub.settle()
    assert members(first.circle) == {world.ids[1]}


def test_trap_86_what_was_heard_is_not_heard_again() -> None:
    """Not of a pair, not to all; not in another order either."""
    world, hub, stays = crowd(2)
    for _ in range(3):
        world.say(stays[0])
        world.say(stays[0], [world.ids[1]])
    hub.settle()
    heard = list(stays[1].heard)
    for sent in (*world.sent, *reversed(world.sent)):
        if sent.sender == world.ids[0]:
            stays[1].circle.handle_message(sent.sender, sent.payload)
    assert len(heard) == 6
    assert not stays[1].circle.events


def test_trap_86_an_opening_that_was_replaced_is_not_begun_with_anew() -> None:
    """Else its keys would be those of before, the counters at the beginning, and all that was said be heard again."""
    world, hub, stays = crowd(2)
    world.say(stays[1], [world.ids[0]])
    hub.settle()
    said = [sent for sent in world.sent if sent.sender == world.ids[1]]
    hub.enter(1)
    world.show(stays[0], stays[1])
    for sent in said:
        stays[0].circle.handle_message(sent.sender, sent.payload)
    assert not [event for event in stays[0].circle.events if isinstance(event, RoomMessage)]
    assert stays[0].circle.counters["old_openings"] == 1


def test_trap_86_openings_are_remembered_to_the_end() -> None:
    """Who makes us forget one could have it replayed: with too many, new ones are refused instead."""
    world, _, stays = crowd(2)
    for _ in range(MAX_OPENINGS + 5):
        world.show(stays[0], world.enter(1))
    before = stays[0].circle.counters["old_openings"]
    world.show(stays[0], stays[1])
    assert stays[0].circle.counters["old_openings"] == before + 1


def test_trap_87_who_was_removed_hears_nothing_more() -> None:
    """Whatever the relay gives it: there are new keys, and it does not get them, also if it asks."""
    world, hub, stays = crowd(3)
    world.say(stays[1])
    hub.settle()
    world.remove(stays[0], 2)
    hub.settle()
    world.say(stays[1])
    world.say(stays[1], list(world.ids))
    hub.settle()
    removed = stays[2].circle
    removed.handle_resync()
    for _ in range(3):
        while removed.outbox:
            stays[1].circle.handle_message(world.ids[2], removed.outbox.popleft().payload)
        for one in list(stays[1].circle.outbox):
            removed.handle_message(world.ids[1], one.payload)
    for sent in world.sent:
        removed.handle_message(sent.sender, sent.payload)
    assert not [event for event in removed.events if isinstance(event, RoomMessage)]
    assert len(stays[2].heard) == 1
    assert len(stays[0].heard) == 3


@pytest.mark.parametrize("how", ["the same session", "a new session", "a newer ticket"])
def test_trap_87_a_relay_cannot_bring_back_who_was_removed(how: str) -> None:
    """To whoever has heard of it, at whatever time it came."""
    world, hub, stays = crowd(4)
    world.remove(stays[0], 3)
    hub.settle()
    late = hub.enter(2)  # heard it from the others, before their hello
    back = stays[3] if how == "the same session" else world.enter(3)
    ticket = world.tickets[3]
    if how == "a newer ticket":
        ticket = issue(world.owner, world.keys[3], world.ids[3], expires=START + 99_999)
    for stay in (stays[0], stays[1], late):
        world.show_as(stay, world.ids[3], ticket, back.circle.opening)
        world.show(back, stay)
        hub.settle()
        assert world.ids[3] not in members(stay.circle)
        assert MemberRemoved(world.ids[3], world.ids[0]) in stay.events


@pytest.mark.parametrize("how", ["to all", "to one", "of another one", "asked for"])
def test_trap_87_a_removal_cannot_be_kept_back_alone(how: str) -> None:
    """What is for all is in nobody's count; so whatever is said next to somebody has the removal in front of it."""
    world, hub, stays = crowd(4)
    world.remove(stays[0], 3)
    kept_back = world.sent[-1]
    world.give(stays[2], kept_back)
    hub._given = len(world.sent)
    if how == "asked for":  # after a resync, where nobody says anything any more
        stays[1].circle.handle_resync()
        world.collect(stays[1])
    else:
        speaker = stays[2] if how == "of another one" else stays[0]
        world.say(speaker, [world.ids[1]] if how == "to one" else None)
    hub.settle()
    assert world.ids[3] not in members(stays[1].circle)
    kinds = [type(event) for event in stays[1].events]
    assert MemberRemoved in kinds
    if how != "asked for":
        assert kinds.index(MemberRemoved) < kinds.index(RoomMessage)
    world.say(stays[1])
    world.give(stays[3], world.sent[-1])
    assert stays[3].heard == []


def test_trap_87_removals_are_said_once_to_each() -> None:
    """Else each message would cost as many of them."""
    world, hub, stays = crowd(4)
    world.remove(stays[0], 3)
    hub.settle()
    for _ in range(2):
        world.say(stays[1], [world.ids[0]])
    hub.settle()
    before = len(world.sent)
    world.say(stays[1], [world.ids[0]])
    assert len(world.sent) == before + 1


def test_trap_87_nobody_is_removed_by_whom_may_not() -> None:
    """By no member without the capability, by no relay, and by nobody with another's ticket."""
    world, _, stays = crowd(3)
    evil, room = member_key(EVIL), world.owner.public
    elsewhere = issue(room_key(EVIL), evil, world.ids[0], can=("remove",), expires=START + 99)
    for signer, ticket in (
        (world.keys[1], world.tickets[1]),
        (world.keys[1], world.tickets[0]),
        (world.keys[1], b""),
        (room_key(EVIL), b""),
        (evil, elsewhere),
    ):
        statement = make_statement(signer, room, world.ids[2], ticket)
        stays[0].circle.handle_message(world.ids[1], REMOVAL + lp(statement))
    assert members(stays[0].circle) == {world.ids[1], world.ids[2]}
    assert stays[0].circle.counters["refused_removals"] == 5


def test_trap_87_one_removal_makes_one_new_chain() -> None:
    """And several at once, too: else whoever may remove could keep all busy."""
    world, hub, stays = crowd(5)
    world.say(stays[0])
    hub.settle()
    for who in (2, 3, 4):
        world.remove(stays[0], who)
    world.say(stays[0])
    world.say(stays[0])
    hub.settle()
    assert stays[0].circle._chain.generation == 2
    assert CHAIN == b"\x04"
    assert len(stays[1].heard) == 3


class Asking(MemberKey):
    """Asks for a ticket for a key that it has not, with a proof that it has seen."""

    def __init__(self, public: bytes, proof: bytes) -> None:
        super().__init__(MemberKey.generate()._private)
        self.public = public
        self.seen = proof

    def sign(self, data: bytes) -> bytes:
        return self.seen


async def answered(channel: SealedChannel, owner: RoomKey, *, ticket: bytes | None = None) -> bool:
    """Answer whoever asks; return whether there was a ticket for it."""
    vouched: list[bytes] = []

    async def vouch(key: bytes) -> bytes:
        vouched.append(key)
        return owner.ticket(key) if ticket is None else ticket

    with trio.fail_after(60):
        try:
            await admit(channel, vouch, relays=["ws://relay.example"])
        except ChannelBroken:
            return False
    return bool(vouched)


async def test_trap_88_a_ticket_is_given_for_a_key_of_ones_own() -> None:
    """Else whoever is invited could have a ticket made out for another, and that one be let in unasked."""
    await refused_to(b"s" * 64, MemberKey.generate())


async def test_trap_88_a_proof_is_bound_to_its_conversation() -> None:
    """One that was seen in another one is of no use: whoever asks is the one that knows the code."""
    victim = MemberKey.generate()
    async with serve() as relay, sealed_pair(relay.url) as (inviter, joiner), trio.open_nursery() as nursery:
        nursery.start_soon(ask_admission, joiner, victim)
        request = await inviter.receive()
        await refused_to(request["proof"], victim)
        nursery.cancel_scope.cancel()


async def refused_to(seen: bytes, victim: MemberKey) -> None:
    """Ask for a ticket for the victim's key with a proof that was seen."""
    owner = RoomKey.generate()
    async with serve() as relay, sealed_pair(relay.url) as (inviter, joiner), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(RelayRefused):
                await ask_admission(joiner, Asking(victim.public, seen))

        nursery.start_soon(ask)
        assert not await answered(inviter, owner)


@pytest.mark.parametrize("wrong", ["another's key", "another room", "expired", "none"])
async def test_trap_88_a_ticket_is_taken_for_our_own_key_alone(wrong: str) -> None:
    """And for the room that is named: an inviter that errs, or lies, is told so before a relay is."""
    owner, mine = RoomKey.generate(), MemberKey.generate()
    ticket = owner.ticket(mine.public, life_s=-1 if wrong == "expired" else 99)
    if wrong == "another's key":
        ticket = owner.ticket(MemberKey.generate().public)
    room = RoomKey.generate().public if wrong == "another room" else owner.public
    answer = {"type": "room-admission", "v": 1, "room": room, "ticket": ticket, "relays": ["ws://r"], "removals": []}
    if wrong == "none":
        answer["ticket"] = b"none"
    async with serve() as relay, sealed_pair(relay.url) as (inviter, joiner):
        await inviter.send(answer)
        with pytest.raises(ChannelBroken, match="the other side's"):
            await ask_admission(joiner, mine)
