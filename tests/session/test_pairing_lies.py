"""Pairing through a relay that lies by chance: it drops, repeats, swaps, reflects, damages and forges what passes.

Whatever it does, a side pins the other one or nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import icesignal
import pytest
import trio
import trio.testing
from amount import amount
from icesignal.pake import Role
from malicious_pair_relay import ROLES, PairLiar

from iceagent import IceError, Identity, Pairing, PeerStore

STRATEGIES = 4_000  # in parts, so that several workers have something of them
PARTS = 4
STEPS = 80


async def pair_through(liar: PairLiar, folder: Path) -> list[Identity]:
    """Have two users pair through the relay; each accepts whoever has proved who it is."""
    identities = [Identity(liar.rng.randbytes(32)) for _ in ROLES]
    code, came = "", trio.Event()

    @asynccontextmanager
    async def channel_of(role: Role) -> AsyncIterator[icesignal.SealedChannel]:
        nonlocal code
        client = liar.keepers[role].client()
        if role == "inviter":
            async with icesignal.open_invitation(client) as invitation:
                code = invitation.code
                came.set()
                yield await invitation.wait_peer()
        else:
            await came.wait()
            async with icesignal.open_join(client, code) as channel:
                yield channel

    async def run(number: int, role: Role) -> None:
        with suppress(icesignal.SignalError, IceError):
            async with channel_of(role) as channel:

                async def found() -> icesignal.SealedChannel:
                    await trio.lowlevel.checkpoint()
                    return channel

                store = PeerStore(folder / f"{number}.json")
                pairing = Pairing(
                    identities[number], store, found, code="", relay_url="", name="peer", own_name=f"side-{number}"
                )
                await pairing.wait_peer()
                await pairing.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(liar.run, STEPS)
        for number, role in enumerate(ROLES):
            nursery.start_soon(run, number, role)
    return identities


def pinned_by_chance(seed: int, folder: Path) -> int:
    """Return how many of the two have pinned the other; complain if anybody else was."""
    identities = trio.run(pair_through, PairLiar(seed), folder, clock=trio.testing.MockClock(autojump_threshold=0))
    pinned = 0
    for number in (0, 1):
        found = PeerStore(folder / f"{number}.json").peers()
        assert {peer.identity for peer in found.values()} <= {identities[1 - number].public}, f"strategy {seed}"
        pinned += len(found)
    return pinned


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(PARTS))
def test_a_relay_that_lies_gets_nobody_pinned_but_the_other_side(part: int, tmp_path: Path) -> None:
    """It has not the code: it can keep the two apart, and nothing else."""
    size = STRATEGIES // PARTS
    seeds = range(part * size, part * size + amount(size, 12))
    pinned = [pinned_by_chance(seed, tmp_path / str(seed)) for seed in seeds]
    assert any(pinned), "it lets some through"
    assert not all(pinned), "and has kept some apart"
