"""Opening one UDP port for many agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from iceagent.agent.config import AgentConfig, Family
from iceagent.agent.gather.addresses import choose_addresses
from iceagent.core.checked import checked
from iceagent.errors import LocalError
from iceagent.net.api import HasDescriptor, Network, UdpSocket
from iceagent.net.shared_port import SharedPort
from iceagent.net.system import SystemNetwork
from iceagent.net.tasks import open_background

_PORT_TRIES: Final = 16  # ours: a port the system chose for one address may be taken at another


@checked
@asynccontextmanager
async def open_shared_port(
    port: int = 0,
    *,
    hosts: Sequence[str] | None = None,
    interfaces: Sequence[str] | None = None,
    families: Sequence[Family] = (4, 6),
    include_loopback: bool | None = None,
    network: Network | None = None,
) -> AsyncIterator[SharedPort]:
    """Open one UDP port for any number of agents: `AgentConfig(shared_port=port)`.

    The agents are distinguished by their ufrags and the addresses of their peers. So a server needs one open port, one
    socket per address and one receive loop, for ten sessions or for ten thousand.

    Args:
        port: its number; 0 lets the system choose.
        hosts: the local addresses to bind, IP literals; None for those an agent would choose. `0.0.0.0` and `::` stand
            for all addresses of their family, also those that come later (not on Windows, which mixes them).
        interfaces: as in `AgentConfig`, where `hosts` is None.
        families: likewise.
        include_loopback: likewise.
        network: where the sockets come from; None for this machine.

    Raises:
        LocalError: there is no usable address, or the port is taken at one of them.

    When the body ends, the sockets are closed. Agents are to be opened, and closed, within.
    """
    network = network or SystemNetwork()
    if hosts is None:
        wanted = AgentConfig(interfaces=interfaces, families=families, include_loopback=include_loopback)
        try:
            hosts = [entry.host for entry in choose_addresses(network.interfaces(), wanted)]
        except OSError as error:
            raise LocalError(f"the addresses of this machine cannot be listed: {error.strerror or error}") from error
    if not hosts:
        raise LocalError("this machine has no address to open a shared port on")
    shared = SharedPort(network, await _bind(network, hosts, port))
    try:
        async with open_background() as nursery:
            nursery.start_soon(shared.serve)  # noqa: ASYNC113 - nobody has to wait for its start
            try:
                yield shared
            finally:
                shared.close()  # before the nursery waits for its task
    finally:
        shared.close()


async def _bind(network: Network, hosts: Sequence[str], port: int) -> list[UdpSocket]:
    """Bind the same port number at all addresses."""
    for remaining in reversed(range(_PORT_TRIES)):
        sockets: list[UdpSocket] = []
        host = ""
        try:
            for host in dict.fromkeys(hosts):
                number = sockets[0].local_address.port if sockets else port
                sockets.append(await network.open_udp(host, number))
                _check_reports_local(sockets[-1])
        except (OSError, ValueError) as error:
            for sock in sockets:
                sock.close()
            if port or not remaining or isinstance(error, ValueError):
                raise LocalError(f"the shared port cannot be opened at {host}: {error}") from error
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        else:
            return sockets
    raise AssertionError("unreachable")


def _check_reports_local(sock: UdpSocket) -> None:
    """Refuse a wildcard where the system does not report which address was asked.

    Raises:
        ValueError: it does not.
    """
    if sock.local_address.ip.is_unspecified and isinstance(sock, HasDescriptor) and not sock.tells_local:
        raise ValueError("this system does not report which address a datagram came to; name the addresses")
