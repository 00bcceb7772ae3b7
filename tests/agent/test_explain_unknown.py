"""Unknown is an answer: where the evidence fits more than one cause, no reason is given."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from virtual_sites import STUN, TURN, TURN_TCP, USER, Site, assert_verdict, site

from iceagent.agent import AgentState, IceServer, RelayReason, Verdict, VerdictKind
from iceagent.agent.report.events import ServerAnswered
from iceagent.core.ice import CandidateType
from iceagent.vnet import FULL_CONE, MASQUERADE, PORT_RESTRICTED, SYMMETRIC, UDP_BLOCKED, Nat

DEAD = IceServer("stun:dead.example:3478")
ONLY_TCP = IceServer("turn:turn.example?transport=tcp", username=USER, credential=TURN.credential)
EARLIER_S = 0.3  # how long bob hears of alice before she hears of him


def blames_a_nat(verdict: Verdict) -> bool:
    reasons = (RelayReason.ONE_MAPS_PER_DESTINATION, RelayReason.BOTH_MAP_PER_DESTINATION)
    kinds = (VerdictKind.ONE_MAPS_PER_DESTINATION, VerdictKind.BOTH_MAP_PER_DESTINATION)
    takes = any("takes another port for each destination" in line for line in verdict.evidence)
    return verdict.because in reasons or verdict.kind in kinds or takes


async def relayed_verdicts(town: Site) -> list[Verdict]:
    """Introduce alice to bob, and a moment later bob to alice; return what both say as soon as they are connected."""
    town.tell(town.alice, town.bob)
    await trio.sleep(EARLIER_S)
    town.tell(town.bob, town.alice)
    for agent in town.agents:
        await agent.wait_connected()
    verdicts = []
    for agent in town.agents:
        while agent.selected_pair is None:
            await trio.sleep(0.05)
        verdicts.append(agent.explain())
    return verdicts


@pytest.mark.parametrize("nats", [(MASQUERADE, PORT_RESTRICTED), (MASQUERADE, MASQUERADE)], ids=["one", "both"])
async def test_a_port_that_something_holds_is_no_symmetric_nat(vnet: Any, nats: tuple[Nat, Nat]) -> None:
    """A gateway that accepts input shows the peer another port than the server, for the two seconds until it heals."""
    async with site(vnet(), *nats) as town:
        await town.serve_turn()
        await town.open_both(TURN)
        verdicts = await relayed_verdicts(town)
        assert {verdict.because for verdict in verdicts} == {RelayReason.NO_DIRECT_ANSWER}
        assert not any(map(blames_a_nat, verdicts)), verdicts
        assert any("or something holds that port" in line for one in verdicts for line in one.evidence), verdicts


async def test_with_one_server_a_symmetric_nat_is_not_told_from_a_held_port(vnet: Any) -> None:
    """The evidence is the same as that of a held port; the remedy helps against both."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.serve_turn()
        await town.open_both(TURN)
        verdicts = await relayed_verdicts(town)
        assert not any(map(blames_a_nat, verdicts))
        assert all("hard_nat" in verdict.remedy for verdict in verdicts)


async def test_a_nat_that_was_restarted_is_no_symmetric_one(vnet: Any) -> None:
    """The peer's checks come from another port than it told, since its gateway has forgotten the one it told."""
    async with site(vnet(), PORT_RESTRICTED, Nat(port_allocation="random")) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        await trio.sleep(5)
        town.homes[1].reboot()
        for _ in range(60):
            assert not any(blames_a_nat(agent.explain()) for agent in town.agents)
            await trio.sleep(1)


async def test_what_the_peers_servers_told_before_and_after_its_nat_was_restarted_is_no_evidence(vnet: Any) -> None:
    """After a restart it tells the port of before at once, that of now a moment later: one NAT in two states."""
    async with site(vnet(), SYMMETRIC, Nat(port_allocation="random")) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        town.homes[1].reboot()
        town.bob.restart()
        town.tell(town.bob, town.alice)
        await trio.sleep(0.01)
        town.tell(town.alice, town.bob)
        told = set()
        for _ in range(100):
            await trio.sleep(0.05)
            verdict = town.alice.explain()
            assert verdict.because is not RelayReason.BOTH_MAP_PER_DESTINATION, str(verdict)
            assert not any(line.startswith("the peer's NAT takes another port") for line in verdict.evidence)
            told |= {one.address for one in town.alice._driver.ice.remote_candidates if one.type is CandidateType.SRFLX}
        assert verdict.because is RelayReason.ONE_MAPS_PER_DESTINATION, "ours"
        assert len(told) == 2, "both the old and the new port were to be told"


@pytest.mark.parametrize("restarts", [0, 1])
async def test_ports_that_the_peer_told_together_are_evidence_after_a_restart_too(vnet: Any, restarts: int) -> None:
    """What was learned at one time stays learned, and a symmetric NAT is still called one."""
    async with site(vnet(), PORT_RESTRICTED, SYMMETRIC) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        for _ in range(restarts):
            await trio.sleep(10)
            town.bob.restart()
            town.tell(town.bob, town.alice)
            await trio.sleep(0.01)
            town.tell(town.alice, town.bob)
            await trio.sleep(10)
        verdict = town.alice.explain()
        assert verdict.because is RelayReason.ONE_MAPS_PER_DESTINATION, str(verdict)
        assert any(line.startswith("the peer's NAT takes another port") for line in verdict.evidence), str(verdict)


async def test_what_servers_told_before_the_address_changed_is_no_evidence(vnet: Any) -> None:
    """The old network's NAT was symmetric; of the new one nothing is known but what is told anew."""
    async with site(vnet(), SYMMETRIC, PORT_RESTRICTED) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN, auto_restart=True)
        await town.connect()
        assert town.alice.explain().because is RelayReason.ONE_MAPS_PER_DESTINATION
        town.hosts[0].move(town.net.router(town.net.internet, nat=PORT_RESTRICTED))
        for _ in range(40):
            await trio.sleep(0.5)
            verdict = town.alice.explain()
            ours = [line for line in verdict.evidence if line.startswith("our NAT takes another port")]
            assert not ours, verdict


@pytest.mark.parametrize("change", ["reboot", "renew"])
async def test_an_answer_of_before_and_one_of_after_a_routers_restart_are_no_evidence(vnet: Any, change: str) -> None:
    """One server's answer got lost, and came when the router had forgotten the port, or had another address."""
    async with site(vnet(), Nat(port_allocation="random"), SYMMETRIC) as town:
        (second,) = (host for host in town.net.hosts() if host.name == "two.example")
        second.partition()
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await trio.sleep(1.3 if change == "reboot" else 0.1)
        getattr(town.homes[0], change)()
        second.heal()
        await trio.sleep(0.5)
        seen = [event for _, event in town.alice._driver.timeline.latest(ServerAnswered)]
        assert len({event.server for event in seen}) == 3
        assert len({event.mapped for event in seen}) == 2
        town.introduce()
        for _ in range(60):
            assert not any(line.startswith("our NAT takes") for line in town.alice.explain().evidence)
            await trio.sleep(0.1)


async def test_what_the_peers_servers_saw_before_and_after_its_routers_restart_is_no_evidence(vnet: Any) -> None:
    """One answer was lost, and came a second and a half after the other: late enough for a restart in between."""
    async with site(vnet(), SYMMETRIC, Nat(port_allocation="random")) as town:
        (second,) = (host for host in town.net.hosts() if host.name == "two.example")
        second.partition()
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        town.introduce()
        await trio.sleep(1.3)
        town.homes[1].reboot()
        second.heal()
        await trio.sleep(0.5)
        told = [one for one in town.alice._driver.ice.remote_candidates if one.type is CandidateType.SRFLX]
        assert len({one.address for one in told}) == 2
        for _ in range(60):
            assert not any(line.startswith("the peer's NAT takes") for line in town.alice.explain().evidence)
            await trio.sleep(0.1)


async def test_a_dead_server_and_a_relay_over_tcp_do_not_mean_that_udp_is_blocked(vnet: Any) -> None:
    """Nothing answers over UDP, since nothing that was asked over UDP is there."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        town.net.add_name("dead.example", "203.0.113.250")
        await town.serve_turn(tcp=True)
        await town.open_both(DEAD, ONLY_TCP)
        await town.connect()
        verdict = town.alice.explain()
        assert verdict.kind is VerdictKind.RELAYED
        assert verdict.because is not RelayReason.UDP_BLOCKED, str(verdict)


async def test_udp_is_not_blocked_where_anything_answers_over_it(vnet: Any) -> None:
    """The peer's own checks are enough of an answer, whatever servers say."""
    async with site(vnet(), PORT_RESTRICTED, FULL_CONE, stun=False) as town:
        await town.serve_turn(tcp=True)
        await town.open(0, servers=[*STUN, ONLY_TCP], candidate_types=("host", "relay"))
        await town.open(1, servers=[*STUN, TURN])
        await town.connect()
        for agent in town.agents:
            verdict = agent.explain()
            assert verdict.because is not RelayReason.UDP_BLOCKED, str(verdict)


async def test_dead_servers_are_not_taken_for_a_blocked_network(vnet: Any) -> None:
    """Neither the peer nor a server answers: that has two explanations, and the sentence names both."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, stun=False) as town:
        await town.open_both(*STUN)
        town.introduce()
        verdict = await town.fail()
        assert_verdict(verdict, VerdictKind.NO_UDP_EGRESS, "0 of 2 servers answered over UDP")
        assert "or the servers are down" in verdict.summary


async def test_one_dead_server_and_a_dead_peer_say_nothing_of_this_network(vnet: Any) -> None:
    """Two unknowns are no evidence; what is known is that no check of the peer's has come."""
    async with site(vnet(), None, None, stun=False) as town:
        await town.open_both(STUN[0])
        town.hosts[1].partition()
        town.introduce()
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.PEER_NEVER_CHECKED, "it, the peer or this network may be why")
        assert "UDP" not in verdict.summary


async def test_where_the_same_server_answers_over_tcp_udp_is_blocked_for_sure(vnet: Any) -> None:
    """That is evidence: it is up, and only UDP does not get there."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, firewalls=(UDP_BLOCKED, None)) as town:
        await town.serve_turn(tcp=True)
        await town.open_both(TURN_TCP)
        await town.connect()
        assert town.alice.explain().because is RelayReason.UDP_BLOCKED


async def test_two_private_sides_without_a_server_are_told_so(vnet: Any) -> None:
    """Nobody has told either of them how others see it; no firewall and no NAT is to blame for that."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both()
        town.introduce()
        verdict = await town.fail()
        assert_verdict(verdict, VerdictKind.NO_PATH)
        assert verdict.summary.startswith("Both sides have private addresses alone, and no STUN server has shown")


async def test_a_path_that_went_with_our_own_interface_is_not_the_peers_fault(vnet: Any) -> None:
    """Until the end and after it: the peer could not have answered."""
    async with site(vnet(), FULL_CONE, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        await town.connect()
        await trio.sleep(5)
        town.hosts[0].detach()
        verdict = await town.fail(town.alice)
        assert town.alice.state is AgentState.FAILED
        assert_verdict(verdict, VerdictKind.NETWORK_CHANGED, "192.168.1.2 is gone")
        assert verdict.summary.startswith("This machine lost its address 192.168.1.2")
