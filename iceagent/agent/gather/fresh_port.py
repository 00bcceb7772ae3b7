"""Another local port, if the first one does not work: for gateways that accept unsolicited packets for themselves.

A Linux gateway with only a masquerading rule accepts a check of the peer that arrives before ours was sent: it takes it
for its own. Nobody listens there, but its connection table gets an entry, which each further check renews. Then packets
from our socket to the peer cannot have the same port. They get another one, and the peer's NAT drops them. So both
sides fail for ever.

A socket that the peer does not know has no such entry. It sends first: an *opener* to each address of the peer. The TTL
of an opener lets it pass our own gateways and no others, so that it makes no entry at the peer's gateway either. Where
our own address is a public one, the first router on the way counts as ours: it may be a firewall. Only then the new
address is signalled. Of several lines each gets such a socket: which of them is to blame, and which NAT maps alike for
all, nobody can tell. The peer's checks find the way open, and make a pair like any other. It is enough if
one side does so, whichever gateway is at fault; if both do, there are two paths instead of one. The controlling side
chooses one of them by nominating it. Until then neither side closes a port it has signalled: the peer may use that
path, and may have closed the port that ours leads to.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from iceagent.agent import late
from iceagent.agent.config import AgentConfig
from iceagent.agent.direct import is_direct, wait_agreed, wait_certain, wait_direct
from iceagent.agent.driver import Driver
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.agent.gather.reflexive import Base
from iceagent.agent.report.events import FreshPort
from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress
from iceagent.net.api import LimitsHops

logger = logging.getLogger("iceagent.agent")

STUCK_S: Final = 2.0  # ours: ordinary checks that lead to a path have done so by then, twice repeated
AGAIN_S: Final = 4.0  # ours: after the first fresh port; the candidate may have been lost with a signaling connection
MAX_PORTS: Final = 2  # ours: in each ICE session, on each line
MAX_LINES: Final = 3  # ours: interfaces whose packets leave by different gateways
MAX_KEPT: Final = 2  # ours: fresh ports that led to a path, beside the usual one of each address
MAX_OPENED: Final = 8  # ours: addresses of the peer's that openers go to
ANSWER_S: Final = 3.0  # ours: for the STUN server, which has answered before: three requests
USUAL_TTL: Final = 2  # where none can be found out: our own gateway, and the first router behind it


class FreshPorts:
    """One component's attempts from other local ports.

    Args:
        config: whether sockets may be opened at all.
        driver: the component's.
        gatherer: opens sockets within the allowed ports, and knows our addresses and servers.
    """

    def __init__(self, config: AgentConfig, driver: Driver, gatherer: Gatherer) -> None:
        self._driver = driver
        self._gatherer = gatherer
        self._randbytes = config.randbytes
        is_plain = config.transport_policy != "relay" and not config.ice_lite and config.shared_port is None
        self.enabled = is_plain and driver.policy.has_type(ice.CandidateType.SRFLX)
        self._ttls: dict[str, int] = {}  # by our address: of the first public router, 0 for unknown
        self._kept: list[Base] = []

    async def run(self) -> None:
        """In each generation see whether there is a direct path, and if not, try another port; until cancelled."""
        core = self._driver.ice
        async with trio.open_nursery() as receiving:  # sockets that are kept outlive their generation
            while self.enabled and not self._driver.closed:
                generation = core.generation
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._try_ports, receiving)
                    while core.generation == generation:
                        await self._driver.changed.park()
                    nursery.cancel_scope.cancel()

    async def _try_ports(self, receiving: trio.Nursery) -> None:
        """Try other ports until there is a direct path; and again if it was the peer's relay that looked like one."""
        tried = 0
        while tried < MAX_PORTS:
            opened: dict[TransportAddress, ice.Candidate] = {}
            try:
                while tried < MAX_PORTS:
                    while not self._ways_out() or not self._targets():
                        await self._driver.changed.park()
                    if await wait_direct(self._driver, AGAIN_S if tried else STUCK_S):
                        break
                    tried += 1
                    async with trio.open_nursery() as lines:
                        for way in self._ways_out():
                            lines.start_soon(self._open_one, way, opened, receiving)
                while opened:  # the peer may have found another path, to the port we have signalled
                    await wait_agreed(self._driver)
                    if await wait_certain(self._driver):
                        break
                    await self._driver.changed.park()  # it was the peer's relay; and no turn goes without a checkpoint
            finally:
                for base, candidate in opened.items():
                    self._end(base, candidate)

    # One port

    async def _open_one(
        self,
        way: tuple[TransportAddress, TransportAddress],
        opened: dict[TransportAddress, ice.Candidate],
        receiving: trio.Nursery,
    ) -> None:
        """Open a socket, learn its mapped address, open the way to it, and signal it to the peer."""
        usual, server = way
        if usual.host not in self._ttls:
            open_socket = partial(self._gatherer.open_socket, usual.host)
            self._ttls[usual.host] = await late.find_ttl(open_socket, server.host, _at_once)
        if is_direct(self._driver.ice):
            return
        sock = await self._gatherer.open_socket(usual.host)
        if sock is None:
            return
        base = sock.local_address
        is_signalled = False
        self._driver.sockets[base] = sock
        receiving.start_soon(self._driver.receive_from, base)
        try:
            mapped, targets = await self._ask(base, server), self._targets()
            if mapped is None or not targets or not self._driver.ice.probing.adopt(base):
                return  # nobody answers, or a path was found meanwhile
            found = self._ttls[base.host]
            ttl = found + (mapped.host == base.host) if found else USUAL_TTL
            for remote in targets:
                self._send_opener(base, remote, ttl)
            component = self._driver.ice.component
            candidate = ice.srflx_candidate(mapped, base, server.host, 0, component)
            opened[base] = candidate
            is_signalled = True
            logger.info("no direct path: the local port %d is tried, too", base.port)
            self._gatherer.names.announced.append(candidate)
            self._driver.note(FreshPort(base, mapped, len(targets), ttl))
        finally:
            if not is_signalled:
                self._close(base)

    async def _ask(self, base: TransportAddress, server: TransportAddress) -> TransportAddress | None:
        query = self._driver.queries.start(trio.current_time(), base, server)
        try:
            self._driver.mutate(lambda now: None)
            with trio.move_on_after(ANSWER_S):
                await query.done.wait()
        finally:
            self._driver.queries.cancel(query)
        return query.mapped

    def _send_opener(self, base: TransportAddress, remote: TransportAddress, ttl: int) -> None:
        sock = self._driver.sockets.get(base)
        if isinstance(sock, LimitsHops):
            sock.send_limited(stun.encode(stun.binding_indication(self._randbytes(12))), remote, ttl)

    def _end(self, base: TransportAddress, candidate: ice.Candidate) -> None:
        """Keep the socket if a path goes over it, as one like any other; else close it."""
        if candidate in self._gatherer.names.announced:
            self._gatherer.names.announced.remove(candidate)
        if self._driver.closed or base not in self._driver.sockets:
            return
        if not any(pair.valid and pair.local.path_base == base for pair in self._driver.ice.pairs):
            self._close(base)
            return
        self._make_room()
        kept = Base(base, 0)
        self._kept.append(kept)
        self._gatherer.bases.append(kept)

    def _make_room(self) -> None:
        selected = self._driver.ice.selected_pair
        in_use = None if selected is None else selected.local.path_base
        bases, sockets = self._gatherer.bases, self._driver.sockets
        self._kept = [one for one in self._kept if one in bases and one.address in sockets]
        spare = [one for one in self._kept if one.address != in_use]
        if len(self._kept) >= MAX_KEPT and spare:
            self._kept.remove(spare[0])
            self._gatherer.bases.remove(spare[0])
            self._close(spare[0].address)

    def _close(self, base: TransportAddress) -> None:
        sock = self._driver.sockets.pop(base, None)
        if sock is not None:
            sock.close()
            if not self._driver.closed:
                self._driver.mutate(lambda now: self._driver.ice.handle_base_lost(now, base))

    # What there is

    def _ways_out(self) -> list[tuple[TransportAddress, TransportAddress]]:
        """Return a socket of ours on each line with a NAT, and the server that has shown it; none before that."""
        mapped = {one.path_base for one in self._driver.ice.local_candidates if one.type is ice.CandidateType.SRFLX}
        ours = {base.address for base in self._gatherer.bases if base.address.family == 4} & mapped
        ways: dict[str, tuple[TransportAddress, TransportAddress]] = {}
        for path in self._gatherer.reflexive.paths():
            if path[0] in ours:
                ways.setdefault(path[0].host, path)
        return list(ways.values())[:MAX_LINES]

    def _targets(self) -> list[TransportAddress]:
        """Return the addresses of the peer's on the internet, as far as our policy lets us send there."""
        if self._driver.ice.remote_credentials is None or is_direct(self._driver.ice):
            return []
        theirs = [
            one.address
            for one in self._driver.ice.remote_candidates
            if one.transport == "udp" and one.type is not ice.CandidateType.RELAY and late.is_target(one.address)
        ]
        return [one for one in dict.fromkeys(theirs) if self._driver.policy.permits(one)][:MAX_OPENED]


async def _at_once() -> bool:
    """Let eight packets to a server of our own go out unpaced."""
    await trio.lowlevel.checkpoint()
    return True
