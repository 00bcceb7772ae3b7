"""Relayed candidates: the routes to TURN servers, the best first, and what keeps a relayed address alive.

The transports, best first: UDP, DTLS, TCP, TLS, and TCP or TLS through a proxy. Each starts a little after the better
one, or at once when all better ones have failed, and not at all if a better one works. So the best that works is used,
a blocked one costs only that short delay, and direct paths are not delayed. Source: the idea of RFC 8305.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

import trio

from iceagent.agent import late
from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.gather.nat64 import Nat64, is_ipv4
from iceagent.agent.gather.relayed_addresses import why_useless
from iceagent.agent.gather.servers import IceServer
from iceagent.agent.report.events import RelayAllocated, RelayFailed, RelayLost
from iceagent.core import ice, turn
from iceagent.core.address import TransportAddress, make_address
from iceagent.errors import LocalError
from iceagent.net.api import Network
from iceagent.net.proxy_choice import Proxy, parse_proxy, proxy_for
from iceagent.net.tasks import contained, run_contained
from iceagent.net.turn.redirect import Redirections, TurnServerAddress

if TYPE_CHECKING:
    from iceagent.net.turn.allocation import TurnAllocation
    from iceagent.net.turn.connect import TurnConnectOptions

logger = logging.getLogger("iceagent.agent")

STAGGER_S: Final = 0.3  # ours: a round trip to the other side of the world
ATTEMPT_TIMEOUT_S: Final = 10.0  # ours: for one route, from name lookup to allocation
HURRY_S: Final = 60.0  # ours: for so long after a loss the server is asked again and again, in short attempts
HURRIED_ATTEMPT_S: Final = 2.0  # ours: so that a restarted server is asked within a second; or twice as long as once
RETRY_MIN_S: Final = 0.25  # ours: the first pause after a failed attempt; doubled each time
RETRY_MAX_S: Final = 30.0  # ours
STEADY_S: Final = 10.0  # ours: an allocation that is lost sooner, time after time, is asked for ever more seldom
REFUSED_RETRY_S: Final = 60.0  # RFC 8656 section 7.4: at least a minute after 486 and 508
TRANSPORT_RANK: Final = {"udp": 0, "dtls": 1, "tcp": 2, "tls": 3}
PROXY_RANK: Final = 4
_RANK_STEP: Final = 4096  # of local preference between two ranks
_UNDECIDED: Final = frozenset(
    (ice.AgentState.NEW, ice.AgentState.CHECKING, ice.AgentState.CONNECTED, ice.AgentState.DISCONNECTED)
)


@dataclass(slots=True, eq=False)
class TurnRoute:
    """One transport to one server; `rank` is 0 for the best transport, `family` the IP version.

    The server is the one of now: it may get other credentials.
    """

    server: IceServer
    target: TurnServerAddress
    rank: int
    family: int
    proxy: Proxy | None = None

    @property
    def way(self) -> tuple[str, TurnServerAddress, int, int, Proxy | None]:
        """Where it leads, whoever asks there."""
        return self.server.url, self.target, self.rank, self.family, self.proxy


@dataclass(slots=True, eq=False)
class _Progress:
    """The state of a route. `tried` is set by its first result; `standing` while an allocation lives, since `stood_at`.

    `left_out`: its server is no longer wanted. `renewed` is set once there are other credentials.
    """

    attempt: trio.CancelScope | None = None
    tried: bool = False
    failed: bool = False
    standing: bool = False
    stood_at: float = 0.0
    left_out: bool = False
    renewed: trio.Event = field(default_factory=trio.Event)
    allocation: TurnAllocation | None = None


class Relays:
    """The relayed candidates of one agent.

    Args:
        network: where sockets come from.
        config: servers, policy, proxy.
        driver: takes sockets and candidates.
        local_host: returns the local address to use for a server of a family, or None for the system's choice.
        ports: returns the local UDP ports to try.
        families: returns the IP versions this machine has addresses of.
        nat64: translates the addresses of servers that have IPv4 only.
    """

    def __init__(
        self,
        network: Network,
        config: AgentConfig,
        driver: Driver,
        local_host: Callable[[int], str | None],
        ports: Callable[[], tuple[int, ...]],
        families: Callable[[], set[int]],
        nat64: Nat64,
    ) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self._local_host = local_host
        self._ports = ports
        self._families_here = families
        self._nat64 = nat64
        self._redirections = Redirections()
        self._progress: dict[TurnRoute, _Progress] = {}
        self._allocations: list[TurnAllocation] = []
        self._changed = trio.lowlevel.ParkingLot()
        self._race_started_at = 0.0
        self._made = 0
        self._nursery: trio.Nursery | None = None
        driver.on_remote_host = self._permit

    @property
    def is_wanted(self) -> bool:
        """Whether there are TURN servers, and the policy wants relayed candidates."""
        return self._driver.policy.has_type(ice.CandidateType.RELAY) and any(
            server.is_turn for server in self._driver.servers
        )

    @property
    def allocations(self) -> tuple[TurnAllocation, ...]:
        """The allocations that stand now."""
        return tuple(self._allocations)

    def begin(self, nursery: trio.Nursery) -> None:
        """Try all routes, and again whenever an allocation is lost, until the nursery is cancelled.

        Each way to a server is a task there; an agent without TURN servers has none.
        """
        self._race_started_at = trio.current_time()
        self._nursery = nursery
        self.ask()

    def ask(self) -> None:
        """Try the routes to servers that were added since, as each gathering does."""
        known = {route.way for route in self._progress}
        if self._nursery is None or self._driver.closed:
            return
        for route in self._routes():
            if route.way not in known:
                self._progress[route] = _Progress()
                self._nursery.start_soon(self._try_contained, route)

    def take_servers(self) -> None:
        """Go by the servers of now: whoever is still among them is asked with its new credentials, and at once.

        Relays that stand go on: with the new credentials, where the server takes them.
        """
        ways: dict[Any, list[IceServer]] = {}
        for route in self._routes():
            ways.setdefault(route.way, []).append(route.server)
        for route, progress in self._progress.items():
            servers = ways.get(route.way, [])
            progress.left_out = not servers
            server = servers.pop(0) if servers else route.server
            if progress.left_out or server != route.server:
                route.server = server
                progress.renewed.set()
            if progress.allocation is not None and progress.renewed.is_set():
                _log_in(progress.allocation, server)
        self._changed.unpark_all()

    def _routes(self) -> list[TurnRoute]:
        return routes_of(self._driver.servers, self._config, self._families_here()) if self.is_wanted else []

    async def wait_settled(self) -> None:
        """Wait until no relayed candidate is to be expected soon: the best ways have been tried, and what could, works.

        It may be cancelled by a budget.
        """
        await trio.lowlevel.checkpoint()
        while not self.is_settled:
            await self._changed.park()

    @property
    def is_settled(self) -> bool:
        """Whether no relayed candidate is to be expected soon."""
        if not self.is_wanted:
            return True
        if not self._progress:
            return False
        standing = [route.rank for route, progress in self._progress.items() if progress.standing]
        best = min(standing, default=inf)
        return all(progress.tried for route, progress in self._progress.items() if route.rank <= best)

    # One route

    async def _try_contained(self, route: TurnRoute) -> None:
        """Try one route; if an unforeseen error ends it, the others go on, and nobody waits for this one."""
        await run_contained(_words(route), self._try, route)
        progress = self._progress[route]
        progress.tried, progress.failed, progress.standing = True, not progress.standing, False
        self._changed.unpark_all()
        if progress.left_out:
            del self._progress[route]

    async def _try(self, route: TurnRoute) -> None:
        progress = self._progress[route]
        pause_s = RETRY_MIN_S
        stood_before = False
        lost_soon = 0
        needed_s = 0.0
        while not progress.left_out:
            await self._wait_turn(route)
            if progress.left_out:
                return
            progress.renewed = trio.Event()
            asked_at = trio.current_time()
            hurry = stood_before and asked_at < self._race_started_at + HURRY_S
            hurried_s = min(max(HURRIED_ATTEMPT_S, 2 * needed_s), ATTEMPT_TIMEOUT_S)
            stood, reason = await self._hold(route, hurried_s if hurry else ATTEMPT_TIMEOUT_S)
            progress.attempt, progress.tried, progress.failed = None, True, not stood
            progress.standing = False
            self._changed.unpark_all()
            if stood:  # and is lost: the next attempt follows at once, unless it never lasts
                stood_before, pause_s = True, RETRY_MIN_S
                needed_s = max(needed_s, progress.stood_at - asked_at)
                self._race_started_at = trio.current_time()
                lost_soon = lost_soon + 1 if self._race_started_at - progress.stood_at < STEADY_S else 0
                await _wait_renewed(progress, _pause_after(lost_soon))
                continue
            if reason is None:
                continue  # a better route won meanwhile
            if not stood_before and self._driver.ice.state not in _UNDECIDED:
                return  # a direct path was found: nobody needs this one
            pause_s = min(pause_s, RETRY_MIN_S if hurry else RETRY_MAX_S)
            if reason in _refusals():
                pause_s = REFUSED_RETRY_S
            await _wait_renewed(progress, pause_s)
            pause_s = RETRY_MIN_S if progress.renewed.is_set() else 2 * pause_s

    async def _wait_turn(self, route: TurnRoute) -> None:
        """Wait until no better route stands, and those that are being tried have had their head start."""
        await trio.lowlevel.checkpoint()
        while True:
            better = [progress for other, progress in self._progress.items() if other.rank < route.rank]
            if any(progress.standing for progress in better):
                await self._changed.park()
                continue
            levels = {
                other.rank
                for other, progress in self._progress.items()
                if other.rank < route.rank and not progress.failed
            }
            starts_at = self._race_started_at + STAGGER_S * len(levels)
            if trio.current_time() >= starts_at:
                return
            with trio.move_on_at(starts_at):
                await self._changed.park()

    async def _hold(self, route: TurnRoute, timeout_s: float) -> tuple[bool, turn.EndReason | None]:
        """Get an allocation and keep it until it is lost; return whether there was one, or why there was none."""
        progress = self._progress[route]
        stood = False
        unforeseen: list[Exception] = []
        with (
            trio.CancelScope(deadline=trio.current_time() + timeout_s) as scope,
            contained(_words(route), unforeseen.append),
        ):
            progress.attempt = scope
            try:
                async with late.open_turn_socket(
                    self._network,
                    await self._target(route),
                    login=route.server.login(),
                    request=turn.AllocationRequest(families=self._families()),
                    options=self._options(route),
                    randbytes=self._config.randbytes,
                ) as allocation:
                    scope.deadline = inf
                    progress.attempt = None
                    addresses = self._useful_addresses(allocation)
                    progress.stood_at = trio.current_time()
                    stood = True
                    await self._use(route, allocation, addresses)
            except turn.TurnError as error:
                self._failed(route, str(error), error.code)
                return False, error.reason
            except (OSError, LocalError) as error:
                self._failed(route, str(error) or type(error).__name__)
                return False, turn.EndReason.NO_ANSWER
        if unforeseen:
            self._failed(route, "something nobody has foreseen")
            return False, turn.EndReason.NO_ANSWER
        if stood:
            return True, None
        if trio.current_time() >= scope.deadline:
            self._failed(route, f"no answer within {timeout_s:g} s")
            return False, turn.EndReason.NO_ANSWER
        return False, None

    async def _target(self, route: TurnRoute) -> TurnServerAddress:
        """Return the server of a route, as an IPv6-only host behind a NAT64 reaches it."""
        target = route.target
        if route.family == 4 or route.proxy is not None or not is_ipv4(target.host):
            return target
        host = await self._nat64.translate(target.host)
        if host is None:
            raise OSError("the server has IPv4 alone, this machine IPv6, and there is no NAT64")
        return replace(target, host=host, tls_name=target.tls_name or target.host)

    def _useful_addresses(self, allocation: TurnAllocation) -> Sequence[TransportAddress]:
        """Return the relayed addresses that can be candidates.

        Raises:
            turn.TurnError: none of them can.
        """
        sockets = self._driver.sockets
        useless = {one: why_useless(one, allocation.place, sockets) for one in allocation.relayed_addresses}
        useful = [address for address, why in useless.items() if not why]
        if not useful:
            raise turn.TurnError(turn.EndReason.USELESS, None, next(iter(useless.values())))
        return useful

    async def _use(self, route: TurnRoute, allocation: TurnAllocation, addresses: Sequence[TransportAddress]) -> None:
        progress = self._progress[route]
        progress.tried = progress.standing = True
        progress.failed = False
        for other, theirs in self._progress.items():
            if other.rank > route.rank and theirs.attempt is not None:
                theirs.attempt.cancel()
        self._allocations.append(allocation)
        progress.allocation = allocation
        try:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    self._add(route, allocation, address)
                    nursery.start_soon(self._driver.receive_from, address)
                self._changed.unpark_all()
                await allocation.lost.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._allocations.remove(allocation)
            progress.allocation = None
            reason = "closed" if allocation.ended is None else allocation.ended.reason.value
            for address in addresses:
                self._remove(route, address, reason)

    # Candidates

    def _add(self, route: TurnRoute, allocation: TurnAllocation, address: TransportAddress) -> None:
        sock = next(sock for sock in allocation.sockets if sock.local_address == address)
        self._driver.sockets[address] = sock
        self._driver.relay_transports[address] = allocation.transport_name
        shows_mapped = self._config.transport_policy != "relay" and self._driver.policy.has_type(
            ice.CandidateType.SRFLX
        )
        related = allocation.mapped_address if shows_mapped else None
        preference = max(0, 65535 - route.rank * _RANK_STEP - self._made % _RANK_STEP)
        self._made += 1
        candidate = ice.relay_candidate(address, route.target.host, preference, related, self._driver.ice.component)
        url, mapped = route.server.url, allocation.mapped_address
        self._driver.note(RelayAllocated(url, address, mapped, allocation.transport_name, route.proxy is not None))
        self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))
        allocation.permit(
            dict.fromkeys(one.address.host for one in self._driver.ice.remote_candidates if one.name is None)
        )

    def _remove(self, route: TurnRoute, address: TransportAddress, reason: str) -> None:
        self._driver.sockets.pop(address, None)
        if self._driver.closed:
            return
        self._driver.note(RelayLost(route.server.url, address, reason))
        self._driver.mutate(lambda now: self._driver.ice.handle_base_lost(now, address))
        self._driver.changed.unpark_all()

    def _permit(self, host: str) -> None:
        for allocation in self._allocations:
            allocation.permit((host,))

    def _note_answer(self, route: TurnRoute) -> None:
        if route.target.transport in ("udp", "dtls"):
            self._driver.relay_answered_at = trio.current_time()

    def _failed(self, route: TurnRoute, reason: str, code: int | None = None) -> None:
        logger.info("%s over %s: %s", route.server.url, route.target.transport, reason)
        self._driver.note(RelayFailed(route.server.url, route.target.transport, reason, code, route.proxy is not None))

    # What to ask for

    def _families(self) -> tuple[int, ...]:
        wanted = set(self._config.families)
        return (4, 6) if wanted == {4, 6} else (4,) if 4 in wanted else (6,)

    def _options(self, route: TurnRoute) -> TurnConnectOptions:
        return late.TurnConnectOptions(
            families=(route.family,),
            local_host=self._local_host(route.family),
            ports=self._ports(),
            proxy=route.proxy,
            ca_file=self._config.tls_ca_file,
            permits=lambda address: self._driver.policy.permits_server(address, route.server),
            permits_proxy=self._driver.policy.permits_server,
            redirections=self._redirections,
            own_hosts=self._driver.policy.own_hosts,
            answered=partial(self._note_answer, route),
        )


async def _wait_renewed(progress: _Progress, seconds: float) -> None:
    """Wait for so long, or until there are other credentials."""
    with trio.move_on_after(seconds):
        await progress.renewed.wait()


def _pause_after(losses: int) -> float:
    """Return how long to wait when an allocation was lost as soon as it stood, for so many times in a row."""
    return min(RETRY_MIN_S * 2 ** (losses - 2), RETRY_MAX_S) if losses > 1 else 0.0


def routes_of(servers: Sequence[IceServer], config: AgentConfig, families: set[int]) -> list[TurnRoute]:
    """Return the ways to all TURN servers, best first.

    Args:
        servers: they, and others.
        config: families and proxy.
        families: the IP versions this machine has addresses of. Of a name IPv4 is tried first: what a relay forwards
            is mostly that.
    """
    routes: list[TurnRoute] = []
    for server in servers:
        for transport in server.transports() if server.is_turn else ():
            host, port = server.endpoint()
            proxy = _proxy_of(config, host, port)
            target = TurnServerAddress(host, port, transport)
            allowed = families & set(config.families)
            usable = sorted(allowed & _families_of(host)) or sorted(allowed & {6})  # which a NAT64 may translate
            for number, family in enumerate(usable):
                routes.append(TurnRoute(server, target, 2 * TRANSPORT_RANK[transport] + number, family))
            if proxy is not None and transport in ("tcp", "tls"):
                routes.append(TurnRoute(server, target, 2 * PROXY_RANK, 4, proxy))
    return sorted(routes, key=lambda route: route.rank)


def _families_of(host: str) -> set[int]:
    """Return the families a host may have: both for a name."""
    try:
        return {make_address(host, 0).family}
    except ValueError:
        return {4, 6}


def _proxy_of(config: AgentConfig, host: str, port: int) -> Proxy | None:
    if config.proxy is not None:
        return parse_proxy(config.proxy) if config.proxy else None
    if config.network is not None:
        return None  # the environment is this machine's; another network is not
    return proxy_for(host, port, os.environ)


@cache
def _refusals() -> frozenset[turn.EndReason]:
    """Return the reasons that asking again soon does not help against; of a client that is imported by then."""
    reason = turn.EndReason
    return frozenset(
        (
            *(reason.CREDENTIALS_REFUSED, reason.CREDENTIALS_NEEDED, reason.BID_DOWN, reason.QUOTA),
            *(reason.CAPACITY, reason.FORBIDDEN, reason.UNSUPPORTED, reason.ALTERNATE_SERVER, reason.USELESS),
        )
    )


def _log_in(allocation: TurnAllocation, server: IceServer) -> None:
    """Have an allocation go on with the credentials its server has now, if they are fixed ones."""
    if server.username and server.credential and server.credentials is None:
        with contained(f"{server.url}: changing credentials"):
            allocation.set_credentials(late.TurnCredentials(server.username, server.credential))


def _words(route: TurnRoute) -> str:
    return f"{route.server.url} over {route.target.transport}, IPv{route.family}"
