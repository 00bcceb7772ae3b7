"""Rooms of many under the contract of every engine: docs/relay-protocol.md sections 4 and 13, with 2 and 16 members."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from icesignal import tickets, wire
from icesignal.peer import Encoder
from icesignal.registry import MAX_ENDED, Registry
from icesignal.room import Member, RoomOfMany
from icesignal.rooms import RoomLimits
from icesignal.tickets import Ticket
from icesignal.wire import CloseCode, RelayErrorCode
from tickets_of_tests import LATER, OWNER, ROOM, enter, key_of, name_of, ticket


class Crowd:
    """Members of one room, in turn on one node and on the other."""

    def __init__(self, nodes, new_listener, size: int, can=()) -> None:
        self.nodes, self.new_listener, self.size, self.can = nodes, new_listener, size, can
        self.listeners: list = []
        self.entered: list[wire.Entered] = []

    def node(self, number: int):
        return self.nodes[number % 2]

    async def meet(self) -> Crowd:
        for number in range(self.size):
            listener = self.new_listener()
            await self.node(number).handle_frame(listener, enter(number, listener, can=self.can))
            await trio.testing.wait_all_tasks_blocked()
            self.listeners.append(listener)
            self.entered.append(listener.one(wire.Entered))
        return self

    async def say(self, number: int, payload: bytes, client_seq: int = 1, to=None) -> None:
        to = None if to is None else [name_of(one) for one in to]
        frame = wire.Send(client_seq=client_seq, payload=payload, to=to)
        await self.node(number).handle_frame(self.listeners[number], frame)
        await trio.testing.wait_all_tasks_blocked()

    def heard(self, number: int) -> list[tuple[int, bytes]]:
        messages = self.listeners[number].take(wire.Message)
        return [(int.from_bytes(one.sender, "big"), one.payload) for one in messages]

    async def resume(self, number: int, seq: int, token: bytes | None = None):
        """Resume a member on the other node, at a position."""
        listener = self.new_listener()
        entered = self.entered[number]
        frame = wire.Resume(
            session=name_of(number),
            token=entered.token if token is None else token,
            epoch=entered.epoch,
            seq=seq,
        )
        await self.node(number + 1).handle_frame(listener, frame)
        await trio.testing.wait_all_tasks_blocked()
        self.listeners[number] = listener
        return listener


SIZES = pytest.mark.parametrize("size", [2, 16])


@SIZES
async def test_members_are_listed_to_members(make_nodes, new_listener, size) -> None:
    """Who comes is told who is there, with ticket and opening; who is there hears of who comes."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, size).meet()
        for number, (entered, listener) in enumerate(zip(crowd.entered, crowd.listeners, strict=True)):
            assert (entered.room, entered.member, entered.arrival) == (ROOM.hex(), name_of(number), "joined")
            assert entered.members == number
            others = listener.take(wire.Member)
            assert {one.member for one in others} == {name_of(one) for one in range(size) if one != number}
            for one in others:
                assert tickets.read_untrusted(one.ticket).id == one.member
                assert one.opening == b"opening %d" % int.from_bytes(one.member, "big")
                assert one.state == "present"


@SIZES
async def test_all_hear_all_in_one_order(make_nodes, new_listener, size) -> None:
    """Whoever speaks: everybody but the speaker hears it, at the same place in the order."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, size).meet()
        for number in range(size):
            await crowd.say(number, b"from %d" % number)
        places: dict[bytes, tuple[int, int]] = {}
        for number, listener in enumerate(crowd.listeners):
            messages = listener.take(wire.Message)
            assert [one.payload for one in messages] == [b"from %d" % one for one in range(size) if one != number]
            for one in messages:
                assert places.setdefault(one.payload, (one.epoch, one.seq)) == (one.epoch, one.seq)
            ack = listener.one(wire.Ack)
            assert places.get(b"from %d" % number, (ack.epoch, ack.seq)) == (ack.epoch, ack.seq)


async def test_what_many_hear_is_made_and_encoded_once(make_nodes, new_listener, monkeypatch) -> None:
    """All members of a node get the same frame, one after the other: 63 copies would be 63 times the work."""
    encoded: list[wire.Frame] = []

    def encode(frame: wire.Frame) -> bytes:
        encoded.append(frame)
        return b"message"

    monkeypatch.setattr(wire, "encode", encode)
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 6).meet()
        for listener in crowd.listeners:
            listener.take(wire.Member)
        await crowd.say(0, b"to all")
        heard = [listener.one(wire.Message) for listener in crowd.listeners[1:]]
        assert heard[0] is heard[2] is heard[4]
        assert heard[1] is heard[3]
        encoder = Encoder()
        assert [encoder.encode(one) for one in heard[0::2] + heard[1::2]] == [b"message"] * 5
        assert len(encoded) == len({id(one) for one in heard})


async def test_a_message_to_some_reaches_those(make_nodes, new_listener) -> None:
    """And nobody else; to whom is not there, it is lost without a word, as the sender may not know yet."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 4).meet()
        await crowd.say(0, b"two of you", to=[1, 3, 9])
        assert [crowd.heard(number) for number in range(4)] == [[], [(0, b"two of you")], [], [(0, b"two of you")]]


@SIZES
async def test_who_comes_later_does_not_hear_what_was_said_before(make_nodes, new_listener, size) -> None:
    """It has no key for it; its position is that of the room."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, size).meet()
        await crowd.say(0, b"before")
        late = new_listener()
        await crowd.node(1).handle_frame(late, enter(99, late))
        await crowd.say(0, b"after", 2)
        entered = late.one(wire.Entered)
        assert (entered.members, entered.seq) == (size, 1)
        assert [one.payload for one in late.take(wire.Message)] == [b"after"]


@SIZES
async def test_a_member_that_resumes_hears_what_it_missed_and_who_is_there(make_nodes, new_listener, size) -> None:
    """On the other node; the others hear that it was away and is back."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, size).meet()
        last = size - 1
        await crowd.say(0, b"1")
        crowd.listeners[0].take()
        await crowd.node(last).disconnect(crowd.listeners[last], hung_up=True)
        await crowd.say(0, b"2", 2)
        await crowd.say(0, b"3", 3, to=[last])
        again = await crowd.resume(last, seq=1)
        entered = again.one(wire.Entered)
        assert (entered.arrival, entered.members) == ("resumed", size - 1)
        assert len(again.take(wire.Member)) == size - 1
        assert [one.payload for one in again.take(wire.Message)] == [b"2", b"3"]
        news = crowd.listeners[0].take(wire.Member)
        assert [(one.member, one.state, one.hung_up) for one in news] == [
            (name_of(last), "away", True),
            (name_of(last), "present", False),
        ]


async def test_a_log_that_lost_what_was_for_a_member_is_told_by_resync(make_nodes, new_listener) -> None:
    """What was for others only is no loss of its own."""
    async with make_nodes(RoomLimits(log_messages=2)) as nodes:
        crowd = await Crowd(nodes, new_listener, 3).meet()
        for number in (1, 2):
            await crowd.node(number).disconnect(crowd.listeners[number])
        await crowd.say(0, b"for two", 1, to=[2])
        for client_seq in (2, 3):
            await crowd.say(0, b"for one", client_seq, to=[1])
        assert (await crowd.resume(1, seq=0)).one(wire.Entered).arrival == "resumed"
        assert (await crowd.resume(2, seq=0)).one(wire.Entered).arrival == "resync"


async def test_a_newer_connection_fences_the_older(make_nodes, new_listener) -> None:
    """And a repeated message is acknowledged, not repeated."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        older = crowd.listeners[1]
        await crowd.say(1, b"once")
        await crowd.resume(1, seq=0)
        assert older.closed is CloseCode.FENCED
        await nodes[0].handle_frame(crowd.listeners[1], wire.Send(client_seq=1, payload=b"once"))
        assert crowd.listeners[1].one(wire.Ack).seq == 1
        assert crowd.heard(0) == [(1, b"once")]


@SIZES
async def test_who_leaves_is_gone_for_all_and_the_room_goes_on(make_nodes, new_listener, size) -> None:
    """The last one takes the room along: who comes then is alone, at the beginning."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, size).meet()
        await crowd.say(0, b"something")
        for listener in crowd.listeners:
            listener.take()
        for number in range(size - 1):
            await crowd.node(number).handle_frame(crowd.listeners[number], wire.Close(reason="left"))
            await trio.testing.wait_all_tasks_blocked()
            assert crowd.listeners[number].closed is CloseCode.DONE
        gone = crowd.listeners[-1].take()
        assert [(one.member, one.state) for one in gone] == [(name_of(one), "gone") for one in range(size - 1)]
        await crowd.node(size - 1).handle_frame(crowd.listeners[-1], wire.Close(reason="left"))
        await trio.testing.wait_all_tasks_blocked()
        fresh = await Crowd(nodes, new_listener, 1).meet()
        assert (fresh.entered[0].members, fresh.entered[0].seq) == (0, 0)


async def test_only_who_may_ends_the_room_for_all(make_nodes, new_listener) -> None:
    """`end` is a capability of the ticket's."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 3).meet()
        owner = new_listener()
        await nodes[0].handle_frame(owner, enter(50, owner, can=["end"]))
        await nodes[1].handle_frame(crowd.listeners[1], wire.Close(reason="done"))
        assert crowd.listeners[1].one(wire.Error).code == RelayErrorCode.FORBIDDEN
        await nodes[0].handle_frame(owner, wire.Close(reason="done"))
        await trio.testing.wait_all_tasks_blocked()
        assert [one.one(wire.Closed).reason for one in crowd.listeners] == ["done"] * 3
        assert {one.closed for one in crowd.listeners} == {CloseCode.ROOM_ENDED}


async def test_a_member_that_is_removed_does_not_come_back(make_nodes, new_listener) -> None:
    """Neither by its session nor by its ticket; and only who may removes anybody."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 3).meet()
        owner = new_listener()
        await nodes[0].handle_frame(owner, enter(50, owner, can=["remove"]))
        await nodes[1].handle_frame(crowd.listeners[1], wire.Remove(member=name_of(2)))
        assert crowd.listeners[1].one(wire.Error).code == RelayErrorCode.FORBIDDEN
        await nodes[0].handle_frame(owner, wire.Remove(member=name_of(2)))
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.listeners[2].one(wire.Closed).reason == "removed"
        assert crowd.listeners[2].closed is CloseCode.ROOM_ENDED
        assert [(one.member, one.state) for one in crowd.listeners[0].take(wire.Member)][-1] == (name_of(2), "gone")
        again = await crowd.resume(2, seq=0)
        assert again.one(wire.Closed).reason == "removed"
        again = new_listener()
        await nodes[1].handle_frame(again, enter(2, again, session=b"another session!"))
        assert again.one(wire.Error).code == RelayErrorCode.REMOVED
        await crowd.say(0, b"without it")
        assert again.take(wire.Message) == []


async def test_trap_73_a_ticket_is_no_use_to_who_has_only_seen_it(make_nodes, new_listener) -> None:
    """Members see each other's: whoever uses one has the key that it names, and shows so on this very connection."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        thief = new_listener()
        seen = crowd.listeners[1].take(wire.Member)[0].ticket
        for frame in (
            enter(0, thief, seen, key=key_of(7), session=b"another session!"),
            wire.Enter(session=b"another session!", ticket=seen, proof=bytes(64)),
        ):
            await nodes[0].handle_frame(thief, frame)
            assert thief.one(wire.Error).code == RelayErrorCode.BAD_TICKET
        other = new_listener()
        other.challenge = b"d" * 32
        replayed = enter(0, other, seen, session=b"another session!")  # what was proved on another connection
        await nodes[0].handle_frame(thief, replayed)
        assert thief.one(wire.Error).code == RelayErrorCode.BAD_TICKET
        assert crowd.listeners[0].closed is None


async def test_trap_73_nobody_but_the_owner_lets_anybody_in(make_nodes, new_listener) -> None:
    """Another owner's signature, a bit that is wrong, an old ticket, one of another room."""
    async with make_nodes() as nodes:
        stranger = new_listener()
        good = ticket(5)
        forged = ticket(5, owner=key_of(1))
        for bad, code in (
            (good[:-1] + bytes([good[-1] ^ 1]), RelayErrorCode.BAD_TICKET),
            (good[:10] + bytes([good[10] ^ 1]) + good[11:], RelayErrorCode.BAD_TICKET),
            (good[:-64] + forged[-64:], RelayErrorCode.BAD_TICKET),
            (b"x", RelayErrorCode.BAD_TICKET),
            (ticket(5, expires=1_000_000_000), RelayErrorCode.EXPIRED_TICKET),
        ):
            await nodes[0].handle_frame(stranger, enter(5, stranger, bad))
            assert stranger.one(wire.Error).code == code
        await nodes[0].handle_frame(stranger, enter(5, stranger, forged))
        assert stranger.one(wire.Entered).room == key_of(1).public_key().public_bytes_raw().hex()


async def test_another_key_is_another_member(make_nodes, new_listener) -> None:
    """The owner's signature alone does not take a place from whom it was given to, nor change its key inside."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        said = Ticket(
            room=ROOM, id=name_of(1), key=key_of(9).public_key().public_bytes_raw(), role="member", expires=LATER
        )
        stolen = tickets.issue(OWNER, said)
        thief = new_listener()
        for listener, session in ((thief, b"another session!"), (crowd.listeners[1], name_of(1))):
            await nodes[0].handle_frame(listener, enter(9, listener, stolen, session=session, key=key_of(9)))
            assert listener.one(wire.Error).code == RelayErrorCode.BAD_TICKET
        assert crowd.listeners[1].closed is None


@SIZES
async def test_the_sender_pays_for_each_copy(make_nodes, new_listener, size) -> None:
    """One message in, sixty-three out would be work that nobody has paid for."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, size).meet()
        await crowd.say(0, b"to all")
        await crowd.say(0, b"to one", 2, to=[1])
        assert crowd.listeners[0].copies == size - 2


async def test_who_is_named_and_not_there_takes_nothing_of_the_log(make_nodes, new_listener) -> None:
    """And in a room of two nobody is named at all: the other one hears it."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        await crowd.say(0, b"to strangers", to=range(10, 60))
        assert nodes[0].only_log()[0].to == frozenset()
        one, other = new_listener(), new_listener()
        await nodes[0].handle_frame(one, wire.Meet(session=b"1" * 16, name=b"n" * 32, role="inviter"))
        await nodes[1].handle_frame(other, wire.Meet(session=b"2" * 16, name=b"n" * 32, role="joiner"))
        await nodes[0].handle_frame(one, wire.Send(client_seq=1, payload=b"heard", to=[b"x" * 16]))
        await trio.testing.wait_all_tasks_blocked()
        assert other.one(wire.Message).payload == b"heard"


async def test_an_entry_that_is_repeated_hears_what_was_said_since_the_first(make_nodes, new_listener) -> None:
    """Its position is before that: what is not newer than a position is dropped by who reads it."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        await crowd.say(0, b"meanwhile")
        again = new_listener()
        await nodes[0].handle_frame(again, enter(1, again))
        entered, message = again.one(wire.Entered), again.one(wire.Message)
        assert (message.epoch, message.seq) > (entered.epoch, entered.seq)


async def test_a_member_that_was_started_anew_counts_from_one(make_nodes, new_listener) -> None:
    """A message said again gets the place of its own, not that of the former session's."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        await crowd.say(1, b"of the former")
        again = new_listener()
        await nodes[0].handle_frame(again, enter(1, again, session=b"another session!"))
        for _ in range(2):
            await nodes[0].handle_frame(again, wire.Send(client_seq=1, payload=b"of the new one"))
        assert [one.seq for one in again.take(wire.Ack)] == [2, 2]


async def test_the_end_of_a_room_gives_each_no_more_than_a_window(make_nodes, new_listener) -> None:
    """Sixty-four readers that do not read would take the log sixty-four times."""
    async with make_nodes(RoomLimits(window_bytes=3000)) as nodes:
        crowd = await Crowd(nodes, new_listener, 2, can=["end"]).meet()
        for number in range(1, 21):
            await crowd.say(0, bytes(1000), number)
        await nodes[0].handle_frame(crowd.listeners[0], wire.Close(reason="done"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(crowd.listeners[1].take(wire.Message)) == 3
        assert crowd.listeners[1].one(wire.Closed).reason == "done"


async def test_a_program_that_is_started_anew_takes_its_own_place(make_nodes, new_listener) -> None:
    """With the same ticket and another session: the others hear that the former is gone and a new one is there."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        crowd.listeners[0].take()
        again = new_listener()
        await nodes[0].handle_frame(again, enter(1, again, session=b"another session!"))
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.listeners[1].one(wire.Closed).reason == "replaced"
        assert [one.state for one in crowd.listeners[0].take(wire.Member)] == ["gone", "present"]
        assert again.one(wire.Entered).members == 1


async def test_an_entry_whose_answer_was_lost_is_repeated(make_nodes, new_listener) -> None:
    """Until the member has spoken; then only its token resumes."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        again = new_listener()
        await nodes[0].handle_frame(again, enter(1, again))
        assert again.one(wire.Entered).token == crowd.entered[1].token
        await nodes[0].handle_frame(again, wire.Send(client_seq=1, payload=b"x"))
        third = new_listener()
        await nodes[0].handle_frame(third, enter(1, third))
        assert third.one(wire.Error).code == RelayErrorCode.BAD_TOKEN


async def test_a_newer_ticket_is_shown_without_leaving(make_nodes, new_listener) -> None:
    """It tells the others, too; of another room or another member it is none."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        crowd.listeners[0].take()
        newer = ticket(1, can=["remove"])
        await nodes[1].handle_frame(crowd.listeners[1], enter(1, crowd.listeners[1], newer))
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.listeners[0].one(wire.Member).ticket == newer
        await nodes[1].handle_frame(crowd.listeners[1], enter(7, crowd.listeners[1]))
        assert crowd.listeners[1].one(wire.Error).code == RelayErrorCode.BAD_TOKEN
        await nodes[1].handle_frame(crowd.listeners[1], wire.Remove(member=name_of(0)))
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.listeners[0].one(wire.Closed).reason == "removed"


async def test_a_room_has_so_many_members_and_a_rendezvous_is_another_room(make_nodes, new_listener) -> None:
    """One more is refused; and who calls a rendezvous room by the same bytes is not inside."""
    async with make_nodes(RoomLimits(members=2)) as nodes:
        crowd = await Crowd(nodes, new_listener, 2).meet()
        third = new_listener()
        await nodes[0].handle_frame(third, enter(3, third))
        assert third.one(wire.Error).code == RelayErrorCode.CROWDED
        await nodes[0].handle_frame(third, wire.Meet(session=b"3" * 16, name=ROOM, role="inviter"))
        await trio.testing.wait_all_tasks_blocked()
        assert third.one(wire.Joined).peer == "absent"
        assert len(crowd.listeners[0].take(wire.Member)) == 1


def enter_over(client, number: int) -> wire.Enter:
    data = ticket(number)
    proof = tickets.prove(key_of(number), client.welcome.challenge, name_of(number), data)
    return wire.Enter(session=name_of(number), ticket=data, proof=proof)


async def test_members_meet_over_a_relay(raw) -> None:
    """Real websockets: what the welcome offers and challenges with is what an entry takes."""
    async with raw() as one, raw() as other:
        assert wire.OFFERS_ROOMS in one.welcome.offers
        entered = await one.ask(enter_over(one, 1))
        assert entered.ice_servers, "a member of a room is told of the servers"
        assert (await other.ask(enter_over(other, 2))).members == 1
        assert (await other.hear()).member == (await one.hear()).member[:-1] + b"\x01"
        ack = await other.ask(wire.Send(client_seq=1, payload=b"hello", to=[name_of(1)]))
        assert ack == wire.Ack(client_seq=1, epoch=entered.epoch, seq=1)
        message = await one.hear()
        assert (message.sender, message.payload) == (name_of(2), b"hello")


async def test_an_entry_proved_on_another_connection_is_refused(raw) -> None:
    """Each connection has a challenge of its own."""
    async with raw() as one, raw() as other:
        assert one.welcome.challenge != other.welcome.challenge
        assert (await other.ask(enter_over(one, 1))).code == RelayErrorCode.BAD_TICKET


@pytest.mark.parametrize("reason", ["done", "removed", "replaced"])
async def test_who_was_away_is_told_why_its_stay_has_ended(make_nodes, new_listener, reason) -> None:
    """It must not take it that the relay was started anew: it would open the room again, or take its place back."""
    async with make_nodes() as nodes:
        crowd = await Crowd(nodes, new_listener, 2, can=("remove", "end")).meet()
        await crowd.node(0).disconnect(crowd.listeners[0])
        await trio.testing.wait_all_tasks_blocked()
        if reason == "replaced":
            newer = new_listener()
            await crowd.node(0).handle_frame(newer, enter(0, newer, session=b"n" * 16, can=("remove", "end")))
        else:
            frame = wire.Close(reason="done") if reason == "done" else wire.Remove(member=name_of(0))
            await crowd.node(1).handle_frame(crowd.listeners[1], frame)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):  # the answer may be lost
            listener = await crowd.resume(0, 0)
            assert listener.one(wire.Closed).reason == reason
            assert listener.closed == CloseCode.ROOM_ENDED


def test_ends_are_remembered_within_bounds(make_seeded) -> None:
    """For as long as a session could be resumed, and so many."""
    registry = Registry(randbytes=make_seeded(1), limits=RoomLimits(), epoch=1)
    room = RoomOfMany("many x", "x", epoch=1, created_at=0.0)
    for number in range(MAX_ENDED + 3):
        registry.dismiss(1.0, Member(room, "p", name_of(number), b"", b""), "done")
    assert len(registry._ended) == MAX_ENDED
    assert registry.why_ended(1.0, name_of(MAX_ENDED)) == "done"
    assert registry.why_ended(1.0, name_of(0)) is None
    assert registry.why_ended(1.0 + registry.limits.resume_s, name_of(MAX_ENDED)) is None
    assert not registry._ended
