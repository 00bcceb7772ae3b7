"""Gathering: host candidates at once, all servers in parallel. Reports when there is enough, and the end.

*Enough* is for applications that carry all candidates in one message: whatever is likely to come has come. The *end* is
the end-of-candidates of RFC 8838.

Source: RFC 8445 section 5.1, RFC 8838 section 9.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import trio

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.gather.addresses import MAX_BASES, choose_addresses
from iceagent.agent.gather.mdns import Key, Names, key_of
from iceagent.agent.gather.nat64 import Nat64
from iceagent.agent.gather.portmap import PORT_MAPPING_BUDGET_S, PortMappings
from iceagent.agent.gather.reflexive import QUESTION_S, Base, Reflexive
from iceagent.agent.gather.relay import Relays
from iceagent.agent.gather.servers import IceServer
from iceagent.agent.gather.tcp import TcpCandidates
from iceagent.agent.report.events import GatheringEnough, GatheringFinished
from iceagent.core import ice
from iceagent.core.constants import KEEPALIVE_S
from iceagent.errors import LocalError
from iceagent.net.api import InterfaceAddress, Network, UdpSocket
from iceagent.net.tasks import contained, run_contained

logger = logging.getLogger("iceagent.agent")

ENOUGH_GRACE_S: Final = 1.0
"""Ours: a request lost is repeated after 0.5 s; a server still silent then is thought dead if others answer."""
OWN_HOSTS_S: Final = 0.5  # ours: so old the list of our own addresses may be
MAX_BASES_EVER: Final = 2 * MAX_BASES  # ours: with those that have come since and keep their sockets
_BEST_PREFERENCE: Final = 65535  # RFC 8445 section 5.1.2.1


class OtherWays(Protocol):
    """What looks for paths beside candidates and talks with the peer's like in the form of some: `agent/hard_nat`.

    Attributes:
        name: what it is called in `GatheringEnough.missing`.
        peer_takes_part: the peer has announced the same.
    """

    name: str
    peer_takes_part: bool

    @property
    def has_announced(self) -> bool:
        """Whether all has been announced to the peer in the present generation; true if there is nothing."""
        ...

    def take(self, candidate: ice.Candidate | None) -> bool:
        """Take what the peer signals; return whether it was said to us and is no candidate."""
        ...

    async def run(self) -> None:
        """Try until cancelled."""
        ...


class Gatherer:
    """Finds the local candidates of one agent.

    Args:
        network: where sockets, interfaces and names come from.
        config: what may be used.
        driver: takes the sockets and the candidates.
    """

    def __init__(self, network: Network, config: AgentConfig, driver: Driver) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        driver.servers = config.ice_servers
        self._entries: list[InterfaceAddress] = []
        self._read_at = -math.inf
        self.bases: list[Base] = []
        self._ports_left: dict[str, int] = {}  # by address, oldest first
        self._bases_made = 0
        self.addresses_seen = 0
        self.addresses_usable = 0  # of these, what the policy leaves
        self.enough = False
        self.finished = False
        self.signalled_in_time: frozenset[Key] = frozenset()
        """The candidates that came before the end."""
        self.other_ways: OtherWays | None = None
        """What tries beside candidates, and is worth waiting for until it has announced itself to the peer."""
        self._round = trio.CancelScope()
        self.names = Names(network, config, driver, lambda: list(dict.fromkeys(b.address.host for b in self.bases)))
        self.nat64 = Nat64(network, driver, self._usable)
        self.reflexive = Reflexive(network, config, driver, lambda: self.bases, self.names, self.nat64)
        self.port_mappings = PortMappings(network, config, driver)
        self.relays = Relays(
            network, config, driver, self._relay_host, self._relay_ports, self._families_here, self.nat64
        )
        self.tcp = TcpCandidates(network, config, driver, self._ports)
        driver.policy.own_hosts = self._own_hosts

    def interfaces(self) -> list[InterfaceAddress]:
        """Return the addresses of this machine; while they cannot be listed (no descriptors left), the last known."""
        self._read_at = trio.current_time()
        try:
            self._entries = self._network.interfaces()
        except OSError as error:
            logger.warning("the addresses of this machine cannot be listed now: %s", error)
        return self._entries

    def _own_hosts(self) -> set[str]:
        """Return the addresses of this machine for the policy, which asks for each address of each server."""
        if trio.current_time() >= self._read_at + OWN_HOSTS_S:
            self.interfaces()
        return {entry.host for entry in self._entries}

    async def open_bases(self) -> None:
        """Bind a socket to each usable address and make each a host candidate.

        Raises:
            LocalError: there are addresses but none of the allowed ports can be bound on any, or they cannot be listed.
        """
        try:
            self._entries = interfaces = self._network.interfaces()
        except OSError as error:
            raise LocalError(f"the addresses of this machine cannot be listed: {error.strerror or error}") from error
        self.addresses_seen = len(interfaces)
        usable = self._driver.policy.local_addresses(interfaces)
        self.addresses_usable = len(usable)
        chosen = choose_addresses(usable, self._config)
        if self._config.transport_policy == "relay":
            return  # without host sockets nothing is sent from one, and no host address is shown
        for entry in chosen:
            sock = await self._open(entry.host)
            if sock is not None:
                self._add_base(sock)
        if chosen and not self.bases and self._config.shared_port is not None:
            raise LocalError("the shared port has none of the addresses this agent may use")
        if chosen and not self.bases:
            ports = "" if self._config.port_range is None else " within ports {}-{}".format(*self._config.port_range)
            raise LocalError(f"none of {len(chosen)} local addresses can be bound{ports}; widen AgentConfig.port_range")
        await self.follow_tcp()

    async def follow_tcp(self) -> None:
        """See that there are candidates over TCP for the addresses we have sockets at, if they are wanted."""
        await self.tcp.follow([base.address.host for base in self._bases_by_use()])

    async def open_new_bases(self) -> list[Base]:
        """Bind sockets to usable addresses that have come since; each is a host candidate. Return the new bases."""
        known = {base.address.host for base in self.bases}
        chosen = self._usable()
        made: list[Base] = []
        for entry in chosen:
            if len(self.bases) >= MAX_BASES_EVER:
                break
            sock = None if entry.host in known else await self._open(entry.host, self._ports_left.get(entry.host))
            if sock is not None and self._driver.closed:
                sock.close()
            elif sock is not None:
                self._ports_left.pop(entry.host, None)
                made.append(self._add_base(sock))
        await self.names.refresh()
        return made

    def leave(self, base: Base, *, was_in_use: bool) -> None:
        """Do without a base, whose address is gone, and remember its port: that of the base in use, else of the first.

        An address often comes back, as when an interface goes down and up. From the same port a NAT still lets the peer
        in, so that the path works again also where no signaling could tell the peer of another one.
        """
        self.bases.remove(base)
        host, port = base.address
        if was_in_use or host not in self._ports_left:
            self._ports_left.pop(host, None)
            if len(self._ports_left) >= MAX_BASES_EVER:
                del self._ports_left[next(iter(self._ports_left))]
            self._ports_left[host] = port

    def take_servers(self, servers: tuple[IceServer, ...]) -> None:
        """Ask other servers from the next gathering on."""
        self._driver.servers = servers
        self.relays.take_servers()

    def begin_again(self) -> None:
        """Take note that a restart asks for candidates anew; `run` is to follow."""
        self.enough = self.finished = False

    async def run(self) -> None:
        """Ask all servers; report when there is enough, and when no candidate follows; keep mapped addresses alive.

        A run that begins while another one goes on takes its place. A restart that comes in between leaves the end to
        the run that follows it.
        """
        self._round.cancel()
        generation = self._driver.ice.generation
        with trio.CancelScope() as self._round, contained("gathering", lambda error: self._finish_anyway(generation)):
            self.tcp.ask()
            self.relays.ask()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_contained, "looking for a NAT64", self.nat64.learn)
                for question in self.reflexive.begin():
                    nursery.start_soon(self.reflexive.ask, question)
                nursery.start_soon(self._report_enough, generation)
                await self._wait_end()
                if self._driver.ice.generation == generation:
                    self._finish()
                    nursery.start_soon(self._keep_alive)

    def _finish_anyway(self, generation: int) -> None:
        """Report the end, so that nobody waits for more: something unforeseen went wrong."""
        if self._driver.ice.generation == generation and not self._driver.closed:
            self.enough = True
            self._driver.note(GatheringEnough(len(self._driver.ice.local_candidates), ("unforeseen",)))
            self._finish()

    async def wait_enough(self) -> None:
        """Wait until what is likely to come has come, in the present generation; see `GatheringEnough`."""
        await trio.lowlevel.checkpoint()
        while not self.enough and not self._driver.closed:
            await self._driver.changed.park()

    async def _report_enough(self, generation: int) -> None:
        """Take note of enough as soon as it is known.

        That is once some server of each family has answered about all our sockets of it, and a relay stands, if there
        are TURN servers; a family whose servers have all failed, and relays that have, are not waited for. What is
        silent is for `ENOUGH_GRACE_S`, which one lost packet does not outlast: from the start where anything else has
        answered, else from when the servers' names have become addresses. Relays that nothing has answered beside are
        waited for until the budget: who blocks UDP lets them through by TLS, late, and there is no other path.
        """
        started_at = trio.current_time()
        while missing := self._missing():
            enough_at = min(self._patient_since(started_at) + ENOUGH_GRACE_S, started_at + self._budget_s)
            if trio.current_time() >= enough_at:
                break
            with trio.move_on_at(enough_at):
                await self._driver.changed.park()
        if self._driver.ice.generation == generation and not self.enough:
            self.enough = True
            self._driver.note(GatheringEnough(len(self._driver.ice.local_candidates), tuple(missing)))

    def _patient_since(self, started_at: float) -> float:
        """Return since when what is missing has had its chance; infinity while it has not."""
        if self.reflexive.has_answer or self.relays.allocations:
            return started_at
        if not self.relays.is_settled or self._others_pending:
            return math.inf
        return self.reflexive.all_asked_at()

    def _missing(self) -> list[str]:
        missing = [f"srflx IPv{family}" for family in sorted(self.reflexive.unanswered_families())]
        if not self.relays.allocations and not self.relays.is_settled:
            missing.append("relay")
        if self.other_ways is not None and self._others_pending:
            missing.append(self.other_ways.name)
        return missing

    @property
    def _others_pending(self) -> bool:
        return self.other_ways is not None and not self.other_ways.has_announced

    @property
    def _budget_s(self) -> float:
        return min(self._config.gather_budget_s, QUESTION_S)

    async def _wait_end(self) -> None:
        """Wait until the end of candidates may be signalled.

        With full trickle that is when nothing can come any more, so that all candidates precede it, as RFC 8838
        section 13 has it. Without, the application may wait for the end before it signals anything. Then a silent
        server has its budget and no more, and what comes later is for `late_candidates`.
        """
        patient = self._config.full_trickle
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_within, QUESTION_S if patient else self._budget_s, self.relays.wait_settled)
            budget_s = QUESTION_S if patient else PORT_MAPPING_BUDGET_S
            nursery.start_soon(_within, budget_s, self.port_mappings.wait_settled)
            nursery.start_soon(self.tcp.wait_settled)
            nursery.start_soon(_within, PORT_MAPPING_BUDGET_S, self._wait_others)
            if sum(self._config.streams) > 1:
                nursery.start_soon(_within, QUESTION_S, self._wait_any)
            while any(not (question.over or (question.late and not patient)) for question in self.reflexive.questions):
                await self._driver.changed.park()

    async def _wait_any(self) -> None:
        """Wait until there is a candidate, or none is to be expected.

        Of several components one without a candidate at the end does not exist (RFC 8445 section 6.1.2.2),
        and the peer closes its own for good: a server that is slow to answer one of them must not come to that.
        """
        while not self.names.signalled() and not (
            self.relays.is_settled and all(question.over for question in self.reflexive.questions)
        ):
            await self._driver.changed.park()

    async def _wait_others(self) -> None:
        while self._others_pending:
            await self._driver.changed.park()

    def _finish(self) -> None:
        if self.finished:
            return  # the network has changed since; the end of this generation has been signalled, and is final
        self.finished = True
        self.signalled_in_time = frozenset(map(key_of, self.names.signalled()))
        self._driver.note(GatheringFinished(len(self._driver.ice.local_candidates)))
        self._driver.mutate(self._driver.ice.end_of_local_candidates)

    async def open_socket(self, host: str) -> UdpSocket | None:
        """Bind one more socket to an address, within the allowed ports; None when there is none. It is the caller's."""
        return await self._open(host)

    async def map_ports(self) -> None:
        """Keep our ports mapped at the gateway, until cancelled."""
        await self.port_mappings.run([(base.address, base.local_preference) for base in self._bases_by_use()])

    def _bases_by_use(self) -> list[Base]:
        """Return the bases, those first that the routing table uses: what costs much is done for the first few only."""
        uses = {entry.host: entry.route_use for entry in self._entries}
        return sorted(self.bases, key=lambda base: -uses.get(base.address.host, 0))

    def _relay_host(self, family: int) -> str | None:
        """Return the local address of connections to relays; None leaves it to the system's routes."""
        if not self._driver.policy.limits_interfaces:
            return None
        return next((entry.host for entry in self._usable() if (":" in entry.host) == (family == 6)), None)

    def _usable(self) -> list[InterfaceAddress]:
        """Return the addresses of this machine to use now, best first."""
        return choose_addresses(self._driver.policy.local_addresses(self.interfaces()), self._config)

    def _families_here(self) -> set[int]:
        return {6 if ":" in entry.host else 4 for entry in self._driver.policy.local_addresses(self.interfaces())}

    def _relay_ports(self) -> tuple[int, ...]:
        return tuple(self._ports())

    # Host candidates

    async def _open(self, host: str, usual_port: int | None = None) -> UdpSocket | None:
        """Bind to the usual or the first free port; None when the address or all allowed ports are refused."""
        shared = self._config.shared_port
        if shared is not None:
            return shared.attach(host, self._driver.ice.credentials.ufrag)
        for port in (*(() if usual_port is None else (usual_port,)), *self._ports()):
            try:
                return await self._network.open_udp(host, port)
            except (OSError, ValueError) as error:
                logger.debug("%s port %d cannot be bound: %s", host, port, error)
        return None

    def _ports(self) -> Iterable[int]:
        """Return the ports to try: the whole range from a random start, so that agents seldom collide."""
        if self._config.port_range is None:
            return (0,)
        low, high = self._config.port_range
        count = high - low + 1
        start = int.from_bytes(self._config.randbytes(4), "big") % count
        return (low + (start + step) % count for step in range(count))

    def _add_base(self, sock: UdpSocket) -> Base:
        base = Base(sock.local_address, _BEST_PREFERENCE - self._bases_made)
        self._bases_made += 1
        self.bases.append(base)
        self._driver.sockets[base.address] = sock
        if not self._driver.policy.has_type(ice.CandidateType.HOST):
            return base
        candidate = ice.host_candidate(base.address, base.local_preference, self._driver.ice.component)
        self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))
        return base

    async def _keep_alive(self) -> None:
        """Keep NAT bindings open until a pair is selected; from then on checks of consent do.

        Source: RFC 8445 section 5.1.1.4.
        """
        while self.reflexive.questions and self._driver.ice.state in _UNDECIDED:
            await trio.sleep(KEEPALIVE_S)
            if self._driver.ice.state in _UNDECIDED:
                for base, server in self.reflexive.paths():
                    self._driver.queries.keep_alive(base, server)
                self._driver.mutate(lambda now: None)


_UNDECIDED: Final = frozenset({ice.AgentState.NEW, ice.AgentState.CHECKING, ice.AgentState.CONNECTED})


async def _within(seconds: float, wait: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(seconds):
        await wait()
