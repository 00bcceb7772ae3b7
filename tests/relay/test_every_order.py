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


def crowd(size: int, *, speakers: int = 1, has_joiner: bool = False) -> World:
    """A room of many, its members in turn on the first node and the second; all but the first ones only listen.

    Args:
        size: how many members there are, or will be.
        speakers: how many of them have something to say.
        has_joiner: whether the one after these has yet to come.
    """
    members = [Client(f"m{number:02}", enter(number, Challenged)) for number in range(size)]
    away = members.pop(speakers) if has_joiner else None
    world = met(members)
    if away is not None:
        world.clients.insert(speakers, away)
    world.symmetric = world.listeners = speakers + has_joiner
    return world


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


def explore_saying(
    world: World, capsys: pytest.CaptureFixture[str], what: str, *said: int, recoveries: int = 0
) -> Explored:
    """Have clients say so many messages each, and try every order of what follows."""
    for client, count in zip(world.clients, said, strict=False):
        client.to_say = [f"{client.name}{number}".encode() for number in range(count)]
        world.say(client, client.say())
    for host in world.hosts:
        world.drain(host)
    explored = explore(world, recoveries=recoveries)
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
@pytest.mark.parametrize("speaker", ["first", "last"])
def test_a_node_that_is_killed_in_a_room_of_many(capsys, speaker) -> None:
    """All members of a node are cut off at once, and come back one after the other, the speaker first or last."""
    world = crowd(2)
    world.kills = 1
    world.symmetric = 0
    world.listeners = len(world.clients)
    said = (1,) if speaker == "first" else (0, 1)
    assert explore_saying(world, capsys, f"a node is killed, 2 members, the {speaker} speaks", *said).orders > 100


SIZE = 16


def test_two_who_speak_at_once_in_a_room_of_16(capsys) -> None:
    """On two nodes, whose steps meet at the store in every order; fourteen listen."""
    assert explore_saying(crowd(SIZE, speakers=2), capsys, "two of 16 say one at once", 1, 1).orders > 100


def test_an_answer_of_the_store_that_is_lost_in_a_room_of_16(capsys) -> None:
    """Of either node, for what was done and for what was not."""
    world = crowd(SIZE, speakers=2)
    world.losses = 1
    explored = explore_saying(world, capsys, "two of 16 say one at once, an answer is lost", 1, 1)
    assert explored.orders > 10_000


def test_a_speaker_of_16_that_hops(capsys) -> None:
    """It is fenced where it was, while a message of its is under way there."""
    world = crowd(SIZE)
    world.hops = {"m00": 1}
    assert explore_saying(world, capsys, "the speaker of 16 hops", 1).orders > 10_000


def test_one_of_16_joins_while_another_speaks(capsys) -> None:
    """From its place on it hears all, and nothing of before."""
    world = crowd(SIZE, has_joiner=True)
    assert explore_saying(world, capsys, "one of 16 joins, another speaks", 1).orders > 100


@pytest.mark.thorough
def test_one_of_16_leaves_when_it_has_spoken(capsys) -> None:
    """What was acknowledged to it is heard by all, though it has gone."""
    speakers = 2 if THOROUGH else 1
    world = crowd(SIZE, speakers=speakers)
    world.clients[speakers - 1].will_leave = True
    said = (1,) * speakers
    assert explore_saying(world, capsys, f"one of 16 leaves, {speakers} of them speak", *said).orders > 10


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_trap_75_a_node_that_is_killed_under_a_room_of_16(capsys) -> None:
    """Between any two steps of a send, the speaker's node or that of those who listen.

    Every order up to the node's end is tried, and each of what its listeners had by then. Eight then come back: of the
    orders of that a few are drawn. In a room of two, above, all are tried.
    """
    world = crowd(SIZE)
    world.kills = 1
    explored = explore_saying(world, capsys, "a node is killed under 16", 1, recoveries=50 if THOROUGH else 1)
    assert explored.orders > 100


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_trap_75_a_node_that_is_killed_while_members_of_five_speak_come_and_go(capsys) -> None:
    """As above, while two speak, one joins or one leaves; each with all the others."""
    for who in ("leaves", "joins", "speaks") if THOROUGH else ("leaves",):
        world = crowd(5, speakers=2 if who == "speaks" else 1, has_joiner=who == "joins")
        world.clients[0].will_leave = who == "leaves"
        world.kills = 1
        said = (1, 1) if who == "speaks" else (1,)
        explored = explore_saying(world, capsys, f"a node is killed under 5, one {who}", *said, recoveries=1)
        assert explored.orders > 1_000
