"""What hosts and routers have in common: interfaces, each at the lower end of a link to a router."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from iceagent.net.api import InterfaceAddress
from iceagent.vnet.link import Link
from iceagent.vnet.packet import Packet

if TYPE_CHECKING:
    from iceagent.vnet.router import Router


@dataclass(slots=True, eq=False)
class Interface:
    """A node's end of a link. `router` is at the other end; None for the loopback interface."""

    node: Node
    name: str
    link: Link
    router: Router | None
    addresses: tuple[InterfaceAddress, ...]
    rng: random.Random
    is_up: bool = True

    def address(self, family: int) -> str | None:
        """Return the first address of a family as text, or None."""
        for entry in self.addresses:
            if (":" in entry.host) == (family == 6):
                return entry.host
        return None

    def __str__(self) -> str:
        return f"{self.node.name}.{self.name}"


class Node(Protocol):
    """Anything that packets can be handed to."""

    @property
    def name(self) -> str:
        """Unique in the network; stands in the trace."""
        ...

    def handle_packet(self, now: float, packet: Packet, via: Interface) -> None:
        """Take a packet that arrived over `via`, at time `now`."""
        ...

    def handle_too_big(self, now: float, packet: Packet, via: Interface, mtu: int) -> None:
        """Deal with a packet that this node wanted to send over `via` and that is larger than its MTU."""
        ...
