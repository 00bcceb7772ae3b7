"""Sessions on another network than this machine's: all of a session, its way to the relay too, uses that one.

A test of an application then opens no real socket. Were the relay real, the test would wait for it in real time, which
virtual time does not: the clock jumps as soon as every task waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import icesignal
import trio

from iceagent.agent import AgentConfig
from iceagent.core.address import make_address
from iceagent.errors import LocalError
from iceagent.net import Network
from iceagent.net.api import RealHost


def on_network(config: AgentConfig | None, network: Network | None) -> AgentConfig | None:
    """Return `config` with `network`, and with the randomness of that network where it has its own.

    Raises:
        LocalError: `config` names another one.
    """
    if network is None:
        return config
    config = config or AgentConfig()
    if config.network is not None and config.network is not network:
        raise LocalError("network and config.network name two networks; give one of them")
    randbytes = config.randbytes
    if randbytes is AgentConfig().randbytes:
        randbytes = getattr(network, "randbytes", randbytes)
    return replace(config, network=network, randbytes=randbytes)


def virtual_network(config: AgentConfig | None) -> Network | None:
    """Return the network of a configuration unless it is this machine's, to which the system's own calls lead."""
    network = None if config is None else config.network
    return None if network is None or isinstance(network, RealHost) else network


def way_on(network: Network) -> icesignal.OpenStream:
    """Return what connects to a relay over `network`, where names are resolved, too: one address after the other."""

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        failed: OSError = OSError(f"{host} has no address")
        for address in await network.resolve(host, port):
            try:
                return await network.connect_tcp(address)
            except OSError as error:
                failed = error
        raise failed

    return open_stream


def address_on(network: Network, families: Sequence[int] = (4, 6)) -> str:
    """Return the address by which others on `network` reach this host; loopback if it is alone."""
    others = [one.host for one in network.interfaces() if not one.is_loopback and not one.is_link_local]
    usable = [host for host in others if make_address(host, 0).family in families]
    return min(usable, key=lambda host: ":" in host, default="127.0.0.1")
