"""Verdicts on agents that are connected, or were: why it is relayed, what was lost, what the gateway does."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from virtual_sites import STUN, TURN, TURN_TCP, Site, assert_verdict, site

from iceagent.agent import AgentState, CandidateType, IceServer, RelayReason, ServerAnswered, VerdictKind
from iceagent.agent.report.events import NetworkChanged, RelayAllocated
from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.net.gateway import Gateway
from iceagent.vnet import FULL_CONE, PORT_RESTRICTED, STATEFUL, SYMMETRIC, UDP_BLOCKED


async def test_connected_directly(vnet: Any) -> None:
    """The good news: family, kinds and round trip."""
    async with site(vnet(), FULL_CONE, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        await town.connect()
        verdict = town.alice.explain()
        assert_verdict(verdict, VerdictKind.CONNECTED, "state completed", "answered over IPv4")
        assert verdict.because is None
        assert town.alice.relayed_because is None


async def relayed(town: Site, reason: RelayReason, *facts: str) -> None:
    """Check that alice is relayed for a reason, in her verdict and on her path line."""
    verdict = town.alice.explain()
    assert_verdict(verdict, VerdictKind.RELAYED, *facts)
    assert verdict.because is reason, str(verdict)
    assert town.alice.relayed_because is not None
    assert town.alice.relayed_because in verdict.summary


async def test_relayed_because_the_policy_says_so(vnet: Any) -> None:
    """Who asked for it gets it, and is told that it was the asking."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.serve_turn()
        await town.open_both(TURN, transport_policy="relay")
        await town.connect()
        await relayed(town, RelayReason.POLICY, "transport_policy='relay'")


async def test_relayed_because_the_peer_offers_nothing_else(vnet: Any) -> None:
    """The other side's policy is seen from here by what it offers."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.serve_turn()
        await town.open(0, servers=[*STUN])
        await town.open(1, servers=[TURN], transport_policy="relay")
        await town.connect()
        await relayed(town, RelayReason.PEER_RELAYS_ONLY)


async def test_a_peer_that_offers_direct_candidates_for_one_component_does_not_relay_only(vnet: Any) -> None:
    """Those of the other may have been lost with its servers' answers: nothing shows why it is relayed."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.serve_turn()
        await town.open_both(TURN, streams=(2,))
        for one, other in ((town.alice, town.bob), (town.bob, town.alice)):
            one.set_remote_credentials(other.credentials, options=other.options)
            async for candidate in other.local_candidates():
                if candidate.component == 1 or candidate.type is CandidateType.RELAY:
                    one.add_remote_candidate(candidate.to_sdp())
            one.add_remote_candidate(None)
        await town.alice.wait_connected()
        whole, relayed_only = town.alice.streams[0].components
        assert whole.explain().because is None
        verdict = relayed_only.explain()
        assert verdict.kind is VerdictKind.RELAYED
        assert verdict.because is not RelayReason.PEER_RELAYS_ONLY, str(verdict)


async def test_relayed_because_direct_candidates_of_the_peer_are_filtered(vnet: Any) -> None:
    """Here it is this side's own configuration, and it would look like the peer's."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.serve_turn()
        server = town.turn.address
        await town.open_both(*STUN, TURN, alice={"remote_prefixes": [f"{server}/32"]})
        await town.connect()
        await relayed(town, RelayReason.DIRECT_FILTERED, "remote candidate (remote_prefixes)")


async def test_relayed_because_udp_does_not_get_out(vnet: Any) -> None:
    """TCP to the relay does."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, firewalls=(UDP_BLOCKED, None)) as town:
        await town.serve_turn(tcp=True)
        await town.open_both(*STUN, TURN_TCP)
        await town.connect()
        await relayed(town, RelayReason.UDP_BLOCKED, "no answer over UDP of")


async def test_a_turn_server_that_refuses_over_udp_has_been_heard_over_udp(vnet: Any) -> None:
    """It relays over TCP alone, and no STUN server was asked: its very refusal shows that UDP gets out."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, firewalls=(None, UDP_BLOCKED), stun=False) as town:
        await town.serve_script(486)
        elsewhere, usual = (TransportAddress(town.turn.address, port) for port in (3479, 3478))
        await town.serve_turn(listen=[elsewhere], tcp_listen=[usual])
        await town.open_both(TURN_TCP, candidate_types=("host", "relay"))
        await town.connect()
        verdict = town.alice.explain()
        assert verdict.kind is VerdictKind.RELAYED
        assert verdict.because is not RelayReason.UDP_BLOCKED, str(verdict)
        assert town.bob.explain().because is RelayReason.UDP_BLOCKED


async def test_what_one_component_hears_over_udp_gets_into_this_machine(vnet: Any) -> None:
    """A line that loses much may have cost the other component all its answers."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, firewalls=(UDP_BLOCKED, None)) as town:
        await town.serve_turn(tcp=True)
        await town.open_both(*STUN, TURN_TCP, streams=(2,))
        await town.connect()
        await relayed(town, RelayReason.UDP_BLOCKED, "no answer over UDP of")
        (stream,) = town.alice.streams
        other = stream.components[1]
        base = other.gatherer.bases[0].address
        heard = ServerAnswered(STUN[0].url, base, TransportAddress("203.0.113.9", 9), 0.1, base)
        other.driver.note(heard)
        verdict = town.alice.explain()
        assert verdict.kind is VerdictKind.RELAYED
        assert verdict.because is not RelayReason.UDP_BLOCKED, str(verdict)


async def test_a_socket_that_is_gone_with_its_interface_may_have_heard_something_over_udp(vnet: Any) -> None:
    """The interface was off for a moment, and the relay over TCP lived through it: UDP is as open as it was."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, firewalls=(UDP_BLOCKED, None)) as town:
        await town.serve_turn(tcp=True)
        await town.open_both(*STUN, TURN_TCP)
        await town.connect()
        await relayed(town, RelayReason.UDP_BLOCKED, "no answer over UDP of")
        (stream,) = town.alice.streams
        driver = stream.components[0].driver
        gone = TransportAddress("192.168.7.7", 7)
        driver.note(ServerAnswered(STUN[0].url, gone, TransportAddress("203.0.113.9", 9), 0.1, gone))
        await trio.sleep(0.1)
        driver.note(NetworkChanged(("addresses",), (gone,), ()))
        assert town.alice.explain().because is not RelayReason.UDP_BLOCKED
        # On another network, where the relay was found anew after UDP had been tried, it says nothing.
        pair = town.alice.selected_pair
        assert pair is not None
        allocated = next(one for _, one in driver.timeline.latest(RelayAllocated) if one.address == pair.local.base)
        await trio.sleep(0.1)
        driver.note(allocated)
        await relayed(town, RelayReason.UDP_BLOCKED, "no answer over UDP of")


async def test_relayed_because_both_nats_map_per_destination(vnet: Any) -> None:
    """The words of the path line that everybody has seen."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        await relayed(town, RelayReason.BOTH_MAP_PER_DESTINATION, "our NAT takes another", "the peer's NAT takes")
        assert town.alice.relayed_because == "both NATs map per destination"


async def test_relayed_because_one_nat_maps_per_destination(vnet: Any) -> None:
    """And the other side filters by port."""
    async with site(vnet(), SYMMETRIC, PORT_RESTRICTED) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        await relayed(town, RelayReason.ONE_MAPS_PER_DESTINATION, "our NAT takes another port")


async def test_relayed_because_there_is_no_ip_version_in_common(vnet: Any) -> None:
    """A relay with both versions stands in between."""
    async with site(vnet(families=(4, 6)), None, None, families=((4,), (6,))) as town:
        addresses = [TransportAddress(host, 3478) for host in town.turn.addresses()]
        await town.serve_turn(listen=addresses, allow_peers=["0.0.0.0/0", "::/0"])
        await town.open_both(*STUN, TURN)
        await town.connect()
        await relayed(town, RelayReason.NO_COMMON_FAMILY, "direct candidates here: IPv4; the peer's: IPv6")


async def test_relayed_because_nobody_knows_a_public_address(vnet: Any) -> None:
    """Neither side has a STUN server, which a relay over TCP does not make up for."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.serve_turn(tcp=True)
        tcp = IceServer("turn:turn.example?transport=tcp", username=TURN.username, credential=TURN.credential)
        await town.open_both(tcp)
        await town.connect()
        await relayed(town, RelayReason.NO_PUBLIC_ADDRESS)


async def test_relayed_because_no_direct_path_answers(vnet: Any) -> None:
    """Nothing but firewalls in between: no NAT is blamed for sure."""
    async with site(vnet(), None, None, firewalls=(STATEFUL, STATEFUL)) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        for home in town.homes:
            home.firewall = None
        town.homes[1].link.down.loss = 0.0
        block_direct(town)
        await town.connect()
        await relayed(town, RelayReason.NO_DIRECT_ANSWER)


def block_direct(town: Site) -> None:
    """Let nothing pass between the two machines themselves, as a provider's filter does."""
    for home, other in zip(town.homes, reversed(town.hosts), strict=True):
        handle, address = home.handle_packet, other.address

        def filtered(now: float, packet: Any, interface: Any, handle: Any = handle, address: str = address) -> None:
            if address not in (packet.source.host, packet.destination.host):
                handle(now, packet, interface)

        home.handle_packet = filtered  # type: ignore[method-assign, assignment]


async def test_relayed_because_the_direct_path_was_lost(vnet: Any) -> None:
    """It was direct, and is relayed since something in between broke."""
    async with site(vnet(), None, None) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        await trio.sleep(10)
        block_direct(town)
        pair = town.alice.selected_pair
        while pair is None or CandidateType.RELAY not in (pair.local.type, pair.remote.type):
            await trio.sleep(0.5)
            pair = town.alice.selected_pair
        await relayed(town, RelayReason.DIRECT_PATH_LOST, "a direct path, host to host, was taken")


# What was lost


async def test_silent_then_consent_lost(vnet: Any) -> None:
    """A peer that vanishes: first it may come back, then it is given up."""
    async with site(vnet(), FULL_CONE, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        await town.connect()
        town.hosts[1].partition()
        while town.alice.state is not AgentState.DISCONNECTED:
            await trio.sleep(0.5)
        assert_verdict(town.alice.explain(), VerdictKind.SILENT)
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.CONSENT_LOST, "expired, after 30 s without an answer")


async def test_the_peer_revokes_its_consent(vnet: Any) -> None:
    """403 to a consent check means that the peer wants nothing more (RFC 7675 section 5.2)."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.open_both(*STUN)
        await town.connect()
        revoke(town)
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.CONSENT_REVOKED, "revoked")


def revoke(town: Site) -> None:
    core = town.bob._driver.ice
    handle = core.handle_datagram

    def answer(now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> Any:
        message = stun.decode(data) if stun.looks_like_stun(data) else None
        if message is None or message.message_class is not stun.MessageClass.REQUEST:
            return handle(now, local, remote, data)
        key = stun.short_term_key(core.credentials.pwd)
        town.bob._driver.sockets[local].send_nowait([stun.encode(stun.error(message, 403), key=key)], remote)
        return handle(now, local, remote, b"\x80")

    core.handle_datagram = answer  # type: ignore[method-assign]


async def test_a_restart_that_nobody_answers(vnet: Any) -> None:
    """Signaling is gone: data flows on, but whoever waits for the restart waits for ever."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.open_both(*STUN)
        await town.connect()
        town.alice.restart()
        assert_verdict(town.alice.explain(), VerdictKind.CONNECTED)
        await trio.sleep(12)
        assert town.alice.state is AgentState.COMPLETED
        assert_verdict(town.alice.explain(), VerdictKind.RESTART_UNANSWERED, "restart begun 12 s ago")
        town.hosts[1].partition()
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.RESTART_UNANSWERED, "no credentials of the peer have come since")


async def test_the_network_changed_underneath(vnet: Any) -> None:
    """The laptop was carried out of the house; the verdict is not that the peer fell silent."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.open_both(*STUN)
        await town.connect()
        await trio.sleep(5)
        town.hosts[0].detach()
        await trio.sleep(3)
        assert_verdict(town.alice.explain(), VerdictKind.NETWORK_CHANGED, "192.168.1.2 is gone")


async def test_the_only_relay_is_lost(vnet: Any) -> None:
    """The server died, and nothing else works between these two."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN, alice={"servers": STUN})
        await town.connect()
        assert town.alice.explain().kind is VerdictKind.RELAYED
        town.servers["turn"].cancel()
        verdict = await town.fail(town.bob)
        assert verdict.kind in (VerdictKind.PATH_LOST, VerdictKind.CONSENT_LOST)
        assert any("the relay at" in line for line in verdict.evidence), str(verdict)


# The gateway


@pytest.mark.parametrize("answers", [True, False], ids=["maps", "silent"])
async def test_port_mappings_are_evidence(vnet: Any, answers: bool) -> None:
    """Whether a router would open ports is the first question when a direct path is wanted."""
    from gateway import Gateway as Machine

    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        box = town.net.host(town.homes[0], name="box")
        machine = Machine(external_host="100.64.0.9")

        async def gateways() -> list[Gateway]:
            return [Gateway(box.address, "eth0")]

        async def serve() -> None:
            sock = await box.open_udp(box.address, 5351)
            try:
                while True:
                    for batch in await sock.receive():
                        answer = machine.answer(trio.current_time(), batch.remote.host, batch.data)
                        if answer is not None:
                            sock.send_nowait([answer], batch.remote)
            finally:
                sock.close()

        town.hosts[0].gateways = gateways  # type: ignore[attr-defined]
        if answers:
            town.nursery.start_soon(serve)
        await trio.sleep(0.01)
        alice = await town.open(0, servers=STUN, port_mapping=True)
        await trio.sleep(20)
        facts = "\n".join(alice.explain().evidence)
        expected = "which is no public address" if answers else "the gateway maps no port by"
        assert expected in facts, facts
