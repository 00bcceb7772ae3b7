"""IPv6-only hosts behind a NAT64: they learn its prefix, and reach IPv4 peers and servers under it.

The peer's IPv4 address, translated into the prefix, is one more remote candidate beside the signalled one; the peer's
packets arrive from there through the NAT64. Names of servers need none of this: the network's DNS64 translates them.

Source: RFC 7050, RFC 6052; the idea of RFC 8305 section 7.2.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import trio

from iceagent.agent.driver import Driver
from iceagent.core import ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.discovery.nat64 import WELL_KNOWN_NAME, find_prefix, synthesize
from iceagent.net.api import InterfaceAddress, Network

logger = logging.getLogger("iceagent.agent")

LOOKUP_S: Final = 10.0  # ours: for the one question; nothing else waits for it


class Nat64:
    """What one agent knows of its network's NAT64.

    Args:
        network: whose resolver is asked.
        driver: woken when the prefix is known; holds the policy.
        usable: returns the addresses of this machine that may be used.
    """

    def __init__(self, network: Network, driver: Driver, usable: Callable[[], Iterable[InterfaceAddress]]) -> None:
        self._network = network
        self._driver = driver
        self._usable = usable
        self._settled = trio.Event()
        self.prefix: ipaddress.IPv6Network | None = None
        self.on_prefix: Callable[[], None] = lambda: None
        """Called when the prefix becomes known, or another."""

    @property
    def is_settled(self) -> bool:
        """Whether it is known what `prefix` is, if there is a NAT64."""
        return self._settled.is_set()

    @property
    def is_wanted(self) -> bool:
        """Whether this machine has IPv6 and no IPv4 to speak of."""
        entries = [entry for entry in self._usable() if not entry.is_loopback and not entry.is_link_local]
        return bool(entries) and all(":" in entry.host for entry in entries)

    async def learn(self) -> None:
        """Ask for the prefix, once; nobody has to wait for it."""
        found = None
        try:
            if self.is_wanted:
                with trio.move_on_after(LOOKUP_S):
                    found = find_prefix(one.host for one in await self._network.resolve(WELL_KNOWN_NAME, 0, family=6))
        except OSError as error:
            logger.debug("no NAT64 here: %s", error)
        finally:
            is_news = found is not None and found != self.prefix
            self.prefix = found
            self._settled.set()  # whatever happened: servers of IPv4 wait for it
            self._driver.changed.unpark_all()
        if found is not None and is_news:
            self._driver.policy.note_nat64(found)
            self.on_prefix()

    async def translate(self, host: str) -> str | None:
        """Return the IPv6 address that stands for an IPv4 server's, once the prefix is known; None without a NAT64."""
        await self._settled.wait()
        return None if self.prefix is None else synthesize(self.prefix, host)

    def translated(self, candidate: ice.Candidate) -> ice.Candidate | None:
        """Return a candidate of the peer as this machine reaches it through the NAT64; None if it does not."""
        if self.prefix is None or candidate.address.family == 6:
            return None
        host = synthesize(self.prefix, candidate.address.host)
        return None if host is None else replace(candidate, address=make_address(host, candidate.address.port))


def is_ipv4(host: str) -> bool:
    """Return whether a host is an IPv4 literal."""
    try:
        return TransportAddress(host, 0).ip.version == 4
    except ValueError:
        return False
