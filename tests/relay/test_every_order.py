"""Every order in which things can happen to a room on several nodes, a node's end between any two of them included.

Each world is a value (tests/support/relay_worlds.py); the graph of worlds is walked whole, and its paths are counted.
"""

from __future__ import annotations

import os

import pytest
from icesignal import wire
from relay_worlds import Client, Explored, World, explore, make_hosts, settle
from tickets_of_tests import enter

THOROUGH = bool(os.environ.get("ICEAGENT_THOROUGH"))
NAME = b"n" * 32


class Challenged:
    challenge = b"c" * 32


def pair() -> World:
    """An inviter on the first node and a joiner on the second; the third is there for who is cut off."""
    inviter = Client("i", wire.Meet(session=b"i" * 16, name=NAME, role="inviter"))
    joiner = Client("j", wire.Meet(session=b"j" * 16, name=NAME, role="joiner"))
    return met([inviter, joiner])


def crowd(size: int) -> World:
    """A room of many, its members in turn on the first node and the second."""
    members = [Client(f"m{number:02}", enter(number, Challenged)) for number in range(size)]
    return met(members)


def met(clients: list[Client]) -> World:
    world = World(make_hosts(3), clients)
    world.hosts[2].may_die = False
    for host in world.hosts:
        world.store.nodes[host.node.number] = 2.0e9
    for index in range(len(clients)):
        world.do(("dial", index, index % 2))
        settle(world)
    assert all(client.is_live for client in clients)
    return world


def explore_saying(world: World, capsys: pytest.CaptureFixture[str], what: str, *said: int) -> Explored:
    """Have clients say so many messages each, and try every order of what follows."""
    for client, count in zip(world.clients, said, strict=False):
        client.to_say = [f"{client.name}{number}".encode() for number in range(count)]
        world.say(client, client.say())
    for host in world.hosts:
        world.drain(host)
    explored = explore(world)
    with capsys.disabled():
        print(f"\n{what}: {explored.orders:,} orders of events in {explored.worlds:,} worlds")
    return explored


def test_two_nodes_that_step_at_once_agree(capsys) -> None:
    """One of them finds another version than it began with, and does its work again."""
    assert explore_saying(pair(), capsys, "both say one at once", 1, 1).orders > 1


def test_a_client_that_hops_loses_nothing(capsys) -> None:
    """It is fenced where it was, while a message of its is under way there."""
    world = pair()
    world.hops = {"i": 1}
    assert explore_saying(world, capsys, "the speaker hops", 1).orders > 1_000


def test_an_answer_of_the_store_that_is_lost_changes_nothing(capsys) -> None:
    """What was asked was done or not; both are found out."""
    world = pair()
    world.losses = 1
    assert explore_saying(world, capsys, "an answer of the store is lost", 1, 1).orders > 1


def test_trap_75_a_node_that_is_killed_takes_nothing_acknowledged_along(capsys) -> None:
    """Between any two steps of a send: of the speaker's node or the hearer's."""
    world = pair()
    world.kills = 1
    said = (2, 1) if THOROUGH else (1,)
    assert explore_saying(world, capsys, "a node is killed", *said).orders > 10_000


@pytest.mark.thorough
@pytest.mark.parametrize("size", [2])
@pytest.mark.parametrize("speaker", ["first", "last"])
def test_a_node_that_is_killed_in_a_room_of_many(capsys, size, speaker) -> None:
    """All members of a node are cut off at once, and come back one after the other, the speaker first or last."""
    world = crowd(size)
    world.kills = 1
    world.symmetric = 0
    said = (1,) if speaker == "first" else (*[0] * (size - 1), 1)
    assert explore_saying(world, capsys, f"a node is killed, {size} members", *said).orders > 100
