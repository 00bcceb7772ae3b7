"""A gateway that maps ports, NAT-PMP, PCP or both, as its switches say: without I/O, or on the virtual network."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from iceagent.core.portmap import PortMappingCodecError, natpmp, pcp
from iceagent.vnet import Host


@dataclass
class Gateway:
    """Answers requests. `mappings`: (client, internal port) to external port."""

    external_host: str = "203.0.113.1"
    speaks_pcp: bool = True
    speaks_natpmp: bool = True
    silent_to_pcp: bool = False
    lifetime_s: int | None = None
    result: int = 0
    error_lifetime_s: int = 0
    booted_at: float = 0.0
    first_port: int | None = None
    mappings: dict[tuple[str, int], int] = field(default_factory=dict)
    nonces: dict[tuple[str, int], bytes] = field(default_factory=dict)
    log: list[object] = field(default_factory=list)

    def reboot(self, now: float) -> None:
        """Forget everything."""
        self.booted_at = now
        self.mappings.clear()
        self.nonces.clear()

    def answer(self, now: float, client: str, data: bytes) -> bytes | None:
        """Return the response to a request, or None for silence."""
        epoch = int(now - self.booted_at)
        try:
            if data[0] == pcp.VERSION:
                return self._answer_pcp(epoch, client, data)
            return self._answer_natpmp(epoch, client, data)
        except PortMappingCodecError:
            return None

    def _answer_pcp(self, epoch: int, client: str, data: bytes) -> bytes | None:
        if self.silent_to_pcp:
            return None
        if not self.speaks_pcp:
            return natpmp.Response(data[1], natpmp.ResultCode.UNSUPPORTED_VERSION, epoch).encode()
        request = pcp.decode_request_untrusted(data)
        self.log.append(request)
        fields = request.fields
        if fields is None:
            return pcp.Response(request.opcode, 0, 0, epoch).encode()
        if self.result:
            return pcp.Response(request.opcode, self.result, self.error_lifetime_s, epoch, fields).encode()
        key = (client, fields.internal_port)
        lifetime = self._map(key, request.lifetime_s, fields.external_port)
        self.nonces[key] = fields.nonce
        port = self.mappings.get(key, 0)
        granted = pcp.MapFields(fields.nonce, fields.protocol, fields.internal_port, port, self.external_host)
        return pcp.Response(request.opcode, 0, lifetime, epoch, granted).encode()

    def _answer_natpmp(self, epoch: int, client: str, data: bytes) -> bytes | None:
        if not self.speaks_natpmp:
            return pcp.Response(data[1], pcp.ResultCode.UNSUPP_VERSION, 0, epoch).encode() if self.speaks_pcp else None
        request = natpmp.decode_request_untrusted(data)
        self.log.append(request)
        if isinstance(request, natpmp.AddressRequest):
            return natpmp.AddressResponse(0, self.result, epoch, self.external_host).encode()
        key = (client, request.internal_port)
        lifetime = 0 if self.result else self._map(key, request.lifetime_s, request.suggested_port)
        port = self.mappings.get(key, 0)
        return natpmp.MapResponse(request.opcode, self.result, epoch, request.internal_port, port, lifetime).encode()

    def _map(self, key: tuple[str, int], lifetime_s: int, suggested: int) -> int:
        if lifetime_s == 0:
            self.mappings.pop(key, None)
            return 0
        self.mappings.setdefault(key, self.first_port or suggested)
        return lifetime_s if self.lifetime_s is None else self.lifetime_s


async def serve_gateway(gateway: Gateway, host: Host) -> None:
    """Answer on a host of the virtual network, at the port that NAT-PMP and PCP share."""
    sock = await host.open_udp(host.address, 5351)
    try:
        while True:
            for batch in await sock.receive():
                for data in batch.datagrams():
                    answer = gateway.answer(trio.current_time(), batch.remote.host, data)
                    if answer is not None:
                        sock.send_nowait([answer], batch.remote)
    finally:
        sock.close()
