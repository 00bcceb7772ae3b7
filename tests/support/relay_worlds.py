"""A world of nodes, a store and clients in which one thing happens at a time, and every order of things is tried.

A world is a value: it is copied by pickling, and two worlds that pickle alike are the same one. So the orders in which
things can happen make a graph without circles, of which each world is visited once and all paths are counted.

In a room of 16 most members only listen, and orders that differ in nothing that anybody could see are tried once. That
leaves none out, for these reasons:

- What a listener takes note of (a message, an acknowledgement, that it is in) changes the listener and the queue of its
  connection, and makes it say nothing. No node, no store and no other client looks at either while its node lives, so
  it comes in the same order with all they do. What tells whether it was before the end of the node is how much of the
  queue had arrived by then, and so this is drawn when a node is killed (`World.cuts`), and not before. Where no node
  can be killed any more, it arrives at once.
- How much each listener of a killed node has had matters to this listener alone: what it is given when it is back
  follows from its own position and the room's log, which are no other listener's. So it is enough that each of them is
  cut off after each of its messages, with all that the others do; not with all that the other listeners have had. The
  queues are cut at each place of one order of all that is in them, the first of each, then the second of each.
- Listeners of one node are alike but for their names, which no rule of the relay's looks at but to tell them apart, and
  `min(connection)`, which names a node. So they come back in the order of their names; and one after the other, since
  a command that waits in a desk's queue is seen by nobody until its turn comes: to arrive then is the same.
"""

from __future__ import annotations

import hashlib
import pickle
import random
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

import msgspec
from icesignal import wire
from icesignal.engines.shared.node import Node
from icesignal.engines.shared.requests import Answer, Load, Request, Step
from icesignal.engines.shared.state import Change
from icesignal.registry import RoomLimits
from icesignal.wire import CloseCode, RelayErrorCode
from local_store import LocalStore

LONGEST = 300  # things that happen one after the other: more are a circle
LATER_S = 10.0  # longer than a beat, and so short that no session ends
NOW = 1_700_000_000.0
T = TypeVar("T")
NOTED = wire.Message | wire.Ack | wire.Entered
_ENCODER = msgspec.msgpack.Encoder()
_TOKEN = re.compile(rb"token[0-9]{11}")
Choice = tuple[str, ...] | tuple[object, ...]


class Broken(AssertionError):
    """A promise of the relay's was not kept."""


@dataclass
class Seeded:
    """A source of bytes that is the same each time. Only tokens need be different each time."""

    seed: str
    count: int = 0

    def __call__(self, size: int) -> bytes:
        self.count += size == wire.TOKEN_BYTES
        if size == wire.TOKEN_BYTES:
            return b"token" + f"{self.seed[-1]}{self.count:010}".encode()
        return self.seed.encode()[-size:].rjust(size)


@dataclass
class Client:
    """A client as docs/relay-protocol.md has it: it keeps what is not acknowledged, and drops what it has had."""

    name: str
    enter: wire.Meet | wire.Enter
    to_say: list[bytes] = field(default_factory=list)
    node: int = 0
    connection: int = 0
    is_live: bool = False
    token: bytes = b""
    position: tuple[int, int] = (0, 0)
    client_seq: int = 0
    pending: list[wire.Send] = field(default_factory=list)
    acked: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    repeats: int = 0
    dials: int = 0
    over: str = ""
    will_leave: bool = False
    since: tuple[int, int] = (0, 0)  # what was said up to here is not for it
    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def hello(self) -> wire.Frame:
        if not self.token:
            return self.enter
        return wire.Resume(session=self.enter.session, token=self.token, epoch=self.position[0], seq=self.position[1])

    def say(self) -> list[wire.Send]:
        said = []
        while self.to_say and self.is_live:
            self.client_seq += 1
            said.append(wire.Send(client_seq=self.client_seq, payload=self.to_say.pop(0)))
        self.pending += said
        return said

    def hear(self, frame: wire.Frame) -> list[wire.Frame]:
        match frame:
            case wire.Resync():
                raise Broken(f"{self.name} is told that messages are lost")
            case wire.Joined() | wire.Entered():
                if isinstance(frame, wire.Entered) and frame.arrival == "resync":
                    raise Broken(f"{self.name} is told that messages are lost")
                if not self.token:
                    self.position = self.since = (frame.epoch, frame.seq)
                self.token, self.is_live = frame.token, True
                self._acknowledge(frame.client_seq)
                return [*self.pending, *self.say()]
            case wire.Message():
                if (frame.epoch, frame.seq) <= self.position:
                    self.repeats += 1
                else:
                    self.position = self.places[frame.payload] = (frame.epoch, frame.seq)
                    self.heard.append(frame.payload)
            case wire.Ack():
                self._acknowledge(frame.client_seq)
            case wire.Error():
                raise Broken(f"{self.name} is refused: {frame.code}")
            case wire.Closed():
                self.over = frame.reason
            case _:
                pass
        return []

    def _acknowledge(self, client_seq: int) -> None:
        while self.pending and self.pending[0].client_seq <= client_seq:
            self.acked.append(self.pending.pop(0).payload)


@dataclass
class Host:
    """A node and what is under way from and to it."""

    node: Node
    requests: dict[int, Request] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=deque)
    to_clients: dict[int, deque[wire.Frame | CloseCode]] = field(default_factory=dict)
    is_alive: bool = True
    may_die: bool = True
    has_to_look: bool = False


@dataclass
class World:
    """All of it. `kills`, `hops` and `losses` are how many more of them may happen."""

    hosts: list[Host]
    clients: list[Client]
    store: LocalStore = field(default_factory=LocalStore)
    kills: int = 0
    hops: dict[str, int] = field(default_factory=dict)
    losses: int = 0
    symmetric: int = 2  # clients from here on are alike but for their names: they take their turns in order
    listeners: int = 1_000  # clients from here on only listen, those that are `symmetric` as well

    # What can happen

    def choices(self) -> Iterator[Choice]:
        """Give all that can happen next."""
        for at, host in enumerate(self.hosts):
            if not host.is_alive:
                continue
            if self.kills and host.may_die:  # never all of them
                yield from (("kill", at, cut) for cut in range(len(self.cuts(at)) + 1))
            for number in host.requests:
                yield ("ask", at, number)
                if self.losses:
                    yield ("lose", at, number, False)
                    yield ("lose", at, number, True)
            for number in host.answers:
                yield ("answer", at, number)
            if host.changes:
                yield ("change", at)
            if host.has_to_look and self._names_the_dead(host):
                yield ("look", at)
            yield from self._deliveries(at, host)
            if host.node.is_away:
                yield ("back", at)
        # Those who are alike come back one after the other.
        is_one_out = any(one.connection and not one.is_live for one in self.clients[self.symmetric :] if self._has(one))
        for index, client in enumerate(self.clients):
            is_out = not client.over and not self._has(client)
            if is_out and not (index >= self.symmetric and is_one_out):
                is_one_out = is_one_out or index >= self.symmetric
                yield from (("dial", index, at) for at in self._where(client))
            elif client.connection and self.hops.get(client.name) and client.is_live:
                yield ("hop", index)
            elif client.connection and client.will_leave and client.is_live:
                yield ("leave", index)

    def _names_the_dead(self, host: Host) -> bool:
        dead = {other.node.number for other in self.hosts if not other.is_alive}
        return any(dead & desk.state.nodes() for desk in host.node._desks.values())

    def _has(self, client: Client) -> bool:
        return bool(client.connection) and self.hosts[client.node].is_alive

    def _where(self, client: Client) -> list[int]:
        return [at for at, host in enumerate(self.hosts) if host.is_alive and not host.node.is_away][-1:]

    def _deliveries(self, at: int, host: Host) -> Iterator[Choice]:
        is_one_served = False
        for index, client in enumerate(self.clients):
            connection = client.connection
            if client.node != at or not host.to_clients.get(connection) or self._is_for_later(index, host):
                continue
            if index >= self.symmetric:
                if is_one_served:
                    continue
                is_one_served = True
            yield ("deliver", at, connection)
        for connection in host.to_clients:
            if not any(client.connection == connection for client in self.clients):
                yield ("gone", at, connection)

    def _is_for_later(self, index: int, host: Host) -> bool:
        """Return whether it is drawn at the end of the node whether a listener has had what is next for it."""
        queue = host.to_clients[self.clients[index].connection]
        return index >= self.listeners and isinstance(queue[0], NOTED)

    def cuts(self, at: int) -> list[int]:
        """Return whose turn it is, in the one order in which listeners of a node are given what is in their queues."""
        host, turns = self.hosts[at], []
        for index, client in enumerate(self.clients[self.listeners :], self.listeners):
            queue = host.to_clients.get(client.connection, ())
            turns += [(turn, index) for turn, _ in enumerate(takewhile(lambda one: isinstance(one, NOTED), queue))]
        return [index for _, index in sorted(turns)]

    # What then happens

    def do(self, choice: Choice) -> None:
        """Have something happen."""
        kind, *arguments = choice
        getattr(self, f"_{kind}")(*arguments)
        for host in self.hosts:
            if host.is_alive:
                self.drain(host)
                self.hand_over(host)
                self.catch_up(host)

    def _kill(self, at: int, cut: int) -> None:
        self.kills -= 1
        host = self.hosts[at]
        for index in self.cuts(at)[:cut]:
            client = self.clients[index]
            frame = host.to_clients[client.connection].popleft()
            assert isinstance(frame, NOTED)
            client.hear(frame)
        host.is_alive = False
        for part in (host.requests, host.answers, host.changes, host.to_clients):
            part.clear()
        self.store.nodes.pop(host.node.number, None)
        for other in self.hosts:
            other.has_to_look = other.is_alive

    def _look(self, at: int) -> None:
        """A node finds that another one gives no sign of life any more."""
        self.hosts[at].has_to_look = False
        self.hosts[at].node.handle_timeout(NOW + LATER_S)

    def _ask(self, at: int, number: int) -> None:
        host = self.hosts[at]
        answer, published = self.store.perform(NOW, host.requests.pop(number))
        host.answers[number] = answer
        for node, change in published:
            for other in self.hosts:
                if other.node.number == node and other.is_alive and not other.node.is_away:
                    other.changes.append(change)

    def _lose(self, at: int, number: int, is_done: bool) -> None:
        """The store's answer does not come; what was asked was done, or not. What is published is not heard either."""
        self.losses -= 1
        host = self.hosts[at]
        if is_done:
            self._ask(at, number)
            del host.answers[number]
        else:
            del host.requests[number]
        host.changes.clear()
        host.node.handle_failure(number)

    def _back(self, at: int) -> None:
        self.hosts[at].node.handle_back(NOW)

    def _answer(self, at: int, number: int) -> None:
        host = self.hosts[at]
        host.node.handle_reply(NOW, number, host.answers.pop(number))

    def _change(self, at: int) -> None:
        host = self.hosts[at]
        host.node.handle_change(NOW, host.changes.popleft())

    def _dial(self, index: int, at: int) -> None:
        client = self.clients[index]
        client.dials += 1
        host = self.hosts[at]
        client.node, client.connection = at, host.node.connection(100 * index + client.dials)
        client.is_live = False
        host.to_clients[client.connection] = deque()
        self.say(client, [client.hello()])

    def _hop(self, index: int) -> None:
        """The client dials another node, while its old connection still seems to be there."""
        client = self.clients[index]
        self.hops[client.name] -= 1
        others = [at for at, host in enumerate(self.hosts) if host.is_alive and at != client.node]
        self._dial(index, others[0])

    def _leave(self, index: int) -> None:
        """A member leaves for good, and does not wait to hear that it has."""
        client = self.clients[index]
        self.say(client, [wire.Close(reason="left")])
        client.will_leave, client.over, client.connection = False, "left", 0

    def _gone(self, at: int, connection: int) -> None:
        """A connection that its client has left is found to be gone, at last."""
        host = self.hosts[at]
        del host.to_clients[connection]
        host.node.handle_disconnect(NOW, connection)

    def _deliver(self, at: int, connection: int) -> None:
        host = self.hosts[at]
        client = next(client for client in self.clients if client.connection == connection)
        what = host.to_clients[connection].popleft()
        if isinstance(what, CloseCode):
            if what is CloseCode.FENCED:
                raise Broken(f"{client.name} is fenced though it is nowhere else")
            del host.to_clients[connection]
            host.node.handle_disconnect(NOW, connection)
            client.connection, client.is_live = 0, False
        else:
            self.say(client, client.hear(what))

    def say(self, client: Client, frames: Sequence[wire.Frame]) -> None:
        host = self.hosts[client.node]
        for frame in frames:
            host.node.handle_frame(NOW, client.connection, frame, (), b"c" * 32)

    @property
    def is_calm(self) -> bool:
        """Whether nothing can be cut off any more: when somebody only takes note of something does not matter then."""
        return not (self.kills or self.losses or any(self.hops.values()))

    def catch_up(self, host: Host) -> None:
        """Have a node that is about nothing of its own follow what others have stored."""
        while (
            self.is_calm
            and host.changes
            and host.node.is_idle
            and not (host.has_to_look and self._names_the_dead(host))
        ):
            host.node.handle_change(NOW, host.changes.popleft())
            self.drain(host)
            self.hand_over(host)

    def hand_over(self, host: Host) -> None:
        """Give clients what they only take note of."""
        if self.kills:
            return
        for index, client in enumerate(self.clients):
            is_listener = index >= self.listeners
            queue = host.to_clients.get(client.connection)
            if not (is_listener or self.is_calm):
                continue
            while queue and isinstance(frame := queue[0], NOTED if is_listener else wire.Message | wire.Ack):
                queue.popleft()
                client.hear(frame)

    def drain(self, host: Host) -> None:
        """Take what a node gives out.

        What a store is only asked, and what it is told that nobody is ever told again in another way, comes in the same
        order with everything else whenever it happens; so it happens at once.
        """
        node = host.node
        while (asked := node.poll_request()) is not None:
            if isinstance(asked.request, Load | Step):
                host.requests[asked.number] = asked.request
            else:
                answer, _ = self.store.perform(NOW, asked.request)
                node.handle_reply(NOW, asked.number, answer)
        while (action := node.poll_action()) is not None:
            queue = host.to_clients.get(action.connection)
            if queue is None or (queue and isinstance(queue[-1], CloseCode)):
                continue
            if isinstance(
                action.frame, wire.Message | wire.Ack | wire.Joined | wire.Entered | wire.Closed | wire.Error
            ):
                queue.append(action.frame)
            if action.close is not None:
                queue.append(action.close)
        while node.poll_finished() is not None:
            pass
        node.counters.clear()  # what does not matter must not tell worlds apart
        if not node._askers:
            node._asked = 0

    def value(self) -> bytes:
        """Return what tells this world from others."""
        parts: list[object] = [self.clients, self.kills, self.hops, self.losses]
        parts += [self.store.rooms, self.store.nodes]
        for host in self.hosts:
            node = host.node
            parts += [host.is_alive, host.has_to_look, _ordered(host.requests), _ordered(host.answers)]
            parts += [list(host.changes)]
            parts += [[number, list(queue)] for number, queue in _ordered(host.to_clients)]
            parts += [node.is_away, _ordered(node._homes), sorted(node._open), node._waiting]
            for desk in node._desks.values():
                parts += [desk.state, _ordered(desk.windows), list(desk._queue), desk._phase.value, desk._is_known]
                parts += [desk._is_current, desk._early, desk._trial, desk._unsure, desk._touched_at]
        # Which tokens there were before tells no worlds apart: a token is only ever compared with another one.
        names: dict[bytes, bytes] = {}
        text = _TOKEN.sub(lambda found: names.setdefault(found[0], b"token%011d" % len(names)), _ENCODER.encode(parts))
        return hashlib.blake2b(text, digest_size=16).digest()

    # What must hold

    def check(self) -> None:
        """At any moment: nothing twice, nothing out of order, nothing acknowledged that is not stored."""
        for client in self.clients:
            if len(set(client.heard)) != len(client.heard):
                raise Broken(f"{client.name} hears something twice: {client.heard}")
            for other in self.clients:
                heard = [one for one in client.heard if one.startswith(other.name.encode())]
                if heard != sorted(heard):
                    raise Broken(f"{client.name} hears {heard}, which was said in another order")

    def check_end(self) -> None:
        """When nothing more can happen: everything was acknowledged, and heard by all, in one order."""
        said = {client.name: client.acked for client in self.clients}
        orders = []
        places = {payload: at for client in self.clients for payload, at in client.places.items()}
        for client in self.clients:
            orders.append(list(client.heard))
            if client.over:
                continue
            if client.pending or client.to_say:
                raise Broken(f"{client.name} waits for ever: {client.pending}")
            others = {one for name, all_of in said.items() for one in all_of if name != client.name}
            missed = {one for one in others if places.get(one, (9, 0)) > client.since} - set(client.heard)
            if missed:
                raise Broken(f"{client.name} has not heard {missed}")
        for one in orders:
            for other in orders:
                common = [payload for payload in one if payload in other]
                if common != [payload for payload in other if payload in one]:
                    raise Broken(f"two orders: {one} and {other}")


def _ordered(mapping: Mapping[int, T]) -> list[tuple[int, T]]:
    return sorted(mapping.items())


@dataclass
class Explored:
    """What a search has seen: worlds, orders of events that end, and worlds in which nothing more can happen."""

    worlds: int = 0
    orders: int = 0
    ends: int = 0


def explore(world: World, at_most: int = 1_000_000, *, recoveries: int = 0) -> Explored:
    """Try every order in which things can happen from a world on.

    Args:
        world: where it begins; all its faults have yet to come.
        at_most: worlds, after which this is given up.
        recoveries: 0 for every order to the very end. Else so many orders of what follows after the last fault, when
            nothing can be cut off any more: all who were cut off come back, and with 16 of them the orders of that are
            too many.

    Raises:
        Broken: with the choices that led there.
    """
    seen: dict[bytes, int] = {}
    explored = Explored()

    def visit(world: World, value: bytes, path: tuple[Choice, ...]) -> int:
        explored.worlds += 1
        if len(path) > LONGEST:
            raise Broken("it does not end: " + "\n".join(map(str, path)))
        if explored.worlds > at_most:
            raise RuntimeError(f"more than {at_most} worlds")
        data = pickle.dumps(world, pickle.HIGHEST_PROTOCOL)
        if recoveries and world.is_calm and path:
            for number in range(recoveries):
                explored.worlds += _recover(pickle.loads(data), random.Random(number), path)
            explored.ends += recoveries
            return recoveries
        choices = list(world.choices())
        orders = 0
        for choice in choices:
            after: World = pickle.loads(data)
            try:
                after.do(choice)
                after.check()
            except Exception as error:
                error.add_note("\n".join(map(str, (*path, choice))))
                raise
            value = after.value()
            if value not in seen:
                seen[value] = visit(after, value, (*path, choice))
            orders += seen[value]
        if not choices:
            explored.ends += 1
            orders = 1
            try:
                world.check_end()
            except Broken as error:
                error.add_note("\n".join(map(str, path)))
                raise
        return orders

    explored.orders = visit(world, world.value(), ())
    return explored


def _recover(world: World, draw: random.Random, path: tuple[Choice, ...]) -> int:
    """Let things happen in a drawn order to their end; return how many have."""
    happened: list[Choice] = []
    try:
        while choices := list(world.choices()):
            happened.append(draw.choice(choices))
            world.do(happened[-1])
            world.check()
            if len(happened) > LONGEST:
                raise Broken("it does not end")
        world.check_end()
    except Exception as error:
        error.add_note("\n".join(map(str, (*path, *happened))))
        raise
    return len(happened)


def settle(world: World) -> None:
    """Let things happen in some order until nothing more can, but for what is limited."""
    while choice := next((one for one in world.choices() if one[0] not in ("kill", "hop", "lose")), None):
        world.do(choice)
        world.check()


def make_hosts(count: int, limits: RoomLimits | None = None) -> list[Host]:
    """Return nodes that have been told that the store is there."""
    hosts = []
    for number in range(1, count + 1):
        node = Node(number=number, randbytes=Seeded(f"node {number}"), limits=limits or RoomLimits())
        node.handle_back(NOW)
        hosts.append(Host(node))
    return hosts


__all__ = ["Broken", "Client", "Explored", "RelayErrorCode", "World", "explore", "make_hosts", "settle"]
