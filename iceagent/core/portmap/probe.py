"""Which port mapping protocols a gateway speaks, found out without mapping anything."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from iceagent.core.address import TransportAddress
from iceagent.core.constants import NATPMP_RTO_S
from iceagent.core.portmap import natpmp, pcp
from iceagent.core.portmap.dialects import NAT_PMP, PCP
from iceagent.core.portmap.errors import PortMappingCodecError
from iceagent.core.portmap.lease import same_host
from iceagent.core.transmit import Transmit

PROBE_REQUESTS: Final = 3  # ours: of each protocol, 0.25, 0.5 and 1 s apart
_SPEAKS_PCP: Final = frozenset((pcp.ResultCode.SUCCESS, pcp.ResultCode.UNSUPP_OPCODE))


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a gateway says of one protocol.

    Attributes:
        protocol: `pcp` or `nat-pmp`.
        available: whether a mapping may be had.
        detail: for people.
        external_host: the gateway's external address, where the protocol reports it.
        rtt_s: from the first request to the answer, seconds; None where there was none.
    """

    protocol: str
    available: bool
    detail: str
    external_host: str | None = None
    rtt_s: float | None = None


class GatewayProbe:
    """Asks one gateway what it speaks: an ANNOUNCE in PCP, the external address in NAT-PMP.

    Args:
        local: the socket to ask from.
        server: the gateway and port 5351.
    """

    def __init__(self, *, local: TransportAddress, server: TransportAddress) -> None:
        self.counters: Counter[str] = Counter()
        self.answers: dict[str, ProbeAnswer] = {}
        self._local = local
        self._server = server
        self._open: dict[str, bytes] = {PCP: pcp.Request(pcp.Opcode.ANNOUNCE, 0, local.host).encode()}
        if local.family == 4:
            self._open[NAT_PMP] = natpmp.AddressRequest().encode()
        self._started_at = 0.0
        self._due_at: float | None = None
        self._sent = 0
        self._transmits: deque[Transmit] = deque()

    @property
    def finished(self) -> bool:
        """Whether all there is to know is in `answers`."""
        return not self._open

    def start(self, now: float) -> None:
        """Ask."""
        self._started_at = now
        self._send(now)

    def handle_unreachable(self, now: float) -> None:
        """Take note of an ICMP error: nobody listens there."""
        self._give_up("nobody listens there")

    def handle_datagram(self, now: float, remote: TransportAddress, data: bytes) -> bool:
        """Return whether the datagram was of use; never raises."""
        if not same_host(remote, self._server) or remote.port != self._server.port:
            self.counters["wrong_source"] += 1
            return False
        try:
            answer = self._read(now, data)
        except PortMappingCodecError as error:
            self.counters[error.reason.value] += 1
            return False
        if answer is None or answer.protocol not in self._open:
            return False
        self._finish(answer)
        return True

    def handle_timeout(self, now: float) -> None:
        """Ask again, or give up."""
        if self._due_at is None or now < self._due_at:
            return
        if self._sent < PROBE_REQUESTS:
            self._send(now)
        else:
            self._give_up("no answer")

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, seconds, or None."""
        return self._due_at

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._transmits.popleft() if self._transmits else None

    def _send(self, now: float) -> None:
        self._transmits.extend(Transmit(self._local, self._server, data) for data in self._open.values())
        self._due_at = now + NATPMP_RTO_S * 2**self._sent
        self._sent += 1

    def _give_up(self, detail: str) -> None:
        for protocol in list(self._open):
            self._finish(ProbeAnswer(protocol, available=False, detail=detail))

    def _finish(self, answer: ProbeAnswer) -> None:
        del self._open[answer.protocol]
        self.answers[answer.protocol] = answer
        if not self._open:
            self._due_at = None

    def _read(self, now: float, data: bytes) -> ProbeAnswer | None:
        if data[:1] == bytes((natpmp.VERSION,)):
            return self._read_natpmp(natpmp.decode_response_untrusted(data), now - self._started_at)
        response = pcp.decode_response_untrusted(data)
        if response.result == pcp.ResultCode.UNSUPP_VERSION:
            return ProbeAnswer(NAT_PMP, available=False, detail="not spoken there")
        available = response.result in _SPEAKS_PCP
        detail = "available" if available else f"refused with result {response.result}"
        return ProbeAnswer(PCP, available, detail, rtt_s=now - self._started_at)

    @staticmethod
    def _read_natpmp(response: natpmp.Response, rtt_s: float) -> ProbeAnswer | None:
        if response.result == natpmp.ResultCode.UNSUPPORTED_VERSION:
            return ProbeAnswer(PCP, available=False, detail="not spoken there")
        if response.result != natpmp.ResultCode.SUCCESS:
            detail = f"refused with result {response.result}"
            return ProbeAnswer(NAT_PMP, available=False, detail=detail, rtt_s=rtt_s)
        if not isinstance(response, natpmp.AddressResponse):
            return None
        return ProbeAnswer(NAT_PMP, True, "available", response.external_host, rtt_s)
