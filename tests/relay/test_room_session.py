"""A member's session in a room of many, frame by frame: what the relay says, and what is made of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from icesignal import RelayRefused, RoomOver, SessionLost, tickets, wire
from icesignal.member_session import INBOX_MESSAGES, Action
from icesignal.room_events import MemberCame, MemberWent, MessagesMissed, RoomMessage
from icesignal.room_keys import make_statement
from icesignal.room_session import RoomSession
from icesignal.wire import CloseCode, RelayErrorCode
from room_worlds import START, issue, member_key, room_key

WELCOME = wire.Welcome(versions=[1], offers=["rooms"], challenge=b"c" * 32)
OWNER = room_key(1)


def id_of(who: int) -> bytes:
    return bytes([who]) * 16


def session(who: int, *, expires: float = START + 9_999) -> RoomSession:
    ticket = issue(OWNER, member_key(who), id_of(who), can=("remove", "end"), expires=expires)
    rng = random.Random(who)
    return RoomSession(ticket, member_key(who), randbytes=rng.randbytes, wall_clock=lambda: START)


def entered(who: int, *, members: int = 0, arrival: wire.Arrival = "joined", **given: object) -> wire.Entered:
    fields: dict[str, object] = {
        "room": OWNER.public.hex(),
        "member": id_of(who),
        "arrival": arrival,
        "token": bytes(16),
        "epoch": 1,
        "seq": 0,
        "client_seq": 0,
        "members": members,
        "resume_s": 120,
        **given,
    }
    return wire.Entered(**fields)  # type: ignore[arg-type]


def inside(who: int) -> RoomSession:
    """Return a session that has its place."""
    made = session(who)
    made.begin(WELCOME)
    made.handle_frame(entered(who))
    assert made.has_place
    assert made.is_live
    return made


def shown(other: RoomSession, state: wire.MemberPresence = "present") -> wire.Member:
    return wire.Member(member=other.ticket.id, state=state, ticket=other.ticket_data, opening=other.circle.opening)


class Wire:
    """What goes between two sessions, with its place in the order."""

    def __init__(self) -> None:
        self.seq = 0

    def carry(self, frames: list[wire.Frame], sender: RoomSession, receiver: RoomSession) -> list[wire.Frame]:
        """Give one session what another one sends; return what it answers."""
        answers: list[wire.Frame] = []
        for frame in frames:
            if isinstance(frame, wire.Send):
                self.seq += 1
                sender.handle_frame(wire.Ack(client_seq=frame.client_seq, epoch=1, seq=self.seq))
                message = wire.Message(epoch=1, seq=self.seq, payload=frame.payload, sender=sender.ticket.id)
                answers += receiver.handle_frame(message)[0]
        return answers


def acquainted() -> tuple[RoomSession, RoomSession, Wire]:
    """Return two sessions that have heard each other's hello."""
    one, other, between = inside(1), inside(2), Wire()
    hello = one.handle_frame(shown(other))[0]
    back = other.handle_frame(shown(one))[0]
    between.carry(hello, one, other)
    between.carry(back, other, one)
    assert isinstance(one.inbox.popleft(), MemberCame)
    assert isinstance(other.inbox.popleft(), MemberCame)
    return one, other, between


def test_an_entry_proves_our_key_on_this_connection() -> None:
    """The challenge is that of the welcome; on another connection it is another proof."""
    made = session(1)
    first = made.begin(WELCOME)
    assert isinstance(first, wire.Enter)
    assert tickets.is_proved(made.ticket, first.proof, WELCOME.challenge, first.session, first.ticket)
    other = made.begin(wire.Welcome(versions=[1], challenge=b"d" * 32))
    assert isinstance(other, wire.Enter)
    assert (other.session, other.opening) == (first.session, first.opening)
    assert other.proof != first.proof


@pytest.mark.parametrize("wrong", [{"room": room_key(2).public.hex()}, {"room": "7"}, {"member": b"x" * 16}])
def test_a_place_that_was_not_asked_for_is_refused(wrong: dict[str, Any]) -> None:
    """At the entry and at each resume."""
    made = session(1)
    made.begin(WELCOME)
    made.handle_frame(entered(1, **wrong))
    assert isinstance(made.refused, RelayRefused)
    made = inside(1)
    made.handle_frame(entered(1, arrival="resumed", **wrong))
    assert isinstance(made.over, RelayRefused)


def test_what_is_said_is_kept_until_it_is_acknowledged_and_said_again_after_a_resume() -> None:
    """The relay drops what it had; the other side hears it once."""
    one, other, between = acquainted()
    one.circle.send_to_all(b"lost on the way")
    lost = one.flush()
    assert len(lost) == 2  # the chain, the message
    one.handle_end(CloseCode.GOING_AWAY)
    assert isinstance(one.begin(WELCOME), wire.Resume)
    again = one.handle_frame(entered(1, arrival="resumed", members=1, client_seq=1))[0]
    assert again == lost
    between.carry(again, one, other)
    assert list(other.inbox) == [RoomMessage(id_of(1), b"lost on the way", to_all=True)]
    assert one.handle_frame(shown(other))[0] == []


def test_messages_are_heard_once_by_their_place() -> None:
    """What is replayed after a resume is known; what names no sender, or ourselves, is none."""
    one, other, between = acquainted()
    one.circle.send_to([id_of(2)], b"once")
    (frame,) = one.flush()
    assert isinstance(frame, wire.Send)
    message = wire.Message(epoch=1, seq=between.seq + 1, payload=frame.payload, sender=id_of(1))
    for _ in range(3):
        other.handle_frame(message)
    other.handle_frame(wire.Message(epoch=1, seq=99, payload=b"x"))
    other.handle_frame(wire.Message(epoch=1, seq=99, payload=b"x", sender=id_of(2)))
    assert len(other.inbox) == 1
    assert other.counters["duplicates"] == 2
    assert other.counters["unexpected_frames"] == 2


def test_a_full_inbox_takes_nothing_more_and_asks_for_it_later() -> None:
    """Neither messages nor news: all of it comes again with a resume."""
    one, other, between = acquainted()
    other.inbox.extend([MessagesMissed(None, None)] * INBOX_MESSAGES)
    one.circle.send_to([id_of(2)], b"later")
    (frame,) = one.flush()
    assert isinstance(frame, wire.Send)
    message = wire.Message(epoch=1, seq=between.seq + 1, payload=frame.payload, sender=id_of(1))
    assert other.handle_frame(message)[1] is Action.RECONNECT
    assert other.handle_frame(shown(one, "away"))[1] is Action.RECONNECT
    assert not other.has_room
    other.inbox.clear()
    other.handle_frame(message)
    assert list(other.inbox) == [RoomMessage(id_of(1), b"later", to_all=False)]


def test_what_we_say_waits_for_the_relay_within_bounds() -> None:
    """No more than it may have unacknowledged; the rest goes as it acknowledges."""
    one, other, _ = acquainted()
    del other
    for number in range(100):
        one.circle.send_to([id_of(2)], b"%d" % number)
    assert not one.has_outbox_room or len(one.circle.outbox) == 100
    first = one.flush()
    assert len(first) == 64
    last = first[-1]
    assert isinstance(last, wire.Send)
    more, _ = one.handle_frame(wire.Ack(client_seq=last.client_seq, epoch=1, seq=99))
    assert len(more) == 36


def test_who_is_not_in_the_list_after_a_resume_is_gone() -> None:
    """It went while we were away, and nobody told us."""
    one, _, _ = acquainted()
    one.handle_end(CloseCode.GOING_AWAY)
    one.begin(WELCOME)
    one.handle_frame(entered(1, arrival="resumed", members=0))
    assert [type(event) for event in one.inbox] == [MemberWent]
    one.inbox.clear()
    one.handle_frame(entered(1, arrival="resumed", members=1))
    assert one.circle.members == []


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_who_came_while_we_were_away_is_asked_for_its_hello(is_interrupted: bool) -> None:
    """Its hello is lost to the log, and we hear of it only after the answer to our resume, or to the one after that."""
    one, other, between = inside(1), inside(2), Wire()
    one.handle_end(CloseCode.GOING_AWAY)
    other.handle_frame(shown(one, "away"))
    one.begin(WELCOME)
    one.handle_frame(entered(1, arrival="resync", members=1, seq=9))
    if is_interrupted:
        one.handle_end(CloseCode.GOING_AWAY)
        one.begin(WELCOME)
        one.handle_frame(entered(1, arrival="resumed", members=1, seq=9))
    between.seq = 9
    asks = one.handle_frame(shown(other))[0]
    between.carry(between.carry(asks, one, other), other, one)
    assert [member.id for member in one.circle.members] == [id_of(2)]
    assert [member.id for member in other.circle.members] == [id_of(1)]
    assert isinstance(one.inbox[0], MessagesMissed)


def test_who_asks_for_its_place_again_asks_for_all_hellos() -> None:
    """The answer to its first entry was lost, and the relay did not keep what was said to it since."""
    one, other, between = session(1), inside(2), Wire()
    one.begin(WELCOME)
    one.handle_end(CloseCode.GOING_AWAY)
    other.handle_frame(shown(one, "away"))
    one.begin(WELCOME)
    one.handle_frame(entered(1, members=1, seq=9))
    between.seq = 9
    asks = one.handle_frame(shown(other))[0]
    between.carry(between.carry(asks, one, other), other, one)
    assert [member.id for member in one.circle.members] == [id_of(2)]
    assert [type(event) for event in one.inbox] == [MemberCame]


def test_a_place_is_given_once_for_each_connection() -> None:
    """What a relay says again and again fills nobody's memory."""
    made = inside(1)
    for _ in range(3):
        made.handle_frame(entered(1, arrival="resync", seq=9))
    assert not made.inbox
    assert made.counters["unexpected_frames"] == 3


def test_a_renewed_ticket_is_shown_again_after_a_resume() -> None:
    """The relay may not have had it; and one that it does not take costs us nothing but that."""
    made = inside(1)
    newer = issue(OWNER, member_key(1), id_of(1), expires=START + 99_999)
    frame = made.renew(newer)
    assert isinstance(frame, wire.Enter)
    assert frame.ticket == newer
    made.handle_frame(wire.Error(code=RelayErrorCode.BAD_TICKET, message=""))
    assert isinstance(made.renewal_refused, RelayRefused)
    assert made.over is None
    made.handle_end(CloseCode.GOING_AWAY)
    assert made.renew(issue(OWNER, member_key(1), id_of(1), expires=START + 199_999)) is None
    made.begin(WELCOME)
    frames, _ = made.handle_frame(entered(1, arrival="resumed"))
    assert [type(one) for one in frames] == [wire.Enter]


def test_whoever_is_sent_away_is_sent_away_again_after_a_resume() -> None:
    """The word may have been lost with the connection."""
    made = inside(1)
    assert made.send_away(id_of(9)) == wire.Remove(member=id_of(9))
    made.handle_end(CloseCode.GOING_AWAY)
    made.begin(WELCOME)
    frames, _ = made.handle_frame(entered(1, arrival="resumed"))
    assert frames == [wire.Remove(member=id_of(9))]


def test_a_relay_that_has_forgotten_us_is_entered_anew() -> None:
    """With another session and other keys; what was under way is told as missing, who was there as gone."""
    one, _, _ = acquainted()
    opening, first = one.circle.opening, session(1).begin(WELCOME)
    one.circle.send_to_all(b"under way")
    one.flush()
    one.handle_end(CloseCode.GOING_AWAY)
    one.begin(WELCOME)
    (frame,), _ = one.handle_frame(wire.Error(code=RelayErrorCode.UNKNOWN_SESSION, message=""))
    assert isinstance(frame, wire.Enter)
    assert isinstance(first, wire.Enter)
    assert frame.session != first.session
    assert frame.opening != opening
    assert [type(event) for event in one.inbox] == [MemberWent, MessagesMissed]
    frames, _ = one.handle_frame(entered(1))
    assert frames == []
    assert one.is_live


@pytest.mark.parametrize(
    ("code", "is_over"),
    [
        (RelayErrorCode.RATE, False),
        (RelayErrorCode.BUSY, False),
        (RelayErrorCode.EXPIRED_TICKET, True),
        (RelayErrorCode.REMOVED, True),
        (RelayErrorCode.CROWDED, True),
    ],
)
def test_what_the_relay_says_when_we_enter_anew(code: RelayErrorCode, is_over: bool) -> None:
    """Later, or never again: who waits for the next event is told."""
    made = inside(1)
    made.handle_end(CloseCode.GOING_AWAY)
    made.begin(WELCOME)
    made.handle_frame(wire.Error(code=RelayErrorCode.UNKNOWN_SESSION, message=""))
    _, action = made.handle_frame(wire.Error(code=code, message=""))
    assert (made.over is not None) is is_over
    assert (action is Action.RECONNECT) is not is_over


@pytest.mark.parametrize("reason", ["done", "removed", "replaced"])
def test_what_was_ended_while_we_were_away_is_not_entered_anew(reason: str) -> None:
    """The relay has not forgotten us: it says why our stay is over."""
    made = inside(1)
    made.handle_end(CloseCode.GOING_AWAY)
    made.begin(WELCOME)
    frames, _ = made.handle_frame(wire.Closed(reason=reason))
    assert frames == []
    assert isinstance(made.over, RoomOver)
    assert made.over.reason == reason


def test_a_relay_cannot_have_us_enter_anew_without_end() -> None:
    """Only in answer to a resume, of which there is one for each connection."""
    made = inside(1)
    made.handle_frame(wire.Error(code=RelayErrorCode.UNKNOWN_SESSION, message=""))
    assert isinstance(made.over, SessionLost)


@pytest.mark.parametrize("reason", ["done", "removed", "replaced", "expired", "left", "of its own"])
def test_each_end_has_its_sentence(reason: str) -> None:
    """And a reason that a program can ask for."""
    made = inside(1)
    made.handle_frame(wire.Closed(reason=reason))
    assert isinstance(made.over, RoomOver)
    assert made.over.reason == (reason if reason != "of its own" else "left")
    assert len(str(made.over).split()) > 3


def test_a_removal_ends_our_stay_whatever_the_relay_says() -> None:
    """It may be silent about it: the members are not."""
    one, other, between = acquainted()
    statement = make_statement(member_key(2), OWNER.public, one.ticket.id, other.ticket_data)
    other.circle.spread_removal(one.ticket.id, statement)
    between.carry(other.flush(), other, one)
    assert isinstance(one.over, RoomOver)
    assert one.over.reason == "removed"


def test_what_only_some_may_do_costs_who_may_not_nothing_else() -> None:
    """The ticket may have been renewed with less."""
    made = inside(1)
    made.handle_frame(wire.Error(code=RelayErrorCode.FORBIDDEN, message=""))
    assert made.over is None


def test_frames_of_rooms_of_two_are_unexpected() -> None:
    """A relay that takes us for somebody else changes nothing."""
    made = inside(1)
    made.handle_frame(wire.Peer(state="present", opening=b""))
    assert made.counters["unexpected_frames"] == 1
