"""Verdicts on agents that never got together: each situation is made by NATs, firewalls and servers, not by events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from virtual_sites import STUN, TURN, Site, assert_verdict, site

from iceagent.agent import Candidate, Credentials, IceServer, VerdictKind
from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice import host_candidate
from iceagent.core.turn.server.limits import TurnLimits
from iceagent.vnet import FULL_CONE, PORT_RESTRICTED, STATEFUL, SYMMETRIC, UDP_BLOCKED, Firewall


async def test_no_address_at_all(vnet: Any) -> None:
    """A laptop in flight mode."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        town.hosts[0].detach()
        await town.open_both(*STUN)
        town.introduce()
        assert_verdict(await town.fail(town.alice), VerdictKind.NO_LOCAL_ADDRESS, "1 host")


@pytest.mark.parametrize("options", [{"interfaces": ["wlan*"]}, {"families": [6]}, {"prefixes": ["10.0.0.0/8"]}])
async def test_the_policy_leaves_no_address_here(vnet: Any, options: dict[str, Any]) -> None:
    """The field that forbids is named, or nobody finds it."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        alice = await town.open(0, **options)
        assert_verdict(alice.explain(), VerdictKind.FILTERED_BY_POLICY, next(iter(options)))


@pytest.mark.parametrize("options", [{"remote_prefixes": ["10.0.0.0/8"]}, {"remote_filter": lambda address: False}])
async def test_the_policy_leaves_nothing_of_the_peer(vnet: Any, options: dict[str, Any]) -> None:
    """Else it looks as if the peer had sent nothing."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(*STUN, alice=options)
        town.introduce()
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.FILTERED_BY_POLICY, f"remote candidate ({next(iter(options))})")
        assert "peer's" in verdict.summary


async def test_nothing_has_come_of_the_peer(vnet: Any) -> None:
    """Before signaling, the verdict is about signaling: first the credentials, then the candidates."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        assert_verdict(town.alice.explain(), VerdictKind.WAITING_FOR_CREDENTIALS)
        town.alice.set_remote_credentials(town.bob.credentials)
        assert_verdict(town.alice.explain(), VerdictKind.WAITING_FOR_CANDIDATES)
        assert_verdict(await town.fail(town.alice), VerdictKind.WAITING_FOR_CANDIDATES)


async def test_paths_are_being_tried(vnet: Any) -> None:
    """Impatience is answered with what is under way."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.open_both(*STUN)
        town.introduce()
        await trio.sleep(2)
        assert_verdict(town.alice.explain(), VerdictKind.CHECKING, "our NAT takes another port", "checks sent")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("candidate:1 1 udp 2130706431 nobody-knows.local 5000 typ host", VerdictKind.UNUSABLE_CANDIDATES),
        ("candidate:1 1 udp 2130706431 0.0.0.0 5000 typ host", VerdictKind.UNUSABLE_CANDIDATES),
    ],
)
async def test_nothing_the_peer_sent_can_be_used(vnet: Any, text: str, kind: VerdictKind) -> None:
    """It did send something: whoever is told to wait for candidates looks in the wrong place."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        town.alice.set_remote_credentials(town.bob.credentials)
        town.alice.add_remote_candidate(text)
        town.alice.add_remote_candidate(None)
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, kind, "left out")


async def test_no_ip_version_in_common(vnet: Any) -> None:
    """A phone without IPv4 and an office without IPv6."""
    async with site(vnet(families=(4, 6)), None, None, families=((4,), (6,))) as town:
        await town.open_both(*STUN)
        town.introduce()
        verdict = await town.fail()
        assert_verdict(verdict, VerdictKind.NO_COMMON_FAMILY)
        assert verdict.summary == "We have IPv4 addresses, the peer only IPv6."


async def test_no_name_resolves(vnet: Any) -> None:
    """Without names there are no servers, and without servers no public address."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(IceServer("stun:missing.example"), IceServer("stun:gone.example"))
        town.introduce()
        assert_verdict(await town.fail(), VerdictKind.NO_NAME_RESOLUTION, "2 server names did not resolve")


async def test_udp_does_not_get_out(vnet: Any) -> None:
    """The network of many an office; on the other side nothing is wrong, and its verdict says something else."""
    async with site(vnet(), PORT_RESTRICTED, FULL_CONE, firewalls=(UDP_BLOCKED, None)) as town:
        await town.open_both(*STUN)
        town.introduce()
        verdict = await town.fail()
        assert_verdict(verdict, VerdictKind.NO_UDP_EGRESS, "0 of 2 servers answered over UDP", "no answer within 5 s")
        assert_verdict(town.bob.explain(), VerdictKind.PEER_NEVER_CHECKED, "answered over IPv4")


@pytest.mark.parametrize(
    ("working", "kind"), [(4, VerdictKind.STUN_IPV4_ONLY), (6, VerdictKind.STUN_IPV6_ONLY)], ids=["IPv4", "IPv6"]
)
async def test_one_ip_version_does_not_get_out(vnet: Any, working: int, kind: VerdictKind) -> None:
    """This machine has addresses of both, so it seems to have both; and the peer has the other one only."""
    broken = 10 - working
    async with site(vnet(families=(4, 6)), None, None, families=((working,), (broken,))) as town:
        dead_end = town.net.router(town.net.internet, families=(broken,))
        town.hosts[0].attach(dead_end)
        dead_end.link.cut()
        await town.open_both(*STUN)
        town.introduce()
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, kind, f"STUN answered over IPv{working} only", f"over IPv{broken}: no answer")


async def test_both_sides_map_per_destination(vnet: Any) -> None:
    """Proved on each side by two servers that saw one socket at two ports; no guess."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.open_both(*STUN)
        town.introduce()
        verdict = await town.fail()
        assert_verdict(
            verdict,
            VerdictKind.BOTH_MAP_PER_DESTINATION,
            "our NAT takes another port for each destination (symmetric): 192.168.1.2",
            "the peer's NAT takes another port for each destination (symmetric): 192.168.2.2",
            "to stun:one.example:3478",
        )
        assert "TURN server" in verdict.remedy


async def test_hard_nat_on_one_side_alone_is_told(vnet: Any) -> None:
    """The option works only on both sides; who set it on one would wait for what cannot come."""
    async with site(vnet(), SYMMETRIC, PORT_RESTRICTED) as town:
        await town.open_both(*STUN, alice={"hard_nat": True})
        town.introduce()
        verdict = await town.fail()
        assert verdict.evidence[0] == "hard NAT: the peer takes no part; set `hard_nat` (`--hard-nat`) there, too"
        assert "hard_nat" not in verdict.remedy
        assert "hard_nat" in town.bob.explain().remedy


async def test_one_side_maps_per_destination_and_the_other_filters_by_port(vnet: Any) -> None:
    """Each side says whose NAT it is."""
    async with site(vnet(), SYMMETRIC, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        town.introduce()
        verdict = await town.fail()
        assert_verdict(verdict, VerdictKind.ONE_MAPS_PER_DESTINATION, "our NAT takes another port")
        assert verdict.summary.startswith("Our NAT")
        other = town.bob.explain()
        assert_verdict(other, VerdictKind.ONE_MAPS_PER_DESTINATION, "our NAT keeps one port", "the peer's NAT takes")
        assert other.summary.startswith("The peer's NAT")


async def test_the_peer_is_not_there(vnet: Any) -> None:
    """Its description came, and then its machine slept."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        await town.bob.wait_gathered()
        town.hosts[1].partition()
        town.introduce()
        assert_verdict(await town.fail(town.alice), VerdictKind.PEER_NEVER_CHECKED, "0 received")


async def test_packets_get_through_one_way_only(vnet: Any) -> None:
    """The peer is heard and does not hear: half of a path is none."""
    async with site(vnet(), None, None) as town:
        await town.open_both(*STUN)
        await town.alice.wait_gathered()
        town.homes[1].link.down.loss = 1.0
        town.introduce()
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.PEER_NEVER_ANSWERED, "none of our")


async def test_every_path_was_tried(vnet: Any) -> None:
    """What is left when nothing more telling has shown: some answers came, and no pair worked both ways."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        town.introduce()
        await trio.sleep(0.05)
        await refuse_everything(town)
        assert_verdict(await town.fail(town.alice), VerdictKind.NO_PATH)


async def refuse_everything(town: Site) -> None:
    """Have bob answer each check of alice's with 500, properly keyed, as a peer in trouble would."""
    core = town.bob._driver.ice

    def answer(now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> Any:
        message = stun.decode(data) if stun.looks_like_stun(data) else None
        if message is None or message.message_class is not stun.MessageClass.REQUEST:
            return handle(now, local, remote, data)
        key = stun.short_term_key(core.credentials.pwd)
        town.bob._driver.sockets[local].send_nowait([stun.encode(stun.error(message, 500), key=key)], remote)
        return handle(now, local, remote, b"\x80")

    handle = core.handle_datagram
    core.handle_datagram = answer  # type: ignore[method-assign]


# Credentials


@pytest.mark.parametrize("password_only", [True, False])
async def test_the_peer_has_an_old_description_of_ours(vnet: Any, password_only: bool) -> None:
    """A code used twice, a clipboard with the last one: the peer's checks name or key us as somebody else.

    Ours are answered, so this side believes to be connected; but the peer never is.
    """
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        old = Credentials(town.alice.credentials.ufrag if password_only else "oldufrag", "o" * 24)
        town.bob.set_remote_credentials(old)
        town.alice.set_remote_credentials(town.bob.credentials)
        for one, other in ((town.alice, town.bob), (town.bob, town.alice)):
            town.nursery.start_soon(carry_candidates, one, other)
        await trio.sleep(5)
        verdict = town.alice.explain()
        facts = "named both sides and failed" if password_only else "an earlier user name fragment of ours"
        assert_verdict(verdict, VerdictKind.WRONG_CREDENTIALS, facts)
        assert verdict.summary.startswith("The peer does not hold")


async def test_we_have_an_old_description_of_the_peer(vnet: Any) -> None:
    """Its checks are keyed rightly, and name somebody we do not know."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        town.alice.set_remote_credentials(Credentials("oldufrag", "o" * 24))
        town.bob.set_remote_credentials(town.alice.credentials)
        for one, other in ((town.alice, town.bob), (town.bob, town.alice)):
            town.nursery.start_soon(carry_candidates, one, other)
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.WRONG_CREDENTIALS, "named another peer")
        assert verdict.summary.startswith("We do not hold")


async def carry_candidates(sender: Any, receiver: Any) -> None:
    async for candidate in sender.local_candidates():
        receiver.add_remote_candidate(candidate.to_sdp())
    receiver.add_remote_candidate(None)


async def test_a_strangers_forged_checks_do_not_change_the_verdict(vnet: Any) -> None:
    """Anybody can send noise, even who knows both names; if that looked like wrong credentials, users chase ghosts."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        mallory = town.net.host(town.net.internet, name="mallory")
        stranger = TransportAddress(mallory.address, 6666)
        await town.open_both(*STUN)
        await town.alice.wait_gathered()
        town.introduce()
        ours, theirs = town.alice.credentials.ufrag, town.bob.credentials.ufrag
        base = town.alice._gatherer.bases[0].address
        for number in range(50):
            for username in (f"{ours}:{theirs}", f"{ours}:nobody", f"nobody:{theirs}", "x:y"):
                check = stun.binding_request(bytes([number]) * 12, stun.Username(username), stun.Priority(1))
                forged = stun.encode(check, key=stun.short_term_key("guess"))
                # Straight to the agent, as a NAT that lets in everybody would.
                town.alice._driver._handle(base, stranger, forged)
        assert town.alice.statistics().transport.dropped["stun-integrity-wrong"] >= 50
        assert_verdict(await town.fail(), VerdictKind.BOTH_MAP_PER_DESTINATION)


# TURN servers that say no


@pytest.mark.parametrize(
    ("code", "words"),
    [(401, "password"), (403, "policy"), (437, "minutes"), (441, "password"), (486, "quota"), (508, "full")],
)
async def test_the_turn_server_refuses(vnet: Any, code: int, words: str) -> None:
    """The remedy is in the message, not in the server's log."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await make_refusing(town, code)
        server = replace(TURN, credential="wrong") if code == 401 else TURN
        await town.open_both(*STUN, server)
        town.introduce()
        verdict = await town.fail()
        assert_verdict(verdict, VerdictKind.RELAY_REFUSED, f"over udp: {code}")
        assert f"({code})" in verdict.summary
        assert words in verdict.remedy


async def make_refusing(town: Site, code: int) -> None:
    """Start a TURN server that refuses with a code: a real one where its options can bring it about."""
    if code == 401:
        await town.serve_turn()
    elif code == 486:
        await town.serve_turn(limits=TurnLimits(allocations_per_user=1))
        await occupy(town)
    elif code == 508:
        await town.serve_turn(ports=(50000, 50001), limits=TurnLimits(allocations=1))
        await occupy(town)
    else:
        await town.serve_script(code)


async def occupy(town: Site) -> None:
    """Take what the server has, with another client."""
    other = await town.open(0, servers=[TURN], transport_policy="relay")
    while not [one async for one in other.local_candidates()]:
        pass
    town.agents.clear()


async def test_the_turn_server_wants_credentials_and_got_none(vnet: Any) -> None:
    """Forgetting them is another mistake than mistyping them."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.serve_turn()
        alice = await town.open(0, servers=[IceServer("turn:turn.example?transport=udp")], transport_policy="relay")
        assert [one async for one in alice.local_candidates()] == []
        verdict = alice.explain()
        assert_verdict(verdict, VerdictKind.RELAY_REFUSED)
        assert "none were given" in verdict.summary


async def test_the_turn_server_forbids_the_peers_addresses(vnet: Any) -> None:
    """403 to CreatePermission: the relay stands, and is of no use."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.serve_turn(deny_peers=["0.0.0.0/0"])
        await town.open_both(*STUN, alice={"servers": [*STUN, TURN]})
        town.introduce()
        verdict = await town.fail(town.alice)
        assert_verdict(verdict, VerdictKind.RELAY_REFUSED, "forbidden: 203.0.113")
        assert "(403)" in verdict.summary


async def test_only_relays_are_allowed_and_none_answers(vnet: Any) -> None:
    """Relay-only with a dead server: there is nothing else to try, so this is the whole story."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        alice = await town.open(0, servers=[TURN], transport_policy="relay")
        assert [one async for one in alice.local_candidates()] == []
        await trio.sleep(15)
        assert_verdict(alice.explain(), VerdictKind.RELAY_UNREACHABLE, "over udp: ")


async def test_a_closed_agent_says_so(vnet: Any) -> None:
    """The shortest verdict."""
    async with site(vnet(), None, None) as town:
        alice = await town.open(0)
        await alice.aclose()
        assert_verdict(alice.explain(), VerdictKind.CLOSED)


async def test_what_the_network_says_of_destinations_is_evidence(vnet: Any) -> None:
    """A closed port is said in words, and by number."""
    async with site(vnet(), None, None) as town:
        alice = await town.open(0)
        closed = Candidate.from_sdp(host_candidate(TransportAddress(town.hosts[1].address, 9999)).to_sdp())
        alice.set_remote_credentials(Credentials("nobody", "n" * 24))
        alice.add_remote_candidate(closed)
        alice.add_remote_candidate(None)
        verdict = await town.fail(alice)
        assert_verdict(verdict, VerdictKind.PEER_NEVER_CHECKED, "Connection refused (errno 111)")


async def test_a_firewall_on_both_sides_is_not_blamed_on_nats(vnet: Any) -> None:
    """Public addresses behind firewalls that let nothing in: nobody maps anything."""
    closed = Firewall(inbound="none")
    async with site(vnet(), None, None, firewalls=(STATEFUL, closed)) as town:
        await town.open_both(*STUN)
        town.introduce()
        verdict = await town.fail()
        assert verdict.kind in (VerdictKind.PEER_NEVER_ANSWERED, VerdictKind.PEER_NEVER_CHECKED)
        assert "NAT" not in "".join(verdict.evidence)


async def test_no_transport_in_common(vnet: Any) -> None:
    """The peer offers TCP alone, and here it is switched off."""
    async with site(vnet(), PORT_RESTRICTED, PORT_RESTRICTED) as town:
        alice = await town.open(0, servers=STUN, tcp_candidates=False)
        alice.set_remote_credentials(Credentials("peer", "p" * 24))
        alice.add_remote_candidate("candidate:1 1 tcp 2105458943 203.0.113.9 9 typ host tcptype active")
        alice.add_remote_candidate("candidate:2 1 tcp 2105458687 203.0.113.9 5000 typ host tcptype passive")
        alice.add_remote_candidate(None)
        verdict = await town.fail(alice)
        assert_verdict(verdict, VerdictKind.NO_COMMON_TRANSPORT)


async def test_tcp_gets_through_where_udp_does_not(vnet: Any) -> None:
    """It is connected, and says by what: TCP is second best."""
    async with site(vnet(), None, None, firewalls=(UDP_BLOCKED, None)) as town:
        await town.open_both(*STUN, tcp_candidates=True)
        await town.connect()
        verdict = town.alice.explain()
        assert_verdict(verdict, VerdictKind.CONNECTED)
        assert "by TCP" in verdict.summary
