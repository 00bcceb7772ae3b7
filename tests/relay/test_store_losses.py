"""The store goes away and comes back, perhaps older than it was; nodes are gone; many clients make rooms at once."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from icesignal import wire
from icesignal.engines.shared import SharedEngine
from icesignal.rooms import RoomLimits
from icesignal.wire import CloseCode, RelayErrorCode
from local_store import SharedLocalStore

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


@asynccontextmanager
async def met(new_listener, limits: RoomLimits | None = None) -> AsyncIterator[tuple]:
    """Yield a store, two nodes on it, and an inviter and a joiner, one on each."""
    store = SharedLocalStore()
    one, other = (SharedEngine(store, limits=limits) for _ in range(2))
    async with one.run(), other.run():
        await trio.testing.wait_all_tasks_blocked()
        inviter, joiner = new_listener(), new_listener()
        await one.handle_frame(inviter, wire.Allocate(session=A, opening=b"A"))
        room = inviter.frames[0].room
        await other.handle_frame(joiner, wire.Join(session=B, nameplate=room, opening=b"B"))
        await trio.testing.wait_all_tasks_blocked()
        yield store, one, other, inviter, joiner


async def say(engine: SharedEngine, listener, client_seq: int) -> None:
    await engine.handle_frame(listener, wire.Send(client_seq=client_seq, payload=b"%d" % client_seq))
    await trio.testing.wait_all_tasks_blocked()


async def come_back(store: SharedLocalStore) -> None:
    store.is_away = False
    await trio.sleep(3)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_store_that_is_away_for_a_moment_is_waited_for(new_listener, autojump_clock) -> None:
    """Who is connected stays so, what was asked meanwhile is done once it is back, and nothing twice."""
    async with met(new_listener) as (store, one, other, inviter, joiner):
        store.go_away()
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, one, inviter, 1)
            await trio.sleep(1)
            assert not one.is_ready()
            assert not other.is_ready()
            await come_back(store)
        assert one.is_ready()
        assert len(inviter.take(wire.Ack)) == 1
        assert [message.payload for message in joiner.take(wire.Message)] == [b"1"]
        assert (inviter.closed, joiner.closed) == (None, None)


async def test_who_waits_for_too_long_is_sent_away_to_come_back(new_listener, autojump_clock) -> None:
    """And does: its session is as it was."""
    async with met(new_listener) as (store, one, other, inviter, joiner):
        token = inviter.one(wire.Joined).token
        store.go_away()
        await say(one, inviter, 1)
        assert inviter.closed is CloseCode.GOING_AWAY
        await one.disconnect(inviter)
        await come_back(store)
        again = new_listener()
        await other.handle_frame(again, wire.Resume(session=A, token=token, epoch=1, seq=0))
        assert again.one(wire.Resumed).client_seq == 1  # it was tried, and is done now
        await say(other, again, 1)
        assert [message.payload for message in joiner.take(wire.Message)] == [b"1"]


@pytest.mark.parametrize("kept", ["all but the last", "nothing"])
async def test_what_the_store_has_lost_is_stored_again(new_listener, autojump_clock, kept) -> None:
    """Every part of it was acknowledged; the nodes that still know it put it back."""
    async with met(new_listener) as (store, one, other, inviter, joiner):
        await say(one, inviter, 1)
        older = copy.deepcopy(store.local)
        await say(one, inviter, 2)
        token = joiner.one(wire.Joined).token
        store.go_away()
        await trio.testing.wait_all_tasks_blocked()
        store.local = older
        if kept == "nothing":
            store.local.rooms.clear()
            store.local.sessions.clear()
        await come_back(store)
        assert (inviter.closed, joiner.closed) == (None, None)
        assert one.node.counters["restored"] + other.node.counters["restored"] > 0
        await other.disconnect(joiner)
        again = new_listener()
        await one.handle_frame(again, wire.Resume(session=B, token=token, epoch=1, seq=0))
        assert again.one(wire.Resumed)
        assert [message.payload for message in again.take(wire.Message)] == [b"1", b"2"]
        await say(one, inviter, 3)
        assert [message.payload for message in again.take(wire.Message)] == [b"3"]


async def test_where_others_have_gone_on_without_what_was_lost_all_are_told(new_listener, autojump_clock) -> None:
    """The epoch grows, everybody resumes and gets `resync`: never silence. What is sent then is taken."""
    async with met(new_listener) as (store, one, _other, inviter, joiner):
        token = inviter.one(wire.Joined).token
        older = copy.deepcopy(store.local)
        await say(one, inviter, 1)
        store.go_away()
        await trio.testing.wait_all_tasks_blocked()
        store.local = older
        reached = SharedLocalStore()  # the same one, which is back for this node alone
        reached.local = older
        third = SharedEngine(reached)
        moved = new_listener()
        joined = joiner.one(wire.Joined)
        async with third.run():
            await trio.testing.wait_all_tasks_blocked()
            frame = wire.Resume(session=B, token=joined.token, epoch=1, seq=0)
            await third.handle_frame(moved, frame)
            await say(third, moved, 1)
            await come_back(store)
            assert inviter.closed is CloseCode.GOING_AWAY
            await one.disconnect(inviter)
            again = new_listener()
            await one.handle_frame(again, wire.Resume(session=A, token=token, epoch=1, seq=1))
            assert again.one(wire.Resync).epoch > 1
            await say(one, again, 2)
            assert again.one(wire.Ack).client_seq == 2


async def test_members_of_a_node_that_is_gone_are_away(new_listener, autojump_clock) -> None:
    """Its sign of life is missing; the others say so, and the member comes back to one of them."""
    async with met(new_listener) as (store, _one, other, inviter, _joiner):
        store.local.nodes[other.node.number] = 0.0
        other.node.is_away = True  # it says nothing any more
        await trio.sleep(5)
        assert [frame.state for frame in inviter.take(wire.Peer)] == ["present", "away"]


async def test_a_number_that_is_taken_is_drawn_again(new_listener, autojump_clock) -> None:
    """By two nodes at once, too: all rooms have their own."""
    store = SharedLocalStore()
    one, other = (SharedEngine(store) for _ in range(2))
    async with one.run(), other.run():
        await trio.testing.wait_all_tasks_blocked()
        listeners = [new_listener() for _ in range(40)]
        async with trio.open_nursery() as nursery:
            for number, listener in enumerate(listeners):
                frame = wire.Allocate(session=bytes([number]) * 16)
                nursery.start_soon((one, other)[number % 2].handle_frame, listener, frame)
        assert len({listener.one(wire.Joined).room for listener in listeners}) == 40


async def test_the_rooms_of_a_source_count_at_all_nodes_together(new_listener, autojump_clock) -> None:
    """Else each node would give it as many again."""
    store = SharedLocalStore(max_rooms=3)
    one, other = (SharedEngine(store) for _ in range(2))
    async with one.run(), other.run():
        await trio.testing.wait_all_tasks_blocked()
        listeners = [new_listener() for _ in range(4)]
        for number, listener in enumerate(listeners):
            frame = wire.Allocate(session=bytes([number]) * 16)
            await (one, other)[number % 2].handle_frame(listener, frame)
        assert listeners[3].one(wire.Error).code == RelayErrorCode.RATE
        await one.handle_frame(listeners[0], wire.Close(reason="left"))
        await trio.testing.wait_all_tasks_blocked()
        await other.handle_frame(listeners[3], wire.Allocate(session=C))
        assert len(listeners[3].take(wire.Joined)) == 1
