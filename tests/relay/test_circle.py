"""Trust in rooms of many, between honest members over an honest relay: docs/relay-protocol.md section 14."""

from __future__ import annotations

import pytest
from icesignal import circle as circles
from icesignal import room_chains, room_pairs, wire
from icesignal.room_events import (
    MemberAway,
    MemberBack,
    MemberCame,
    MemberRemoved,
    MemberWent,
    MessagesMissed,
    RoomMessage,
)
from icesignal.room_invitations import Admission
from icesignal.room_keys import RoomKey, make_statement, read_statement_untrusted
from icesignal.room_removals import MAX_STATEMENTS, Removals
from icesignal.secretbox import MAX_COUNTER
from room_worlds import START, Hub, Stay, World, issue, member_key, room_key


def crowd(size: int, seed: int = 1) -> tuple[World, Hub, list[Stay]]:
    """Return a room with so many members that all have heard each other's hello."""
    world = World(seed, size)
    hub = Hub(world)
    stays = [hub.enter(who) for who in range(size)]
    for stay in stays:
        assert {member.id for member in stay.circle.members} == set(world.ids) - {stay.circle.id}
    return world, hub, stays


def texts(stay: Stay) -> list[bytes]:
    return [one.payload for one in stay.heard]


@pytest.mark.parametrize("size", [2, 16])
def test_all_hear_all_in_one_order(size: int) -> None:
    """Whoever speaks: everybody else hears it, in the order of the relay."""
    world, hub, stays = crowd(size)
    for turn in range(3 * size):
        world.say(stays[turn * 5 % size])
    hub.settle()
    order = list(world.said)
    for stay in stays:
        assert texts(stay) == [body for body in order if world.said[body].stay is not stay]
        assert not any(isinstance(event, MessagesMissed) for event in stay.events)


def test_what_is_for_some_is_for_them_alone() -> None:
    """Whoever is not named does not hear it, nor could read it."""
    world, hub, stays = crowd(4)
    world.say(stays[0], [world.ids[1], world.ids[3], b"nobody of this name"])
    hub.settle()
    assert [len(stay.heard) for stay in stays] == [0, 1, 0, 1]
    for sent in world.sent:
        world.give(stays[2], sent)
    assert stays[2].heard == []


def test_who_comes_later_can_read_nothing_of_before() -> None:
    """It gets the chain as it is then: the keys of before are gone."""
    world, hub, stays = crowd(3)
    world.say(stays[0])
    hub.settle()
    before = list(world.sent)
    late = World.enter(world, 1)  # anew, with other keys
    for other in (stays[0], stays[2]):
        world.show(late, other)
        world.show(other, late)
    hub.settle()
    world.say(stays[0])
    hub.settle()
    for sent in before:
        world.give(late, sent)
    assert texts(late) == list(world.said)[1:]


def test_who_enters_anew_is_the_same_member() -> None:
    """With fresh keys: the others hear that it went and came."""
    world, hub, stays = crowd(3)
    again = hub.enter(1)
    news = [type(event) for event in stays[0].events if getattr(event, "member", None) is not None]
    assert news[-2:] == [MemberWent, MemberCame]
    world.say(again)
    world.say(stays[2])
    hub.settle()
    assert len(stays[0].heard) == len(again.heard) + 1 == 2


def test_a_member_that_went_hears_nothing_more() -> None:
    """Even if the relay gives it everything: there is a new chain, one for all who went."""
    world, hub, stays = crowd(4)
    world.say(stays[0])
    hub.leave(3)
    hub.leave(2)
    world.say(stays[0])
    hub.settle()
    for sent in world.sent:
        world.give(stays[3], sent)
    assert len(stays[3].heard) == 1
    assert len(stays[1].heard) == 2
    chain = stays[0].circle._chain
    assert chain.generation == 2


def test_a_chain_is_given_once_to_each_and_only_when_something_is_said() -> None:
    """Else each entry into a large room would cost a message between any two."""
    world, hub, stays = crowd(5)
    assert len(world.sent) == 5 * 4  # the hellos
    world.say(stays[0])
    world.say(stays[0])
    hub.settle()
    assert len(world.sent) == 5 * 4 + 4 + 2


def test_presence_is_told_of_confirmed_members() -> None:
    """Away and back, as the relay has it."""
    world, _, stays = crowd(2)
    for state in ("away", "present", "gone", "present"):
        world.show(stays[0], stays[1], state)
    kinds = [type(event) for event in stays[0].events]
    assert kinds == [MemberCame, MemberAway, MemberBack, MemberWent, MemberCame]
    assert [member.presence for member in stays[0].circle.members] == ["present"]


def test_what_a_member_said_last_is_heard_after_it_went() -> None:
    """News overtake messages."""
    world, _, stays = crowd(2)
    world.say(stays[1], [world.ids[0]])
    world.show(stays[0], stays[1], "gone")
    world.give(stays[0], world.sent[-1])
    assert len(stays[0].heard) == 1


@pytest.mark.parametrize("dropped", [1, 5])
def test_what_is_lost_of_a_pair_is_repeated(dropped: int) -> None:
    """The next message shows the gap; nothing is heard twice, or in another order."""
    world, hub, stays = crowd(2)
    for _ in range(dropped + 1):
        world.say(stays[0], [world.ids[1]])
    world.give(stays[1], world.sent[-1])
    hub._given = len(world.sent) - 1  # of all this only what is asked for now gets there
    hub.settle()
    assert texts(stays[1]) == list(world.said)
    assert stays[1].circle.counters["out_of_turn"] > 0


def test_what_is_no_longer_kept_is_told_as_lost() -> None:
    """And the conversation goes on, with all that is needed for it."""
    world, hub, stays = crowd(3)
    world.say(stays[0])
    hub.settle()
    for _ in range(room_pairs.KEEP_MESSAGES + 1):
        world.say(stays[0], [world.ids[1]])
    hub._given = len(world.sent) - 1
    hub.settle()
    missed = [event for event in stays[1].events if isinstance(event, MessagesMissed)]
    assert missed == [MessagesMissed(world.ids[0], room_pairs.KEEP_MESSAGES + 1)]
    world.say(stays[0], [world.ids[1]])
    world.say(stays[0])
    hub.settle()
    assert len(stays[1].heard) == 3


@pytest.mark.parametrize("lost", [1, 3, room_chains.MAX_STEPS + 5])
def test_what_is_lost_of_what_is_for_all_is_told(lost: int) -> None:
    """With how much it was, before what comes after; also if it is more than keys are sought for."""
    world, hub, stays = crowd(3)
    world.say(stays[0])
    hub.settle()
    for _ in range(lost):
        stays[0].circle.send_to_all(b"into the void")
        stays[0].circle.outbox.clear()
        world._said_to_all[stays[0].number] += 1
    for _ in range(2):
        world.say(stays[0])
        hub.settle()
    told = sum(event.count or 0 for event in stays[1].events if isinstance(event, MessagesMissed))
    assert told + len(stays[1].heard) == lost + 3
    assert texts(stays[1])[-1] == list(world.said)[-1]


def test_after_a_resync_what_is_lost_shows_where_nobody_says_any_more() -> None:
    """What was for us alone is repeated; what was for all is counted."""
    world, hub, stays = crowd(2)
    world.say(stays[0])
    hub.settle()
    world.say(stays[0])
    world.say(stays[0], [world.ids[1]])
    hub._given = len(world.sent)
    stays[1].circle.handle_resync()
    world.collect(stays[1])
    hub.settle()
    assert [event for event in stays[1].events if isinstance(event, MessagesMissed)] == [
        MessagesMissed(None, None),
        MessagesMissed(world.ids[0], 1),
    ]
    assert texts(stays[1]) == [body for body in world.said if body != list(world.said)[1]]


def test_who_asks_for_repetition_again_and_again_gets_little() -> None:
    """Some times at once, then as time goes by; what was not said yet is not repeated, nor gone on from."""
    world, hub, stays = crowd(2)
    for _ in range(20):
        world.say(stays[0], [world.ids[1]])
    hub.settle()
    asks = stays[1].circle._peers[world.ids[0]].pair
    before = len(world.sent)
    counters = [0, 1] * 20
    for _ in range(20):
        world.give_as(stays[0], world.ids[1], asks.seal(room_pairs.REPEAT + (2**40).to_bytes(8, "big")))
    assert len(world.sent) == before
    for counter in counters:
        world.give_as(stays[0], world.ids[1], asks.seal(room_pairs.REPEAT + counter.to_bytes(8, "big")))
    assert stays[0].circle.counters["repeated_enough"] == len(counters) - room_pairs.REPEATS_AT_ONCE
    repeated = len(world.sent) - before
    assert 0 < repeated <= room_pairs.REPEATS_AT_ONCE * 21
    for _ in range(3):
        world.now += room_pairs.REPEAT_AGAIN_S
        for _ in range(2):
            world.give_as(stays[0], world.ids[1], asks.seal(room_pairs.REPEAT + bytes(8)))
    assert len(world.sent) - before - repeated == 3 * 21


@pytest.mark.parametrize("counter", [MAX_COUNTER, 2**64 - 1])
def test_numbers_beyond_all_that_is_said_are_refused(counter: int) -> None:
    """Of a pair: a member that jumps there must not have another one fail as it asks for what comes next."""
    world, hub, stays = crowd(2)
    sealer = stays[1].circle._peers[world.ids[0]].pair._sealer
    before, sealer.counter = sealer.counter, counter
    world.give_as(stays[0], world.ids[1], sealer.seal(room_pairs.GO_ON))
    sealer.counter = before
    sealer._history.clear()
    stays[0].circle.handle_resync()
    world.collect(stays[0])
    world.say(stays[1], [world.ids[0]])
    hub.settle()
    assert len(stays[0].heard) == 1
    assert stays[0].circle.counters["refused"] == 1


@pytest.mark.parametrize("numbers", [(MAX_COUNTER, 0), (1, MAX_COUNTER)])
def test_a_chain_beyond_all_that_is_said_is_refused(numbers: tuple[int, int]) -> None:
    """Neither taken as a gift nor looked for."""
    world, hub, stays = crowd(2)
    head = b"".join(number.to_bytes(8, "big") for number in numbers)
    pair = stays[1].circle._peers[world.ids[0]].pair
    world.give_as(stays[0], world.ids[1], pair.seal(room_pairs.CHAIN + head + bytes(32)))
    world.give_as(stays[0], world.ids[1], room_chains.TO_ALL + head + bytes(100))
    assert stays[0].circle.counters["refused"] == 2
    world.say(stays[1])
    hub.settle()
    assert len(stays[0].heard) == 1
    assert not any(isinstance(event, MessagesMissed) for event in stays[0].events)


def test_a_removal_that_finds_no_place_is_not_said() -> None:
    """Nobody else would believe it either; whoever removes is told."""
    world, _, stays = crowd(2)
    owner = world.owner
    for number in range(MAX_STATEMENTS):
        stays[0].circle.removals.add(make_statement(owner, owner.public, number.to_bytes(16, "big")))
    member = b"x" * 16
    statement = make_statement(owner, owner.public, member)
    assert not stays[0].circle.spread_removal(member, statement)
    assert not stays[0].circle.outbox
    assert stays[1].circle.spread_removal(member, statement)
    assert len(stays[1].circle.outbox) == 1


def test_a_member_whose_ticket_expires_is_spoken_to_no_more() -> None:
    """By our own clock: the relay may forget to send it away."""
    world, hub, stays = crowd(3)
    soon = issue(world.owner, world.keys[2], world.ids[2], expires=START + 10)
    world.tickets[2] = soon
    stays[2] = hub.enter(2)
    world.say(stays[0])
    hub.settle()
    world.now = START + 10 + circles.CLOCK_LEEWAY_S - 1
    world.say(stays[0])
    hub.settle()
    world.now += 1
    world.say(stays[0])
    assert stays[0].circle.send_to_all(b"who is reached") == {world.ids[1]}
    stays[0].circle.outbox.clear()
    world._said_to_all[stays[0].number] += 1
    assert [member.id for member in stays[0].circle.members] == [world.ids[1]]
    hub.settle()
    assert [len(stay.heard) for stay in stays] == [0, 3, 2]


def test_a_renewed_ticket_keeps_a_member() -> None:
    """The later one counts, in whatever order the relay shows them."""
    world, _, stays = crowd(2)
    later = issue(world.owner, world.keys[1], world.ids[1], can=("new",), expires=START + 20_000)
    for ticket in (later, world.tickets[1]):
        world.show_as(stays[0], world.ids[1], ticket, stays[1].circle.opening)
    (member,) = stays[0].circle.members
    assert (member.expires, member.can) == (int(START) + 20_000, {"new"})
    world.now = START + 15_000
    world.say(stays[0])
    assert len(stays[0].circle.members) == 1


def test_a_ticket_that_is_renewed_late_brings_its_member_back() -> None:
    """It was away, or the relay slow: it is the same session, with the keys that it has, and nothing of it is new."""
    world, hub, stays = crowd(3)
    soon = issue(world.owner, world.keys[2], world.ids[2], expires=START + 10)
    world.tickets[2] = soon
    stays[2] = hub.enter(2)
    world.say(stays[0])
    hub.settle()
    world.now = START + 10 + circles.CLOCK_LEEWAY_S
    world.say(stays[0])
    assert isinstance(stays[0].events[-1], MemberWent)
    kept_back, world.sent[hub._given :] = world.sent[hub._given :], []
    stays[2].circle.send_to([world.ids[0]], b"unheard")
    early = stays[2].circle.outbox.popleft()
    stays[0].circle.handle_message(world.ids[2], early.payload)
    assert stays[0].circle.counters["unknown_senders"] == 1
    world.show(stays[0], stays[2])  # with the old ticket
    assert [member.id for member in stays[0].circle.members] == [world.ids[1]]
    later = issue(world.owner, world.keys[2], world.ids[2], expires=START + 20_000)
    world.show_as(stays[0], world.ids[2], later, stays[2].circle.opening)
    assert isinstance(stays[0].events[-1], MemberCame)
    for sent in kept_back:  # it has no key for what was said meanwhile
        world.give(stays[2], sent)
    assert len(stays[2].heard) == 1
    stays[0].circle.handle_message(world.ids[2], early.payload)
    assert stays[0].circle.events.pop() == RoomMessage(world.ids[2], b"unheard", to_all=False)
    world.say(stays[0])
    hub.settle()
    assert len(stays[2].heard) == 2
    world.now = START + 20_000 + circles.CLOCK_LEEWAY_S
    stays[0].circle.drop_expired()
    assert stays[0].circle.members == []


def test_removals_reach_all_and_whoever_comes_later() -> None:
    """By the statement to all, or before the hello of whoever has heard it."""
    world, hub, stays = crowd(4)
    world.remove(stays[0], 3)
    hub.settle()
    late = hub.enter(2)
    for stay in (stays[0], stays[1], late):
        assert MemberRemoved(world.ids[3], world.ids[0]) in stay.events
        assert world.ids[3] not in {member.id for member in stay.circle.members}
        world.show(stay, stays[3])
        assert world.ids[3] not in {member.id for member in stay.circle.members}
    assert stays[3].circle.is_removed


def test_whoever_was_invited_knows_what_was_known() -> None:
    """Removals that come with the invitation are good from the start."""
    world, hub, stays = crowd(3)
    statement = world.remove(stays[0], 2)
    hub.settle()
    late = hub.enter(1, (statement,))
    assert world.ids[2] in late.circle.removals


@pytest.mark.parametrize("can", [(), ("end",), ("remove",)])
def test_only_who_may_removes(can: tuple[str, ...]) -> None:
    """It is a capability of the ticket's; the owner has it without one."""
    owner, key = room_key(1), member_key(1)
    ticket = issue(owner, key, b"1" * 16, can=can, expires=START)
    statement = make_statement(key, owner.public, b"2" * 16, ticket)
    assert (Removals(owner.public).add(statement) is not None) is (can == ("remove",))
    by_owner = make_statement(owner, owner.public, b"2" * 16)
    assert read_statement_untrusted(owner.public, by_owner).by is None


def test_statements_are_bounded_and_the_owners_find_place() -> None:
    """Whoever may remove cannot fill the set so that the owner cannot; and nobody who was removed comes back."""
    owner, key = room_key(1), member_key(1)
    ticket = issue(owner, key, b"1" * 16, can=("remove",), expires=START)
    removals, ids = Removals(owner.public), [number.to_bytes(16, "big") for number in range(MAX_STATEMENTS + 5)]
    for one in ids:
        removals.add(make_statement(key, owner.public, one, ticket))
    assert len(removals.statements) == MAX_STATEMENTS
    for number in range(MAX_STATEMENTS + 5):
        removals.add(make_statement(owner, owner.public, b"owner's" + number.to_bytes(9, "big")))
    assert len(removals.statements) == 2 * MAX_STATEMENTS
    assert all(one in removals for one in ids[:MAX_STATEMENTS])
    bodies = list(removals.bodies())
    assert all(len(body) < wire.MAX_PAYLOAD_BYTES - 100 for body in bodies)
    assert [one for body in bodies for one in removals.parse_untrusted(body)] == removals.statements


def test_the_owners_word_for_the_same_member_makes_place() -> None:
    """It is noted, and said to others; that the member is removed is no news."""
    owner, key = room_key(1), member_key(1)
    ticket = issue(owner, key, b"1" * 16, can=("remove",), expires=START)
    by_owner, by_other = (
        make_statement(owner, owner.public, b"x" * 16),
        make_statement(key, owner.public, b"x" * 16, ticket),
    )
    for first, second in ((by_owner, by_other), (by_other, by_owner)):
        removals = Removals(owner.public)
        assert removals.add(first) is not None
        told = removals.count
        assert removals.add(second) is None
        assert removals.statements == [by_owner]
        assert len(list(removals.bodies(told))) == (second is by_owner)


def test_peers_and_openings_are_bounded() -> None:
    """Whoever has a ticket can enter as often as it likes; what we remember of it has an end."""
    world, _, stays = crowd(2)
    for _ in range(circles.MAX_OPENINGS + 10):
        world.show(stays[0], world.enter(1))
    assert len(stays[0].circle._seen[world.ids[1]]) == circles.MAX_OPENINGS
    assert len(stays[0].circle._peers) == 1


def test_openings_are_bounded_for_all_members_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner may give out tickets without end: what is beyond the bound leaves nothing behind, not even its id."""
    monkeypatch.setattr(circles, "MAX_ALL_OPENINGS", 3)
    world = World(1, 8)
    first = world.enter(0)
    for who in range(1, 8):
        world.show(first, world.enter(who))
    assert len(first.circle._seen) == len(first.circle._peers) == 3


def test_the_outbox_is_bounded_and_what_finds_no_place_is_asked_for() -> None:
    """The relay is slow: what waits for it has an end, and nothing of a pair is lost."""
    world, _, stays = crowd(2)
    for _ in range(circles.MAX_OUTBOX - room_pairs.KEEP_MESSAGES // 2):
        stays[0].circle.send_to_all(b"much")
    for number in range(room_pairs.KEEP_MESSAGES - 1):
        stays[0].circle.send_to([world.ids[1]], b"%d" % number)
    assert len(stays[0].circle.outbox) == circles.MAX_OUTBOX
    stays[0].circle.outbox.clear()
    world.say(stays[0], [world.ids[1]])
    stays[1].circle.handle_message(world.ids[0], world.sent[-1].payload)
    for _ in range(3):
        for sender, receiver in ((stays[1], stays[0]), (stays[0], stays[1])):
            while sender.circle.outbox:
                receiver.circle.handle_message(sender.circle.id, sender.circle.outbox.popleft().payload)
    heard = [event.payload for event in stays[1].circle.events if hasattr(event, "payload")]
    told = [event.count for event in stays[1].circle.events if isinstance(event, MessagesMissed)]
    assert told == [room_pairs.KEEP_MESSAGES + 1]  # the chain among them: more than is kept
    assert heard == []
    stays[0].circle.send_to([world.ids[1]], b"goes on")
    stays[1].circle.handle_message(world.ids[0], stays[0].circle.outbox.popleft().payload)
    assert stays[1].circle.events[-1] == RoomMessage(world.ids[0], b"goes on", to_all=False)


def test_a_room_key_shows_nothing_and_comes_back_from_what_was_kept() -> None:
    """Its `repr()` may end up in a log."""
    key = RoomKey.generate()
    assert key.private_bytes().hex() not in repr(key)
    assert RoomKey.from_private_bytes(key.private_bytes()).public == key.public
    with pytest.raises(ValueError, match="32 bytes"):
        RoomKey.from_private_bytes(b"short")
    with pytest.raises(ValueError, match="no ticket can say this"):
        key.ticket(b"no key")
    with pytest.raises(TypeError, match="can"):
        key.ticket(key.public, can="remove")


def test_an_admission_does_not_show_its_relays() -> None:
    """Their URLs may have passwords."""
    shown = repr(Admission(b"r" * 32, b"t", ("wss://user:pass@relay.example/?key=hidden",), ()))
    assert "pass" not in shown
    assert "hidden" not in shown
