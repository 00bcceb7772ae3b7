"""What kind of ports a NAT gives out, concluded from how servers saw a few fresh sockets. Pure functions.

RFC 4787 sections 4.1 and 4.2 name the behaviours; how they are told apart from outside is RFC 5780 section 4.3 and, for
the ports, what section 4.2 of RFC 4787 says of port assignment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Final, NamedTuple

from iceagent.core.address import TransportAddress

MAX_STEP: Final = 64  # between neighbours of a series; others' new connections come in between
_LEAST_SERIES: Final = 4  # mappings that make a series
_FIRST_PORT: Final = 1024
_PORTS: Final = 65536 - _FIRST_PORT


class NatKind(Enum):
    """How hard it is for a peer to know where to send.

    EASY: one external port for all destinations, or no NAT at all. PREDICTABLE: a port per destination, which can be
    known beforehand. HARD: a port per destination, at random. UNKNOWN: too few servers answered.
    """

    UNKNOWN = "unknown"
    EASY = "easy"
    PREDICTABLE = "predictable"
    HARD = "hard"


class Sighting(NamedTuple):
    """A server at `destination` has seen the socket at `local` as `mapped`.

    `is_prompt`: its first request was answered, so that the mapping was made when it was asked for and not later.
    """

    local: TransportAddress
    destination: TransportAddress
    mapped: TransportAddress
    is_prompt: bool = True


@dataclass(frozen=True, slots=True)
class PortHabit:
    """What is known of a NAT.

    Attributes:
        kind: see there.
        host: the external address; "" if no server answered.
        last_port: the external port given out last; 0 where that says nothing.
        step: from one port to the next, negative where they count down; 0 where each fresh socket keeps its own port.
    """

    kind: NatKind
    host: str = ""
    last_port: int = 0
    step: int = 0

    def port_after(self, mappings: int) -> int:
        """Return the port that will be given out after as many others, of a PREDICTABLE NAT that counts."""
        return _FIRST_PORT + (self.last_port + self.step * mappings - _FIRST_PORT) % _PORTS


def read_habit(sightings: Sequence[Sighting]) -> PortHabit:
    """Return what sightings show, given in the order in which the mappings were made: oldest first."""
    if not sightings:
        return PortHabit(NatKind.UNKNOWN)
    host = sightings[-1].mapped.host
    seen: defaultdict[TransportAddress, dict[TransportAddress, TransportAddress]] = defaultdict(dict)
    for local, destination, mapped, _ in sightings:
        seen[local].setdefault(destination, mapped)
    compared = [answers for answers in seen.values() if len(answers) > 1]
    if not compared:
        return PortHabit(NatKind.UNKNOWN, host)
    if all(len(set(answers.values())) == 1 for answers in compared):
        return PortHabit(NatKind.EASY, host)
    if any(mapped.host != host for answers in seen.values() for mapped in answers.values()):
        return PortHabit(NatKind.HARD, host)  # a pool of addresses: which one comes next is another thing unknown
    firsts = [(local.port, next(iter(answers.values())).port) for local, answers in seen.items()]
    if len(firsts) >= _LEAST_SERIES - 1 and all(inside == outside for inside, outside in firsts):
        return PortHabit(NatKind.PREDICTABLE, host)
    step = _step_of(_series(sightings))
    if step == 0:
        return PortHabit(NatKind.HARD, host)
    return PortHabit(NatKind.PREDICTABLE, host, sightings[-1].mapped.port, step)


def _series(sightings: Sequence[Sighting]) -> list[int]:
    """Return the external ports in the order of their mappings, those of one mapping once; late ones are left out."""
    ports = [(sighting.local, sighting.mapped.port) for sighting in sightings if sighting.is_prompt]
    return [port for _, port in dict.fromkeys(ports)]


def _step_of(series: Sequence[int]) -> int:
    """Return the step of a series of ports, or 0 if it is none; one jump, as at the end of a block, is forgiven."""
    if len(series) < _LEAST_SERIES:
        return 0
    gaps = [later - earlier for earlier, later in pairwise(series)]
    for sign in (1, -1):
        steps = [sign * gap for gap in gaps if 0 < sign * gap <= MAX_STEP]
        if len(steps) >= len(gaps) - 1:
            return sign * min(steps)
    return 0
