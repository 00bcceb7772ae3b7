"""mDNS candidates (trap 20): names resolved and published, at no cost to anything else, on links and nowhere beyond."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from virtual_pair import config_of

from iceagent import vnet as virtual
from iceagent.agent import Agent, AgentConfig, CandidateType, IceServer, Role, open_agent
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.checklist import path_of
from iceagent.errors import LocalError
from iceagent.net import SystemNetwork, mdns, mdns_packets
from iceagent.net.host_names import is_mdns_name
from iceagent.net.mdns import LOOKUP_S, open_mdns
from iceagent.net.mdns_packets import MdnsMessage, MdnsQuestion, Record, encode_answer, encode_query, parse_untrusted

NAME = "1f4712db-ea17-4bcf-a596-105139dfd8bf.local"
STUN = IceServer("stun:stun.example")


@asynccontextmanager
async def pair(host_a: virtual.Host, host_b: virtual.Host, a: dict[str, Any], b: dict[str, Any]) -> AsyncIterator[Any]:
    async with (
        open_agent(config_of(host_a, **a), role=Role.CONTROLLING) as alice,
        open_agent(config_of(host_b, **b), role=Role.CONTROLLED) as bob,
        trio.open_nursery() as nursery,
    ):
        told: list[str] = []
        nursery.start_soon(tell, alice, bob, told)
        nursery.start_soon(tell, bob, alice, [])
        yield alice, bob, told
        nursery.cancel_scope.cancel()


async def tell(sender: Agent, receiver: Agent, told: list[str]) -> None:
    receiver.set_remote_credentials(sender.credentials)
    async for candidate in sender.local_candidates():
        told.append(candidate.to_sdp())
        receiver.add_remote_candidate(candidate.to_sdp())
    receiver.add_remote_candidate(None)


def remote_candidate(name: str = NAME, port: int = 4000) -> str:
    return f"candidate:1 1 udp 2122262783 {name} {port} typ host"


def mdns_packets_of(net: virtual.Network, host: virtual.Host) -> list[Any]:
    """Return what a host has sent to the groups or from the mDNS port."""
    sent = [entry.packet for entry in net.trace if entry.place == host.name and entry.event == "send"]
    return [packet for packet in sent if 5353 in (packet.source.port, packet.destination.port)]


@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
async def test_trap_20_agents_meet_by_names_alone(vnet: Any, families: tuple[int, ...]) -> None:
    """Two machines at home, of which neither tells an address: the names lead there, in either family."""
    net = vnet(families=families)
    home = net.router(net.internet, families=families)
    hosts = [net.host(home) for _ in range(2)]
    async with net:
        options = {"mdns": "publish"}
        async with pair(hosts[0], hosts[1], options, options) as (alice, bob, told):
            with trio.fail_after(1):
                await alice.wait_connected()
                chosen = await bob.wait_connected()
            assert len(told) == len(families)
            for text in told:
                assert parse_name(text).endswith(".local")
                assert not any(address in text for host in hosts for address in host.addresses())
            assert chosen.remote.name is not None or chosen.remote.type is CandidateType.PRFLX
            await alice.send(b"hello")
            assert await bob.receive() == b"hello"


def parse_name(text: str) -> str:
    return ice.Candidate.from_sdp(text).address.host


async def test_related_addresses_and_foundations_hide_the_address_too(vnet: Any, answer_stun: Any) -> None:
    """A checksum of an address of four bytes is no secret; nor may raddr tell what the name hides."""
    net = vnet()
    server = net.host(net.internet, name="stun.example")
    home = net.router(net.internet, nat=virtual.FULL_CONE)
    inside, outside = net.host(home), net.host(net.internet)
    async with net, trio.open_nursery() as nursery:
        sock = await server.open_udp(server.address, 3478)
        nursery.start_soon(answer_stun, sock)
        for host, kinds in ((inside, ["host", "srflx"]), (outside, ["host", "srflx"])):
            config = config_of(host, servers=[STUN], mdns="publish")
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                told = await agent.wait_gathered()
                assert [candidate.type.value for candidate in told] == kinds
                assert [candidate.foundation for candidate in told] == ["1", "2"]
                assert "raddr 0.0.0.0 rport 9" in told[1].to_sdp()
                assert told[1].address.host in (home.public_address, outside.address)
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        sock.close()


async def test_trap_20_a_name_that_does_not_resolve_stalls_nothing(vnet: Any) -> None:
    """Other candidates go on at once, and the end waits for the lookup no longer than that lasts."""
    times = []
    for names in (False, True):
        net = vnet()
        hosts = [net.host(net.internet) for _ in range(2)]
        async with (
            net,
            open_agent(config_of(hosts[0]), role=Role.CONTROLLING) as alice,
            open_agent(config_of(hosts[1]), role=Role.CONTROLLED) as bob,
        ):
            started_at = trio.current_time()
            for number in range(40 if names else 0):
                alice.add_remote_candidate(remote_candidate(f"nobody-{number}.local"))
            for one, other in ((alice, bob), (bob, alice)):
                other.set_remote_credentials(one.credentials)
                for candidate in await one.wait_gathered():
                    other.add_remote_candidate(candidate)
                other.add_remote_candidate(None)
            pair = await alice.wait_connected()
            times.append(trio.current_time() - started_at)
            assert (
                pair.remote.type is CandidateType.HOST
            )  # told, and taken at once; not found out by a check of the peer's
            table = alice._driver.ice._sessions.current.facts.table
            assert table.remote_ended is not names
            await trio.sleep(2 * LOOKUP_S)
            assert table.remote_ended
            assert len(mdns_packets_of(net, hosts[0])) <= 3 * 2 * mdns.MAX_LOOKUPS
    assert times[1] == pytest.approx(times[0], abs=1e-9)


def test_trap_20_both_families_are_asked_for_at_once() -> None:
    """A name that has one address only, of either family, is found by the first question."""
    message = parse_untrusted(encode_query(NAME))
    assert message is not None
    assert sorted(family for question in message.questions for family in question.families) == [4, 6]


async def test_exactly_one_address_is_taken_ipv6_first(vnet: Any) -> None:
    """The draft's section 3.2.1; both types are asked for at once (trap 20)."""
    net = vnet(families=(4, 6))
    home = net.router(net.internet)
    asker, owner = net.host(home), net.host(home)
    owner.publish(NAME)
    async with net, open_agent(config_of(asker), role=Role.CONTROLLING) as agent:
        agent.set_remote_credentials(ice.Credentials("abcd", "p" * 22))
        agent.add_remote_candidate(remote_candidate())
        await trio.sleep(0.5)
        remotes = agent._driver.ice.remote_candidates
        assert [(one.address.host, one.name) for one in remotes] == [(owner.addresses(6)[0], NAME)]
        queries = [parse_untrusted(packet.data) for packet in mdns_packets_of(net, asker)]
        assert queries
        assert all(query and {one.families for one in query.questions} == {(4,), (6,)} for query in queries)


@asynccontextmanager
async def foreign_responder(host: virtual.Host, name: str, *, announces: bool = True) -> AsyncIterator[None]:
    """A responder that knows nothing of legacy queriers and multicasts a record once a second at most, as it must."""
    sock = await host.open_multicast(mdns_packets.GROUPS[4], mdns_packets.PORT, host.address)
    group = TransportAddress(mdns_packets.GROUPS[4], mdns_packets.PORT)
    answer = encode_answer(Record(name, host.address, mdns_packets.HOST_TTL_S))
    told_at = trio.current_time()
    if announces:
        sock.send_nowait([answer], group)

    async def serve() -> None:
        nonlocal told_at
        while True:
            for batch in await sock.receive():
                message = parse_untrusted(batch.data)
                if message is None or message.is_response:
                    continue
                for question in message.questions:
                    if question.name != name:
                        continue
                    if question.by_unicast:
                        sock.send_nowait([answer], batch.remote)
                    elif trio.current_time() >= told_at + 1.0:
                        told_at = trio.current_time()
                        sock.send_nowait([answer], group)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            sock.close()


OTHER_NAME = "0d8b4b1e-77c5-4c8a-9f0e-5f2b8f1f2a11.local"


async def test_a_name_announced_a_moment_ago_is_found_at_once(vnet: Any) -> None:
    """An answer may not be multicast twice within a second (RFC 6762 section 6), so we ask for one by unicast."""
    net = vnet()
    home = net.router(net.internet)
    one, two, asker = (net.host(home) for _ in range(3))
    async with net, foreign_responder(one, NAME), foreign_responder(two, OTHER_NAME):
        await trio.sleep(0.1)  # nobody here has heard the announcements
        async with open_mdns(asker, randbytes=asker.randbytes) as here:
            await here.join([asker.address])
            started_at = trio.current_time()
            assert await here.resolve(NAME) == one.address
            assert await here.resolve(OTHER_NAME) == two.address
            assert trio.current_time() - started_at < 0.3
    queries = [parse_untrusted(packet.data) for packet in mdns_packets_of(net, asker)]
    assert all(question.by_unicast for query in queries if query for question in query.questions)


async def test_what_was_announced_while_we_listened_need_not_be_asked_for(vnet: Any) -> None:
    """Who publishes listens from the start: the peer's announcement may come before its name does."""
    net = vnet()
    home = net.router(net.internet)
    owner, asker = net.host(home), net.host(home)
    async with net, open_mdns(asker, randbytes=asker.randbytes) as here:
        await here.join([asker.address])
        async with foreign_responder(owner, NAME):
            await trio.sleep(0.1)
            started_at = trio.current_time()
            assert await here.resolve(NAME.upper()) == owner.address
            assert trio.current_time() == started_at
        assert mdns_packets_of(net, asker) == []
        for number in range(3 * mdns.MAX_CACHED):
            name = f"1f4712db-ea17-4bcf-a596-{number:012x}.local"
            async with foreign_responder(owner, name):
                await trio.sleep(0.1)
        assert len(here._cache) <= mdns.MAX_CACHED
        async with foreign_responder(owner, "printer.local"):
            await trio.sleep(0.1)
        assert "printer.local" not in here._cache


async def test_names_go_no_further_than_the_link(vnet: Any) -> None:
    """A peer elsewhere does not resolve them; and an answer from elsewhere does not count (RFC 6762 section 11)."""
    net = vnet()
    homes = [net.router(net.internet) for _ in range(2)]
    asker, owner = (net.host(home) for home in homes)
    async with net, open_mdns(asker, randbytes=asker.randbytes) as names:
        await names.join([asker.address])
        liar = await owner.open_udp(owner.address, 5353)

        async def lie() -> None:
            await trio.sleep(0.1)
            for link in names._links.values():
                liar.send_nowait([encode_answer(Record(NAME, owner.address, 120))], link.asker.local_address)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lie)
            assert await names.resolve(NAME) is None
        liar.close()


async def test_relay_only_neither_asks_nor_answers(vnet: Any) -> None:
    """Trap 4: nothing leaves but to the relay, queries included."""
    net = vnet()
    host = net.host(net.internet)
    turn = IceServer("turn:192.0.2.1?transport=udp", username="x", credential="y")
    for mode in ("resolve", "publish"):
        config = config_of(host, servers=[turn], transport_policy="relay", mdns=mode)
        async with net if mode == "resolve" else NoContext():
            async with open_agent(config, role=Role.CONTROLLING) as agent:
                agent.set_remote_credentials(ice.Credentials("abcd", "p" * 22))
                agent.add_remote_candidate(remote_candidate())
                await trio.sleep(10)
            assert not mdns_packets_of(net, host)


class NoContext:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *error: object) -> None: ...


async def test_off_means_off(vnet: Any) -> None:
    """No query; the candidate is counted as what it is."""
    net = vnet()
    host = net.host(net.internet)
    async with net, open_agent(config_of(host, mdns="off"), role=Role.CONTROLLING) as agent:
        agent.set_remote_credentials(ice.Credentials("abcd", "p" * 22))
        agent.add_remote_candidate(remote_candidate())
        await trio.sleep(10)
        assert not mdns_packets_of(net, host)
        assert "candidate-name-unresolved" in agent.statistics().transport.dropped


async def test_our_relay_is_not_told_what_a_name_hides(vnet: Any) -> None:
    """The draft's section 3.3.2: neither permission nor check through the relay for a resolved address."""
    relay = ice.relay_candidate(TransportAddress("203.0.113.9", 1), "turn.example")
    host = ice.host_candidate(TransportAddress("192.168.1.2", 1))
    remote = ice.host_candidate(TransportAddress("192.168.1.3", 1))
    assert path_of(relay, remote) is not None
    assert path_of(relay, replace(remote, name=NAME)) is None
    assert path_of(host, replace(remote, name=NAME)) is not None


async def test_names_are_announced_and_taken_back(vnet: Any) -> None:
    """Twice announced, once said goodbye to; and then nobody answers any more."""
    net = vnet()
    home = net.router(net.internet)
    owner, asker = net.host(home), net.host(home)
    async with net, open_mdns(asker, randbytes=asker.randbytes) as names:
        await names.join([asker.address])
        async with open_agent(config_of(owner, mdns="publish"), role=Role.CONTROLLING) as agent:
            name = (await agent.wait_gathered())[0].address.host
            await trio.sleep(3)
            assert await names.resolve(name) == owner.address
        await trio.sleep(0.1)
        sent = [parse_untrusted(packet.data) for packet in mdns_packets_of(net, owner)]
        ttls = [record.ttl_s for message in sent if message for record in message.records]
        assert ttls[:2] == [120, 120]
        assert ttls[-1] == 0
        assert await names.resolve(name.replace("-", "0")) is None


async def test_a_new_interface_gets_a_name_of_its_own(vnet: Any) -> None:
    """And its candidate is a late one."""
    net = vnet()
    homes = [net.router(net.internet) for _ in range(2)]
    host = net.host(homes[0])
    async with net, open_agent(config_of(host, mdns="publish"), role=Role.CONTROLLING) as agent:
        first = [candidate.address.host async for candidate in agent.local_candidates()]
        host.attach(homes[1])
        late = await anext(agent.late_candidates())
        assert late.address.host.endswith(".local")
        assert late.address.host not in first


async def test_floods_cost_little_and_raise_nothing(vnet: Any) -> None:
    """Answers and reading are rationed; what is not about our names is not even parsed."""
    net = vnet()
    home = net.router(net.internet)
    owner, mallory = net.host(home), net.host(home)
    async with net, open_agent(config_of(owner, mdns="publish"), role=Role.CONTROLLING) as agent:
        name = (await agent.wait_gathered())[0].address.host
        sock = await mallory.open_multicast("224.0.0.251", 5353, mallory.address)
        group = TransportAddress("224.0.0.251", 5353)
        before = len(mdns_packets_of(net, owner))
        for _ in range(100):
            for _ in range(20):
                sock.send_nowait(
                    [encode_query(name, by_unicast=True), encode_query("other.local"), b"\xff" * 40], group
                )
                sock.send_nowait([encode_query(name)[:30]], group)
            await trio.sleep(0.01)
        sock.close()
        assert len(mdns_packets_of(net, owner)) - before <= mdns.MESSAGES_BURST + mdns.MESSAGES_PER_S


@given(st.binary(max_size=200))
def test_garbage_is_no_message(data: bytes) -> None:
    """Whatever comes is parsed or dropped, never raised about."""
    parse_untrusted(data)


@given(st.data())
def test_bent_messages_are_parsed_or_dropped(data: st.DataObject) -> None:
    """Likewise what looks almost right."""
    whole = bytearray(encode_answer(Record(NAME, "192.0.2.1", 120)) if data.draw(st.booleans()) else encode_query(NAME))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    message = parse_untrusted(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert message is None or isinstance(message, MdnsMessage)


def test_messages_survive_the_wire() -> None:
    """What is written is what is read."""
    record = Record(NAME, "fe80::1", 120)
    told = parse_untrusted(encode_answer(record))
    assert told == MdnsMessage(0, True, (), (record,), frozenset([NAME]))
    asked = parse_untrusted(encode_query(NAME, by_unicast=True))
    assert asked == MdnsMessage(0, False, (MdnsQuestion(NAME, (6,), True), MdnsQuestion(NAME, (4,), True)))
    legacy = parse_untrusted(encode_answer(record, legacy_id=7, legacy=MdnsQuestion(NAME, (6, 4))))
    assert legacy is not None
    assert (legacy.message_id, legacy.records[0].ttl_s) == (7, mdns_packets.LEGACY_TTL_S)


def test_a_record_that_cannot_be_read_does_not_cost_the_others() -> None:
    """An answer of python-zeroconf: its NSEC record has a compressed name, as RFC 6762 section 18.14 allows."""
    data = (
        b"\x00\x00\x84\x00\x00\x00\x00\x02\x00\x00\x00\x00\rzeroconf-here\x05local\x00\x00\x01\x80\x01\x00\x00\x00x\x00\x04"
        b"\x7f\x00\x00\x01\xc0\x0c\x00/\x80\x01\x00\x00\x00x\x00\x05\xc0\x0c\x00\x01@"
    )
    message = parse_untrusted(data)
    assert message is not None
    assert message.records == (Record("zeroconf-here.local", "127.0.0.1", 120),)


@pytest.mark.parametrize(
    ("host", "is_name"),
    [
        (NAME, True),
        ("printer.local", True),
        ("a.b.local", False),
        ("example.org", False),
        (".local", False),
        ("x" * 64 + ".local", False),
    ],
)
def test_only_single_labels_are_looked_up(host: str, is_name: bool) -> None:
    """The draft's section 3.2.1: names with more dots are another matter."""
    assert is_mdns_name(host) is is_name


def test_modes_are_checked() -> None:
    """In one sentence."""
    with pytest.raises(LocalError, match="'off', 'resolve' or 'publish'"):
        AgentConfig(mdns="yes")  # type: ignore[arg-type]


OTHER_PROCESS = """
import secrets, sys, trio
from iceagent.net import SystemNetwork
from iceagent.net.mdns import open_mdns

async def main():
    async with open_mdns(SystemNetwork(), randbytes=secrets.token_bytes) as mdns:
        await mdns.join(["127.0.0.1"])
        if sys.argv[1:]:
            print(await mdns.resolve(sys.argv[1]), flush=True)
        else:
            print(mdns.publish("127.0.0.1"), flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


async def read_line(stream: trio.abc.ReceiveStream) -> str:
    line = b""
    while not line.endswith(b"\n"):
        piece = await stream.receive_some()
        assert piece, "the other process has ended"
        line += piece
    return line.decode()


async def test_real_multicast_between_two_processes() -> None:
    """On loopback, with the port shared: each process asks for what the other one answers."""
    async with trio.open_nursery() as nursery, open_mdns(SystemNetwork(), randbytes=secrets.token_bytes) as here:
        await here.join(["127.0.0.1"])
        ours = here.publish("127.0.0.1")
        if ours is None:
            pytest.skip("this machine lets nobody join a group on loopback")
        with trio.fail_after(30):
            there = await nursery.start(
                partial(trio.run_process, [sys.executable, "-c", OTHER_PROCESS], stdout=subprocess.PIPE)
            )
            theirs = (await read_line(there.stdout)).strip()
            assert await here.resolve(theirs) == "127.0.0.1"
            asking = await trio.run_process([sys.executable, "-c", OTHER_PROCESS, ours], capture_stdout=True)
            assert asking.stdout.decode().strip() == "127.0.0.1"
        await there.stdout.aclose()
        nursery.cancel_scope.cancel()


async def test_another_implementation_resolves_us_and_is_resolved(tmp_path: Any) -> None:
    """python-zeroconf, of the extra `test`: what we write is understood, and what it writes."""
    pytest.importorskip("zeroconf")
    script = tmp_path / "other.py"
    script.write_text(ZEROCONF)
    async with trio.open_nursery() as nursery, open_mdns(SystemNetwork(), randbytes=secrets.token_bytes) as here:
        await here.join(["127.0.0.1"])
        ours = here.publish("127.0.0.1")
        if ours is None:
            pytest.skip("this machine lets nobody join a group on loopback")
        with trio.fail_after(30):
            there = await nursery.start(
                partial(trio.run_process, [sys.executable, str(script), ours], stdout=subprocess.PIPE)
            )
            theirs, found = (await read_line(there.stdout)).split()
            assert found == "127.0.0.1"
            assert await here.resolve(theirs) == "127.0.0.1"
        await there.stdout.aclose()
        nursery.cancel_scope.cancel()


ZEROCONF = """
import socket, sys, time
from zeroconf import AddressResolverIPv4, ServiceInfo, Zeroconf

zeroconf = Zeroconf(interfaces=["127.0.0.1"])
resolver = AddressResolverIPv4(sys.argv[1] + ".")
found = resolver.request(zeroconf, 5000)
address = socket.inet_ntoa(resolver.addresses[0]) if found else "nothing"
name = "zeroconf-here.local"
kind = "_ice._udp.local."
zeroconf.register_service(
    ServiceInfo(kind, "test." + kind, port=9, server=name + ".", addresses=[socket.inet_aton("127.0.0.1")])
)
print(name, address, flush=True)
time.sleep(60)
"""
