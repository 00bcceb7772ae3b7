from __future__ import annotations

from typing import Any

import pytest

from iceagent.agent import AgentConfig, IceServer, Role, open_agent
from iceagent.agent.gather.addresses import MAX_BASES, choose_addresses
from iceagent.agent.report.timeline import MAX_EVENTS, Timeline
from iceagent.errors import LocalError
from iceagent.net import InterfaceAddress

LO = InterfaceAddress("lo", "127.0.0.1", 8, is_loopback=True)
LO6 = InterfaceAddress("lo", "::1", 128, is_loopback=True)
LAN = InterfaceAddress("eth0", "192.168.1.2", 24)
WIFI = InterfaceAddress("wlan0", "10.0.0.2", 24)
ULA = InterfaceAddress("eth0", "fd00::2", 64)
GLOBAL6 = InterfaceAddress("eth0", "2a00:1450::2", 64)
TEMPORARY6 = InterfaceAddress("eth0", "2a00:1450::abcd", 64, is_temporary=True)
LINK6 = InterfaceAddress("eth0", "fe80::2%eth0", 64, is_link_local=True)


def choose(*entries: InterfaceAddress, **options: Any) -> list[InterfaceAddress]:
    return choose_addresses(entries, AgentConfig(**options))


def test_loopback_is_for_machines_that_have_nothing_else_or_ask() -> None:
    """A loopback candidate is useless to any other machine and only costs its checks."""
    assert choose(LO, LAN) == [LAN]
    assert choose(LO) == [LO]
    assert choose(LO, LAN, include_loopback=True) == [LAN, LO]
    assert choose(LO, include_loopback=False) == []


def test_link_local_addresses_are_the_last_resort() -> None:
    """Two machines on one cable still meet; anybody else is spared the pairs."""
    assert choose(LO, LINK6) == [LINK6]
    assert choose(LO, LINK6, LAN) == [LAN]


def test_lasting_ipv6_addresses_stay_private_beside_temporary_ones() -> None:
    """RFC 8445 section 5.1.1.1: what protects from tracking protects only if the other is not shown."""
    assert choose(GLOBAL6, TEMPORARY6, ULA) == [TEMPORARY6, ULA]


def test_families_alternate() -> None:
    """RFC 8421: a broken IPv6 must not put all its pairs before the first of IPv4."""
    assert choose(LAN, WIFI, ULA, GLOBAL6) == [GLOBAL6, LAN, ULA, WIFI]
    assert choose(LAN, ULA, families=(4,)) == [LAN]


def test_ipv6_has_a_head_start_that_is_bounded() -> None:
    """RFC 8421 section 4; without the bound five addresses of a broken IPv6 would all come first."""
    six = [InterfaceAddress("eth0", f"2a00:1450::{number}", 64) for number in range(1, 6)]
    assert choose(LAN, *six) == [*six[:2], LAN, *six[2:]]


def test_bridges_and_tunnels_come_last_and_are_not_intermingled() -> None:
    """RFC 8421 section 5: what hardly ever leads to a peer must not delay what does."""
    docker = InterfaceAddress("docker0", "172.17.0.1", 16)
    vpn = InterfaceAddress("tun0", "10.8.0.2", 24)
    vpn6 = InterfaceAddress("wg0", "fd00:8::2", 64)
    assert choose(docker, vpn, vpn6, LAN, GLOBAL6) == [GLOBAL6, LAN, vpn6, vpn, docker]


def test_interfaces_are_chosen_by_name_or_pattern() -> None:
    """VPN users name the interface that counts."""
    assert choose(LAN, WIFI, interfaces=["wl*"]) == [WIFI]
    assert choose(LAN, WIFI, interfaces=["eth0", "tun0"]) == [LAN]


def test_bases_are_bounded() -> None:
    """A host with a hundred container bridges must not open a hundred sockets per session."""
    many = [InterfaceAddress(f"br{number}", f"172.16.{number}.1", 24) for number in range(100)]
    assert len(choose(*many)) == MAX_BASES


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("stun:stun.example.org", ("stun.example.org", 3478)),
        ("stun:stun.example.org:19302", ("stun.example.org", 19302)),
        ("stun:[2001:db8::1]:3479", ("2001:db8::1", 3479)),
        ("stun:[2001:db8::1]", ("2001:db8::1", 3478)),
        ("STUN:192.0.2.1:1", ("192.0.2.1", 1)),
    ],
)
def test_server_urls(url: str, endpoint: tuple[str, int]) -> None:
    """RFC 7064."""
    assert IceServer(url).endpoint() == endpoint


@pytest.mark.parametrize(
    "url", ["", "stun.example.org", "stun:", "stun://x", "http:x", "stun:x:0", "stun:x:y", "stun:2001:db8::1"]
)
def test_malformed_server_urls_are_refused_at_once(url: str) -> None:
    """A typing error found at gathering would look like a dead server."""
    with pytest.raises(LocalError):
        IceServer(url)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transport_policy": "direct"}, "not known"),
        ({"proxy": "ftp://proxy.example.org"}, "proxy"),
        ({"servers": [IceServer("stuns:stun.example.org")]}, "TLS"),
        ({"servers": [443]}, "list of IceServer or str, not list with int"),
        ({"families": ()}, "families"),
        ({"families": (5,)}, "families"),
        ({"interfaces": "eth0"}, "list of str or None, not str; write a list"),
        ({"port_range": (2000, 1000)}, "port_range"),
        ({"receive_queue_bytes": 0}, "positive"),
        ({"ta_s": 0.001}, "ta_s"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_sentence(options: dict[str, Any], words: str) -> None:
    """A policy that is silently ignored may leak an address or a connection."""
    with pytest.raises(LocalError, match=words):
        AgentConfig(**options)


async def test_relaying_without_a_relay_is_refused_before_anything_is_sent() -> None:
    """Not when the configuration is made: the relay of a session adds servers to it."""
    config = AgentConfig(transport_policy="relay")
    with pytest.raises(LocalError, match="needs a TURN server"):
        async with open_agent(config, role=Role.CONTROLLING):
            pass


def test_credentials_of_servers_do_not_show() -> None:
    """`repr` ends up in logs."""
    assert "hunter2" not in repr(AgentConfig(servers=[IceServer("stun:x", username="u", credential="hunter2")]))


async def test_a_slow_subscriber_misses_the_oldest_and_is_told() -> None:
    """The log is bounded; what is lost is counted."""
    timeline: Timeline[int] = Timeline()
    reader = timeline.subscribe()
    timeline.record(0.0, 0)
    assert await reader.__anext__() == 0
    for number in range(1, MAX_EVENTS + 101):
        timeline.record(0.0, number)
    timeline.end()
    rest = [event async for event in reader]
    assert rest == list(range(101, MAX_EVENTS + 101))
    assert timeline.events_missed == 100
