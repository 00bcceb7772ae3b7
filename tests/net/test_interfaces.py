"""The addresses of this machine: which there are, which are used, and what happens when they cannot be listed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio

from iceagent.agent import AgentConfig, Role, open_agent
from iceagent.agent.gather.addresses import MAX_BASES, choose_addresses
from iceagent.net import SystemNetwork, interfaces, monitor
from iceagent.net.api import GATEWAY, INTERNET, InterfaceAddress
from iceagent.net.interfaces import gateway_interfaces, list_interfaces, routed_hosts

NO_NAMESPACES = os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip")
UPLINK = InterfaceAddress("uplink", "192.0.2.5", 24, route_use=INTERNET)
VLANS = [InterfaceAddress(f"vlan{number}", f"10.1.{number}.1", 24) for number in range(20)]


def chosen(*entries: InterfaceAddress) -> list[str]:
    return [entry.host for entry in choose_addresses(entries, AgentConfig())]


def test_what_the_routing_table_uses_is_a_candidate_however_many_there_are() -> None:
    """Twenty VLANs before the uplink used to mean no connection at all."""
    for entries in ([*VLANS, UPLINK], [UPLINK, *VLANS]):
        found = chosen(*entries)
        assert len(found) == MAX_BASES
        assert "192.0.2.5" in found
    six = [InterfaceAddress(f"v{n}", f"2a00:1:{n:x}::1", 64) for n in range(40)]
    both = chosen(*six, *VLANS, UPLINK, InterfaceAddress("up6", "fd00::9", 64, route_use=INTERNET))
    assert {"192.0.2.5", "fd00::9"} <= set(both)


def test_what_leads_to_the_internet_comes_before_what_leads_to_some_network() -> None:
    """Twenty VLANs, each with a route of its own through some gateway, and the uplink."""
    vlans = [InterfaceAddress(f"vlan{number}", f"10.1.{number}.1", 24, route_use=GATEWAY) for number in range(20)]
    assert "192.0.2.5" in chosen(*vlans, UPLINK)
    unused = [InterfaceAddress(f"x{number}", f"10.2.{number}.1", 24) for number in range(20)]
    assert "10.1.7.1" in chosen(*unused, vlans[7], UPLINK)


def test_routed_addresses_come_before_others_of_their_kind() -> None:
    """Of two networks the one that leads out is the likelier one to lead to the peer."""
    assert chosen(VLANS[0], InterfaceAddress("up", "192.168.7.2", 24, route_use=INTERNET))[0] == "192.168.7.2"


def test_deprecated_addresses_are_used_where_a_family_has_no_better() -> None:
    """RFC 4862 section 5.5.4: they are about to go."""
    old = InterfaceAddress("eth0", "2a00:1::1", 64, is_deprecated=True, is_temporary=True)
    lasting = InterfaceAddress("eth0", "2a00:1::2", 64)
    four = InterfaceAddress("eth0", "192.0.2.5", 24)
    assert chosen(old, four) == ["2a00:1::1", "192.0.2.5"]
    assert chosen(old, lasting, four) == ["2a00:1::2", "192.0.2.5"]
    link_local = InterfaceAddress("eth0", "fe80::1%eth0", 64, is_link_local=True)
    assert chosen(old, link_local) == ["2a00:1::1"]  # what reaches this link alone is no better


@pytest.mark.parametrize("host", ["fec0::5", "feff::1", "::192.0.2.5", "::1234", "::ffff:192.0.2.5"])
def test_site_local_and_compatible_addresses_are_no_candidates(host: str) -> None:
    """RFC 8445 section 5.1.1.1; they used to have the highest priorities."""
    assert chosen(InterfaceAddress("eth0", host, 64)) == []
    assert chosen(InterfaceAddress("lo", "::1", 128, is_loopback=True)) == ["::1"]


def test_gateways_are_read_from_the_kernels_tables() -> None:
    """A route through a gateway, be it not the default one, leads beyond the link."""
    route4 = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "up0\t00000000\t0105A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "v1\t0001010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nshort\tline\n"
    )
    zero = "0" * 32
    route6 = f"{zero} 00 {zero} 00 {'f' * 32} 00000400 1 0 00000003 up6\n{zero} 00 {zero} 00 {zero} 1 1 0 00000001 lo\n"
    assert gateway_interfaces(route4, route6) == {"up0", "up6"}


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES])
def test_without_netlink_addresses_come_from_the_routing_table(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """systemd's RestrictAddressFamilies, Android: interfaces cannot be listed, and there is a way out all the same."""

    def refuse() -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(interfaces.ifaddr, "get_adapters", refuse)
    monkeypatch.setattr(interfaces, "routed_hosts", lambda: ["198.51.100.7", "2001:db8::7"])
    found = {entry.host: entry for entry in list_interfaces()}
    assert found["198.51.100.7"].route_use == INTERNET
    assert found["127.0.0.1"].is_loopback
    assert chosen(*found.values()) == ["2001:db8::7", "198.51.100.7"]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_nothing_is_said_of_addresses(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A list without most of them would close the sockets of those that are missing."""

    def refuse() -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(interfaces.ifaddr, "get_adapters", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        list_interfaces()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EPERM])
def test_no_socket_for_a_probe_is_no_route(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A kernel without IPv6, a machine without a default route."""

    def refuse(*_args: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(interfaces.socket, "socket", refuse)
    assert routed_hosts() == []


class Failing:
    """A network whose addresses cannot be listed for a while."""

    def __init__(self) -> None:
        self.entries: list[InterfaceAddress] | None = [UPLINK]

    def interfaces(self) -> list[InterfaceAddress]:
        if self.entries is None:
            raise OSError(errno.EMFILE, "no descriptors left")
        return list(self.entries)


async def test_a_watch_that_cannot_look_goes_on_and_sees_later(autojump_clock: Any) -> None:
    """It is a system task: what it raised ended the whole program with TrioInternalError."""
    network = Failing()
    async with monitor.open_monitor(network) as changes:
        network.entries = None
        await trio.sleep(5)
        network.entries = [UPLINK, VLANS[0]]
        with trio.fail_after(2):
            assert await changes.wait() == {monitor.Change.ADDRESSES}


async def test_a_watch_may_begin_blind(autojump_clock: Any) -> None:
    """The descriptors ran out before the agent was opened."""
    network = Failing()
    network.entries = None
    async with monitor.open_monitor(network) as changes:
        await trio.sleep(1)
        network.entries = [UPLINK]
        with trio.fail_after(3):
            assert await changes.wait() == {monitor.Change.ADDRESSES}


async def test_whatever_a_watch_meets_ends_no_program(autojump_clock: Any, expects_unforeseen: None) -> None:
    """Not every network raises OSError."""
    network = Failing()
    async with monitor.open_monitor(network) as changes:
        network.interfaces = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        await trio.sleep(3)
        del network.interfaces
        network.entries = []
        with trio.fail_after(70):
            assert await changes.wait() == {monitor.Change.ADDRESSES}


class Fragile(SystemNetwork):
    """This machine, whose sockets and addresses may be had or not."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal = 0

    def _check(self) -> None:
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))

    def interfaces(self) -> list[InterfaceAddress]:
        self._check()
        return super().interfaces()

    async def open_udp(self, host: str, port: int = 0) -> Any:
        self._check()
        return await super().open_udp(host, port)

    async def connect_tcp(self, *args: Any, **given: Any) -> Any:
        self._check()
        return await super().connect_tcp(*args, **given)

    async def listen_tcp(self, *args: Any, **given: Any) -> Any:
        self._check()
        return await super().listen_tcp(*args, **given)

    async def open_multicast(self, *args: Any) -> Any:
        self._check()
        return await super().open_multicast(*args)


REFUSALS = ["EMFILE", "ENFILE", "ENOBUFS", "EPERM", "EAFNOSUPPORT", "EADDRNOTAVAIL", "ENODEV", "ENETDOWN", "EINVAL"]


@pytest.mark.parametrize("name", REFUSALS)
async def test_no_refusal_of_the_system_ends_an_agent(name: str) -> None:
    """Each place that opens a socket meets each kind of refusal, then the machine is well again."""
    from iceagent.agent import IceServer

    network = Fragile()
    servers = [
        IceServer("stun:127.0.0.1:9"),
        IceServer("turn:127.0.0.1:9", username="u", credential="p"),
        IceServer("turns:127.0.0.1:9", username="u", credential="p"),
    ]
    config = AgentConfig(
        servers=servers,
        network=network,
        include_loopback=True,
        tcp_candidates=True,
        mdns="publish",
        port_mapping=True,
        auto_restart=True,
    )
    async with open_agent(config, role=Role.CONTROLLING) as agent:
        network.refusal = getattr(errno, name)
        bases = [base.address for base in agent._gatherer.bases]
        agent.add_remote_candidate("candidate:1 1 udp 1 4c8e1a6c-3c7e-4b0d-8f0a-000000000001.local 4000 typ host")
        agent.set_remote_credentials(agent.credentials)
        for change in (monitor.Change.ADDRESSES, monitor.Change.ROUTES, monitor.Change.WOKE):
            await agent._roaming._adapt(frozenset({change}), _Nowhere())  # type: ignore[arg-type]
        agent.restart()
        agent.statistics()
        agent.explain()
        await trio.sleep(0.5)
        assert [base.address for base in agent._gatherer.bases] == bases
        network.refusal = 0
        await trio.sleep(0.1)
        assert agent.state.value not in ("closed", "failed")


class _Nowhere:
    def start_soon(self, *_args: Any) -> None:
        raise AssertionError("no base was to come")


SCRIPT_HEAD = """
import errno, os, resource, subprocess, trio
from iceagent.agent import AgentConfig, Role, open_agent, NetworkChanged

def ip(*args):
    subprocess.run(["ip", *args], check=True)

def wire(name, *addresses):
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    ip("link", "set", f"{name}p", "up")
    ip("link", "set", name, "up")
    for one in addresses:
        ip("addr", "add", *one.split(), "dev", name)

ip("link", "set", "lo", "up")

def hosts(agent):
    return {base.address.host for base in agent._gatherer.bases}
"""


def in_namespace(script: str) -> str:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", SCRIPT_HEAD + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def namespace() -> Callable[[str], str]:
    if NO_NAMESPACES:
        pytest.skip("needs root, unshare and ip")
    return in_namespace


@pytest.mark.root
def test_real_interfaces_twenty_vlans_before_the_uplink(namespace: Callable[[str], str]) -> None:
    """Real kernel: the uplink is there, site-local, compatible and deprecated addresses are not."""
    namespace("""
for number in range(20):
    wire(f"vlan{number}", f"10.1.{number}.1/24")
    ip("route", "add", f"10.2.{number}.0/24", "via", f"10.1.{number}.9")
wire("up0", "192.168.77.2/24", "fec0::5/64 nodad", "::192.0.2.5/120 nodad", "2a00:1::1/64 nodad preferred_lft 0",
      "2a00:1::2/64 nodad")
ip("route", "add", "default", "via", "192.168.77.1")

async def main():
    async with open_agent(AgentConfig(), role=Role.CONTROLLING) as agent:
        found = hosts(agent)
        assert "192.168.77.2" in found, found
        assert "2a00:1::2" in found, found
        assert not found & {"fec0::5", "::c000:205", "::192.0.2.5", "2a00:1::1"}, found
        assert len(found) <= 16

trio.run(main)
""")


@pytest.mark.root
def test_real_interfaces_an_uplink_that_comes_later(namespace: Callable[[str], str]) -> None:
    """Netlink tells of it; of all the networks it is the one that leads out. So it is where the route alone comes."""
    namespace("""
for number in range(20):
    wire(f"vlan{number}", f"10.1.{number}.1/24")

async def until(agent, host):
    with trio.fail_after(20):
        while host not in hosts(agent):
            await trio.sleep(0.05)

async def main():
    async with open_agent(AgentConfig(), role=Role.CONTROLLING) as agent:
        await trio.sleep(0.3)
        wire("up0", "192.168.77.2/24", "fec0::5/64 nodad")
        ip("route", "add", "default", "via", "192.168.77.1")
        await until(agent, "192.168.77.2")
        assert "fec0::5" not in hosts(agent)
        ip("route", "replace", "default", "via", "10.1.19.9")
        await until(agent, "10.1.19.1")

trio.run(main)
""")


@pytest.mark.root
def test_real_descriptors_run_out_while_an_address_comes(namespace: Callable[[str], str]) -> None:
    """It used to end the program with TrioInternalError; now the address is seen once there are descriptors again."""
    namespace("""
wire("up0", "192.168.77.2/24")

async def main():
    async with open_agent(AgentConfig(auto_restart=True), role=Role.CONTROLLING) as agent:
        await trio.sleep(0.3)
        child = subprocess.Popen(["sh", "-c", "read now; ip addr add 192.168.77.3/24 dev up0"], stdin=subprocess.PIPE)
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError as error:
            assert error.errno == errno.EMFILE
        child.stdin.write(b"now\\n")
        child.stdin.flush()
        while child.poll() is None:
            await trio.sleep(0.05)
        await trio.sleep(1)
        assert hosts(agent) == {"192.168.77.2"}
        for one in taken:
            os.close(one)
        with trio.fail_after(20):
            while "192.168.77.3" not in hosts(agent):
                await trio.sleep(0.05)
        child.wait()

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
trio.run(main)
""")


@pytest.mark.root
def test_real_machine_without_any_network(namespace: Callable[[str], str]) -> None:
    """No IPv6, no default route, nothing but loopback: an agent opens, and says what it has."""
    namespace("""
open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w").write("1")

async def main():
    async with open_agent(AgentConfig(), role=Role.CONTROLLING) as agent:
        assert hosts(agent) == {"127.0.0.1"}
        await agent.wait_gathered()

trio.run(main)
""")


@pytest.mark.root
@pytest.mark.parametrize("zone", ["v0", "%25v0", "number"])
def test_real_link_with_nothing_but_link_local_addresses(namespace: Callable[[str], str], zone: str) -> None:
    """Two machines on one cable: the server's URL has a zone, by name, as RFC 6874 writes it, or as a number."""
    namespace(
        f"ZONE = {zone!r}"
        + """
import socket
from iceagent.agent import CandidateType, IceServer, ServerAnswered
from iceagent.core import stun
from iceagent.net import SystemNetwork

wire("v0")
ip("addr", "del", "127.0.0.1/8", "dev", "lo")

async def main():
    await trio.sleep(2)  # for duplicate address detection
    network = SystemNetwork()
    for _ in range(100):
        found = {entry.name: entry.host for entry in network.interfaces()}
        if {"v0", "v0p"} <= set(found):
            break
        await trio.sleep(0.1)
    other = found["v0p"].partition("%")[0]
    zone = {"v0": "%v0", "%25v0": "%25v0"}.get(ZONE) or f"%{socket.if_nametoindex('v0')}"
    server = await network.open_udp(found["v0p"], 3478)

    async def answer():
        while True:
            for batch in await server.receive():
                request = stun.decode(batch.datagrams()[0])
                mapped = stun.XorMappedAddress(batch.remote)
                server.send_nowait([stun.encode(stun.success(request, mapped))], batch.remote)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        config = AgentConfig(servers=[IceServer(f"stun:[{other}{zone}]")], interfaces=["v0"], families=(6,))
        async with open_agent(config, role=Role.CONTROLLING) as agent:
            assert hosts(agent) == {found["v0"]}
            with trio.fail_after(10):
                while not any(isinstance(event, ServerAnswered) for _, event in agent._driver.timeline.entries()):
                    await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    server.close()

trio.run(main)
"""
    )
