"""mDNS names in place of addresses: the peer's are resolved, and with `mdns="publish"` ours are signalled as names.

Source: draft-ietf-mmusic-mdns-ice-candidates sections 3.1 (gathering) and 3.2 (processing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.net.api import Network, OpensMulticast
from iceagent.net.tasks import contained

if TYPE_CHECKING:
    from iceagent.net.mdns import Mdns

LOOKUP_S: Final = 8.0  # ours: a name is given up then; a candidate that late is of little use
MAX_NAMES: Final = 64  # ours: names of the peer's that are looked up in an agent's life

Key = tuple[ice.CandidateType, str, TransportAddress, TransportAddress, tuple[tuple[str, str], ...]]
PathAddresses = tuple[TransportAddress, TransportAddress]


def key_of(candidate: ice.Candidate) -> Key:
    """Return what distinguishes a candidate of ours from the others: type, transport, address, base, extensions."""
    return (candidate.type, candidate.transport, candidate.address, candidate.path_base, candidate.extensions)


class Names:
    """The mDNS names of one agent.

    Args:
        network: where groups are joined.
        config: says whether to look up, and whether to publish.
        driver: woken when names have come.
        hosts: returns the addresses of our sockets: names are asked for and announced there, and nowhere else.
    """

    def __init__(
        self, network: Network, config: AgentConfig, driver: Driver, hosts: Callable[[], Sequence[str]]
    ) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self._hosts = hosts
        self._wanted = trio.Event()
        self._open = trio.Event()
        self._mdns: Mdns | None = None
        self._names: dict[str, str] = {}
        self._foundations: dict[str, str] = {}
        self._seen: dict[PathAddresses, ice.Candidate] = {}
        self._asked = 0
        self.announced: list[ice.Candidate] = []
        """What is signalled in addition to the core's candidates, in the form of candidates."""

    @property
    def publishes(self) -> bool:
        """Whether our host addresses are hidden behind names."""
        return self._config.mdns == "publish"

    @property
    def resolves(self) -> bool:
        """Whether the peer's names are looked up. A relay-only agent sends nothing from its own addresses."""
        return self._config.mdns != "off" and self._config.transport_policy != "relay"

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish from the start, or wait until a name is to be looked up; then stay until cancelled."""
        started = trio.Event()
        if not self.publishes:
            started.set()
            task_status.started()
            await self._wanted.wait()
        with contained("mDNS"):
            await self._serve(started, task_status)
        if not started.is_set():
            task_status.started()

    async def _serve(self, started: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        from iceagent.net.mdns import open_mdns  # here, since most agents never meet a name

        async with open_mdns(self._network, randbytes=self._config.randbytes) as mdns:
            self._mdns = mdns
            try:
                await self.refresh()
                self._open.set()
                if self.publishes:
                    started.set()
                    task_status.started()
                await trio.sleep_forever()
            finally:
                self._mdns = None

    async def refresh(self) -> None:
        """Follow our sockets: join the links of new addresses and, where that is wanted, give them names."""
        mdns = self._mdns
        if mdns is None:
            return
        hosts = self._hosts()
        await mdns.join(hosts)
        for host in [host for host in self._names if host not in hosts]:
            mdns.withdraw(self._names.pop(host))
        for host in hosts if self.publishes else ():
            name = None if host in self._names else mdns.publish(host)
            if name is not None:
                self._names[host] = name
        self._driver.changed.unpark_all()

    # Names of the peer

    async def resolve(self, name: str) -> str | None:
        """Return the address of a name of the peer's, or None; takes `LOOKUP_S` at most."""
        self._asked += 1
        if not self.resolves or self._asked > MAX_NAMES:
            return None
        self._wanted.set()
        with trio.move_on_after(LOOKUP_S):
            if not isinstance(self._network, OpensMulticast):
                return await self._ask_system(name)
            await self._open.wait()
            return None if self._mdns is None else await self._mdns.resolve(name)
        return None

    async def _ask_system(self, name: str) -> str | None:
        with suppress(OSError):
            found = await self._network.resolve(name, 0)
            return min(found, key=lambda address: -address.family).host if found else None
        return None

    # Our own

    def note_public(self, address: TransportAddress, candidate: ice.Candidate) -> None:
        """Take note of a server-reflexive candidate that equals a hidden host candidate: who is elsewhere needs it."""
        if self.publishes:
            self._seen[address, candidate.path_base] = candidate
            self._driver.changed.unpark_all()

    def signalled(self) -> list[ice.Candidate]:
        """Return the candidates found so far, as they are signalled to the peer.

        Peer-reflexive ones are not: the peer is who revealed them (RFC 8445 section 7.2.5.3.1). Where names are
        published, hosts that have none are not signalled. Foundations are numbered anew: ours are checksums of
        addresses, which could be guessed from them.
        """
        candidates = [one for one in self._driver.ice.local_candidates if one.type is not ice.CandidateType.PRFLX]
        candidates += self.announced
        if not self.publishes:
            return candidates
        living = [one for one in self._seen.values() if one.path_base in self._driver.sockets]
        shown = (self._disguised(candidate) for candidate in (*candidates, *living))
        return [candidate for candidate in shown if candidate is not None]

    def _disguised(self, candidate: ice.Candidate) -> ice.Candidate | None:
        number = self._foundations.setdefault(candidate.foundation, str(len(self._foundations) + 1))
        hidden = replace(candidate, foundation=number, related_address=None)
        if candidate.type is not ice.CandidateType.HOST:
            return hidden
        name = self._names.get(candidate.address.host)
        return None if name is None else replace(hidden, address=TransportAddress(name, candidate.address.port))
