"""What the peers written in Python share: the lines they speak, and the datagrams they exchange.

A peer gets its options as one JSON object on the command line: `role`, `trickle`, `family`, `stun` and `turn` as
`[host, port]`, `username`, `password`, `relay_only`, `components` (1 unless given). It prints and reads one JSON object
a line:

    {"kind": "description", "ufrag": ..., "pwd": ..., "candidates": [...]}     none in it if they are trickled
    {"kind": "candidate", "candidate": "candidate:..." or null}                null: no more follow
    {"kind": "connected", "local": [type, host, port], "remote": [...]}        printed alone
    {"kind": "failed", "reason": ...}                                          printed alone
    {"kind": "send", "first": M, "end": N}                read alone: send the datagrams numbered from M, without N
    {"kind": "report"}                                                         read alone: answered by the next
    {"kind": "received", "count": N, "strange": M}                             printed alone: how many of them came

Of several components each sends the datagrams whose number leaves its own in division, and takes no others.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def options() -> dict[str, Any]:
    """Return the options of this peer."""
    return dict(json.loads(sys.argv[1]))


def say(kind: str, **fields: Any) -> None:
    """Print one line."""
    print(json.dumps({"kind": kind, **fields}), flush=True)


def datagram(number: int) -> bytes:
    """Return one of the numbered datagrams: 100 to 1,099 bytes, none of which looks like STUN."""
    return b"datagram %06d " % number + b"x" * (84 + number % 1000)


def component_of(number: int, components: int) -> int:
    """Return which of so many components a numbered datagram belongs to."""
    return number % components + 1


class Received:
    """Counts the numbered datagrams that came."""

    def __init__(self, components: int = 1) -> None:
        self.components = components
        self.numbers: set[int] = set()
        self.strange = 0

    def put(self, data: bytes, component: int = 1) -> None:
        """Take what came at a component."""
        head = data[:15].split()
        is_ours = len(head) == 2 and head[1].isdigit() and datagram(int(head[1])) == data
        if is_ours and component_of(int(head[1]), self.components) == component:
            self.numbers.add(int(head[1]))
        else:
            self.strange += 1

    def report(self) -> None:
        """Print how many came."""
        say("received", count=len(self.numbers), strange=self.strange)
