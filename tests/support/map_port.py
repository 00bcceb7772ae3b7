"""Maps a UDP port by one protocol, tells what comes in, gives the port back; run inside a laboratory's host.

    python map_port.py pcp|nat-pmp|upnp LOCAL_ADDRESS

A datagram `stop` from outside ends the mapping; whatever arrives within a second of that is told, too.
"""

from __future__ import annotations

import json
import secrets
import sys
from functools import partial

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.portmap import LeaseClient, Mapped, NatPmpDialect, PcpDialect, Released
from iceagent.net import SystemNetwork, UdpSocket
from iceagent.net.gateway import find_gateways
from iceagent.net.machine import MachineDriver
from iceagent.net.portmap_upnp import find_upnp_gateway


def tell(kind: str, **fields: object) -> None:
    print(json.dumps({"kind": kind, **fields}), flush=True)


async def wait_stop(sock: UdpSocket) -> None:
    while True:
        for batch in await sock.receive():
            tell("received", text=batch.data.decode(), remote=str(batch.remote))
            if batch.data == b"stop":
                return


async def map_by_upnp(sock: UdpSocket) -> None:
    gateway = await find_upnp_gateway(sock.local_address.host)
    external, lease_s = await gateway.map_port(sock.local_address, lease_s=600, randbytes=secrets.token_bytes)
    tell("mapped", external=str(external), lease_s=lease_s)
    await wait_stop(sock)
    await gateway.release()
    tell("released", confirmed=True)


async def map_by_lease(protocol: str, network: SystemNetwork, sock: UdpSocket) -> None:
    (gateway,) = await find_gateways(network, 4)
    asking = await network.open_udp(sock.local_address.host)
    local, port = asking.local_address, sock.local_address.port
    randbytes = secrets.token_bytes
    dialect = PcpDialect(local.host, port, randbytes=randbytes) if protocol == "pcp" else NatPmpDialect(port)
    lease = LeaseClient(dialect, local=local, server=TransportAddress(gateway.host, 5351), randbytes=randbytes)

    def settle() -> bool:
        over = False
        while (event := lease.poll_event()) is not None:
            if isinstance(event, Mapped):
                tell("mapped", external=str(event.external), lease_s=event.lifetime_s)
            elif isinstance(event, Released):
                tell("released", confirmed=event.confirmed)
                over = True
        return over

    def receive(now: float, _local: TransportAddress, remote: TransportAddress, data: bytes) -> None:
        lease.handle_datagram(now, remote, data)

    driver = MachineDriver(lease, {local: asking}, receive=receive, settle=settle)
    driver.mutate(lease.start)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        await wait_stop(sock)
        driver.mutate(lease.release)
    asking.close()


async def main(protocol: str, host: str) -> None:
    network = SystemNetwork()
    sock = await network.open_udp(host)
    if protocol == "upnp":
        await map_by_upnp(sock)
    else:
        await map_by_lease(protocol, network, sock)
    with trio.move_on_after(1):
        await wait_stop(sock)
    tell("over")


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
