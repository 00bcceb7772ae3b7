"""A STUN server of RFC 5780 for the virtual network: one host, two addresses, two ports, four sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.vnet import Host, Network, Router, VirtualUdpSocket

PORTS = (3478, 3479)


@dataclass
class BehaviourServer:
    """The sockets by (address number, port number), and what the server refuses."""

    host: Host
    sockets: dict[tuple[int, int], VirtualUdpSocket]
    obeys: bool = True
    knows: bool = True
    alternate_works: bool = True
    claims: TransportAddress | None = None

    @property
    def address(self) -> TransportAddress:
        """The first one, for clients."""
        return self.sockets[0, 0].local_address

    async def serve(self, at: tuple[int, int]) -> None:
        sock = self.sockets[at]
        while True:
            for batch in await sock.receive():
                for datagram in batch.datagrams():
                    self.answer(at, batch.remote, datagram)

    def answer(self, at: tuple[int, int], remote: TransportAddress, datagram: bytes) -> None:
        request = stun.decode(datagram)
        if at[0] == 1 and not self.alternate_works:
            return
        change = request.get(stun.ChangeRequest)
        special = change or request.get(stun.Padding) or request.get(stun.ResponsePort)
        if special is not None and not self.knows:
            types = stun.UnknownAttributes((special.TYPE,))
            self.sockets[at].send_nowait([stun.encode(stun.error(request, 420, "", types))], remote)
            return
        out = at
        if change is not None and self.obeys:
            out = (at[0] ^ change.change_ip, at[1] ^ change.change_port)
        if out[0] == 1 and not self.alternate_works:
            return
        other = self.claims or self.sockets[at[0] ^ 1, at[1] ^ 1].local_address
        attributes: list[stun.Attribute] = [stun.XorMappedAddress(remote), stun.OtherAddress(other)]
        if request.get(stun.Padding) is not None:
            attributes.append(stun.Padding(bytes(1500)))
        port = request.get(stun.ResponsePort)
        target = remote if port is None else TransportAddress(remote.host, port.port)
        self.sockets[out].send_nowait([stun.encode(stun.success(request, *attributes))], target)


@asynccontextmanager
async def open_behaviour_server(host: Host, **switches: object) -> AsyncIterator[BehaviourServer]:
    """Serve on a host that has two addresses."""
    places = [(i, j) for i in range(2) for j in range(2)]
    family = 6 if ":" in host.address else 4
    sockets = {(i, j): await host.open_udp(host.addresses(family)[i], PORTS[j]) for i, j in places}
    server = BehaviourServer(host, sockets, **switches)  # type: ignore[arg-type]
    try:
        async with trio.open_nursery() as nursery:
            for at in places:
                nursery.start_soon(server.serve, at)
            yield server
            nursery.cancel_scope.cancel()
    finally:
        for sock in sockets.values():
            sock.close()


def two_addressed_host(net: Network, router: Router | None = None, name: str = "stun.example") -> Host:
    """Add a host with two addresses in one network."""
    host = net.host(router or net.internet, name=name)
    host.attach(router or net.internet)
    return host
