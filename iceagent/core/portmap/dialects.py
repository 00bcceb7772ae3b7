"""What NAT-PMP and PCP say to get one UDP port mapped, and when they say it again."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

from iceagent.core.address import TransportAddress, make_address
from iceagent.core.constants import NATPMP_REQUESTS, NATPMP_RTO_S, PCP_IRT_S, PCP_JITTER, PCP_MRT_S
from iceagent.core.portmap import natpmp, pcp
from iceagent.core.portmap.lease import FOREIGN, Epoch, GatewayReply, MappingOutcome, natpmp_rule, pcp_rule

NAT_PMP: Final = "nat-pmp"
PCP: Final = "pcp"
UNSUPPORTED_VERSION: Final = "the gateway does not speak this protocol"

_NATPMP_REASONS: Final = {
    natpmp.ResultCode.UNSUPPORTED_VERSION: UNSUPPORTED_VERSION,
    natpmp.ResultCode.NOT_AUTHORIZED: "the gateway refuses to map ports (switched off there)",
    natpmp.ResultCode.NETWORK_FAILURE: "the gateway has no external address",
    natpmp.ResultCode.OUT_OF_RESOURCES: "the gateway has no port left",
    natpmp.ResultCode.UNSUPPORTED_OPCODE: "the gateway does not know the request",
}
_PCP_REASONS: Final = {
    pcp.ResultCode.UNSUPP_VERSION: UNSUPPORTED_VERSION,
    pcp.ResultCode.NOT_AUTHORIZED: "the gateway refuses to map ports (switched off there)",
    pcp.ResultCode.NETWORK_FAILURE: "the gateway has no external address",
    pcp.ResultCode.NO_RESOURCES: "the gateway has no port left",
    pcp.ResultCode.USER_EX_QUOTA: "the gateway maps no more ports for this host",
    pcp.ResultCode.CANNOT_PROVIDE_EXTERNAL: "the gateway cannot provide such an external port",
    pcp.ResultCode.ADDRESS_MISMATCH: "another NAT stands between this host and the gateway",
}
_NATPMP_PASSING: Final = frozenset((natpmp.ResultCode.NETWORK_FAILURE, natpmp.ResultCode.OUT_OF_RESOURCES))
_PCP_PASSING: Final = frozenset(
    (pcp.ResultCode.NETWORK_FAILURE, pcp.ResultCode.NO_RESOURCES, pcp.ResultCode.USER_EX_QUOTA)
)


class NatPmpDialect:
    """NAT-PMP: the external address first, then the port; one request at a time. RFC 6886 section 3.1.

    Args:
        internal_port: of the UDP socket to be reached.
        suggested_port: the external port we should like.
    """

    def __init__(self, internal_port: int, suggested_port: int = 0) -> None:
        self.name = NAT_PMP
        self.epoch = Epoch(natpmp_rule)
        self._internal_port = internal_port
        self._suggested_port = suggested_port or internal_port
        self._external_host: str | None = None

    def begin(self) -> None:
        """Ask for the address anew, which may have changed."""
        self._external_host = None

    def request(self, lifetime_s: int) -> bytes:
        """Return the request of this step; to delete, the external port is 0 (RFC 6886 section 3.4)."""
        if lifetime_s == 0:
            return natpmp.MapRequest(natpmp.Opcode.MAP_UDP, self._internal_port, 0, 0).encode()
        if self._external_host is None:
            return natpmp.AddressRequest().encode()
        return natpmp.MapRequest(natpmp.Opcode.MAP_UDP, self._internal_port, self._suggested_port, lifetime_s).encode()

    def read_untrusted(self, data: bytes) -> GatewayReply:
        """Return what a response means; raises `PortMappingCodecError`."""
        response = natpmp.decode_response_untrusted(data)
        if response.result != natpmp.ResultCode.SUCCESS:
            return self._refused(response)
        if isinstance(response, natpmp.AddressResponse):
            return self._address(response)
        if not isinstance(response, natpmp.MapResponse) or response.opcode != natpmp.Opcode.MAP_UDP:
            return FOREIGN
        if response.internal_port != self._internal_port:
            return FOREIGN
        if response.lifetime_s == 0:
            return GatewayReply(MappingOutcome.DELETED, response.epoch_s)
        if self._external_host is None or response.external_port == 0:
            return FOREIGN
        self._suggested_port = response.external_port  # asked for again after a reboot of the gateway
        external = TransportAddress(self._external_host, response.external_port)
        return GatewayReply(MappingOutcome.GRANTED, response.epoch_s, external, response.lifetime_s)

    def _address(self, response: natpmp.AddressResponse) -> GatewayReply:
        if ipaddress.IPv4Address(response.external_host).is_unspecified:
            reason = _NATPMP_REASONS[natpmp.ResultCode.NETWORK_FAILURE]
            return GatewayReply(MappingOutcome.REFUSED, response.epoch_s, reason=reason, passing=True)
        is_news = self._external_host is None
        self._external_host = response.external_host
        return GatewayReply(MappingOutcome.NEXT if is_news else MappingOutcome.ANNOUNCED, response.epoch_s)

    def _refused(self, response: natpmp.Response) -> GatewayReply:
        if isinstance(response, natpmp.MapResponse) and response.internal_port != self._internal_port:
            return FOREIGN
        try:
            code = natpmp.ResultCode(response.result)
        except ValueError:
            return GatewayReply(
                MappingOutcome.REFUSED, response.epoch_s, reason=f"refused with result {response.result}"
            )
        return GatewayReply(
            MappingOutcome.REFUSED, response.epoch_s, reason=_NATPMP_REASONS[code], passing=code in _NATPMP_PASSING
        )

    def wait_s(self, sent: int, previous_s: float) -> float | None:
        """Return 0.25 s, then twice as long each time, nine times. RFC 6886 section 3.1."""
        return NATPMP_RTO_S * 2 ** (sent - 1) if sent < NATPMP_REQUESTS else None

    def renewal_s(self, lifetime_s: float, sent: int) -> float:
        """Return half of the lifetime; unanswered, half of what is left, and so on. RFC 6886 section 3.3."""
        return lifetime_s * (1 - 0.5 ** (sent + 1))


class PcpDialect:
    """PCP: one MAP request says all. RFC 6887 section 11.

    Args:
        client_host: the address it is sent from, which is also the mapping's internal one.
        internal_port: of the UDP socket to be reached.
        randbytes: for the nonce and for jitter.
        suggested_port: the external port we should like.
    """

    def __init__(
        self, client_host: str, internal_port: int, *, randbytes: Callable[[int], bytes], suggested_port: int = 0
    ) -> None:
        self.name = PCP
        self.epoch = Epoch(pcp_rule)
        self._client_host = client_host.partition("%")[0]
        self._internal_port = internal_port
        self._randbytes = randbytes
        self._nonce = randbytes(pcp.NONCE_LENGTH)
        anything = "::" if ":" in client_host else "0.0.0.0"  # noqa: S104 - RFC 6887 section 11.1: suggests nothing
        self._suggested = TransportAddress(anything, suggested_port or internal_port)

    def begin(self) -> None:
        """There is only one step."""

    def request(self, lifetime_s: int) -> bytes:
        """Return the MAP request; a deletion names the same nonce (RFC 6887 section 15.1)."""
        host, port = self._suggested
        fields = pcp.MapFields(self._nonce, pcp.PROTOCOL_UDP, self._internal_port, port, host)
        return pcp.Request(pcp.Opcode.MAP, lifetime_s, self._client_host, fields).encode()

    def read_untrusted(self, data: bytes) -> GatewayReply:
        """Return what a response means; raises `PortMappingCodecError`."""
        if data[:1] == bytes((natpmp.VERSION,)):
            # RFC 6887 appendix A: an older gateway answers in NAT-PMP that it does not know version 2.
            if natpmp.decode_response_untrusted(data).result != natpmp.ResultCode.UNSUPPORTED_VERSION:
                return FOREIGN
            return GatewayReply(MappingOutcome.REFUSED, reason=UNSUPPORTED_VERSION)
        if len(data) >= 4 and data[0] != pcp.VERSION and data[3] == pcp.ResultCode.UNSUPP_VERSION:
            return GatewayReply(MappingOutcome.REFUSED, reason=UNSUPPORTED_VERSION)  # a version of PCP that is not ours
        response = pcp.decode_response_untrusted(data)
        if response.result == pcp.ResultCode.UNSUPP_VERSION:
            return FOREIGN  # said in our own version, so it is about a request of NAT-PMP
        if response.opcode == pcp.Opcode.ANNOUNCE:
            return GatewayReply(MappingOutcome.ANNOUNCED, response.epoch_s)
        fields = response.fields
        if response.result != pcp.ResultCode.SUCCESS:
            return FOREIGN if fields is not None and fields.nonce != self._nonce else self._refused(response)
        if fields is None or (fields.nonce, fields.protocol, fields.internal_port) != (
            self._nonce,
            pcp.PROTOCOL_UDP,
            self._internal_port,
        ):
            return FOREIGN
        if response.lifetime_s == 0:
            return GatewayReply(MappingOutcome.DELETED, response.epoch_s)
        if fields.external_port == 0:
            return FOREIGN
        external = make_address(fields.external_host, fields.external_port)
        if external.ip.is_unspecified:
            return FOREIGN
        self._suggested = external  # RFC 6887 section 11.2.1: renewals suggest what was assigned
        return GatewayReply(MappingOutcome.GRANTED, response.epoch_s, external, response.lifetime_s)

    def _refused(self, response: pcp.Response) -> GatewayReply:
        try:
            code = pcp.ResultCode(response.result)
        except ValueError:
            return GatewayReply(
                MappingOutcome.REFUSED, response.epoch_s, reason=f"refused with result {response.result}"
            )
        reason = _PCP_REASONS.get(code, f"refused: {code.name}")
        return GatewayReply(
            MappingOutcome.REFUSED, response.epoch_s, None, response.lifetime_s, reason, code in _PCP_PASSING
        )

    def wait_s(self, sent: int, previous_s: float) -> float | None:
        """Return 3 s, then twice as long up to 1024 s, each within a tenth; without end. RFC 6887 section 8.1.1."""
        base = min(2 * previous_s, PCP_MRT_S) if previous_s else PCP_IRT_S
        return base * (1 + PCP_JITTER * (2 * self._chance() - 1))

    def renewal_s(self, lifetime_s: float, sent: int) -> float:
        """Return 1/2 to 5/8 of the lifetime, then 3/4 to 13/16, and so on. RFC 6887 section 11.2.1."""
        left = 0.5 ** (sent + 1)
        return lifetime_s * (1 - left + left / 4 * self._chance())

    def _chance(self) -> float:
        return int.from_bytes(self._randbytes(2), "big") / 65536
