"""One port of one host, mapped by PCP or, where the gateway is older, by NAT-PMP. RFC 6887 section 9 and appendix A.

PCP is tried first. A gateway that answers in NAT-PMP is asked in NAT-PMP at once. A silent one is asked in NAT-PMP
after a moment, because some drop what they do not know. The first that grants a mapping is used; the other is given up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from iceagent.core.address import TransportAddress
from iceagent.core.constants import PORT_MAPPING_FALLBACK_S, PORT_MAPPING_LIFETIME_S
from iceagent.core.portmap import natpmp
from iceagent.core.portmap.dialects import UNSUPPORTED_VERSION, NatPmpDialect, PcpDialect
from iceagent.core.portmap.lease import LeaseClient, LeaseEvent, LeaseState, Mapped, MappingFailed, Released
from iceagent.core.transmit import Transmit
from iceagent.errors import LocalError


class PortMapper:
    """Keeps one UDP port mapped at one gateway. The shape is that of all machines of the core.

    Args:
        local: the socket to ask from; its host is the one to map for.
        server: the gateway and port 5351.
        internal_port: the port to map.
        randbytes: for nonces and jitter.
        lifetime_s: to ask for.
    """

    def __init__(
        self,
        *,
        local: TransportAddress,
        server: TransportAddress,
        internal_port: int,
        randbytes: Callable[[int], bytes],
        lifetime_s: int = PORT_MAPPING_LIFETIME_S,
    ) -> None:
        self._server = server
        dialect = PcpDialect(local.host, internal_port, randbytes=randbytes)
        self._pcp = LeaseClient(dialect, local=local, server=server, randbytes=randbytes, lifetime_s=lifetime_s)
        self._leases = [self._pcp]
        if local.family == 4:  # NAT-PMP knows nothing else
            older = NatPmpDialect(internal_port)
            self._leases.append(
                LeaseClient(older, local=local, server=server, randbytes=randbytes, lifetime_s=lifetime_s)
            )
        self._fallback_at: float | None = None
        self._events: deque[LeaseEvent] = deque()
        self._failures: dict[str, MappingFailed] = {}
        self._released = False

    @property
    def counters(self) -> Counter[str]:
        """What became of the gateway's datagrams, by reason."""
        return sum((lease.counters for lease in self._leases), Counter())

    @property
    def external(self) -> TransportAddress | None:
        """The mapped address, or None."""
        return next((lease.external for lease in self._leases if lease.external is not None), None)

    @property
    def finished(self) -> bool:
        """Whether nothing will happen any more."""
        return self._released or all(lease.state in (LeaseState.FAILED, LeaseState.CLOSED) for lease in self._leases)

    # What happens

    def start(self, now: float) -> None:
        """Ask for the mapping.

        Raises:
            LocalError: it has been asked for before.
        """
        if self._fallback_at is not None or self._pcp.state is not LeaseState.IDLE:
            raise LocalError("this mapping has been asked for already; make another mapper for another one")
        self._pcp.start(now)
        self._fallback_at = now + PORT_MAPPING_FALLBACK_S

    def release(self, now: float) -> None:
        """Give back the mapping, if there is one; `Released` follows, once."""
        self._fallback_at = None
        for lease in self._leases:
            lease.release(now)
        self._settle(now)

    def handle_unreachable(self, now: float) -> None:
        """Take note of an ICMP error: nobody listens at the gateway's port."""
        self._fallback_at = None
        for lease in self._leases:
            lease.handle_unreachable(now)
            if lease.state is LeaseState.IDLE:
                lease.close()  # it would hear the same
        self._settle(now)

    def handle_datagram(self, now: float, remote: TransportAddress, data: bytes) -> bool:
        """Return whether the datagram came from the gateway and meant something; never raises."""
        lease = self._lease_of(data)
        if lease is None:
            return False
        handled = lease.handle_datagram(now, remote, data)
        self._settle(now)
        return handled

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Safe to call at any time."""
        for lease in self._leases:
            lease.handle_timeout(now)
        if self._fallback_at is not None and now >= self._fallback_at:
            self._fall_back(now)
        self._settle(now)

    # What follows

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout` next, seconds; None when nothing is due."""
        dues = [lease.next_timeout() for lease in self._leases] + [self._fallback_at]
        return min((due for due in dues if due is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return next((transmit for lease in self._leases if (transmit := lease.poll_transmit()) is not None), None)

    def poll_event(self) -> LeaseEvent | None:
        """Return the next event, or None. `MappingFailed` comes when no protocol is left."""
        return self._events.popleft() if self._events else None

    # Inside

    def _lease_of(self, data: bytes) -> LeaseClient | None:
        """Return whose answer it is, by its version; a refusal of PCP comes in NAT-PMP's."""
        if len(data) < 4:
            return None
        older = self._leases[1] if len(self._leases) > 1 else None
        if data[0] != natpmp.VERSION:
            return self._pcp
        refuses_version = int.from_bytes(data[2:4], "big") == natpmp.ResultCode.UNSUPPORTED_VERSION
        return self._pcp if refuses_version or older is None else older

    def _fall_back(self, now: float) -> None:
        self._fallback_at = None
        for lease in self._leases[1:]:
            if lease.state is LeaseState.IDLE:
                lease.start(now)

    def _settle(self, now: float) -> None:
        for lease in self._leases:
            while (event := lease.poll_event()) is not None:
                self._react(now, lease, event)

    def _react(self, now: float, lease: LeaseClient, event: LeaseEvent) -> None:
        if isinstance(event, Released):
            if not self._released and all(one.state is LeaseState.CLOSED for one in self._leases):
                self._released = True
                self._events.append(event)
            return
        if isinstance(event, Mapped):
            self._fallback_at = None
            for other in self._leases:
                if other is not lease and other.external is None:
                    other.close()
        if not isinstance(event, MappingFailed):
            self._events.append(event)
            return
        self._failures[event.protocol] = event
        if event.reason == UNSUPPORTED_VERSION and lease is self._pcp and self._fallback_at is not None:
            self._fall_back(now)
        if self._fallback_at is None and not any(self._is_hopeful(one) for one in self._leases):
            self._events.append(self._worst_news())

    @staticmethod
    def _is_hopeful(lease: LeaseClient) -> bool:
        return lease.state in (LeaseState.REQUESTING, LeaseState.MAPPED, LeaseState.RENEWING)

    def _worst_news(self) -> MappingFailed:
        """Return the failure that says most: a refusal says more than silence or another version."""
        says_little = ("no answer", UNSUPPORTED_VERSION)
        return max(self._failures.values(), key=lambda failure: failure.reason not in says_little)
