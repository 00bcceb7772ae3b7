"""Budgets of sources that all nodes share (trap 95): with every engine, then at the doors of two nodes."""

from __future__ import annotations

from collections import Counter
from secrets import token_bytes

import trio
import trio.testing
from icesignal import wire
from icesignal.engines import Engine
from icesignal.engines.redis import RedisStore
from icesignal.engines.redis_url import parse_redis_url
from icesignal.engines.shared import SharedEngine
from icesignal.engines.shared.node import Node
from icesignal.engines.shared.requests import Beat, Pay, Pulse
from icesignal.registry import RoomLimits
from icesignal.server import serve
from icesignal.sources import Balance, Charge, Limits, Rate, SourceTable
from icesignal.toll import Toll
from icesignal.wire import RelayErrorCode
from local_store import LocalStore, SharedLocalStore
from redis_process import running_redis
from relay_client import connect_raw

LOOPBACK = ["127.0.0.0/8"]


def join() -> wire.Join:
    return wire.Join(session=token_bytes(16), nameplate="999999999")


class Door:
    """What a node does of an entry before its engine hears of it."""

    def __init__(self, engine: Engine, table: SourceTable) -> None:
        self.engine = engine
        self.table = table

    async def enter(self, host: str, frame: wire.Join | wire.Allocate) -> Toll | None:
        """Return what was paid by, None where it was refused."""
        party = self.table.party(trio.current_time(), host)
        toll = Toll(party, self.table.limits, self.engine.pressure, Counter())
        refusal = toll.take(trio.current_time(), frame)
        if refusal is None:
            balance = await self.engine.pay(party.levels, toll.charges)
            refusal = toll.settle(trio.current_time(), frame, balance)
        return toll if refusal is None else None

    def give_back(self, host: str, toll: Toll) -> None:
        party = self.table.party(trio.current_time(), host)
        self.engine.give_back(party.levels, toll.give_back(trio.current_time()))


def doors(nodes, limits: Limits) -> tuple[Door, Door]:
    first, second = nodes
    table = SourceTable(limits)
    return Door(first.engine, table), Door(second.engine, table if first is second else SourceTable(limits))


async def test_trap_95_claims_count_at_all_nodes_together(make_nodes) -> None:
    """Else who goes round the nodes has as many budgets as there are nodes."""
    async with make_nodes() as nodes:
        first, second = doors(nodes, Limits(claims=Rate(5, 0), work_tries=0, dear_tries=0))
        went = [await door.enter("203.0.113.1", join()) for door in (first, second, second, first, second)]
        assert all(went)
        for door in (first, second):
            assert await door.enter("203.0.113.1", join()) is None
            assert await door.enter("203.0.113.2", join()), "others have their own"


async def test_trap_95_entries_count_at_all_nodes_together(make_nodes) -> None:
    """Rooms that are made, too; and a whole network has its multiple, at all nodes."""
    async with make_nodes() as nodes:
        first, second = doors(nodes, Limits(joins=Rate(2, 0), failed_join_cost=1, work_tries=0, dear_tries=0))
        made = 0
        for number in range(12):
            for door in (first, second):
                frame = wire.Allocate(session=token_bytes(16))
                made += await door.enter(f"203.0.113.{number}", frame) is not None
        assert made == 16, "eight times what one address has"
        assert await first.enter("203.0.114.1", join())


async def test_trap_95_what_was_no_guess_comes_back_at_all_nodes(make_nodes) -> None:
    """Honest people behind one address are not fewer because there are more nodes."""
    async with make_nodes() as nodes:
        first, second = doors(nodes, Limits(claims=Rate(1, 0), joins=Rate(5_000, 0), work_tries=0, dear_tries=0))
        for _ in range(5):
            for door in (first, second):
                paid = None
                with trio.fail_after(30):
                    while (paid := await door.enter("203.0.113.1", join())) is None:
                        await trio.sleep(0.01)  # it comes back some time
                        forget_own(first, second)
                door.give_back("203.0.113.1", paid)
                forget_own(first, second)


def forget_own(*sides: Door) -> None:
    """What each remembers of its own is less than what is there, and does not grow here."""
    for side in sides:
        bucket = side.table.party(0.0, "203.0.113.1").sources[0].buckets["claims"]
        bucket.tokens = bucket.rate.burst


async def test_trap_95_a_budget_that_all_share_is_refilled_by_time(make_nodes) -> None:
    """By the store's clock, which is the same for all."""
    async with make_nodes() as nodes:
        first, second = doors(nodes, Limits(claims=Rate(1, 10), work_tries=0, dear_tries=0))
        assert await first.enter("203.0.113.1", join())
        with trio.fail_after(30):
            while await second.enter("203.0.113.1", join()) is None:
                await trio.sleep(0.01)


async def test_trap_95_two_nodes_refuse_what_one_would_refuse() -> None:
    """At the doors of real nodes; where work is wanted instead of waiting, the other node wants it, too."""
    store = SharedLocalStore()
    limits = Limits(claims=Rate(4, 0), work_tries=0, dear_tries=8)
    async with (
        serve(engine=SharedEngine(store), limits=limits, trusted_proxies=LOOPBACK) as one,
        serve(engine=SharedEngine(store), limits=limits, trusted_proxies=LOOPBACK) as other,
        connect_raw(one.url, source="203.0.113.1") as first,
        connect_raw(other.url, source="203.0.113.1") as second,
    ):
        while not (one.is_ready and other.is_ready):
            await trio.sleep(0.01)
        answers = [await client.ask(join()) for client in (first, second, first, second)]
        assert [getattr(answer, "code", "") for answer in answers] == [RelayErrorCode.UNKNOWN_NAMEPLATE] * 4
        for client in (first, second):
            answer = await client.ask(join())
            assert isinstance(answer, wire.Error)
            assert (answer.code, bool(answer.work)) == (RelayErrorCode.RATE, True)


async def test_a_store_that_is_away_refuses_nobody_for_that() -> None:
    """Each node counts for itself meanwhile."""
    store = SharedLocalStore()
    engine = SharedEngine(store)
    async with engine.run():
        await trio.testing.wait_all_tasks_blocked()
        store.go_away()
        await trio.testing.wait_all_tasks_blocked()
        door = Door(engine, SourceTable(Limits(claims=Rate(1, 0), work_tries=0, dear_tries=0)))
        assert await door.enter("203.0.113.1", join())
        assert await door.enter("203.0.113.1", join()) is None


async def test_nodes_know_how_many_codes_wait_at_all_of_them() -> None:
    """Numbers have to be the sparser the more codes wait, wherever they were made."""
    store = LocalStore()
    nodes = [Node(number=number, randbytes=token_bytes, limits=RoomLimits()) for number in (1, 2)]
    nodes[0].waiting_count = 20
    for node in nodes:
        answer, _ = store.perform(0.0, node.first_beat())
        assert isinstance(answer, Pulse)
        node._take_pulse(0.0, node.first_beat(), answer)
    assert [len(node._draw(0.0)) for node in nodes] == [6, 6]


async def test_redis_adds_up_what_waits_and_what_was_guessed() -> None:
    """Of the nodes that live; a node that says it again counts once."""
    async with running_redis() as redis:
        store = RedisStore(parse_redis_url(redis.url), max_rooms=128)
        async with store.listen(1):
            await store.perform(Beat(1, (), 2, 5))
            await store.perform(Beat(1, (), 0, 4))
            pulse = (await store.perform(Beat(2, (), 1, 3))).answer
    assert isinstance(pulse, Pulse)
    assert pulse.waiting == 7
    assert 2.9 < pulse.guesses <= 3.0


class Slow(SharedLocalStore):
    """A store that takes its time over payments once it is told to."""

    is_slow = False

    async def perform(self, request):
        if self.is_slow and isinstance(request, Pay) and request.charges[0].cost > 0:
            await trio.sleep(0.3)
        return await super().perform(request)


async def test_who_is_in_a_room_pays_for_no_second_one_and_is_refused() -> None:
    """What was paid before is confirmed meanwhile; it was an error of ours, and the end of the connection."""
    store = Slow()
    async with (
        serve(engine=SharedEngine(store), trusted_proxies=LOOPBACK) as relay,
        connect_raw(relay.url, source="203.0.113.1") as inviter,
        connect_raw(relay.url, source="203.0.113.2") as joiner,
    ):
        while not relay.is_ready:
            await trio.sleep(0.01)
        room = await inviter.ask(wire.Allocate(session=token_bytes(16)))
        assert isinstance(room, wire.Joined)
        await joiner.ask(wire.Join(session=token_bytes(16), nameplate=room.room))
        store.is_slow = True
        joiner.say(join())
        await trio.sleep(0.1)
        for number in (1, 2):
            inviter.say(wire.Send(client_seq=number, payload=b"x"))
        await trio.sleep(0.5)
        assert relay.counters["internal_errors"] == 0
        assert relay.statistics()["connections"] == 2


async def test_what_a_claim_has_cost_comes_back_after_a_resumption() -> None:
    """Whose network fails in the middle of a join is no guesser."""
    async with (
        serve(trusted_proxies=LOOPBACK) as relay,
        connect_raw(relay.url, source="203.0.113.1") as inviter,
    ):

        def used() -> dict[str, float]:
            now = trio.current_time()
            party = relay._sources.party(now, "203.0.113.2")
            return {kind: party.used(kind, now) for kind in ("joins", "claims", "doubts")}

        room = await inviter.ask(wire.Allocate(session=token_bytes(16)))
        assert isinstance(room, wire.Joined)
        session = token_bytes(16)
        async with connect_raw(relay.url, source="203.0.113.2") as joiner:
            joined = await joiner.ask(wire.Join(session=session, nameplate=room.room))
        assert isinstance(joined, wire.Joined)
        assert used()["claims"] > 0.5
        async with connect_raw(relay.url, source="203.0.113.2") as joiner:
            await joiner.ask(wire.Resume(session=session, token=joined.token, epoch=joined.epoch, seq=0))
            for number in (1, 2):
                inviter.say(wire.Send(client_seq=number, payload=b"x"))
            with trio.fail_after(5):
                while used()["claims"] > 0.1:
                    await trio.sleep(0.05)
        assert used()["doubts"] < 0.1
        assert used()["joins"] <= 1


async def test_trap_95_a_payment_of_one_kind_shortens_the_life_of_no_other_budget() -> None:
    """All budgets of a source are one key of Redis: with its end the others would be full again."""
    async with running_redis() as redis:
        store = RedisStore(parse_redis_url(redis.url), max_rooms=1)
        levels = (("203.0.113.9", 1.0),)
        await store.check()
        async with store.listen(1):
            for rate in (Rate(10, 0.05), Rate(10, 0.5)):
                reply = await store.perform(Pay(levels, (Charge("claims", 1.0, rate),)))
                assert isinstance(reply.answer, Balance)
        async with redis.client() as client:
            assert await client.pttl("ice:budget:203.0.113.9") > 100_000, "as long as the slower one takes"
