"""The contract of every engine: docs/relay-protocol.md sections 4 and 5. A new engine joins `ENGINES` in conftest."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from icesignal import wire
from icesignal.rooms import RoomLimits
from icesignal.wire import CloseCode, RelayErrorCode

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
NAME = b"n" * 32


class Pair:
    """Two members of one room, on two nodes."""

    def __init__(self, nodes, new_listener) -> None:
        self.first, self.second = nodes
        self.inviter, self.joiner = new_listener(), new_listener()

    async def meet(self) -> Pair:
        await self.first.handle_frame(self.inviter, wire.Allocate(session=A, opening=b"A"))
        self.invited = self.inviter.one(wire.Joined)
        await self.second.handle_frame(self.joiner, wire.Join(session=B, nameplate=self.invited.room, opening=b"B"))
        await trio.testing.wait_all_tasks_blocked()
        self.joined = self.joiner.one(wire.Joined)
        return self

    async def say(self, *payloads: bytes, start: int = 1) -> None:
        for number, payload in enumerate(payloads, start):
            await self.first.handle_frame(self.inviter, wire.Send(client_seq=number, payload=payload))
        await trio.testing.wait_all_tasks_blocked()

    def heard(self) -> list[bytes]:
        return [frame.payload for frame in self.joiner.take(wire.Message)]

    async def resume(self, new_listener, *, token: bytes | None = None, seq: int = 0, epoch: int | None = None):
        """Resume the joiner on the other node, at a position."""
        listener = new_listener()
        await self.first.handle_frame(
            listener,
            wire.Resume(
                session=B,
                token=self.joined.token if token is None else token,
                epoch=self.joined.epoch if epoch is None else epoch,
                seq=seq,
            ),
        )
        await trio.testing.wait_all_tasks_blocked()
        return listener


async def test_openings_reach_both_members(make_nodes, new_listener) -> None:
    """The PAKE messages ride on allocate and join, so they cost no round trip."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        assert (pair.invited.role, pair.invited.peer, pair.invited.opening) == ("inviter", "absent", b"")
        assert (pair.joined.role, pair.joined.peer, pair.joined.opening) == ("joiner", "present", b"A")
        assert pair.inviter.take() == [wire.Peer(state="present", opening=b"B")]


async def test_messages_arrive_in_one_order_for_both(make_nodes, new_listener) -> None:
    """Both directions share one sequence, and acknowledgements tell the sender its place in it."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        pair.inviter.take()
        for number in range(1, 4):
            await pair.first.handle_frame(pair.inviter, wire.Send(client_seq=number, payload=b"i%d" % number))
            await pair.second.handle_frame(pair.joiner, wire.Send(client_seq=number, payload=b"j%d" % number))
        await trio.testing.wait_all_tasks_blocked()
        order = [(frame.epoch, frame.seq) for frame in pair.joiner.take()]
        assert order == sorted(order)
        assert order == [(frame.epoch, frame.seq) for frame in pair.inviter.take()]


async def test_a_repeated_send_is_acknowledged_and_not_repeated(make_nodes, new_listener) -> None:
    """A sender that lost the acknowledgement sends again; the peer must not hear it twice."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.say(b"once")
        first = pair.inviter.one(wire.Ack)
        await pair.say(b"once")
        assert pair.inviter.one(wire.Ack) == first
        assert pair.heard() == [b"once"]


async def test_a_missing_number_is_a_gap(make_nodes, new_listener) -> None:
    """Accepting the next message without the missing one would lose it silently."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.say(b"three", start=3)
        assert pair.inviter.one(wire.Error).code == RelayErrorCode.GAP
        assert pair.heard() == []


async def test_resume_replays_what_was_missed_on_any_node(make_nodes, new_listener) -> None:
    """The connection is gone, the messages are not; the other node knows the session, too."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.say(b"1", b"2")
        assert pair.heard() == [b"1", b"2"]
        await pair.second.disconnect(pair.joiner)
        await pair.say(b"3", b"4", start=3)
        again = await pair.resume(new_listener, seq=2)
        resumed = again.one(wire.Resumed)
        assert resumed.token != pair.joined.token
        assert [frame.payload for frame in again.take(wire.Message)] == [b"3", b"4"]


async def test_the_peer_hears_of_absence_and_return(make_nodes, new_listener) -> None:
    """A user wants to know that the other side is away rather than slow."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        pair.inviter.take()
        await pair.second.disconnect(pair.joiner)
        await pair.resume(new_listener)
        assert [frame.state for frame in pair.inviter.take(wire.Peer)] == ["away", "present"]


@pytest.mark.parametrize("hung_up", [False, True])
async def test_the_peer_hears_how_a_member_went_away(make_nodes, new_listener, hung_up) -> None:
    """Killed or without a network: the first ends a wait within seconds, the second must not. So does who resumes."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        pair.inviter.take()
        await pair.second.disconnect(pair.joiner, hung_up=hung_up)
        away = pair.inviter.one(wire.Peer)
        assert (away.state, away.hung_up) == ("away", hung_up)
        again = new_listener()
        resume = wire.Resume(session=A, token=pair.invited.token, epoch=pair.invited.epoch, seq=0)
        await pair.first.handle_frame(again, resume)
        resumed = again.one(wire.Resumed)
        assert (resumed.peer, resumed.hung_up) == ("away", hung_up)
        await pair.resume(new_listener)
        assert again.one(wire.Peer) == wire.Peer(state="present", hung_up=False, opening=b"B")


async def test_a_lost_log_is_told_by_resync(make_nodes, new_listener) -> None:
    """More was said than the log keeps: never silence, never a hole that nobody mentions."""
    async with make_nodes(RoomLimits(log_messages=3)) as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.second.disconnect(pair.joiner)
        await pair.say(*[b"%d" % number for number in range(5)])
        again = await pair.resume(new_listener)
        resync = again.one(wire.Resync)
        assert (resync.epoch, resync.seq) == (pair.joined.epoch, 5)
        assert again.take(wire.Message) == []
        await pair.say(b"next", start=6)
        assert [frame.payload for frame in again.take(wire.Message)] == [b"next"]


async def test_lost_messages_of_ones_own_need_no_resync(make_nodes, new_listener) -> None:
    """A member does not need its own messages back."""
    async with make_nodes(RoomLimits(log_messages=2)) as nodes:
        pair = await Pair(nodes, new_listener).meet()
        for number in range(1, 6):
            await pair.second.handle_frame(pair.joiner, wire.Send(client_seq=number, payload=b"j"))
        await pair.second.disconnect(pair.joiner)
        again = await pair.resume(new_listener)
        assert again.one(wire.Resumed).client_seq == 5


@pytest.mark.parametrize(("epoch", "seq"), [(0, 0), (99, 0), (None, 99)])
async def test_a_position_that_never_was_is_answered_by_resync(make_nodes, new_listener, epoch, seq) -> None:
    """The client was in another epoch, or is confused: either way it must hear that it missed something."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.second.disconnect(pair.joiner)
        again = await pair.resume(new_listener, epoch=epoch, seq=seq)
        assert len(again.take(wire.Resync)) == 1


async def test_a_token_is_good_once(make_nodes, new_listener) -> None:
    """Whoever overheard a token comes too late with it."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        again = await pair.resume(new_listener)
        token = again.one(wire.Resumed).token
        await pair.first.handle_frame(again, wire.Send(client_seq=1, payload=b"alive"))
        thief = await pair.resume(new_listener)
        assert thief.one(wire.Error).code == RelayErrorCode.BAD_TOKEN
        assert again.closed is None
        assert len((await pair.resume(new_listener, token=token)).take(wire.Resumed)) == 1


async def test_a_token_stays_good_while_its_successor_may_be_lost(make_nodes, new_listener) -> None:
    """The answer to a resume can die with its connection; the session must not die with it."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        lost = await pair.resume(new_listener)
        await pair.first.disconnect(lost)
        assert len((await pair.resume(new_listener)).take(wire.Resumed)) == 1


async def test_unknown_sessions_and_guessed_tokens_are_refused(make_nodes, new_listener) -> None:
    """A session id alone opens nothing."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        guess = await pair.resume(new_listener, token=b"?" * 16)
        assert guess.one(wire.Error).code == RelayErrorCode.BAD_TOKEN
        stranger = new_listener()
        await pair.first.handle_frame(stranger, wire.Resume(session=C, token=b"?" * 16, epoch=1, seq=0))
        assert stranger.one(wire.Error).code == RelayErrorCode.UNKNOWN_SESSION


async def test_a_newer_connection_fences_the_older(make_nodes, new_listener) -> None:
    """A half-open connection must not go on speaking for a session that has moved."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        again = await pair.resume(new_listener)
        assert pair.joiner.closed is CloseCode.FENCED
        await pair.say(b"to the new one")
        assert [frame.payload for frame in again.take(wire.Message)] == [b"to the new one"]
        await pair.second.handle_frame(pair.joiner, wire.Send(client_seq=1, payload=b"ghost"))
        assert pair.inviter.take(wire.Message) == []
        await pair.second.disconnect(pair.joiner)
        assert "away" not in [frame.state for frame in pair.inviter.take(wire.Peer)]


async def test_an_entry_whose_answer_was_lost_may_be_repeated(make_nodes, new_listener) -> None:
    """Without this a joiner that lost one packet would find its own place taken."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        again = new_listener()
        await pair.first.handle_frame(again, wire.Join(session=B, nameplate=pair.invited.room, opening=b"B"))
        assert again.one(wire.Joined).token == pair.joined.token
        twice = new_listener()
        await pair.first.handle_frame(twice, wire.Allocate(session=A, opening=b"A"))
        assert twice.one(wire.Joined).room == pair.invited.room


async def test_an_entry_is_not_repeatable_once_its_answer_has_arrived(make_nodes, new_listener) -> None:
    """After that only the rotating token counts."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.say(b"I have my token")
        thief = new_listener()
        await pair.first.handle_frame(thief, wire.Allocate(session=A, opening=b"A"))
        assert thief.one(wire.Error).code == RelayErrorCode.BAD_TOKEN


async def test_a_third_party_finds_the_room_crowded(make_nodes, new_listener) -> None:
    """And the two inside do not notice."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        pair.inviter.take()
        third = new_listener()
        await pair.first.handle_frame(third, wire.Join(session=C, nameplate=pair.invited.room, opening=b"C"))
        assert third.one(wire.Error).code == RelayErrorCode.CROWDED
        assert (pair.inviter.take(), pair.joiner.take()) == ([], [])


async def test_closing_ends_the_room_for_both_and_its_nameplate(make_nodes, new_listener) -> None:
    """One guess per code: once used, the number leads nowhere."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.second.handle_frame(pair.joiner, wire.Close(reason="code-wrong"))
        await trio.testing.wait_all_tasks_blocked()
        assert pair.inviter.one(wire.Closed).reason == "code-wrong"
        assert pair.inviter.closed is CloseCode.ROOM_ENDED
        assert pair.joiner.closed is CloseCode.DONE
        late = new_listener()
        await pair.first.handle_frame(late, wire.Join(session=C, nameplate=pair.invited.room))
        assert late.one(wire.Error).code == RelayErrorCode.EXPIRED_NAMEPLATE


async def test_a_nameplate_nobody_has_is_unknown(make_nodes, new_listener) -> None:
    """Mistyped numbers get another answer than used ones."""
    async with make_nodes() as nodes:
        lost = new_listener()
        await nodes[0].handle_frame(lost, wire.Join(session=C, nameplate="123456789"))
        assert lost.one(wire.Error).code == RelayErrorCode.UNKNOWN_NAMEPLATE


async def test_a_session_that_stays_away_ends(make_nodes, new_listener, autojump_clock) -> None:
    """120 s later the other member is told, and a resume comes too late."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.second.disconnect(pair.joiner)
        await trio.sleep(115)
        assert pair.inviter.closed is None
        await trio.sleep(10)
        assert pair.inviter.one(wire.Closed).reason == "expired"
        late = await pair.resume(new_listener)
        assert late.one(wire.Error).code == RelayErrorCode.UNKNOWN_SESSION


async def test_the_log_forgets_after_its_time(make_nodes, new_listener, autojump_clock) -> None:
    """A position older than the log's memory is answered by resync, though hardly anything was said."""
    async with make_nodes(RoomLimits(log_s=20)) as nodes:
        pair = await Pair(nodes, new_listener).meet()
        await pair.second.disconnect(pair.joiner)
        await pair.say(b"old")
        await trio.sleep(25)
        assert len((await pair.resume(new_listener)).take(wire.Resync)) == 1


async def test_a_code_nobody_uses_expires(make_nodes, new_listener, autojump_clock) -> None:
    """Rooms do not stay for ever, even with their inviter connected."""
    async with make_nodes(RoomLimits(unjoined_s=60)) as nodes:
        inviter = new_listener()
        await nodes[0].handle_frame(inviter, wire.Allocate(session=A))
        await trio.sleep(65)
        assert inviter.one(wire.Closed).reason == "expired"


async def test_only_members_may_speak_and_only_once_enter(make_nodes, new_listener) -> None:
    """One connection, one session, one room."""
    async with make_nodes() as nodes:
        pair = await Pair(nodes, new_listener).meet()
        stranger = new_listener()
        await pair.first.handle_frame(stranger, wire.Send(client_seq=1, payload=b"?"))
        await pair.first.handle_frame(stranger, wire.Close(reason="left"))
        assert [frame.code for frame in stranger.take()] == [RelayErrorCode.NOT_JOINED] * 2
        pair.inviter.take()
        await pair.first.handle_frame(pair.inviter, wire.Allocate(session=C))
        assert pair.inviter.one(wire.Error).code == RelayErrorCode.ALREADY_JOINED


async def test_two_meet_again_by_rendezvous_name(make_nodes, new_listener) -> None:
    """Whoever comes first makes the room; the other finds it."""
    async with make_nodes() as nodes:
        joiner, inviter = new_listener(), new_listener()
        await nodes[0].handle_frame(joiner, wire.Meet(session=B, name=NAME, role="joiner", opening=b"B"))
        assert joiner.one(wire.Joined).peer == "absent"
        await nodes[1].handle_frame(inviter, wire.Meet(session=A, name=NAME, role="inviter", opening=b"A"))
        await trio.testing.wait_all_tasks_blocked()
        assert inviter.one(wire.Joined).opening == b"B"
        assert joiner.one(wire.Peer).opening == b"A"
        third = new_listener()
        await nodes[1].handle_frame(third, wire.Meet(session=C, name=NAME, role="joiner"))
        assert third.one(wire.Error).code == RelayErrorCode.CROWDED


async def test_a_restarted_program_replaces_its_silent_place(make_nodes, new_listener) -> None:
    """It lost its session with its memory; its peer is told to start anew."""
    async with make_nodes() as nodes:
        joiner, inviter, again = new_listener(), new_listener(), new_listener()
        await nodes[0].handle_frame(joiner, wire.Meet(session=B, name=NAME, role="joiner"))
        await nodes[0].handle_frame(inviter, wire.Meet(session=A, name=NAME, role="inviter"))
        await nodes[0].disconnect(joiner)
        await nodes[0].handle_frame(again, wire.Meet(session=C, name=NAME, role="joiner"))
        await trio.testing.wait_all_tasks_blocked()
        assert inviter.one(wire.Closed).reason == "replaced"
        assert again.one(wire.Joined).peer == "absent"


async def test_a_full_relay_says_busy(make_nodes, new_listener) -> None:
    """And says it is not ready, so that a load balancer looks elsewhere."""
    async with make_nodes(RoomLimits(max_rooms=1)) as nodes:
        first, second = new_listener(), new_listener()
        assert nodes[0].is_ready()
        await nodes[0].handle_frame(first, wire.Allocate(session=A))
        await nodes[0].handle_frame(second, wire.Allocate(session=B))
        assert second.one(wire.Error).code == RelayErrorCode.BUSY
        assert not nodes[0].is_ready()
