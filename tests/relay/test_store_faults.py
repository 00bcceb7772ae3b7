"""A store that holds what is none of ours, forgets, has its clock set back, or is not who it is said to be."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import coredis
import pytest
import trio
import trio.testing
from coturn import free_port, make_certificate
from icesignal import wire
from icesignal.engines.redis import RedisStore
from icesignal.engines.redis_url import parse_redis_url
from icesignal.engines.shared import SharedEngine, StoreAway, StoreRefused
from icesignal.engines.shared.node import BEAT_S
from icesignal.engines.shared.requests import Lookup
from icesignal.engines.shared.state import Change, encode_change
from icesignal.nameplates import GUESS_HALF_LIFE_S, MAX_DIGITS, Guesses
from icesignal.wire import CloseCode
from listeners import Listener, settled
from local_store import LocalStore, SharedLocalStore
from redis_process import RunningRedis, running_cluster, running_redis

A, B, C, D = b"a" * 16, b"b" * 16, b"c" * 16, b"d" * 16


@asynccontextmanager
async def met_locally() -> AsyncIterator[tuple[SharedLocalStore, SharedEngine, SharedEngine, Listener, Listener]]:
    """Yield a store, two nodes on it, and an inviter and a joiner, one on each."""
    store = SharedLocalStore()
    one, other = (SharedEngine(store) for _ in range(2))
    async with one.run(), other.run():
        await trio.testing.wait_all_tasks_blocked()
        yield store, one, other, *await meet(one, other)


async def meet(one: SharedEngine, other: SharedEngine) -> tuple[Listener, Listener]:
    inviter, joiner = Listener(), Listener()
    await one.handle_frame(inviter, wire.Allocate(session=A, opening=b"A"))
    await other.handle_frame(joiner, wire.Join(session=B, nameplate=inviter.frames[0].room, opening=b"B"))
    return inviter, joiner


async def say(engine: SharedEngine, listener: Listener, client_seq: int) -> None:
    await engine.handle_frame(listener, wire.Send(client_seq=client_seq, payload=b"%d" % client_seq))


def spoil_a_field(local: LocalStore) -> None:
    (room,) = local.rooms.values()
    room.fields["c"], room.version = b"what is this", "99-aa"


def spoil_the_version(local: LocalStore) -> None:
    (room,) = local.rooms.values()
    room.version = "none"


def be_of_a_later_kind(local: LocalStore) -> None:
    (room,) = local.rooms.values()
    room.fields["f"], room.version = room.fields["f"].replace(b"\xa4pair", b"\xa4hall"), "99-aa"


@pytest.mark.parametrize("spoil", [spoil_a_field, spoil_the_version, be_of_a_later_kind])
async def test_trap_100_a_room_that_nobody_can_read_costs_no_other_room(autojump_clock: object, spoil) -> None:
    """A newer node has stored it, say: whoever is in it is sent away, perhaps to that; all the others stay."""
    async with met_locally() as (store, one, other, inviter, joiner):
        spoil(store.local)
        await say(one, inviter, 1)
        assert inviter.closed is CloseCode.GOING_AWAY
        assert one.is_ready()
        assert (one.node.counters["store_losses"], one.node.counters["unreadable"]) == (0, 1)
        await one.disconnect(inviter)
        late = Listener()
        await one.handle_frame(late, wire.Allocate(session=C, opening=b"C"))
        assert late.one(wire.Joined)
        again = Listener()
        await one.handle_frame(again, wire.Meet(session=D, name=b"n" * 32, role="inviter"))
        assert again.one(wire.Joined)
        assert joiner.closed is None  # its node has not been told of anything yet
        assert other.is_ready()


async def test_trap_100_a_number_whose_room_cannot_be_read_is_drawn_again(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes a code names no number, so another one does as well."""
    async with met_locally() as (store, _, _, inviter, _):
        pass
    third = SharedEngine(store)
    async with third.run():
        await trio.testing.wait_all_tasks_blocked()
        room = inviter.frames[0].room
        spoil_the_version(store.local)
        drawn = iter([room, room, "7777"])
        monkeypatch.setattr(third.node, "_draw", lambda now: next(drawn))
        late = Listener()
        await third.handle_frame(late, wire.Allocate(session=C, opening=b"C"))
        assert late.one(wire.Joined).room == "7777"
        assert third.node.counters["unreadable"] == 2


@pytest.mark.parametrize(
    "spoiled",
    [
        Change("", "", "2-aa", put={"c": b"what is this"}),
        Change("", "", "2-aa", put={"mjoiner": b"\x91\x01"}),
        Change("", "", "2-aa", entries={7: b"\xc1"}),
    ],
)
async def test_trap_100_a_change_that_nobody_can_read_ends_no_node(autojump_clock: object, spoiled: Change) -> None:
    """Whoever writes to the store publishes, too. What is stored is looked at then, and is the truth."""
    async with met_locally() as (_, one, other, inviter, joiner):
        ((key, version),) = one.node.versions.items()
        change = Change(key, version, spoiled.after, put=spoiled.put, entries=spoiled.entries)
        one.node.handle_change(0.0, change)
        one._drain()
        await say(one, inviter, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert inviter.one(wire.Ack).seq == 1
        assert joiner.one(wire.Message).payload == b"1"
        assert other.is_ready()


async def test_what_a_store_has_forgotten_is_stored_again_within_a_beat(autojump_clock: object) -> None:
    """It was emptied, or had no place: no connection breaks then. Who is cut off later comes back on another node."""
    async with met_locally() as (store, one, other, inviter, joiner):
        token = joiner.one(wire.Joined).token
        await trio.sleep(2 * BEAT_S)
        for part in (store.local.rooms, store.local.sessions, store.local.usage, store.local.nodes):
            part.clear()
        await trio.sleep(2 * BEAT_S)
        await trio.testing.wait_all_tasks_blocked()
        again = Listener()
        await one.handle_frame(again, wire.Resume(session=B, token=token, epoch=1, seq=0))
        assert again.one(wire.Resumed)
        assert (inviter.closed, joiner.closed) == (None, CloseCode.FENCED)
        assert other.node.counters["restored"] + one.node.counters["restored"] > 0
        assert [frame.state for frame in inviter.take(wire.Peer)] == ["present", "present"]  # nobody was taken for gone


@pytest.mark.parametrize("back_s", [60.0, 86_400.0, 40 * 86_400.0])
def test_guesses_do_not_grow_where_a_clock_is_set_back(back_s: float) -> None:
    """Each half-life that is to come again would double them, until no number was long enough."""
    guesses = Guesses()
    guesses.set(100 * 86_400.0, 20.0)
    assert guesses.amount(100 * 86_400.0 - back_s) == 20.0
    assert guesses.amount(100 * 86_400.0 + GUESS_HALF_LIFE_S) == 10.0


@pytest.mark.parametrize("amount", [float("inf"), float("-inf"), float("nan"), 1e300, -1.0])
def test_no_amount_of_guesses_is_too_much(amount: float) -> None:
    """What is stored may be anything; a number has nine digits at most anyway."""
    guesses = Guesses()
    guesses.set(0.0, amount)
    guesses.note(0.0)
    assert 0 <= guesses.digits(0.0) <= 2 * MAX_DIGITS


@pytest.mark.parametrize("back_s", [60.0, 40 * 86_400.0])
async def test_a_node_gives_signs_of_life_where_the_clock_of_the_store_is_set_back(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, back_s: float
) -> None:
    """The others would take it for gone, and it would not notice that others are."""
    async with met_locally() as (store, one, other, inviter, joiner):
        await trio.sleep(2 * BEAT_S)
        real = store.now
        monkeypatch.setattr(store, "now", lambda: real() - back_s)
        store.local.nodes.clear()
        await say(one, inviter, 1)
        await say(other, joiner, 1)
        await trio.sleep(2 * BEAT_S)
        assert set(store.local.nodes) == {one.node.number, other.node.number}


# Redis itself


@asynccontextmanager
async def nodes_on(redis: RunningRedis) -> AsyncIterator[tuple[SharedEngine, SharedEngine]]:
    one, other = (SharedEngine(RedisStore(parse_redis_url(redis.url), max_rooms=128)) for _ in range(2))
    async with one.run(), other.run(), redis.client() as client:
        await settled(client, one, other)
        yield one, other


@pytest.mark.processes
async def test_trap_100_keys_of_somebody_elses_cost_no_other_room() -> None:
    """They are of another type, and Redis refuses to do anything with them."""
    async with running_redis() as redis, nodes_on(redis) as (one, other), redis.client() as client:
        inviter, _ = await meet(one, other)
        (key,) = one.node.versions
        await client.set(f"ice:{{{key}}}:room", b"somebody's")
        await say(one, inviter, 1)
        assert inviter.closed is CloseCode.GOING_AWAY
        late = Listener()
        await one.handle_frame(late, wire.Allocate(session=C, opening=b"C"))
        assert late.one(wire.Joined)
        assert one.node.counters["store_losses"] == other.node.counters["store_losses"] == 0


@pytest.mark.processes
async def test_trap_100_what_somebody_else_publishes_ends_no_node() -> None:
    """Neither what is no change nor a change that names no version."""
    async with running_redis() as redis, nodes_on(redis) as (one, other), redis.client() as client:
        inviter, joiner = await meet(one, other)
        (key,) = one.node.versions
        for engine in (one, other):
            for data in (b"", b"\xc1", encode_change(Change(key, "x", "y-aa")), encode_change(Change(key, "", "z"))):
                await client.publish(f"ice:changes:{engine.node.number}", data)
        await say(one, inviter, 1)
        await settled(client, one, other)
        assert inviter.one(wire.Ack)
        assert joiner.one(wire.Message)


@pytest.mark.processes
async def test_guesses_in_redis_do_not_grow_where_its_clock_is_set_back() -> None:
    """They are decayed by its own clock, which may have been ahead for a while."""
    async with running_redis() as redis, redis.client() as client:
        await client.hset("ice:g", {"amount": "20", "at": "99999999999999"})
        async with nodes_on(redis) as (one, _):
            with trio.fail_after(60):
                while not one.node._guesses.amount(0.0):
                    await trio.sleep(0.01)
            assert one.node._guesses.amount(0.0) == 20.0


@pytest.mark.processes
@pytest.mark.parametrize(
    ("fault", "mend"),
    [
        (
            lambda client: client.config_set({"maxmemory": "100kb"}),
            lambda client: client.config_set({"maxmemory": "0"}),
        ),
        (lambda client: client.replicaof("127.0.0.1", 1), lambda client: client.replicaof()),
    ],
    ids=["no memory", "a replica"],
)
async def test_a_redis_that_stores_nothing_more_is_waited_for(
    fault: Callable[[coredis.Redis[bytes]], Awaitable[object]],
    mend: Callable[[coredis.Redis[bytes]], Awaitable[object]],
) -> None:
    """It was full, or has become a replica: nothing acknowledged is lost, and who waited is served."""
    async with running_redis() as redis, nodes_on(redis) as (one, other), redis.client() as client:
        inviter, joiner = await meet(one, other)
        await say(one, inviter, 1)
        await fault(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, one, inviter, 2)
            with trio.fail_after(60):
                while one.is_ready():
                    await trio.sleep(0.01)
            await mend(client)
        await settled(client, one, other)
        assert [message.payload for message in joiner.take(wire.Message)] == [b"1", b"2"]
        assert (inviter.closed, joiner.closed) == (None, None)


@pytest.mark.processes
async def test_a_user_who_may_do_too_little_ends_the_start_and_the_one_of_the_documentation_is_enough() -> None:
    """In Redis 7 a user who may do everything may still use no channel."""
    async with running_redis() as redis, redis.client() as client:
        text = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("ACL SETUSER relay ")]
        for line in lines:
            rules = line.removeprefix("ACL SETUSER relay ").replace(">PASSWORD", ">right").split()
            await client.acl_setuser("relay", *rules)
        await client.acl_setuser("channelless", "on", ">right", "~ice:*", "+@all")
        refused = RedisStore(parse_redis_url(f"redis://channelless:right@127.0.0.1:{redis.port}"), max_rooms=1)
        with pytest.raises(StoreRefused, match="too little"):
            await refused.check()
        store = RedisStore(parse_redis_url(f"redis://relay:right@127.0.0.1:{redis.port}"), max_rooms=128)
        one, other = SharedEngine(store), SharedEngine(RedisStore(store.address, max_rooms=128))
        async with one.run(), other.run():
            await settled(client, one, other)
            await meet(one, other)


@pytest.mark.processes
async def test_a_redis_that_throws_rooms_away_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """As a cache does; nobody would know why rooms are gone."""
    async with (
        running_redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as redis,
        nodes_on(redis),
    ):
        pass
    assert any("noeviction" in record.getMessage() for record in caplog.records)


@pytest.mark.processes
@pytest.mark.parametrize("name", ["localhost", "other.example"])
async def test_trap_101_the_certificate_of_a_redis_is_held_against_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whoever has a certificate of any name could sit between, and would read and write every room."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = make_certificate(Path(folder), name)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        port = free_port()
        options = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
        async with running_redis(*options, "--tls-auth-clients", "no"):
            store = RedisStore(parse_redis_url(f"rediss://localhost:{port}"), max_rooms=128)
            if name == "localhost":
                await store.check()
                async with SharedEngine(store).run():
                    pass
            else:
                with pytest.raises(StoreRefused, match="certificate"):
                    await store.check()
    assert ssl.create_default_context().check_hostname


async def raise_as_if_within(module: str) -> None:
    """Raise what no list of ours has, in a function of a module of this name."""
    scope = {"__name__": module}
    exec("def fail():\n    raise LookupError('a pool is full')", scope)
    await trio.lowlevel.checkpoint()
    scope["fail"]()  # type: ignore[operator]


class Unlucky:
    def __init__(self, module: str) -> None:
        self.module = module

    async def evalsha(self, *arguments: object) -> None:
        await raise_as_if_within(self.module)


async def test_trap_100_whatever_the_library_raises_is_a_store_that_is_away_and_no_end_of_the_node() -> None:
    """Its pool of a cluster has an error of a private name. A fault of our own is not hidden by that."""
    store = RedisStore(parse_redis_url("redis://127.0.0.1"), max_rooms=1)
    for module, raised in (("coredis.pool", StoreAway), ("icesignal.engines", LookupError)):
        store._client = Unlucky(module)  # type: ignore[assignment]
        with pytest.raises(raised):
            await store.perform(Lookup(A))


@pytest.mark.processes
async def test_rooms_on_a_cluster() -> None:
    """Rooms are on all its servers; without ?cluster=yes the start ends; one server's end loses nothing."""
    async with running_cluster() as servers:
        with pytest.raises(StoreRefused, match="cluster=yes"):
            await RedisStore(parse_redis_url(servers[0].url), max_rooms=1).check()
        stores = [RedisStore(parse_redis_url(f"{redis.url}?cluster=yes"), max_rooms=2) for redis in servers]
        one, other = (SharedEngine(store) for store in stores[:2])
        async with one.run(), other.run():
            await wait_for(lambda: one.is_ready() and other.is_ready())
            pairs = [await meet_as(number, one, other) for number in range(6)]
            for inviter, _ in pairs:
                await say(one, inviter, 1)
            servers[1].kill()
            async with trio.open_nursery() as nursery:
                for inviter, _ in pairs:
                    nursery.start_soon(say, one, inviter, 2)
                await wait_for(lambda: not one.is_ready())
                await servers[1].start()
            await wait_for(lambda: one.is_ready() and other.is_ready())
            for inviter, joiner in pairs:
                if inviter.closed is None:  # else it has waited too long, and comes back
                    await wait_for(partial(has_frames, joiner, 3))
                    assert [one.payload for one in joiner.take(wire.Message)] == [b"1", b"2"]


@pytest.mark.processes
async def test_in_a_cluster_a_source_that_may_have_no_room_is_charged_for_none() -> None:
    """Its shares are in several slots: what was noted in one is taken back where another is full."""
    async with running_cluster() as servers:
        store = RedisStore(parse_redis_url(f"{servers[0].url}?cluster=yes"), max_rooms=2)
        engine = SharedEngine(store)
        async with engine.run():
            await wait_for(engine.is_ready)
            for number in range(4):
                listener = Listener(levels=((f"narrow {number}", 1.0), ("wide", 1.0)))
                await engine.handle_frame(listener, wire.Allocate(session=bytes([number]) * 16, opening=b"A"))
                assert isinstance(listener.frames[0], wire.Joined) is (number < 2)
            async with coredis.RedisCluster("127.0.0.1", servers[0].port) as client:
                counts = [await client.zcard(f"ice:source:narrow {number}") for number in range(4)]
        assert counts == [1, 1, 0, 0]


async def meet_as(number: int, one: SharedEngine, other: SharedEngine) -> tuple[Listener, Listener]:
    inviter, joiner = (Listener(levels=((f"source {number}", 1.0), ("all", 100.0))) for _ in range(2))
    await one.handle_frame(inviter, wire.Allocate(session=bytes([number]) * 16, opening=b"A"))
    room = inviter.frames[0].room
    await other.handle_frame(joiner, wire.Join(session=bytes([100 + number]) * 16, nameplate=room, opening=b"B"))
    return inviter, joiner


def has_frames(listener: Listener, count: int) -> bool:
    return len(listener.frames) >= count


async def wait_for(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.02)
