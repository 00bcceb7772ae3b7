"""One port mapping over its whole life, without I/O: asked for, renewed, made anew, released.

The machine is the same for NAT-PMP and PCP; what they say and when is a `Dialect`'s. Whether a gateway has lost its
table is seen by the age that it claims (RFC 6886 section 3.6, RFC 6887 section 8.5).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from iceagent.core.address import TransportAddress
from iceagent.core.constants import (
    NATPMP_RTO_S,
    PCP_ANNOUNCE_SPREAD_S,
    PORT_MAPPING_LIFETIME_S,
    PORT_MAPPING_MAX_EVENTS,
    PORT_MAPPING_MAX_LIFETIME_S,
    PORT_MAPPING_RELEASES,
    PORT_MAPPING_RENEWAL_GAP_S,
    PORT_MAPPING_RETRY_MAX_S,
    PORT_MAPPING_RETRY_MIN_S,
)
from iceagent.core.portmap.errors import PortMappingCodecError
from iceagent.core.transmit import Transmit
from iceagent.errors import LocalError

_SLACK_S: Final = 2
_DRIFT: Final = 16  # RFC 6887 section 8.5: one part in sixteen

Rule = Callable[[float, int, float, int], bool]
"""Given client and server time before, client and server time now: is the table the same one?"""


def natpmp_rule(client_before: float, server_before: int, client_now: float, server_now: int) -> bool:
    """Return whether the table lives: its age has grown by at least 7/8 of the time, less 2 s. RFC 6886 section 3.6."""
    expected = server_before + (client_now - client_before) * 7 / 8
    return server_now >= expected - _SLACK_S


def pcp_rule(client_before: float, server_before: int, client_now: float, server_now: int) -> bool:
    """Return whether the table lives: both clocks have advanced alike, within 1/16 and 2 s. RFC 6887 section 8.5."""
    if server_now < server_before - 1:
        return False
    client, server = client_now - client_before, server_now - server_before
    return client + _SLACK_S >= server - server / _DRIFT and server + _SLACK_S >= client - client / _DRIFT


class Epoch:
    """The age of one gateway's table, as last heard."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._last: tuple[float, int] | None = None

    def advance(self, now: float, epoch_s: int) -> bool:
        """Take the age a response claims; return False if the table is not the one of the response before."""
        last, self._last = self._last, (now, epoch_s)
        return last is None or self._rule(*last, now, epoch_s)


class LeaseState(Enum):
    """Where a mapping stands."""

    IDLE = "idle"
    REQUESTING = "requesting"
    MAPPED = "mapped"
    RENEWING = "renewing"
    WAITING = "waiting"  # refused for reasons that may pass
    RELEASING = "releasing"
    FAILED = "failed"
    CLOSED = "closed"


_S = LeaseState
TRANSITIONS: Final[dict[LeaseState, frozenset[LeaseState]]] = {
    _S.IDLE: frozenset((_S.REQUESTING, _S.CLOSED)),
    _S.REQUESTING: frozenset((_S.MAPPED, _S.WAITING, _S.FAILED, _S.RELEASING, _S.CLOSED)),
    _S.MAPPED: frozenset((_S.RENEWING, _S.RELEASING, _S.CLOSED)),
    _S.RENEWING: frozenset((_S.MAPPED, _S.REQUESTING, _S.WAITING, _S.FAILED, _S.RELEASING, _S.CLOSED)),
    _S.WAITING: frozenset((_S.REQUESTING, _S.CLOSED)),
    _S.RELEASING: frozenset((_S.CLOSED,)),
    _S.FAILED: frozenset((_S.CLOSED,)),
    _S.CLOSED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Mapped:
    """The gateway lends us `external`; reported again when the address has changed, not at every renewal."""

    protocol: str
    external: TransportAddress
    lifetime_s: float


@dataclass(frozen=True, slots=True)
class MappingLost:
    """The mapping is no more; it is being asked for anew unless `MappingFailed` follows."""

    protocol: str
    external: TransportAddress
    reason: str


@dataclass(frozen=True, slots=True)
class MappingFailed:
    """The gateway gives none; `retry_s`: it is asked again after so many seconds, None: never."""

    protocol: str
    reason: str
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The mapping was given back: confirmed by the gateway, or at least sent to it as often as we try."""

    protocol: str
    confirmed: bool


LeaseEvent = Mapped | MappingLost | MappingFailed | Released


class MappingOutcome(Enum):
    """What a response means to the mapping."""

    GRANTED = "granted"
    DELETED = "deleted"
    REFUSED = "refused"
    NEXT = "next"  # one step is done, the next request can go
    ANNOUNCED = "announced"  # says only that the gateway is there, and since when
    FOREIGN = "foreign"  # meant for somebody else


@dataclass(frozen=True, slots=True)
class GatewayReply:
    """A response as a `Dialect` reads it.

    Attributes:
        outcome: what it means.
        epoch_s: age of the gateway's table, None where it may not be believed.
        external: of GRANTED.
        lifetime_s: of GRANTED; of REFUSED, how long it will stay so.
        reason: of REFUSED, for people.
        passing: of REFUSED, whether it is worth asking again.
    """

    outcome: MappingOutcome
    epoch_s: int | None = None
    external: TransportAddress | None = None
    lifetime_s: int = 0
    reason: str = ""
    passing: bool = False


FOREIGN: Final = GatewayReply(MappingOutcome.FOREIGN)


class Dialect(Protocol):
    """What one protocol says, and when."""

    name: str
    epoch: Epoch

    def begin(self) -> None:
        """Start over with the first step of asking."""
        ...

    def request(self, lifetime_s: int) -> bytes:
        """Return the request of the current step; `lifetime_s` is 0 to delete."""
        ...

    def read_untrusted(self, data: bytes) -> GatewayReply:
        """Return what a datagram of the gateway means.

        Raises:
            PortMappingCodecError: nothing.
        """
        ...

    def wait_s(self, sent: int, previous_s: float) -> float | None:
        """Return how long to wait for an answer after the `sent`-th request, seconds; None: there is none to come."""
        ...

    def renewal_s(self, lifetime_s: float, sent: int) -> float:
        """Return how long after the grant the renewal after `sent` unanswered ones goes out, seconds."""
        ...


class LeaseClient:
    """Keeps one mapping of one gateway.

    After each call drain `poll_transmit` and `poll_event`, then wait until `next_timeout`.

    Args:
        dialect: NAT-PMP or PCP.
        local: the socket to ask from.
        server: the gateway's address and port.
        randbytes: for jitter.
        lifetime_s: to ask for; the gateway decides.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        local: TransportAddress,
        server: TransportAddress,
        randbytes: Callable[[int], bytes],
        lifetime_s: int = PORT_MAPPING_LIFETIME_S,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.state = LeaseState.IDLE
        self.external: TransportAddress | None = None
        self._dialect = dialect
        self._local = local
        self._server = server
        self._randbytes = randbytes
        self._lifetime_s = lifetime_s
        self._granted_at = 0.0
        self._granted_s = 0.0
        self._due_at: float | None = None
        self._sent = 0
        self._wait_s = 0.0
        self._transmits: deque[Transmit] = deque(maxlen=PORT_MAPPING_MAX_EVENTS)
        self._events: deque[LeaseEvent] = deque(maxlen=PORT_MAPPING_MAX_EVENTS)

    @property
    def protocol(self) -> str:
        """`pcp` or `nat-pmp`."""
        return self._dialect.name

    # What happens

    def start(self, now: float) -> None:
        """Ask for the mapping.

        Raises:
            LocalError: it has been asked for before.
        """
        if self.state is not LeaseState.IDLE:
            raise LocalError("this mapping has been asked for already; make another client for another one")
        self._ask(now)

    def release(self, now: float) -> None:
        """Give the mapping back; `Released` follows, at once where there is nothing to give."""
        if self.state in (LeaseState.RELEASING, LeaseState.CLOSED):
            return
        if self.state in (LeaseState.IDLE, LeaseState.WAITING, LeaseState.FAILED):
            self._close(confirmed=True)
            return
        # While REQUESTING too: the gateway may have made what its lost answer would have reported.
        self._become(LeaseState.RELEASING)
        self._begin()
        self._send(now)

    def close(self) -> None:
        """Forget the mapping without a word to the gateway; no timer is left."""
        if self.state is not LeaseState.CLOSED:
            self._become(LeaseState.CLOSED)
        self._due_at = None
        self._transmits.clear()

    def handle_unreachable(self, now: float) -> None:
        """Take note of an ICMP error: nobody listens at the gateway's port."""
        if self.state is LeaseState.REQUESTING:
            self.counters["unreachable"] += 1
            self._fail("nobody listens there")

    def handle_datagram(self, now: float, remote: TransportAddress, data: bytes) -> bool:
        """Return whether the datagram came from the gateway and meant something; never raises."""
        if not same_host(remote, self._server) or remote.port != self._server.port:
            self.counters["wrong_source"] += 1
            return False
        try:
            reply = self._dialect.read_untrusted(data)
        except PortMappingCodecError as error:
            self.counters[error.reason.value] += 1
            return False
        self.counters[reply.outcome.value] += 1
        if reply.outcome is MappingOutcome.FOREIGN:
            return False
        is_same_table = reply.epoch_s is None or self._dialect.epoch.advance(now, reply.epoch_s)
        self._take(now, reply)
        if not is_same_table:
            self.counters["epoch_reset"] += 1
            if self.state is LeaseState.MAPPED and reply.outcome is not MappingOutcome.GRANTED:
                self._due_at = now + PCP_ANNOUNCE_SPREAD_S * self._chance()
        return True

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Safe to call at any time."""
        if self._due_at is None or now < self._due_at:
            return
        if self.state is LeaseState.MAPPED:
            self._become(LeaseState.RENEWING)
            self._begin()
            self._send(now)
        elif self.state is LeaseState.RENEWING:
            self._renew_or_lose(now)
        elif self.state is LeaseState.WAITING:
            self._ask(now)
        elif self.state is LeaseState.RELEASING:
            self._release_again(now)
        elif self._wait_s <= 0:
            self._fail("no answer")
        else:
            self._send(now)

    # What follows

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout` next, seconds; None when nothing is due."""
        return self._due_at

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> LeaseEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    # Inside

    def _become(self, state: LeaseState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state

    def _begin(self) -> None:
        self._sent = 0
        self._wait_s = 0.0
        self._dialect.begin()

    def _ask(self, now: float) -> None:
        self._become(LeaseState.REQUESTING)
        self._begin()
        self._send(now)

    def _send(self, now: float) -> None:
        lifetime_s = 0 if self.state is LeaseState.RELEASING else self._lifetime_s
        self._transmits.append(Transmit(self._local, self._server, self._dialect.request(lifetime_s)))
        self._sent += 1
        self._due_at = now + self._next_wait_s(now)

    def _next_wait_s(self, now: float) -> float:
        if self.state is LeaseState.RELEASING:
            return NATPMP_RTO_S
        if self.state is LeaseState.RENEWING:
            at = self._granted_at + self._dialect.renewal_s(self._granted_s, self._sent)
            expires_at = self._granted_at + self._granted_s
            return max(min(max(at, now + PORT_MAPPING_RENEWAL_GAP_S), expires_at), now + NATPMP_RTO_S) - now
        waited = self._wait_s
        self._wait_s = self._dialect.wait_s(self._sent, waited) or 0.0
        return self._wait_s or 2 * waited

    def _renew_or_lose(self, now: float) -> None:
        if now < self._granted_at + self._granted_s:
            self._send(now)
            return
        self._lose("it could not be renewed before its end")
        self._ask(now)

    def _release_again(self, now: float) -> None:
        if self._sent >= PORT_MAPPING_RELEASES:
            self._close(confirmed=False)
        else:
            self._send(now)

    def _lose(self, reason: str) -> None:
        if self.external is not None:
            self._events.append(MappingLost(self.protocol, self.external, reason))
        self.external = None

    def _take(self, now: float, reply: GatewayReply) -> None:
        asking = self.state in (LeaseState.REQUESTING, LeaseState.RENEWING)
        if self.state is LeaseState.RELEASING:
            if reply.outcome in (MappingOutcome.DELETED, MappingOutcome.REFUSED):
                self._close(confirmed=reply.outcome is MappingOutcome.DELETED)
        elif asking and reply.outcome is MappingOutcome.GRANTED and reply.external is not None:
            self._grant(now, reply.external, reply.lifetime_s)
        elif asking and reply.outcome is MappingOutcome.NEXT:
            if self.state is LeaseState.REQUESTING:
                self._sent, self._wait_s = 0, 0.0
            self._send(now)
        elif asking and reply.outcome is MappingOutcome.REFUSED:
            self._refuse(now, reply)

    def _grant(self, now: float, external: TransportAddress, lifetime_s: int) -> None:
        self._become(LeaseState.MAPPED)
        self._granted_at = now
        self._granted_s = min(max(float(lifetime_s), PORT_MAPPING_RENEWAL_GAP_S), PORT_MAPPING_MAX_LIFETIME_S)
        self._sent = 0
        renewal_s = self._dialect.renewal_s(self._granted_s, 0)
        self._due_at = now + max(renewal_s, PORT_MAPPING_RENEWAL_GAP_S / 2)
        if external == self.external:
            return
        self._lose("the gateway gave another address")
        self.external = external
        self._events.append(Mapped(self.protocol, external, self._granted_s))

    def _refuse(self, now: float, reply: GatewayReply) -> None:
        self._lose(reply.reason)
        if not reply.passing:
            self._fail(reply.reason)
            return
        self._become(LeaseState.WAITING)
        wait_s = min(max(float(reply.lifetime_s), PORT_MAPPING_RETRY_MIN_S), PORT_MAPPING_RETRY_MAX_S)
        self._due_at = now + wait_s
        self._events.append(MappingFailed(self.protocol, reply.reason, wait_s))

    def _fail(self, reason: str) -> None:
        self._become(LeaseState.FAILED)
        self._due_at = None
        self._events.append(MappingFailed(self.protocol, reason))

    def _close(self, *, confirmed: bool) -> None:
        self._become(LeaseState.CLOSED)
        self._due_at = None
        self.external = None
        self._events.append(Released(self.protocol, confirmed))

    def _chance(self) -> float:
        return int.from_bytes(self._randbytes(2), "big") / 65536


def same_host(one: TransportAddress, other: TransportAddress) -> bool:
    """Return whether both have one IP address; the zone of a link-local one may be missing in either."""
    return one.host.partition("%")[0] == other.host.partition("%")[0]
