"""Paired peers meet without a code, in virtual time: either order, wrong clocks, dead relays, and who is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import icesignal
import pytest
import trio
import trio.testing
from icesignal.pake import Role
from memory_relay import MemoryRelay, open_memory_relay

from iceagent.session.errors import PeerNotPinned, UnknownPeer
from iceagent.session.pairing.identity import Identity, PublicIdentity
from iceagent.session.pairing.meeting import DAY_S, NEIGHBOUR_AFTER_S, Met, meet, rendezvous

URLS = ["ws://one.example", "ws://two.example"]
NOON = 20_000 * DAY_S + DAY_S / 2


@dataclass
class Side:
    """One of two paired peers, and the relays that it has; its clock is wrong by `clock_s`."""

    role: Role
    identity: Identity
    pinned: PublicIdentity | None
    relays: Sequence[MemoryRelay]
    clock_s: float = 0.0
    met: list[Met] = field(default_factory=list)
    at: list[str] = field(default_factory=list)

    def open_client(self, url: str) -> Any:
        relay = self.relays[URLS.index(url)]
        return icesignal.open_client(url, open_stream=relay.way(), timeout_s=5.0)

    def expected(self) -> PublicIdentity:
        if self.pinned is None:
            raise UnknownPeer("removed")
        return self.pinned

    @asynccontextmanager
    async def meeting(self) -> AsyncIterator[Met]:
        began_at = trio.current_time()
        urls = URLS[: len(self.relays)]
        async with meet(
            urls,
            self.open_client,
            self.identity,
            self.expected,
            self.role,
            now=lambda: NOON + self.clock_s + trio.current_time() - began_at,
        ) as met:
            yield met

    async def run(self, other: Side) -> None:
        """Meet once, and exchange a word each way."""
        async with self.meeting() as met:
            self.at.append(met.client.url)
            await met.channel.send({"hello": self.role})
            while (message := await met.channel.receive()).get("hello") is None:
                pass
            assert message == {"hello": other.role}
            await trio.sleep(1)


def sides(*relays: MemoryRelay) -> tuple[Side, Side]:
    one, two = Identity.generate(), Identity.generate()
    return Side("inviter", one, two.public, relays), Side("joiner", two, one.public, relays)


async def meet_once(first: Side, second: Side, apart_s: float = 0.0) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run, second)
        await trio.sleep(apart_s)
        nursery.start_soon(second.run, first)


@pytest.mark.parametrize("apart_s", [0.0, 7.0, 400.0])
@pytest.mark.parametrize("is_waiting_first", [True, False])
async def test_two_meet_whoever_comes_first(autojump_clock: object, is_waiting_first: bool, apart_s: float) -> None:
    """The one that waits may be started after the one that comes, and minutes apart."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        await meet_once(*((waits, comes) if is_waiting_first else (comes, waits)), apart_s)
        assert waits.at == comes.at == [URLS[0]]
        await meet_once(waits, comes)  # and again at once


@pytest.mark.parametrize("clock_s", [-DAY_S, -DAY_S / 3, DAY_S / 3, DAY_S])
@pytest.mark.parametrize("is_waiting_first", [True, False])
async def test_two_meet_with_clocks_a_day_apart(autojump_clock: object, clock_s: float, is_waiting_first: bool) -> None:
    """A clock that was never set is no reason to be alone."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        comes.clock_s = clock_s
        await meet_once(*((waits, comes) if is_waiting_first else (comes, waits)), 5.0)
        assert waits.at == comes.at


async def test_who_waits_moves_on_where_its_clock_is_set(autojump_clock: object) -> None:
    """A machine that has no clock of its own begins days ago; then it hears the time, and somebody comes by that."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        waits.clock_s = -30 * DAY_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits.run, comes)
            await trio.sleep(20)
            waits.clock_s = 0.0
            with trio.fail_after(600):
                await comes.run(waits)


async def test_two_meet_where_both_clocks_stand_at_their_beginning(autojump_clock: object) -> None:
    """And who comes looks into the rooms of the day before that, too."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        waits.clock_s = comes.clock_s = -NOON + 60
        await meet_once(comes, waits, 30.0)


async def test_who_waits_moves_on_with_the_day(autojump_clock: object) -> None:
    """It may wait for weeks; the name of the first day is not where the other one looks then."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        waits.clock_s = DAY_S / 2 - 30
        comes.clock_s = waits.clock_s + 60 + DAY_S  # it looks a day after the first day, and two and three
        await meet_once(waits, comes, 60)


@pytest.mark.parametrize("dead", [0, 1])
async def test_two_meet_at_the_relay_that_lives(autojump_clock: object, dead: int) -> None:
    """Whichever of two it is, and whoever comes first."""
    async with open_memory_relay() as one, open_memory_relay() as two:
        waits, comes = sides(one, two)
        (one, two)[dead].is_up = False
        await meet_once(waits, comes, 5.0)
        assert waits.at == comes.at == [URLS[1 - dead]]


async def test_two_meet_at_the_one_relay_that_both_reach(autojump_clock: object) -> None:
    """Each reaches a relay that the other does not."""
    async with open_memory_relay() as one, open_memory_relay() as two, open_memory_relay() as away:
        away.is_up = False
        waits, comes = sides(one, two)
        waits.relays = (one, two)
        comes.relays = (away, two)
        await meet_once(waits, comes, 5.0)
        assert waits.at == comes.at == [URLS[1]]


async def test_they_meet_in_one_place_where_they_could_meet_in_several(autojump_clock: object) -> None:
    """Both are at both relays: each would else go on where the other is not."""
    for _ in range(20):
        async with open_memory_relay() as one, open_memory_relay() as two:
            waits, comes = sides(one, two)
            await meet_once(waits, comes)
            assert waits.at == comes.at


async def test_a_relay_that_is_started_again_is_waited_out(autojump_clock: object) -> None:
    """It has forgotten the room; who waits makes it again."""
    async with open_memory_relay() as relay, open_memory_relay() as fresh:
        waits, comes = sides(relay)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits.run, comes)
            await trio.sleep(60)
            await relay.cut()
            await trio.sleep(30)
            relay.server = fresh.server
            relay.is_up = True
            await trio.sleep(200)
            nursery.start_soon(comes.run, waits)


async def test_no_relay_at_all_is_told_at_once_and_each_by_name(autojump_clock: object) -> None:
    """Who waits for ever at a relay that was mistyped waits in vain."""
    async with open_memory_relay() as one, open_memory_relay() as two:
        one.is_up = two.is_up = False
        for side in sides(one, two):
            with pytest.raises(icesignal.RelayUnreachable, match=r"none of 2 .*one\.example.*two\.example"):
                async with side.meeting():
                    pass


async def test_a_relay_sees_another_name_each_day_and_each_way(autojump_clock: object) -> None:
    """It cannot tell from the name that these two meet again; and both may wait for each other."""
    one, two = Identity.generate(), Identity.generate()
    roles: tuple[Role, ...] = ("inviter", "joiner")
    names = [rendezvous(one, two.public, role, day).name for role in roles for day in (1, 2, 20_000)]
    assert len(set(names)) == len(names)
    assert rendezvous(one, two.public, "inviter", 5) == icesignal.Rendezvous(
        "inviter", *_of(rendezvous(two, one.public, "joiner", 5))
    )
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        also_waits = Side("inviter", comes.identity, waits.identity.public, [relay])
        also_comes = Side("joiner", waits.identity, comes.identity.public, [relay])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits.run, comes)
            nursery.start_soon(also_waits.run, also_comes)
            await trio.sleep(1)
            nursery.start_soon(comes.run, waits)
            nursery.start_soon(also_comes.run, also_waits)


def _of(one: icesignal.Rendezvous) -> tuple[bytes, bytes]:
    return one.name, one.key


async def test_the_neighbours_of_a_day_are_not_shown_to_the_relay_without_need(autojump_clock: object) -> None:
    """Three names at once would tell it that they belong together."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        await meet_once(waits, comes, 5.0)
        assert len(relay.connections) == 2
        await trio.sleep(NEIGHBOUR_AFTER_S + 1)
        assert len(relay.connections) == 2


class Stolen(Identity):
    """Has the meeting's key, as whoever stole the other side's file has, and the signing key of somebody else."""

    def __init__(self, seed: bytes, signer: Identity) -> None:
        super().__init__(seed)
        self._signs = signer

    def sign(self, message: bytes) -> bytes:
        return self._signs.sign(message)


@pytest.mark.parametrize("role", ["inviter", "joiner"])
async def test_trap_83_whoever_is_not_the_pinned_one_is_refused_and_told(autojump_clock: object, role: Role) -> None:
    """The key of the meeting alone is not enough: whoever steals one side's file has it, and is not the other side."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)
        false = waits if role == "inviter" else comes
        false.identity = Stolen(false.identity._seed, Identity.generate())
        refused: list[str] = []

        async def try_it(side: Side) -> None:
            with pytest.raises(PeerNotPinned) as caught:
                async with side.meeting():
                    pass
            refused.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_it, waits)
            nursery.start_soon(try_it, comes)
        assert {"the other side refuses us" in text for text in refused} == {True, False}


async def test_trap_84_a_peer_that_was_removed_while_it_was_waited_for_does_not_get_in(autojump_clock: object) -> None:
    """`iceagent peers remove` beside a listener that has been waiting for weeks."""
    async with open_memory_relay() as relay:
        waits, comes = sides(relay)

        async def wait() -> None:
            with pytest.raises(UnknownPeer):
                async with waits.meeting():
                    pass

        async def come() -> None:
            with pytest.raises(PeerNotPinned, match="refuses us"):
                async with comes.meeting():
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(10)
            waits.pinned = None
            nursery.start_soon(come)
