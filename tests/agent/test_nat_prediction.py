"""What is predicted of two networks must be what agents find there: each pair of behaviours, in the virtual network."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import trio
from amount import spread
from virtual_pair import NATS, two_agents

from iceagent.core.discovery import FamilyView, Filtering, MappingBehaviour, PredictedPath, SideView, meets, predict
from iceagent.errors import NetworkError
from iceagent.vnet import Nat
from iceagent.vnet.nat import Behaviour

KINDS: tuple[Behaviour, ...] = ("endpoint-independent", "address-dependent", "address-and-port-dependent")
BEHAVIOURS = {f"{m}/{f}": (m, f) for m, f in product(KINDS, KINDS)}
FIVE = list(product(NATS, NATS))
HOPELESS = {("symmetric", "symmetric"), ("symmetric", "port-restricted"), ("port-restricted", "symmetric")}


def view_of(nat):
    if nat is None:
        return FamilyView(MappingBehaviour.NO_NAT, Filtering.ENDPOINT_INDEPENDENT)
    return FamilyView(MappingBehaviour(nat.mapping), Filtering(nat.filtering))


def side(*views, relays=()):
    return SideView(dict(zip((4, 6), views, strict=False)), frozenset(relays))


async def agents_meet(vnet, left, right):
    met = True
    async with two_agents(vnet(), left, right) as lab:
        try:
            with trio.fail_after(60):
                await lab.connect()
        except* NetworkError:
            met = False
    return met


@pytest.mark.parametrize(("left", "right"), FIVE)
async def test_the_five_by_five_table_is_true(vnet, left, right):
    """The table of docs/netcheck.md, against agents behind the very NATs."""
    predicted = predict(side(view_of(NATS[left])), side(view_of(NATS[right])))
    assert predicted.certain
    assert (predicted.outcome is PredictedPath.DIRECT) is ((left, right) not in HOPELESS)
    assert await agents_meet(vnet, NATS[left], NATS[right]) is (predicted.outcome is PredictedPath.DIRECT)


@pytest.mark.thorough
@pytest.mark.parametrize("allocation", ["random", "preserving"])
@pytest.mark.parametrize(("left", "right"), spread(list(product(BEHAVIOURS, BEHAVIOURS)), 21))
async def test_all_behaviours_are_predicted(vnet, left, right, allocation):
    """81 pairs of mapping and filtering, with ports at random; preserved ports may only do better."""
    nats = [Nat(mapping=m, filtering=f, port_allocation=allocation) for m, f in (BEHAVIOURS[left], BEHAVIOURS[right])]
    predicted = meets(view_of(nats[0]), view_of(nats[1]))
    found = await agents_meet(vnet, *nats)
    if allocation == "preserving":
        assert found or not predicted
    else:
        assert found is predicted


def test_the_documented_table_is_the_predicted_one():
    """Readers plan by it."""
    text = (Path(__file__).parents[2] / "docs" / "netcheck.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    start = next(number for number, row in enumerate(rows) if row[1:] == list(NATS))
    table = {row[0]: row[1:] for row in rows[start + 2 : start + 2 + len(NATS)]}
    assert list(table) == list(NATS)
    for left, cells in table.items():
        for right, cell in zip(NATS, cells, strict=True):
            ours, theirs = side(view_of(NATS[left]), relays=["udp"]), side(view_of(NATS[right]), relays=["udp"])
            assert predict(ours, theirs).outcome.value == cell
