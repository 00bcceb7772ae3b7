"""Through hard NATs: finds out what ours does, announces it, and carries out what `iceagent.core.hard_nat` plans.

What the two sides announce to each other travels as server-reflexive candidates with two extension attributes (RFC 8839
section 5.1), which peers that do not know them ignore: `x-nat` (`easy`, `predictable`, `hard`, `unknown`) and
`x-nat-round`. A side that sends them takes part, so nothing happens unless both sides have opted in.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from iceagent.agent.config import AgentConfig
from iceagent.agent.direct import is_direct, wait_certain, wait_direct
from iceagent.agent.driver import Driver
from iceagent.agent.gather.gatherer import Gatherer
from iceagent.agent.gather.reflexive import Base
from iceagent.agent.hard_nat.sockets import SocketPool, find_ttl
from iceagent.agent.hard_nat.view import NatView
from iceagent.agent.report.events import HardNatBegun, HardNatEnded, NatSeen
from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress
from iceagent.core.hard_nat import (
    Announcement,
    CheckSeen,
    HardNat,
    NatKind,
    PortHabit,
    RateCap,
    Share,
    Shot,
    Shown,
    Task,
    Technique,
    Traversal,
    aim_ahead,
    assign,
    is_target,
    kind_by_checks,
)
from iceagent.core.hard_nat.traversal import BASE, MAX_PER_SECOND, SHOWN_S
from iceagent.net.api import Network, RealHost, UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.tasks import PerRun

logger = logging.getLogger("iceagent.agent")

KIND_ATTRIBUTE: Final = "x-nat"
ROUND_ATTRIBUTE: Final = "x-nat-round"
HEAD_START_S: Final = 0.7  # ours: ordinary checks that lead to a path have done so by then, as a rule
OPENING_S: Final = 0.4  # ours: a spray begins later than the sockets that it is to meet
ROUND_S: Final = 3.0  # ours: with announced ports; then they are announced anew
PAUSE_S: Final = 2.0  # ours: after a check of the peer came through, which four round trips of any path take
MAX_ADOPTED: Final = 4  # ours: sockets that were struck; one suffices
LAST_WAIT_S: Final = 1.0  # ours: for what is under way when the last packet has been sent
_KEPT_SOCKETS: Final = 4  # where a NAT keeps the ports of fresh sockets; one would do
_ROUND_DIGITS: Final = 3
_MAPPED_TYPES: Final = (ice.CandidateType.SRFLX, ice.CandidateType.HOST)


class HardNatTraversal:
    """One agent's part in getting through hard NATs, its own or the peer's.

    Args:
        network: where names are looked up, and what knows how much others send.
        config: whether and how much may be done.
        driver: the agent's.
        gatherer: opens sockets, within the ports that are allowed, and knows our addresses.
    """

    name = "nat"

    def __init__(self, network: Network, config: AgentConfig, driver: Driver, gatherer: Gatherer) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self._gatherer = gatherer
        self._limits = config.hard_nat if isinstance(config.hard_nat, HardNat) else HardNat()
        wanted = all(map(driver.policy.has_type, (ice.CandidateType.SRFLX, ice.CandidateType.PRFLX)))
        self.enabled = bool(config.hard_nat) and wanted and not config.ice_lite and config.transport_policy != "relay"
        self._packets_left = self._limits.packets
        self._caps: list[RateCap | Share] = []
        self._theirs: Announcement | None = None
        self.peer_takes_part = False
        self._has_announced = False
        self._struck = 0
        self._nursery: trio.Nursery | None = None

    @property
    def has_announced(self) -> bool:
        """Whether the peer knows what our NAT is like, or is never to."""
        return self._has_announced or not self.enabled

    def take(self, candidate: ice.Candidate | None) -> bool:
        """Take note of what the peer says of its NAT; return whether `candidate` was that, and no other one."""
        announcement = read_announcement(candidate) if candidate is not None and self.enabled else None
        if announcement is None or candidate is None:
            return False
        if not is_target(announcement.address) or not self._driver.policy.accepts(candidate):
            return True  # such an address is no business of ours, whoever names it
        self.peer_takes_part = True
        if self._theirs is None or self._theirs.address.host == announcement.address.host:  # one target a generation
            self._theirs = announcement
            self._driver.changed.unpark_all()
        return True

    async def run(self) -> None:
        """Act in each generation, until cancelled."""
        if not self.enabled:
            return
        self._caps = [RateCap(self._limits.packets_per_second), *_shared_cap(self._network)]
        core = self._driver.ice
        async with trio.open_nursery() as self._nursery:
            while not self._driver.closed:
                generation = core.generation
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._work)
                    while core.generation == generation:
                        await self._driver.changed.park()
                    nursery.cancel_scope.cancel()
                self._theirs, self._has_announced, self._struck = None, False, 0
                self._gatherer.names.announced.clear()

    # One generation

    async def _work(self) -> None:
        """Find out what our NAT does, announce it, learn of the peer's, and try until there is a path or no hope."""
        try:
            nat = await self._look()
            ours = None if nat is None else await self._announce(nat, 0)
        finally:
            self._has_announced = True
            self._driver.changed.unpark_all()
        if nat is None or ours is None:
            return
        end_at = math.inf
        try:
            while True:
                theirs = await self._wait_theirs(ours.round)
                end_at = min(end_at, trio.current_time() + HEAD_START_S + self._limits.time_limit_s)
                task = assign(ours, theirs)
                if await wait_direct(self._driver, 0.0 if nat.is_late or (task and task.is_urgent) else HEAD_START_S):
                    if await wait_certain(self._driver):
                        return
                    end_at = (
                        end_at if nat.is_late else math.inf
                    )  # nothing was tried while the peer's relay looked direct
                    continue
                if not nat.is_late:  # later, what checks had shown has led nowhere
                    task = assign(ours, theirs, self._shown(nat, theirs))
                nat.is_late = True
                if task is None:
                    self._note_hopeless(ours, theirs)
                    return
                is_over = await self._attempt(nat, task, end_at)
                if is_over and (not is_direct(self._driver.ice) or await wait_certain(self._driver)):
                    return
                ours = await self._announce(nat, max(ours.round + 1, theirs.round)) or ours
        finally:
            nat.pool.close()

    async def _look(self) -> _Nat | None:
        """See what our NAT is like, from the first address of ours where a server answers."""
        servers = await self._servers()
        for base in [base.address for base in self._gatherer.bases if base.address.family == 4]:
            open_socket = partial(self._gatherer.open_socket, base.host)
            view = NatView(open_socket, servers, self._config.randbytes, self._driver.policy.permits_server)
            habit = await view.look()
            if not habit.host:
                continue
            nat = _Nat(base, view, habit, SocketPool(open_socket, self._strike), frozenset(one.host for one in servers))
            if habit.kind is not NatKind.EASY:
                nat.ttl = await find_ttl(open_socket, servers[0].host, self._pace)
            return nat
        return None

    async def _servers(self) -> list[TransportAddress]:
        addresses: list[TransportAddress] = []
        for server in self._driver.servers:
            if server.is_turn and "udp" not in server.transports():
                continue
            try:
                found = await self._network.resolve(*server.endpoint(), family=4)
            except OSError as error:
                logger.debug("%s does not resolve: %s", server.url, error)
                continue
            addresses += [address for address in found if self._driver.policy.permits_server(address)][:1]
        return addresses

    async def _announce(self, nat: _Nat, number: int) -> Announcement | None:
        """Announce what our NAT does and where to send; again in each round where that changes."""
        mapped = await self._mapped(nat)
        address = mapped.address
        if nat.habit.kind is NatKind.PREDICTABLE:
            aim = await self._aim(nat, number)
            if aim == 0:
                return None
            address = address._replace(port=aim)
        ours = Announcement(nat.habit.kind, address, number)
        if number == 0 or ours.kind is NatKind.PREDICTABLE:
            self._gatherer.names.announced.append(write_announcement(ours, mapped))
        if number == 0:
            self._driver.note(NatSeen(nat.base, ours.kind.value, address, nat.habit.step))
        self._driver.changed.unpark_all()
        return ours

    async def _mapped(self, nat: _Nat) -> ice.Candidate:
        """Wait for the candidate that says how the internet sees our base; without a NAT that is the host candidate."""
        while not (found := self._mapped_candidates(nat)):
            await self._driver.changed.park()
        return found[0]

    def _mapped_candidates(self, nat: _Nat) -> list[ice.Candidate]:
        ours = [one for one in self._driver.ice.local_candidates if one.path_base == nat.base]
        return [
            one
            for one in ours
            if one.transport == "udp" and one.address.host == nat.habit.host and one.type in _MAPPED_TYPES
        ]

    async def _aim(self, nat: _Nat, number: int) -> int:
        """Return the external port that sockets opened soon will have; 0 where no server answers any more."""
        if nat.habit.step == 0:  # a fresh socket's own: then it has to be open already
            nat.pool.close()
            await nat.pool.open(_KEPT_SOCKETS)
            return nat.pool.first_port()
        last_port = await nat.view.last_port()
        return 0 if last_port is None else replace(nat.habit, last_port=last_port).port_after(aim_ahead(number))

    async def _wait_theirs(self, number: int) -> Announcement:
        """Wait for the peer's announcement; of a port that it predicts, for one as recent as ours."""
        while (theirs := self._theirs) is None or (theirs.kind is NatKind.PREDICTABLE and theirs.round < number):
            await self._driver.changed.park()
        return theirs

    # One attempt

    async def _attempt(self, nat: _Nat, task: Task, end_at: float) -> bool:
        """Carry out our part; return whether it is over for good: there is a path, or time or packets ran out."""
        began_at = trio.current_time()
        opens_many = task.technique is not Technique.SPRAY
        if opens_many and not len(nat.pool):
            await nat.pool.open(min(task.sockets, self._limits.sockets))
        task = replace(task, sockets=len(nat.pool) if opens_many else 0)
        traversal = Traversal(
            task,
            start_at=began_at + (0.0 if opens_many or task.is_timed else OPENING_S),
            end_at=min(end_at, began_at + (ROUND_S if task.is_timed else SHOWN_S if task.is_shown else math.inf)),
            packets=self._packets_left,
            caps=self._caps,
            randbytes=self._config.randbytes,
        )
        self._driver.note(HardNatBegun(task.technique.value, task.target, task.sockets, nat.ttl if opens_many else 0))
        is_direct = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nat.pool.receive)
                is_direct = await self._carry_out(nat, traversal, task)
                nursery.cancel_scope.cancel()
        finally:
            self._packets_left -= traversal.packets_sent
            nat.pool.close()
        is_spent = self._packets_left <= 0
        is_over = is_direct or is_spent or trio.current_time() >= end_at
        result = "direct" if is_direct else "no-packets-left" if is_spent else "no-path"
        self._driver.note(HardNatEnded(result, traversal.packets_sent, trio.current_time() - began_at))
        return is_over

    async def _carry_out(self, nat: _Nat, traversal: Traversal, task: Task) -> bool:
        """Send what is due until there is a path, or time or packets run out; return whether there is a path."""
        strikes = self._strikes(task)
        while not is_direct(self._driver.ice):
            if self._strikes(task) > strikes:
                strikes = self._strikes(task)
                traversal.pause(trio.current_time() + PAUSE_S)
            if not await self._fire_until_news(nat, traversal):
                return await wait_direct(self._driver, max(traversal.end_at - trio.current_time(), LAST_WAIT_S))
        traversal.stop()
        return True

    async def _fire_until_news(self, nat: _Nat, traversal: Traversal) -> bool:
        """Send what is due until something has happened to the agent; return False when nothing is left to send."""
        while True:
            while (shot := traversal.poll_shot(trio.current_time())) is not None:
                self._fire(nat, shot)
            due = traversal.next_timeout()
            if due is None:
                return False
            with trio.move_on_at(due) as timer:
                await self._driver.changed.park()
            if not timer.cancelled_caught:
                return True

    def _fire(self, nat: _Nat, shot: Shot) -> None:
        if not self._driver.policy.permits(shot.remote):
            return
        if shot.is_opener:  # of no meaning to anybody: it is to die on the way
            indication = stun.encode(stun.binding_indication(self._config.randbytes(12)))
            nat.pool.send(shot.slot, indication, shot.remote, nat.ttl)
            return
        probe = self._driver.ice.probing.build()
        if probe is None:
            return
        if shot.slot != BASE:
            nat.pool.send(shot.slot, probe, shot.remote)
        elif (sock := self._driver.sockets.get(nat.base)) is not None:
            sock.send_nowait((probe,), shot.remote)

    def _strike(self, sock: UdpSocket, batch: Batch) -> bool:
        """Take over a socket of the pool at which an authenticated check of the peer has arrived."""
        core, base = self._driver.ice, sock.local_address
        if self._struck >= MAX_ADOPTED or self._nursery is None or self._driver.closed:
            return False
        if not self._driver.policy.permits(batch.remote):
            return False
        if not any(map(core.probing.is_check, batch.datagrams())) or not core.probing.adopt(base):
            return False
        self._struck += 1
        self._driver.sockets[base] = sock
        self._gatherer.bases.append(Base(base, 0))
        self._nursery.start_soon(self._driver.receive_from, base)
        self._driver.take(base, batch)
        self._driver.changed.unpark_all()
        return True

    # What there is

    def _shown(self, nat: _Nat, theirs: Announcement) -> Shown:
        """Return what checks through relays have shown of both NATs."""
        pairs, relay = self._driver.ice.pairs, ice.CandidateType.RELAY
        mapped = next((one.address for one in self._mapped_candidates(nat)), None)
        to_relays = [
            CheckSeen(pair.remote.address.host, pair.local.address)
            for pair in pairs
            if pair.valid and pair.remote.type is relay and pair.local.path_base == nat.base
        ]
        from_them = [
            CheckSeen(pair.local.address.host, pair.remote.address)
            for pair in pairs
            if pair.local.type is relay and pair.remote.address.host == theirs.address.host
            if pair.remote.type is ice.CandidateType.PRFLX or (pair.valid and pair.remote.address == theirs.address)
        ]
        return Shown(
            NatKind.UNKNOWN if mapped is None else kind_by_checks(mapped, nat.servers, to_relays),
            kind_by_checks(theirs.address, nat.servers, from_them),
        )

    def _strikes(self, task: Task) -> int:
        """Return how many checks are known to have come through, each from an address that was not signalled."""
        learnt = (one for one in self._driver.ice.remote_candidates if one.type is ice.CandidateType.PRFLX)
        return self._struck + sum(one.address.host == task.target.host for one in learnt)

    async def _pace(self) -> bool:
        """Wait until one more packet may be sent, and count it; return False if none may."""
        if self._packets_left <= 0:
            return False
        while True:
            at = max(cap.next_at() for cap in self._caps)
            if at <= trio.current_time():
                break
            await trio.sleep_until(at)  # others may take the place meanwhile
        for cap in self._caps:
            cap.note(trio.current_time())
        self._packets_left -= 1
        return True

    def _note_hopeless(self, ours: Announcement, theirs: Announcement) -> None:
        if {ours.kind, theirs.kind} != {NatKind.EASY}:
            logger.info("NATs %s and %s: nothing is known to help", ours.kind.value, theirs.kind.value)
            self._driver.note(HardNatEnded("hopeless", 0, 0.0))


@dataclass(slots=True, eq=False)
class _Nat:
    """What there is on our side.

    Attributes:
        base: the socket whose mapped address the peer knows.
        view: asks servers for the next port.
        habit: what the NAT does.
        pool: further sockets.
        servers: hosts of the STUN servers.
        ttl: of openers; 0 for the usual.
        is_late: ordinary checks have had their head start.
    """

    base: TransportAddress
    view: NatView
    habit: PortHabit
    pool: SocketPool
    servers: frozenset[str]
    ttl: int = 0
    is_late: bool = False


def write_announcement(ours: Announcement, mapped: ice.Candidate) -> ice.Candidate:
    """Return an announcement in the form of a candidate, made of the one with our mapped address."""
    extensions = ((KIND_ATTRIBUTE, ours.kind.value), (ROUND_ATTRIBUTE, str(ours.round)))
    return replace(mapped, address=ours.address, extensions=extensions)


def read_announcement(candidate: ice.Candidate) -> Announcement | None:
    """Return what a candidate of the peer announces, or None if it is an ordinary one, or has unknown values."""
    said = dict(candidate.extensions)
    number = said.get(ROUND_ATTRIBUTE, "0")
    if KIND_ATTRIBUTE not in said or candidate.transport != "udp" or candidate.type not in _MAPPED_TYPES:
        return None
    if not (number.isascii() and number.isdecimal() and len(number) <= _ROUND_DIGITS):
        return None
    try:
        kind = NatKind(said[KIND_ATTRIBUTE])
    except ValueError:
        return None
    return Announcement(kind, candidate.address, int(number))


_process_cap: Final = PerRun("iceagent.agent.hard_nat", lambda: RateCap(MAX_PER_SECOND))


def _shared_cap(network: Network) -> list[Share]:
    """Return one agent's share of what bounds all of this machine together; hosts of a virtual network stand alone."""
    return [network.shared(_process_cap).share()] if isinstance(network, RealHost) else []
