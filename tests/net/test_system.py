from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from iceagent import vnet
from iceagent.agent.components import _pacer_for
from iceagent.core.address import TransportAddress
from iceagent.net import SystemNetwork
from iceagent.net.api import RealHost
from iceagent.net.host_names import MAX_ADDRESSES
from iceagent.net.interfaces import _parse_if_inet6


async def test_every_listed_address_can_be_bound() -> None:
    """An address nobody can bind would only cost the gatherer an error each time."""
    network = SystemNetwork()
    entries = network.interfaces()
    assert any(entry.host == "127.0.0.1" and entry.is_loopback for entry in entries)
    for entry in entries:
        sock = await network.open_udp(entry.host)
        assert sock.local_address.host == entry.host
        assert sock.local_address.port > 0
        sock.close()


def test_interface_marks_come_from_the_kernel_table() -> None:
    """Temporary addresses are preferred and tentative ones cannot be bound; the table says which are which."""
    lines = [
        "fe800000000000000000000000000001 02 40 20 80     eth0",
        "20010db8000000000000000000000002 02 40 00 01     eth0",
        "nonsense",
        "zz 02 40 00 01 eth0",
    ]
    assert dict(_parse_if_inet6(lines)) == {("eth0", "fe80::1"): 0x80, ("eth0", "2001:db8::2"): 0x01}


async def test_plain_switch_reaches_the_socket() -> None:
    """Tests of both paths choose by the network they pass in."""
    sock = await SystemNetwork(segmentation=False).open_udp("127.0.0.1")
    assert not sock.uses_gso
    assert not sock.uses_gro
    sock.close()


async def test_literals_resolve_without_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """An IP literal must never wait for, nor fail with, a name server."""
    monkeypatch.delattr(trio.socket, "getaddrinfo")
    network = SystemNetwork()
    assert await network.resolve("192.0.2.1", 3478) == [TransportAddress("192.0.2.1", 3478)]
    assert await network.resolve("2001:DB8::1", 3478, family=6) == [TransportAddress("2001:db8::1", 3478)]
    assert await network.resolve("::ffff:192.0.2.1", 1) == [TransportAddress("192.0.2.1", 1)]
    with pytest.raises(OSError):
        await network.resolve("192.0.2.1", 3478, family=6)
    with pytest.raises(ValueError, match="port"):
        await network.resolve("192.0.2.1", 65536)


async def test_names_of_the_hosts_file_resolve() -> None:
    """`localhost` works without any name server."""
    assert await SystemNetwork().resolve("localhost", 80, family=4) == [TransportAddress("127.0.0.1", 80)]


async def test_impossible_names_are_os_errors() -> None:
    """A typing error in a server name is reported like a name that does not exist."""
    for name in ("", "." * 70, "a" * 300, "ü" * 300):
        if name:
            with pytest.raises(OSError):
                await SystemNetwork().resolve(name, 80)


async def test_a_long_answer_is_cut_and_duplicates_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a thousand addresses must not start a thousand transactions."""

    async def many(*_args: Any, **_kwargs: Any) -> list[Any]:
        hosts = [f"192.0.2.{number // 2}" for number in range(400)]
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, 80)) for host in hosts]

    monkeypatch.setattr(trio.socket, "getaddrinfo", many)
    found = await SystemNetwork().resolve("many.example", 80)
    assert found[:2] == [TransportAddress("192.0.2.0", 80), TransportAddress("192.0.2.1", 80)]
    assert len(found) <= MAX_ADDRESSES


class Before:
    """What counts, or logs, and hands all on to the network of this machine."""

    def __init__(self) -> None:
        self._network = SystemNetwork()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


async def test_what_stands_before_the_systems_network_is_this_machine_too() -> None:
    """Its agents share one pacer with all others; a host of the virtual network has none to share."""
    network: Any = Before()
    assert isinstance(Before(), RealHost)
    assert _pacer_for(network) is _pacer_for(SystemNetwork())
    world = vnet.Network(1)
    assert _pacer_for(world.host(world.internet)) is None
