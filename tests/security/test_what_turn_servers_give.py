"""What a TURN server gives and says: addresses that are none, or ours; words; refusals of every kind.

Whatever it is, it costs the server its part of the session and nothing else, and what is said of it is true.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from turn_script import CLIENT, Script

from iceagent.agent import Agent, AgentConfig, AgentState, CandidateType, IceServer, Role, VerdictKind, open_agent
from iceagent.agent.gather.relay import RETRY_MAX_S
from iceagent.agent.gather.relayed_addresses import why_useless
from iceagent.core import stun, turn
from iceagent.core.address import TransportAddress, make_address
from iceagent.errors import IceError
from iceagent.session.netcheck.servers import check_others

TURN = IceServer("turn:turn.example?transport=udp", username="george", credential="secret")
METHOD = stun.Method
FAR, NEAR, LINK = make_address("192.0.2.1", 3478), make_address("127.0.0.1", 3478), make_address("fe80::9", 3478)
GIVEN = make_address("192.0.2.15", 50000)
ESCAPES = "\x1b[31mgo away\r\niceagent: connected\x00"


class Server(Script):
    """A server that relays at any address, and has its own words for its refusals."""

    relayed: Callable[[], TransportAddress] = staticmethod(lambda: GIVEN)
    words: str | None = None

    def _success(self, request: stun.Message) -> stun.Message:
        if request.method != METHOD.ALLOCATE:
            return super()._success(request)
        given = (stun.XorRelayedAddress(self.relayed()), stun.XorMappedAddress(CLIENT), stun.Lifetime(600))
        return stun.success(request, *given)

    def answer(self, data: bytes) -> bytes | None:
        if self.words is None:
            return super().answer(data)
        request = stun.decode(data)
        self.asked[request.method] += 1
        return stun.encode(stun.error(request, 403, self.words), fingerprint=False)


class Lab:
    """Two hosts on the internet, the first of which has a TURN server of its own choice."""

    def __init__(self, net: Any, nursery: trio.Nursery) -> None:
        self.net = net
        self.nursery = nursery
        self.server = Server()
        self.hosts = [net.host(net.internet) for _ in range(2)]
        self.agents: list[Agent] = []

    async def serve(self) -> None:
        host = self.net.host(self.net.internet, name="turn.example")
        sock = await host.open_udp("0.0.0.0", 3478)
        while True:
            for batch in await sock.receive():
                for datagram in batch.datagrams():
                    answer = None if turn.is_channel_data(datagram) else self.server.answer(datagram)
                    if answer is not None:
                        sock.send_nowait([answer], batch.remote)

    def config(self, number: int, **options: Any) -> AgentConfig:
        host = self.hosts[number]
        return AgentConfig(network=host, randbytes=host.randbytes, **options)

    async def signal(self, source: Agent, sink: Agent) -> None:
        async for part in source.descriptions():
            sink.accept(part)

    @asynccontextmanager
    async def agents_of(self, **options: Any) -> AsyncIterator[tuple[Agent, Agent]]:
        async with (
            open_agent(self.config(0, servers=[TURN], **options), role=Role.CONTROLLING) as ours,
            open_agent(self.config(1), role=Role.CONTROLLED) as theirs,
            trio.open_nursery() as nursery,
        ):
            self.agents = [ours, theirs]
            nursery.start_soon(self.signal, ours, theirs)
            nursery.start_soon(self.signal, theirs, ours)
            yield ours, theirs
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def laboratory(vnet: Any) -> AsyncIterator[Lab]:
    net = vnet()
    with trio.fail_after(1000):
        async with net, trio.open_nursery() as nursery:
            lab = Lab(net, nursery)
            nursery.start_soon(lab.serve)
            await trio.sleep(0.01)
            yield lab
            nursery.cancel_scope.cancel()


async def failure(agent: Agent) -> str:
    with pytest.raises(IceError) as caught:
        await agent.wait_connected()
    return str(caught.value)


@pytest.mark.parametrize(
    ("relayed", "place", "is_useful"),
    [
        ("192.0.2.15", FAR, True),
        ("192.0.2.15", None, True),
        ("10.0.0.1", FAR, True),  # whoever is there with it
        ("127.0.0.1", NEAR, True),  # all of it on one machine
        ("127.0.0.1", None, True),  # through a proxy, which may be there
        ("fe80::8", LINK, True),
        ("127.0.0.1", FAR, False),
        ("169.254.169.254", FAR, False),
        ("fe80::8", FAR, False),
        ("fe80::8", NEAR, False),
        ("0.0.0.0", NEAR, False),
        ("255.255.255.255", FAR, False),
        ("224.0.0.251", FAR, False),
        ("::", FAR, False),
        ("ff02::1", LINK, False),
    ],
)
def test_trap_74_an_address_that_nobody_can_send_to_is_useless(
    relayed: str, place: TransportAddress | None, is_useful: bool
) -> None:
    """Whoever is at loopback, or on a link, may relay there; a server elsewhere does not know its own address."""
    address = make_address(relayed, 50000)
    assert bool(why_useless(address, place, ())) is not is_useful
    assert why_useless(make_address(relayed, 0), place, ())
    assert why_useless(address, place, (address,))


async def test_trap_74_a_relayed_address_takes_no_socket_of_ours_away(vnet: Any) -> None:
    """What we send and receive there would go through the server, and end with it: it knows where we are."""
    async with laboratory(vnet) as lab:

        def of_a_socket() -> TransportAddress:
            hosts = [one for one in lab.agents[0]._driver.sockets if one.host == lab.hosts[0].address]
            return hosts[0] if hosts else GIVEN

        lab.server.relayed = of_a_socket
        async with lab.agents_of() as (ours, theirs):
            await trio.sleep(1)
            assert lab.server.asked[METHOD.ALLOCATE] > 1
            await ours.wait_connected()
            await theirs.wait_connected()
            assert of_a_socket() != GIVEN
            assert type(ours._driver.sockets[of_a_socket()]).__name__ == "VirtualUdpSocket"
            pair = ours.selected_pair
            assert pair is not None
            assert pair.local.type is CandidateType.HOST


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "224.0.0.1"])
async def test_a_server_that_does_not_know_its_address_is_told_as_that(vnet: Any, host: str) -> None:
    """The configuration here was blamed, or this machine for having no network."""
    async with laboratory(vnet) as lab:
        lab.server.relayed = lambda: make_address(host, 50000)
        async with lab.agents_of(transport_policy="relay") as (ours, _):
            await failure(ours)
            found = ours.explain()
            assert found.kind is VerdictKind.RELAY_UNREACHABLE
            assert f"{host}:50000" in found.summary
            assert "whoever runs it" in found.remedy.lower()
            assert not any("of the peer left out" in line for line in found.evidence)
            assert lab.server.asked[METHOD.REFRESH], "it is given back"


async def test_a_relay_that_is_lost_is_not_blamed_on_the_configuration(vnet: Any) -> None:
    """Only relayed addresses are allowed, and the only one is gone."""
    async with laboratory(vnet) as lab:
        lab.server.lifetime_s = 2
        lab.server.answers[METHOD.REFRESH] = 400
        lab.server.relayed = lambda: GIVEN
        async with lab.agents_of(transport_policy="relay") as (ours, _):
            await trio.sleep(1)
            lab.server.answers[METHOD.ALLOCATE] = 508
            await failure(ours)
            assert ours.state is AgentState.FAILED
            found = ours.explain()
            assert found.kind is VerdictKind.RELAY_REFUSED
            assert "508" in found.summary


@pytest.mark.parametrize("code", [400, 441, 403])
async def test_a_refusal_to_relay_is_told_with_its_own_code(vnet: Any, code: int) -> None:
    """403 is said of what the server's policy forbids; not of a server that does not understand, or has a bad day."""
    async with laboratory(vnet) as lab:
        lab.server.answers[METHOD.CREATE_PERMISSION] = code
        async with lab.agents_of(transport_policy="relay") as (ours, _):
            await failure(ours)
            found = ours.explain()
            said = " ".join((found.summary, *found.evidence))
            assert ("403" in said) is (code == 403)


async def test_trap_44_no_word_of_a_server_is_obeyed_by_a_terminal(vnet: Any) -> None:
    """A program that uses the library prints errors and verdicts as they are."""
    async with laboratory(vnet) as lab:
        lab.server.words = ESCAPES
        async with lab.agents_of(transport_policy="relay") as (ours, _):
            said = await failure(ours)
            found = ours.explain()
            assert any("go away" in line for line in found.evidence)
            for line in (said, str(found), found.summary, *found.evidence):
                assert all(one.isprintable() or one == "\n" for one in line)
            assert not any("\n" in line for line in found.evidence)


async def test_the_failure_of_an_agent_without_candidates_is_not_called_one_of_the_machine(vnet: Any) -> None:
    """It has an address, and may not use it."""
    async with laboratory(vnet) as lab:
        lab.server.words = "no"
        async with lab.agents_of(transport_policy="relay") as (ours, _):
            assert "has no usable network address" not in await failure(ours)


async def test_an_allocation_that_never_lasts_is_asked_for_ever_more_seldom(vnet: Any) -> None:
    """A server that knows nothing of what it gave a moment ago was asked again at once, a hundred times a second."""
    async with laboratory(vnet) as lab:
        lab.server.answers[METHOD.CREATE_PERMISSION] = 437
        async with lab.agents_of() as (ours, _):
            await ours.wait_connected()
            await trio.sleep(600)
            assert 10 < lab.server.asked[METHOD.ALLOCATE] < 2 * (600 / RETRY_MAX_S + 20)


async def test_netcheck_calls_no_server_well_that_relays_where_nobody_can_send(vnet: Any) -> None:
    """`netcheck` is where one looks when `--relay-only` finds no path."""
    async with laboratory(vnet) as lab:
        lab.server.relayed = lambda: make_address("0.0.0.0", 50000)
        (found,) = await check_others(lab.hosts[0], [TURN])
        assert not found.ok
        assert "0.0.0.0:50000" in found.detail
        lab.server.relayed = lambda: GIVEN
        (found,) = await check_others(lab.hosts[0], [TURN])
        assert found.ok
