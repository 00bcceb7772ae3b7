"""NAT behaviour discovery on real or virtual sockets. RFC 5780; the tests themselves: `iceagent.core.discovery`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from iceagent.core.address import TransportAddress
from iceagent.core.discovery import Discovery, DiscoverySockets, NatBehaviour, ServerReport
from iceagent.errors import LocalError
from iceagent.net.api import Network, SetsFragments, UdpSocket
from iceagent.net.machine import MachineDriver


async def discover_nat(
    network: Network,
    host: str,
    servers: Sequence[TransportAddress],
    *,
    randbytes: Callable[[int], bytes],
    fragments: bool = True,
    lifetimes_s: Sequence[float] = (),
    on_report: Callable[[ServerReport], object] | None = None,
) -> NatBehaviour:
    """Find out what stands between one local address and the internet; takes up to 10 s, or the longest lifetime more.

    Args:
        network: where the sockets come from.
        host: the local address.
        servers: STUN servers of the same family, the best first. One with two addresses (RFC 5780) shows all; two with
            one each show the mapping.
        randbytes: for transaction ids.
        fragments: whether to try fragmented datagrams.
        lifetimes_s: idle times after which to look whether a mapping lives.
        on_report: called with each server's report as it comes.

    Raises:
        OSError: `host` is not ours.
        LocalError: a server is of another family.
    """
    family = TransportAddress(host, 0).family
    if any(server.family != family for server in servers):
        raise LocalError(f"the servers of one discovery are all of IPv{family}, as the local address is")
    sockets: dict[TransportAddress, UdpSocket] = {}
    with ExitStack() as stack:

        async def open_one() -> TransportAddress:
            sock = await network.open_udp(host)
            stack.callback(sock.close)
            sockets[sock.local_address] = sock
            return sock.local_address

        places = DiscoverySockets(
            mapping=await open_one(),
            filtering=await open_one(),
            fragments=await open_one() if fragments else None,
            lifetimes=tuple([await open_one() for _ in lifetimes_s]),
        )
        _allow_fragments(sockets, places)
        discovery = Discovery(places, servers, randbytes=randbytes, lifetimes_s=lifetimes_s)
        return await _run(discovery, sockets, on_report)


def _allow_fragments(sockets: dict[TransportAddress, UdpSocket], places: DiscoverySockets) -> None:
    if places.fragments is not None:
        sock = sockets[places.fragments]
        if isinstance(sock, SetsFragments):
            sock.allow_fragments()


async def _run(
    discovery: Discovery,
    sockets: dict[TransportAddress, UdpSocket],
    on_report: Callable[[ServerReport], object] | None,
) -> NatBehaviour:
    found: list[NatBehaviour] = []

    def settle() -> bool:
        while (event := discovery.poll_event()) is not None:
            if isinstance(event, NatBehaviour):
                found.append(event)
            elif on_report is not None:
                on_report(event)
        return bool(found)

    driver = MachineDriver(discovery, sockets, receive=discovery.handle_datagram, settle=settle)
    driver.mutate(discovery.start)
    await driver.run()
    return found[0]
