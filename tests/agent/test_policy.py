"""The policy: what it forbids does not happen on the wire, whichever way it is tried."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from signaling import carry

from iceagent import vnet as virtual
from iceagent.agent import Agent, AgentConfig, CandidateType, IceServer, Role, VerdictKind, open_agent
from iceagent.agent.filters import Policy
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.discovery.nat64 import PREFIX_LENGTHS, synthesize
from iceagent.errors import LocalError
from iceagent.net.api import InterfaceAddress

STUN = IceServer("stun:stun.example")
TURN = IceServer("turn:stun.example?transport=udp", username="george", credential="x")


class Town:
    """A STUN server, and two hosts with an address of the internet and one behind a NAT each."""

    def __init__(self, net: virtual.Network) -> None:
        self.net = net
        self.server = net.host(net.internet, name="stun.example")
        self.alice, self.bob = (net.host(net.internet, name=name) for name in ("alice", "bob"))
        self.home = net.router(net.internet, nat=virtual.FULL_CONE)
        for host in (self.alice, self.bob):
            host.attach(self.home)

    def sent(self, host: virtual.Host, to: Callable[[str], bool] = lambda host: True) -> set[tuple[str, str]]:
        """Return source and destination hosts of every packet a host has sent to addresses of a kind."""
        packets = [entry.packet for entry in self.net.trace if entry.place == host.name and entry.event == "send"]
        return {(p.source.host, p.destination.host) for p in packets if to(p.destination.host)}


@asynccontextmanager
async def pair(
    vnet: Any, answer_stun: Any, *servers: IceServer, theirs: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Town, Agent, Agent]]:
    """Two agents that trickle to each other, alice's with a policy; it is not waited for their connecting."""
    town = Town(vnet())
    configs = [
        AgentConfig(servers=servers, network=host, randbytes=host.randbytes, **extra)
        for host, extra in ((town.alice, options), (town.bob, theirs or {}))
    ]
    async with town.net:
        with closing(await town.server.open_udp(town.server.address, 3478)) as sock:
            async with (
                open_agent(configs[0], role=Role.CONTROLLING) as alice,
                open_agent(configs[1], role=Role.CONTROLLED) as bob,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(answer_stun, sock)
                nursery.start_soon(carry, alice, bob)
                nursery.start_soon(carry, bob, alice)
                yield town, alice, bob
                nursery.cancel_scope.cancel()


def is_private(host: str) -> bool:
    return host.startswith("192.168.")


@pytest.mark.parametrize(
    "options",
    [
        {"deny_remote_prefixes": ["192.168.0.0/16"]},
        {"remote_prefixes": ["203.0.113.0/24"]},
        {"remote_filter": lambda address: not is_private(address.host)},
    ],
)
async def test_not_one_packet_leaves_to_a_denied_address(vnet: Any, answer_stun: Any, options: dict[str, Any]) -> None:
    """Neither to candidates that are told nor to those that checks reveal; data goes where it may."""
    async with pair(vnet, answer_stun, STUN, **options) as (town, alice, bob):
        for link in (town.bob.link, town.home.link):
            link.up.delay_s = 0.4  # so that all pairs are tried before the first works
        await alice.wait_connected()
        await bob.wait_connected()
        for _ in range(20):
            await alice.send(b"hello")
            await bob.send(b"hello")
            await trio.sleep(1)
        assert town.sent(town.bob, is_private)  # the other side does try
        assert not town.sent(town.alice, is_private)
        facts = "\n".join(alice.explain().evidence)
        assert f"remote candidate ({next(iter(options))})" in facts
        assert "datagram of a forbidden address dropped" in facts


async def test_a_server_is_denied_only_by_name(vnet: Any, answer_stun: Any) -> None:
    """Whoever names a server wants it; whoever denies its address wants it even less."""
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"remote_prefixes": ["10.0.0.0/8"]}, True),
        ({"deny_remote_prefixes": ["203.0.113.0/24"]}, False),
    ]
    for options, asked in cases:
        async with pair(vnet, answer_stun, STUN, TURN, **options) as (town, alice, _):
            await alice.wait_gathered()
            await trio.sleep(10)
            server = town.server.address
            assert bool(town.sent(town.alice, server.__eq__)) is asked
            if not asked:
                assert "forbidden" in "".join(alice.explain().evidence)


@pytest.mark.parametrize(
    "options",
    [
        {"deny_interfaces": ["eth1"]},
        {"interfaces": ["eth0", "lo"]},
        {"prefixes": ["203.0.113.0/24"]},
        {"deny_prefixes": ["192.168.0.0/16"]},
    ],
)
async def test_not_one_packet_leaves_from_a_denied_interface(
    vnet: Any, answer_stun: Any, options: dict[str, Any]
) -> None:
    """Container bridges and VPNs: no socket there, no candidate, and no relay or server asked from there."""
    async with pair(vnet, answer_stun, STUN, TURN, **options) as (town, alice, _):
        await alice.wait_connected()
        await trio.sleep(30)
        sources = {source for source, _ in town.sent(town.alice)}
        assert sources
        assert not any(is_private(source) for source in sources)
        assert all(not is_private(candidate.address.host) for candidate in await alice.wait_gathered())
        assert f"left out: eth1 ({next(iter(options))})" in "".join(alice.explain().evidence)


async def test_denying_the_default_route_moves_the_relay_to_another(vnet: Any, answer_stun: Any) -> None:
    """What the system's routes would choose is forbidden, so they are not asked."""
    async with pair(vnet, answer_stun, TURN, deny_interfaces=["eth0"], candidate_types=["relay"]) as (town, _, _):
        await trio.sleep(5)
        sent = town.sent(town.alice)
        assert sent
        assert all(is_private(source) for source, _ in sent)


async def test_no_interface_left_is_said(vnet: Any, answer_stun: Any) -> None:
    """The verdict names the fields that left nothing."""
    async with pair(vnet, answer_stun, deny_interfaces=["eth*", "lo"]) as (_, alice, _):
        verdict = alice.explain()
        assert verdict.kind is VerdictKind.FILTERED_BY_POLICY
        assert "deny_interfaces" in "".join(verdict.evidence)


async def test_no_interface_left_for_a_relay_is_said(vnet: Any, answer_stun: Any) -> None:
    """The relay was never asked, so it is not to blame, and neither is the peer."""
    options: dict[str, Any] = {"deny_interfaces": ["eth*", "lo"], "transport_policy": "relay"}
    async with pair(vnet, answer_stun, TURN, **options) as (_, alice, _):
        await trio.sleep(60)
        verdict = alice.explain()
        assert verdict.kind is VerdictKind.FILTERED_BY_POLICY
        assert "deny_interfaces" in "".join(verdict.evidence)


async def test_all_candidates_of_the_peer_filtered_is_said(vnet: Any, answer_stun: Any) -> None:
    """So is a filter that leaves nothing of the peer."""
    async with pair(vnet, answer_stun, remote_prefixes=["10.0.0.0/8"]) as (town, alice, _):
        await trio.sleep(60)
        assert not town.sent(town.alice)
        verdict = alice.explain()
        assert verdict.kind is VerdictKind.FILTERED_BY_POLICY
        assert "remote candidate (remote_prefixes)" in "".join(verdict.evidence)


async def test_without_host_candidates_no_local_address_is_told(vnet: Any, answer_stun: Any) -> None:
    """Not as a candidate, not as a related address; a public one is told as what the server sees."""
    async with pair(vnet, answer_stun, STUN, candidate_types=["srflx", "prflx"]) as (_, alice, bob):
        texts = [candidate.to_sdp() for candidate in await alice.wait_gathered()]
        assert texts
        assert all(" typ srflx raddr 0.0.0.0 rport 9" in text for text in texts)
        assert not any("192.168." in text for text in texts)
        await alice.wait_connected()
        await bob.wait_connected()


async def test_without_server_reflexive_candidates_no_server_is_asked(vnet: Any, answer_stun: Any) -> None:
    """Host candidates alone: nothing leaves but to the peer's own host candidates."""
    async with pair(vnet, answer_stun, STUN, candidate_types=["host"]) as (town, alice, _):
        await alice.wait_connected()
        await trio.sleep(10)
        theirs = set(town.bob.addresses())
        assert {destination for _, destination in town.sent(town.alice)} <= theirs


async def test_without_peer_reflexive_ones_only_told_addresses_are_sent_to(vnet: Any, answer_stun: Any) -> None:
    """A check from an address that the peer has not told gets no answer, let alone a check."""
    options = {"candidate_types": ["host", "srflx"]}
    async with pair(vnet, answer_stun, theirs={"candidate_types": ["relay"]}, **options) as (town, alice, bob):
        alice_host = next(iter(alice._driver.sockets))
        bob_told = await bob.wait_gathered()
        assert not bob_told
        bob.add_remote_candidate(ice.host_candidate(alice_host))
        sock = await town.bob.open_udp(town.bob.address)
        sock.send_nowait([b"\x00\x01" + bytes(18)], alice_host)
        await trio.sleep(5)
        sock.close()
        assert not town.sent(town.alice)
        assert alice._driver.policy.refused["datagram of a forbidden address dropped"] >= 1


def test_ipv6_in_disguise_is_denied_with_its_ipv4() -> None:
    """NAT64, 6to4 and the like would lead there all the same."""
    policy = Policy(AgentConfig(deny_remote_prefixes=["10.0.0.0/8"]))
    for host in ("10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::1"):
        assert not policy.permits(TransportAddress(host, 1)), host
    assert policy.permits(TransportAddress("64:ff9b::c001:203", 1))
    policy.note_nat64(ipaddress.IPv6Network("2001:db8:64::/96"))
    assert not policy.permits(TransportAddress("2001:db8:64::a01:203", 1))
    allowing = Policy(AgentConfig(remote_prefixes=["10.0.0.0/8"]))
    assert allowing.permits(TransportAddress("64:ff9b::a01:203", 1))
    assert not allowing.permits(TransportAddress("64:ff9b::c001:203", 1))


@pytest.mark.parametrize("length", PREFIX_LENGTHS)
def test_a_told_prefix_of_any_length_denies_and_allows_nothing(length: int) -> None:
    """RFC 6052's shorter prefixes put the IPv4 address elsewhere; and a resolver that lies must open no way."""
    prefix = ipaddress.IPv6Network(f"2001:db8:64::/{length}", strict=False)
    hidden = TransportAddress(str(synthesize(prefix, "10.1.2.3")), 1)
    denying = Policy(AgentConfig(deny_remote_prefixes=["10.0.0.0/8"]))
    denying.note_nat64(prefix)
    assert not denying.permits(hidden)
    assert not denying.permits_server(hidden)
    assert denying.permits(TransportAddress(str(synthesize(prefix, "192.1.2.3")), 1))
    allowing = Policy(AgentConfig(remote_prefixes=["10.0.0.0/8"]))
    allowing.note_nat64(prefix)
    assert not allowing.permits(hidden)


def test_what_strangers_fill_is_bounded() -> None:
    """A flood of forged sources costs no memory."""
    policy = Policy(AgentConfig(deny_remote_prefixes=["10.0.0.0/8"]))
    for number in range(5000):
        policy.permits(TransportAddress(f"192.0.{number >> 8}.{number & 255}", 9))
    assert len(policy._verdicts) <= 1024


def test_local_addresses_are_judged_by_name_prefix_and_family() -> None:
    """Each with its reason."""
    entries = [
        InterfaceAddress("eth0", "192.0.2.1", 24),
        InterfaceAddress("docker0", "172.17.0.1", 16),
        InterfaceAddress("tun0", "10.8.0.2", 24),
        InterfaceAddress("eth0", "fe80::1%eth0", 64, is_link_local=True),
    ]
    policy = Policy(AgentConfig(deny_interfaces=["docker*"], deny_prefixes=["10.0.0.0/8", "fe80::/10"]))
    assert [entry.host for entry in policy.local_addresses(entries)] == ["192.0.2.1"]
    facts = "\n".join(policy.facts())
    assert "docker0 (deny_interfaces)" in facts
    assert "tun0 (deny_prefixes)" in facts


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"deny_interfaces": "docker0"},
            r"deny_interfaces must be a list of str, not str; write a list",
        ),
        ({"prefixes": ["10.0.0.0/33"]}, "prefixes: '10.0.0.0/33' does not appear to be"),
        ({"deny_prefixes": ["10.0.0.1/8"]}, "deny_prefixes: 10.0.0.1/8 has host bits set"),
        ({"deny_remote_prefixes": "10.0.0.0/8"}, "deny_remote_prefixes must be a list of str, not str"),
        (
            {"candidate_types": ["host", "tcp"]},
            "candidate_types .* must be a list of some of host, srflx, prflx, relay",
        ),
        ({"candidate_types": ["prflx"]}, "candidate_types must have host, srflx or relay"),
        ({"candidate_types": ["host"], "transport_policy": "relay", "servers": [TURN]}, "needs 'relay'"),
    ],
)
def test_policies_that_cannot_be_meant_are_refused(options: dict[str, Any], sentence: str) -> None:
    """In one sentence that names the field."""
    with pytest.raises(LocalError, match=sentence):
        AgentConfig(**options)


def test_a_relayed_address_that_was_refused_is_not_taken_as_peer_reflexive_either() -> None:
    """Without `relay` no path is relayed; the peer's checks over its relay would else make one, unknown as such."""
    policy = Policy(AgentConfig(candidate_types=["host", "srflx", "prflx"]))
    relay = ice.Candidate.from_sdp("candidate:1 1 udp 100 198.51.100.1 4000 typ relay raddr 0.0.0.0 rport 9")
    assert policy.permits(relay.address)
    assert not policy.accepts(relay)
    assert not policy.permits(relay.address)
    assert policy.permits(TransportAddress("198.51.100.1", 4001))


def test_candidate_types_may_be_members_of_the_enum() -> None:
    """Who has the enum at hand need not know its words."""
    config = AgentConfig(candidate_types=[CandidateType.HOST, "relay"])
    assert config.candidate_types == ("host", "relay")
