"""A relay that lies as it likes: nobody talks to it or a wrong peer, nothing is heard twice or under a wrong name."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import icesignal
import pytest
import trio
import trio.testing
from amount import amount
from malicious_pair_relay import PairLiar
from malicious_relay import Liar

STRATEGIES = int(os.environ.get("ICEAGENT_STRATEGIES", "1000"))
"""Of each kind of room in `make thorough`; `make strategies` tries 10,000. In parts, for several workers."""
PARTS = 20
STEPS = 50


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(PARTS))
def test_no_strategy_in_a_room_of_many_gets_anybody_to_be_wrong(part: int) -> None:
    """Each complaint is the world's own (`room_worlds`); and an honest relay is of use again afterwards."""
    for number in range(amount(STRATEGIES // PARTS, 2)):
        seed = part * STRATEGIES // PARTS + number
        liar = Liar(seed, size=2 + seed % 4)
        try:
            liar.run(STEPS)
            liar.make_good()
        except AssertionError as error:
            raise AssertionError(f"strategy {seed}: {error}") from error


def test_in_the_midst_of_lies_much_is_said_and_heard() -> None:
    """Else that nothing wrong was heard would show nothing."""
    heard = 0
    for seed in range(12):
        liar = Liar(seed, size=4)
        liar.run(STEPS)
        heard += sum(len(stay.heard) for stay in liar.world.stays)
    assert heard > 100


# -- rooms of two


class Side:
    """What one of two peers has said and heard."""

    def __init__(self) -> None:
        self.channel: icesignal.SealedChannel | None = None
        self.said: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []

    async def talk(self, channel: icesignal.SealedChannel) -> None:
        """Say something, and listen until the end."""
        self.channel = channel
        for number in range(4):
            self.said.append({"role": channel.role, "number": number})
            await channel.send(self.said[-1])
        while True:
            self.heard.append(await channel.receive())


async def two_peers(seed: int) -> tuple[Side, Side, PairLiar]:
    """Let two peers with one code meet at a relay that lies; return what they have said and heard."""
    liar, inviter, joiner = PairLiar(seed), Side(), Side()
    code = trio.Event()
    codes: list[str] = []

    async def invite() -> None:
        with suppress(icesignal.SignalError):
            async with icesignal.open_invitation(liar.keepers["inviter"].client()) as invitation:
                codes.append(invitation.code)
                code.set()
                await inviter.talk(await invitation.wait_peer())

    async def join() -> None:
        await code.wait()
        with suppress(icesignal.SignalError):
            async with icesignal.open_join(liar.keepers["joiner"].client(), codes[0]) as channel:
                await joiner.talk(channel)

    async with trio.open_nursery() as nursery:
        for task in (invite, join):
            nursery.start_soon(task)
        await liar.run(STEPS)
    return inviter, joiner, liar


def check(inviter: Side, joiner: Side) -> None:
    """Complain where somebody has heard what the other has not said, twice, or in another order."""
    for one, other in ((inviter, joiner), (joiner, inviter)):
        assert one.heard == other.said[: len(one.heard)]
    if inviter.channel is not None and joiner.channel is not None:
        assert inviter.channel.key("a") == joiner.channel.key("a"), "each talks to somebody else"


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(PARTS))
def test_no_strategy_in_a_room_of_two_gets_anybody_to_be_wrong(part: int) -> None:
    """They talk to each other, or to nobody."""
    for number in range(amount(STRATEGIES // PARTS, 1)):
        seed = part * STRATEGIES // PARTS + number
        inviter, joiner, _ = trio.run(two_peers, seed, clock=trio.testing.MockClock(autojump_threshold=0))
        try:
            check(inviter, joiner)
        except AssertionError as error:
            raise AssertionError(f"strategy {seed}: {error}") from error


def test_in_the_midst_of_lies_two_find_each_other() -> None:
    """Where the relay lies about what is not needed; else that nothing wrong was heard would show nothing."""
    heard = opened = 0
    for seed in range(16):
        inviter, joiner, _ = trio.run(two_peers, seed, clock=trio.testing.MockClock(autojump_threshold=0))
        opened += inviter.channel is not None
        heard += len(inviter.heard) + len(joiner.heard)
    assert opened >= 3
    assert heard >= 15
