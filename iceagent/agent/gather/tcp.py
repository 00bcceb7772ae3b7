"""TCP candidates: three for each of the best addresses, and server-reflexive ones from STUN over TCP. RFC 6544.

Each candidate has a base of its own among the driver's sockets (`iceagent.net.tcp_base`): to the rest of the agent it
is one more socket. Paths are named by bases, so no TCP base has the number of a UDP one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.gather.reflexive import can_reach
from iceagent.agent.gather.servers import IceServer
from iceagent.agent.report.events import ServerAnswered, ServerFailed
from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.constants import KEEPALIVE_S
from iceagent.core.ice.model.tcp import ACTIVE, ACTIVE_PORT, MAX_OTHER_PREFERENCE, PASSIVE, SIMULTANEOUS_OPEN
from iceagent.net.api import Network
from iceagent.net.staggered import first_of
from iceagent.net.tasks import run_contained
from iceagent.net.tcp import bound_address
from iceagent.net.tcp_base import Listener, TcpBase

logger = logging.getLogger("iceagent.agent")

MAX_TCP_ADDRESSES: Final = 4  # ours: each makes up to two pairs with each of the peer's, and the checklist holds 100
_TRIES: Final = 8  # for a port whose number no UDP base has
_MAX_ANSWER: Final = 2048  # bytes of a Binding response
_UNDECIDED: Final = frozenset({ice.AgentState.NEW, ice.AgentState.CHECKING, ice.AgentState.CONNECTED})


@dataclass(frozen=True, slots=True)
class _Base:
    sock: TcpBase
    tcp_type: str
    preference: int

    @property
    def address(self) -> TransportAddress:
        return self.sock.local_address


class TcpCandidates:
    """The TCP candidates of one agent; without `AgentConfig.tcp_candidates` there are none.

    Args:
        network: where connections and listeners come from.
        config: says whether, and within which ports.
        driver: takes the bases and the candidates.
        ports: returns the local ports to try, anew each time.
    """

    def __init__(
        self, network: Network, config: AgentConfig, driver: Driver, ports: Callable[[], Iterable[int]]
    ) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self._ports = ports
        self._bases: list[_Base] = []
        self._made = 0
        self._nursery: trio.Nursery | None = None
        self._asked: set[tuple[str, TransportAddress]] = set()  # server and base of each connection to a STUN server
        self._is_asking_late = False  # until `run` has begun, which can ask
        self._pending = 0

    @property
    def is_wanted(self) -> bool:
        """Whether there are to be any."""
        return bool(self._config.tcp_candidates) and self._config.transport_policy != "relay"

    async def follow(self, hosts: Sequence[str]) -> None:
        """Make candidates of the addresses that are new, best first, and close those whose address is gone."""
        if not self.is_wanted:
            return
        for base in [base for base in self._bases if base.address.host not in hosts]:
            self._lose(base)
        present = {base.address.host for base in self._bases}
        for host in list(dict.fromkeys(hosts))[:MAX_TCP_ADDRESSES]:
            if host not in present and not self._driver.closed:
                await self._open(host)

    async def run(self) -> None:
        """Run the bases, until cancelled."""
        if not self.is_wanted:
            return
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for base in self._bases:
                self._start(nursery, base)
            if self._is_asking_late:
                self.ask()
            await trio.sleep_forever()

    def facts(self) -> list[str]:
        """Return in words how many connections were turned away or given up, for `explain()`."""
        refused = sum((base.sock.refused for base in self._bases), Counter[str]())
        return [f"TCP: {count} connection(s) not kept: {reason}" for reason, count in sorted(refused.items())]

    # Host candidates

    async def _open(self, host: str) -> None:
        preference = max(0, MAX_OTHER_PREFERENCE - self._made)
        self._made += 1
        for tcp_type in self._types():
            listener = None if tcp_type == ACTIVE else await self._listen(host, share_port=tcp_type != PASSIVE)
            if listener is None and tcp_type != ACTIVE:
                continue
            address = TransportAddress(host, ACTIVE_PORT) if listener is None else _named(host, listener)
            sock = TcpBase(
                self._network,
                address,
                listener,
                connects=tcp_type != PASSIVE,
                is_known=partial(self._driver.ice.uses_path, address),
                permits=self._driver.policy.permits,
            )
            if self._driver.closed:
                sock.close()
                return
            self._add(_Base(sock, tcp_type, preference))

    def _types(self) -> tuple[str, ...]:
        if self._config.ice_lite:
            return (PASSIVE,)  # RFC 6544 section 4.4: who sends no checks connects nowhere
        shows_hosts = self._driver.policy.has_type(ice.CandidateType.HOST)
        return (ACTIVE, PASSIVE, SIMULTANEOUS_OPEN) if shows_hosts else (PASSIVE, SIMULTANEOUS_OPEN)

    async def _listen(self, host: str, *, share_port: bool) -> Listener | None:
        """Listen at the first free port; None when the address or all allowed ports are refused."""
        for port in self._ports():
            for _ in range(_TRIES if port == 0 else 1):
                try:
                    listener = await self._network.listen_tcp(host, port, share_port=share_port)
                except OSError as error:
                    logger.debug("%s port %d cannot be listened at: %s", host, port, error)
                    break
                if _named(host, listener) not in self._driver.sockets:
                    return listener
                await trio.aclose_forcefully(listener)
        return None

    def _add(self, base: _Base) -> None:
        self._bases.append(base)
        self._driver.sockets[base.address] = base.sock
        if self._driver.policy.has_type(ice.CandidateType.HOST):
            component = self._driver.ice.component
            candidate = ice.tcp_host_candidate(base.address, base.tcp_type, base.preference, component)
            self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))
        if self._nursery is not None:
            self._start(self._nursery, base)

    def _lose(self, base: _Base) -> None:
        self._bases.remove(base)
        self._driver.sockets.pop(base.address, None)
        base.sock.close()
        self._driver.mutate(lambda now: self._driver.ice.handle_base_lost(now, base.address))

    def _start(self, nursery: trio.Nursery, base: _Base) -> None:
        nursery.start_soon(run_contained, f"TCP at {base.address}", base.sock.run)
        nursery.start_soon(self._driver.receive_from, base.address)

    # Server-reflexive candidates

    def ask(self) -> None:
        """Ask the STUN servers over TCP that have no connection from a base of ours yet, in the background.

        A TURN server over TCP is one, too.
        """
        if not self.is_wanted or not self._driver.policy.has_type(ice.CandidateType.SRFLX):
            return
        self._is_asking_late = self._nursery is None
        if self._nursery is None:
            return
        for server in self._driver.servers:
            if not server.answers_tcp:
                continue
            for base in self._bases:
                key = (server.url, base.address)
                if base.tcp_type != ACTIVE and key not in self._asked:
                    self._asked.add(key)
                    self._pending += 1
                    self._nursery.start_soon(run_contained, f"{server.url} over TCP", self._ask, server, base)

    async def wait_settled(self) -> None:
        """Wait until all servers that were asked have answered or failed."""
        await trio.lowlevel.checkpoint()
        while (self._pending or self._is_asking_late) and not self._driver.closed:
            await self._driver.changed.park()

    async def _ask(self, server: IceServer, base: _Base) -> None:
        """Learn how a server sees a base, and keep the connection: with it the NAT's mapping may go.

        Source: RFC 6544 sections 5.2 and 11.2.
        """
        bound: _Bound | None = None
        started_at = trio.current_time()
        reason = f"no answer within {self._config.gather_budget_s:g} s"
        try:
            try:
                with trio.move_on_after(self._config.gather_budget_s):
                    targets = await self._resolve(server, base.address)
                    bound = await first_of(targets, partial(self._bind_at, base.address), discard=_discard)
            except OSError as error:
                reason = str(error) or type(error).__name__
            finally:
                self._pending -= 1
                self._driver.changed.unpark_all()
            if bound is None:
                self._driver.note(ServerFailed(server.url, base.address.family, base.address, reason))
                return
            _, mapped, target = bound
            rtt_s = trio.current_time() - started_at
            self._driver.note(ServerAnswered(server.url, base.address, mapped, rtt_s, target, "tcp"))
            self._add_mapped(mapped, base, target)
            await self._keep_open(bound[0])
        finally:
            self._asked.discard((server.url, base.address))
            if bound is not None:
                await trio.aclose_forcefully(bound[0])

    async def _resolve(self, server: IceServer, base: TransportAddress) -> list[TransportAddress]:
        host, port = server.endpoint()
        found = await self._network.resolve(host, port, family=base.family)
        permits = self._driver.policy.permits_server
        usable = [target for target in found if can_reach(base, target) and permits(target, server)]
        if not usable:
            raise OSError(f"no IPv{base.family} address within reach")
        return usable

    async def _bind_at(self, base: TransportAddress, target: TransportAddress) -> _Bound:
        """Connect to one address of a server and ask; return the connection, what it sees, and its address.

        Raises:
            OSError: it refuses, breaks off, or its answer is of no use.
        """
        stream = await self._network.connect_tcp(target, local_host=base.host, local_port=base.port)
        try:
            return stream, await _binding(stream, self._config.randbytes(12)), target
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            await trio.aclose_forcefully(stream)
            raise OSError(str(error) or "it broke the connection") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    def _add_mapped(self, mapped: TransportAddress, base: _Base, server: TransportAddress) -> None:
        shows_hosts = self._driver.policy.has_type(ice.CandidateType.HOST)
        if base not in self._bases or (mapped == base.address and shows_hosts):
            return
        component = self._driver.ice.component
        candidate = ice.tcp_srflx_candidate(
            mapped, base.address, server.host, base.tcp_type, base.preference, component
        )
        if not shows_hosts:
            candidate = replace(candidate, related_address=None)
        self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))

    async def _keep_open(self, stream: trio.abc.Stream) -> None:
        """Keep a connection to a STUN server until a pair is selected."""
        indication = stun.encode(stun.binding_indication(self._config.randbytes(12)))
        try:
            while self._driver.ice.state in _UNDECIDED and not self._driver.closed:
                await trio.sleep(KEEPALIVE_S)
                await stream.send_all(indication)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


_Bound = tuple[trio.abc.Stream, TransportAddress, TransportAddress]


async def _discard(bound: _Bound) -> None:
    await trio.aclose_forcefully(bound[0])


def _named(host: str, listener: Listener) -> TransportAddress:
    return TransportAddress(host, bound_address(listener).port)


async def _binding(stream: trio.abc.Stream, transaction_id: bytes) -> TransportAddress:
    """Ask over a stream; STUN messages stand there one after the other, without frames (RFC 8489 section 6.2.2).

    Raises:
        OSError: the answer is none that helps.
        trio.BrokenResourceError: the server has closed the connection.
    """
    await stream.send_all(stun.encode(stun.binding_request(transaction_id)))
    answer = b""
    while len(answer) < 20 or len(answer) < 20 + int.from_bytes(answer[2:4], "big"):
        data = await stream.receive_some(_MAX_ANSWER)
        if not data:
            raise trio.BrokenResourceError("the server closed the connection")
        answer += data
        if len(answer) > _MAX_ANSWER:
            raise OSError("the answer is too long")
    try:
        message = stun.decode(answer)
    except stun.StunError as error:
        raise OSError(f"the answer is not STUN: {error}") from None
    mapped = message.get(stun.XorMappedAddress)
    if message.transaction_id != transaction_id or mapped is None:
        raise OSError("the answer has no mapped address")
    return make_address(*mapped.address)
