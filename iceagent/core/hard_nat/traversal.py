"""Traversal of hard NATs: who does what, and what is sent when. Sans-IO.

With a NAT that maps per destination, the peer does not know to which port it has to send. Two ways lead through:

- Against a NAT that keeps one port per socket, the hard side opens many sockets and sends an *opener* from each to the
  peer's mapped address: so many external ports let the peer in. The other side *sprays* probes from its one socket to
  ports of the hard side's address, none twice. With 256 open of 64,512 a probe meets one with a chance of 0.4 %, and
  98 % of 1,000 do (docs/hard-nats.md has the arithmetic).
- A NAT that counts its ports up shows where the next sockets will be. Both sides open some, the announced port in their
  midst, and all of each send to the one port that the other has announced.

With one STUN server no side can know which kind its own NAT is. Checks that came through a relay may have shown it, see
`kind_by_checks`; and where they have not, each side plays both parts of the first way: whichever is the hard one has
opened sockets then, and the other one sprays. So the two need not agree on who does what.

Openers have a low TTL where one is known: they are to pass the NATs of their sender and not to trouble the peer's.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, NamedTuple

from iceagent.core.address import TransportAddress
from iceagent.core.checked import check_fields
from iceagent.core.hard_nat.allocation import NatKind
from iceagent.core.hard_nat.by_checks import NOTHING_SHOWN, Shown
from iceagent.errors import LocalError

_WINDOW_S: Final = 1.001  # a second, and what rounding may take from it
_CATCH_UP: Final = 3  # packets that a late timer may send at once
_LEAVE_GAPS: Final = 2  # ours: less than `_CATCH_UP`, so that who leaves places to nobody loses none


class RateCap:
    """At most `per_second` packets in any second, evenly spread; several users may share one, see `share`.

    Args:
        per_second: packets, at least 1.
    """

    def __init__(self, per_second: int) -> None:
        if per_second < 1:
            raise ValueError(f"a cap of {per_second} packets a second lets nothing pass")
        self.gap_s = 1 / per_second
        """Between two packets, seconds."""
        self._per_second = per_second
        self._sent: deque[tuple[float, Share | None]] = deque()
        self._counts: Counter[Share | None] = Counter()
        self._next_at = float("-inf")

    def next_at(self) -> float:
        """Return the time from which on one more packet may be sent."""
        if len(self._sent) >= self._per_second:
            return max(self._next_at, self._sent[0][0] + _WINDOW_S)
        return self._next_at

    def note(self, now: float, share: Share | None = None) -> None:
        """Count a packet sent at `now`, seconds; times must not go backwards."""
        while self._sent and (len(self._sent) >= self._per_second or self._sent[0][0] + _WINDOW_S <= now):
            _, former = self._sent.popleft()
            self._counts[former] -= 1
            if not self._counts[former]:
                del self._counts[former]
        self._sent.append((now, share))
        self._counts[share] += 1
        self._next_at = max(self._next_at + self.gap_s, now - _CATCH_UP * self.gap_s)

    def share(self) -> Share:
        """Return one user's view of the cap: whoever has sent more than its part lets the others go first."""
        return Share(self)

    def waits_s(self, share: Share) -> float:
        """Return how long a user leaves a place to others: the longer, the more of the last second was its own."""
        return _LEAVE_GAPS * self.gap_s * self._counts[share] / len(self._sent) if self._sent else 0.0


class Share:
    """What one of several users of a cap sees of it; made by `RateCap.share`.

    A place is offered first to whoever sent least within the last second, and a little later to the others, so nobody
    is starved by whoever comes back first. Places go by a schedule that a late user keeps up with, so none is lost.
    """

    def __init__(self, cap: RateCap) -> None:
        self._cap = cap
        self.gap_s = cap.gap_s
        """Between two packets of all users, seconds."""

    def next_at(self) -> float:
        """Return the time from which on this user may send one more packet."""
        return self._cap.next_at() + self._cap.waits_s(self)

    def note(self, now: float) -> None:
        """Count a packet of this user's, sent at `now`, seconds; times must not go backwards."""
        self._cap.note(now, self)


FIRST_PORT: Final = 1024  # NATs map unprivileged ports to unprivileged ones (RFC 4787 section 4.2.1)
LAST_PORT: Final = 65535
SPRAY_SOCKETS: Final = 256  # of the hard side against a spray
SPRAY_BETWEEN: Final = 512  # ours: probes of who plays both parts, before its sockets send again; 87 % have met by then
SHOWN_S: Final = 8.0  # ours: for parts that rest on what checks have shown; 1,500 probes, of which 99.7 % have met
AIM_AHEAD: Final = (16, 32, 12, 48)  # by round: mappings left for others before the announced port comes
AIM_SOCKETS: Final = 2  # times as many sockets as mappings left: the port is then in their midst
WINDOW: Final = 128  # ports on either side of an announced one that a spray tries
BASE: Final = -1  # slot of the socket that the agent has anyway
_REPEAT_MIN_S: Final = 0.5  # between two rounds of packets from the same sockets

_DENIED: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "224.0.0.0/3",
    )
)
"""Never a target: this machine, private networks, carriers' own, multicast, reserved (RFC 6890)."""


MAX_PER_SECOND: Final = 200  # RFC 8445 section 14.2: no new transactions less than 5 ms apart


@dataclass(frozen=True, slots=True)
class HardNat:
    """How much may be done about hard NATs.

    Attributes:
        packets_per_second: a cap that holds in every second; 1 to 200. All agents of a process together send no more
            than 200.
        packets: in all, for the life of an agent.
        sockets: opened at once where our NAT is the hard one; with half as many it takes twice as many probes.
        time_limit_s: of one attempt; a restart of ICE allows another one.

    Raises:
        LocalError: a value is out of range.
    """

    packets_per_second: int = MAX_PER_SECOND
    packets: int = 4096
    sockets: int = SPRAY_SOCKETS
    time_limit_s: float = 20.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.packets_per_second <= MAX_PER_SECOND:
            raise LocalError(f"packets_per_second {self.packets_per_second!r} is not within 1 and {MAX_PER_SECOND}")
        if not 1 <= self.sockets <= SPRAY_SOCKETS:
            raise LocalError(f"sockets {self.sockets!r} is not within 1 and {SPRAY_SOCKETS}")
        if self.packets < 1 or not 0 < self.time_limit_s <= 120:
            raise LocalError("a HardNat needs at least one packet, and more than 0 and at most 120 s")


def is_target(address: TransportAddress) -> bool:
    """Return whether an address may be sprayed at all: public, IPv4, and with a port."""
    try:
        ip = address.ip
    except ValueError:
        return False
    return ip.version == 4 and address.port > 0 and not any(ip in network for network in _DENIED)


class Technique(Enum):
    """What one side does.

    SPRAY: from one socket to many ports. MANY_SOCKETS: from many sockets to one port. BOTH: first from many sockets,
    then to many ports.
    """

    SPRAY = "spray"
    MANY_SOCKETS = "many-sockets"
    BOTH = "both"


class Announcement(NamedTuple):
    """What one side announces to the other: what its NAT does, and where to send.

    Of an EASY one `address` is its mapped address; of a HARD one only the host counts; of a PREDICTABLE one it is where
    sockets will be that are opened now. `round` counts the attempts: sides in the same round act together.
    """

    kind: NatKind
    address: TransportAddress
    round: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One side's part.

    Attributes:
        technique: see there.
        target: where to send; of a SPRAY only the host, and the port around which it begins unless 0.
        sockets: to be opened for a MANY_SOCKETS, or for BOTH.
        is_timed: it rests on ports announced a moment ago, and is tried anew with others before long.
        is_urgent: ordinary checks have no hope, so that their head start would only make the ports stale.
        is_shown: it rests on what checks have shown, which may mislead: in the end both parts are played.
    """

    technique: Technique
    target: TransportAddress
    sockets: int = 0
    is_timed: bool = False
    is_urgent: bool = False
    is_shown: bool = False


def assign(ours: Announcement, theirs: Announcement, shown: Shown = NOTHING_SHOWN) -> Task | None:
    """Return our part, or None where ordinary checks suffice or nothing is known to help.

    Whose NAT is UNKNOWN takes the part that is left: a path has not been found, so somebody's is hard. Where both are,
    what checks have shown decides, if it does; else BOTH parts are played. The peer may have been shown less or more:
    its part fits all the same, since BOTH fits any.
    """
    if ours.kind is NatKind.UNKNOWN and theirs.kind is NatKind.UNKNOWN:
        return _assign_by_checks(theirs, shown)
    mine, other = ours.kind, theirs.kind
    if mine is NatKind.UNKNOWN:
        mine = _counterpart(other)
    elif other is NatKind.UNKNOWN:
        other = _counterpart(mine)
    if mine is NatKind.EASY and other in (NatKind.HARD, NatKind.PREDICTABLE):
        around = theirs.address.port if other is NatKind.PREDICTABLE else 0
        return Task(Technique.SPRAY, theirs.address._replace(port=around), is_timed=around > 0)
    if other is NatKind.EASY and mine is NatKind.HARD:
        return Task(Technique.MANY_SOCKETS, theirs.address, SPRAY_SOCKETS)
    if mine is NatKind.PREDICTABLE and other in (NatKind.EASY, NatKind.PREDICTABLE):
        sockets, is_urgent = AIM_SOCKETS * aim_ahead(ours.round), other is NatKind.PREDICTABLE
        return Task(Technique.MANY_SOCKETS, theirs.address, sockets, is_timed=True, is_urgent=is_urgent)
    return None


def _assign_by_checks(theirs: Announcement, shown: Shown) -> Task | None:
    easy, hard = NatKind.EASY, NatKind.HARD
    if shown == (easy, easy):
        return None
    if shown.ours is not shown.theirs and (shown.ours is easy or shown.theirs is hard):
        return Task(Technique.SPRAY, theirs.address._replace(port=0), is_shown=True)
    if shown.ours is not shown.theirs:
        return Task(Technique.MANY_SOCKETS, theirs.address, SPRAY_SOCKETS, is_shown=True)
    return Task(Technique.BOTH, theirs.address, SPRAY_SOCKETS)


def _counterpart(kind: NatKind) -> NatKind:
    return NatKind.HARD if kind is NatKind.EASY else NatKind.EASY


def aim_ahead(number: int) -> int:
    """Return how many mappings ahead the port lies that is announced in a round.

    Others behind the same NAT take ports between the announcement and the packets; carriers give a customer blocks of
    64 or so, beyond whose end nothing is predictable. So some rounds aim near, some far.
    """
    return AIM_AHEAD[number % len(AIM_AHEAD)]


class Shot(NamedTuple):
    """One packet to send: from the pool's socket number `slot`, or from the agent's own (`BASE`)."""

    slot: int
    remote: TransportAddress
    is_opener: bool


class Traversal:
    """What one side sends in one attempt, when, and never more than the caps allow.

    Use: `poll_shot(now)` until it returns None, then wait until `next_timeout()` or until something has happened.

    Args:
        task: our part.
        start_at: when to begin, seconds.
        end_at: when to give up.
        packets: how many may be sent at most.
        caps: of packets per second; each must agree.
        randbytes: source of unpredictable bytes, which decides the order of ports.
    """

    def __init__(
        self,
        task: Task,
        *,
        start_at: float,
        end_at: float,
        packets: int,
        caps: Sequence[RateCap | Share],
        randbytes: Callable[[int], bytes],
    ) -> None:
        self.packets_sent = 0
        self.over = False
        self._task = task
        self.end_at = end_at
        self._packets = packets
        self._caps = caps
        self._not_before = start_at
        self._shots = _shots(task, randbytes)
        self._repeat_at = start_at
        self._next: Shot | None = next(self._shots, None)

    def poll_shot(self, now: float) -> Shot | None:
        """Return a packet that is to be sent now, and count it; None: nothing yet, or nothing any more."""
        if not self.over and (now >= self.end_at or self._next is None or self.packets_sent >= self._packets):
            self.stop()
        shot = self._next
        if self.over or shot is None or now < self._due_at():
            return None
        if shot.slot == 0:
            # The next round over many sockets begins later: they are open, and answers take a while.
            spread_s = 2 * self._task.sockets * self._gap_s
            self._repeat_at = now + max(_REPEAT_MIN_S, spread_s)
        for cap in self._caps:
            cap.note(now)
        self.packets_sent += 1
        self._next = next(self._shots, None)
        if self._next is not None and self._next.slot == 0:
            self._not_before = max(self._not_before, self._repeat_at)
        return shot

    def next_timeout(self) -> float | None:
        """Return when `poll_shot` has something to do, or None."""
        return None if self.over else min(self._due_at(), self.end_at)

    def pause(self, until: float) -> None:
        """Send nothing before `until`: a check of the peer has arrived, and seems to lead to a path."""
        self._not_before = max(self._not_before, until)

    def stop(self) -> None:
        """Send nothing any more: there is a path, or no hope. Idempotent."""
        self.over = True
        self._next = None
        self._shots = iter(())

    @property
    def _gap_s(self) -> float:
        return max((cap.gap_s for cap in self._caps), default=0.0)

    def _due_at(self) -> float:
        return max([self._not_before, *(cap.next_at() for cap in self._caps)])


def _shots(task: Task, randbytes: Callable[[int], bytes]) -> Iterator[Shot]:
    if task.technique is Technique.SPRAY:
        return _spray(task.target, randbytes)
    if task.technique is Technique.MANY_SOCKETS:
        return _many_sockets(task.target, task.sockets)
    return _both(task.target, task.sockets, randbytes)


def _both(target: TransportAddress, sockets: int, randbytes: Callable[[int], bytes]) -> Iterator[Shot]:
    """Give an opener from every socket, then a spray; once, in between, a probe from every socket."""
    pool, spray = _many_sockets(target, sockets), _spray(target._replace(port=0), randbytes)
    yield from islice(pool, sockets)
    yield from islice(spray, SPRAY_BETWEEN)
    yield from islice(pool, sockets)
    yield from spray


def _many_sockets(target: TransportAddress, sockets: int) -> Iterator[Shot]:
    """Give an opener from every socket, then probes from all of them, over and over.

    Probes have the usual TTL: they open the way also where the openers' TTL was too low, and where both sides' ports
    are open they are what arrives.
    """
    for slot in range(sockets):
        yield Shot(slot, target, is_opener=True)
    while sockets:
        for slot in range(sockets):
            yield Shot(slot, target, is_opener=False)


def _spray(target: TransportAddress, randbytes: Callable[[int], bytes]) -> Iterator[Shot]:
    ports = _near_ports(target.port) if target.port else random_ports(randbytes)
    for port in ports:
        yield Shot(BASE, target._replace(port=port), is_opener=False)


def _near_ports(aim: int) -> Iterator[int]:
    """Give the ports around an announced one: it first, then alternately above and below."""
    yield aim
    for distance in range(1, WINDOW + 1):
        for port in (aim + distance, aim - distance):
            if FIRST_PORT <= port <= LAST_PORT:
                yield port


def random_ports(randbytes: Callable[[int], bytes]) -> Iterator[int]:
    """Give all unprivileged ports in random order, none twice.

    Fisher and Yates' shuffle, drawn as far as it is asked for: memory grows with what has been given, 64,512 at most.
    """
    moved: dict[int, int] = {}
    for left in range(LAST_PORT - FIRST_PORT + 1, 0, -1):
        drawn = int.from_bytes(randbytes(8), "big") % left
        last = left - 1
        yield FIRST_PORT + moved.get(drawn, drawn)
        moved[drawn] = moved.pop(last, last)
