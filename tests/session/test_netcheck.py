"""The check in the virtual network, what it says, and what it tells the other side."""

from __future__ import annotations

import time
from dataclasses import replace
from email.utils import formatdate
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from stun_5780 import open_behaviour_server, two_addressed_host
from virtual_pair import NATS

from iceagent.core.address import TransportAddress
from iceagent.core.discovery import FamilyView, Filtering, MappingBehaviour, NatBehaviour, ServerReport, SideView
from iceagent.core.printable import printable
from iceagent.errors import RemoteError
from iceagent.net import SystemNetwork
from iceagent.session.errors import VersionMismatch
from iceagent.session.netcheck import (
    CheckOptions,
    FamilyReport,
    PortMappingReport,
    RelayReport,
    Report,
    ServerHealth,
    WebReport,
    check_network,
    describe_behaviour,
    meaning,
)
from iceagent.session.netcheck.peer import VERSION, parse_untrusted, to_message
from iceagent.session.netcheck.web import (
    HttpAnswer,
    KnownPage,
    clock_offset_s,
    environment_proxy,
    judge,
    look_at_web,
    relay_question,
)

PUBLIC, LOCAL = TransportAddress("203.0.113.5", 5), TransportAddress("192.168.1.2", 5)
SERVER = TransportAddress("198.51.100.1", 3478)


def report_of(mapping, filtering=Filtering.UNKNOWN, *, maps=False, six=None, **options):
    found = NatBehaviour(LOCAL, mapping, filtering, (PUBLIC,), servers=(ServerReport(SERVER, PUBLIC),))
    families = [FamilyReport(4, LOCAL.host, behaviour=found)]
    if six is not None:
        at = TransportAddress("2001:db8::1", 1)
        families.append(
            FamilyReport(
                6, at.host, behaviour=NatBehaviour(at, six, Filtering.UNKNOWN, (at,), servers=(ServerReport(at, at),))
            )
        )
    ports = (PortMappingReport("pcp", maps, ""),)
    return Report(families=tuple(families), port_mapping=ports, **options)


SILENT = Report(
    families=(FamilyReport(4, LOCAL.host, behaviour=NatBehaviour(LOCAL, servers=(ServerReport(SERVER),))),),
    servers=(ServerHealth("stun:s", "udp", ok=False),),
)
"""Of a network where a server was asked and none answered."""


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", "everybody can be connected directly"),
        ("full-cone", "friendly"),
        ("address-restricted", "friendly"),
        ("port-restricted", "only peers behind a symmetric NAT need a relay"),
        ("symmetric", "another port for each destination"),
    ],
)
async def test_each_kind_of_nat_gets_its_sentence(vnet, kind, says):
    """From packets to plain words, through the whole check."""
    net = vnet()
    server_host = two_addressed_host(net)
    dead = net.host(net.internet, name="dead.example")
    host = net.host(net.router(net.internet, nat=NATS[kind]))
    servers = ["stun:stun.example", "stun:dead.example", "stun:nowhere.example"]
    async with net, open_behaviour_server(server_host):
        found = await check_network(CheckOptions(servers=servers, network=host, randbytes=host.randbytes))
    assert dead.sockets == []
    assert says in meaning(found)
    assert [(one.url, one.ok) for one in found.servers] == [(url, url == servers[0]) for url in servers]
    assert found.servers[1].detail == "no answer"
    assert "name lookup" in found.servers[2].detail
    latency_s = found.servers[0].latency_s
    assert latency_s is not None
    assert latency_s > 0
    assert list(found.side_view().families) == [4]
    assert net.statistics().sockets_left_open == 0


async def test_check_without_servers_says_what_is_missing(vnet):
    """A first-time user types `iceagent netcheck` and nothing else."""
    net = vnet()
    host = net.host(net.internet)
    async with net:
        found = await check_network(CheckOptions(network=host, randbytes=host.randbytes))
    assert found.udp_works is None
    assert "--relay or --stun" in meaning(found)


async def test_silence_of_the_only_server_is_not_blamed_on_this_network(vnet):
    """A dead or misspelt server looks the same from here; whoever trusts the sentence searches in the wrong place."""
    net = vnet()
    net.host(net.internet, name="dead.example")
    host = net.host(net.internet)
    async with net:
        options = CheckOptions(servers=["stun:dead.example"], network=host, randbytes=host.randbytes)
        found = await check_network(options)
    assert found.udp_works is False
    assert meaning(found).startswith("No server answers, neither over UDP nor over TCP: they are down or misspelt, or")
    assert found.side_view() == SideView()


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (report_of(MappingBehaviour.ENDPOINT_INDEPENDENT), "only peers behind a symmetric NAT"),
        (report_of(MappingBehaviour.UNKNOWN), "one more server"),
        (report_of(MappingBehaviour.NO_NAT), "public address"),
        (report_of(MappingBehaviour.DESTINATION_DEPENDENT), "need a relay"),
        (report_of(MappingBehaviour.DESTINATION_DEPENDENT, maps=True), "opens ports when asked"),
        (
            report_of(MappingBehaviour.DESTINATION_DEPENDENT, six=MappingBehaviour.NO_NAT),
            "with peers that have IPv6, too, directly",
        ),
        (report_of(MappingBehaviour.NO_NAT, web=WebReport(intercepted=True)), "open a browser first"),
        (report_of(MappingBehaviour.NO_NAT, web=WebReport(clock_offset_s=-600)), "600 s behind"),
        (Report(families=report_of(MappingBehaviour.NO_NAT, six=MappingBehaviour.NO_NAT).families[1:]), "Only IPv6"),
        (SILENT, "No server answers"),
        (replace(SILENT, relay=RelayReport("ws://r", ok=True)), "The relay answers, but no server does over UDP"),
        (replace(SILENT, servers=(ServerHealth("turn:t", "tcp", ok=True),)), "UDP does not get out"),
    ],
)
def test_meaning_is_one_plain_sentence(report, says):
    """Whoever reads it need not know what a mapping is."""
    sentence = meaning(report)
    assert says in sentence
    assert sentence.endswith(".")
    assert "mapping" not in sentence


def test_blocked_udp_with_a_relay_over_tcp_is_no_disaster():
    """Slow, but connected."""
    silent = NatBehaviour(LOCAL, servers=(ServerReport(SERVER, failure="no answer"),))
    relay = ServerHealth("turns:turn.example", "tls", ok=True, relays=True)
    report = Report(families=(FamilyReport(4, LOCAL.host, behaviour=silent),), servers=(relay,))
    assert "every connection will be relayed" in meaning(report)
    assert report.side_view() == SideView({}, frozenset({"tls"}))
    assert describe_behaviour(silent) == "no answer over UDP"


# What the other side is told


VIEWS = st.builds(
    FamilyView,
    st.sampled_from(MappingBehaviour),
    st.sampled_from(Filtering),
    st.lists(st.ip_addresses(v=4).map(str), max_size=4).map(tuple),
    st.booleans(),
    st.none() | st.booleans(),
)
TOLD = st.builds(
    SideView,
    st.dictionaries(st.sampled_from([4, 6]), VIEWS),
    st.frozensets(st.sampled_from(["udp", "tcp", "tls"])),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(TOLD)
def test_what_one_side_tells_the_other_understands(view):
    """All of it."""
    assert parse_untrusted(to_message(view)) == view


@given(st.dictionaries(st.sampled_from(["families", "relays", "type", "version", "x"]), JSON))
def test_no_message_of_a_peer_raises_anything_else(message):
    """It is authenticated, not trusted."""
    for one in (message, {**message, "type": "netcheck"}, {**message, "type": "netcheck", "version": VERSION}):
        try:
            found = parse_untrusted(one)
        except VersionMismatch:
            continue
        assert found is None or set(found.families) <= {4, 6}


def test_later_versions_and_other_commands_are_told_apart():
    """Both are mistakes that a person can correct."""
    with pytest.raises(VersionMismatch):
        parse_untrusted({"type": "netcheck", "version": VERSION + 1})
    with pytest.raises(RemoteError, match="--invite"):
        parse_untrusted({"type": "description"})
    unknown = {"family": 4, "mapping": "quantum", "filtering": "strange", "external_hosts": ["not an address"]}
    found = parse_untrusted({"type": "netcheck", "version": VERSION, "families": [unknown], "relays": ["pigeon"]})
    assert found == SideView({4: FamilyView()}, frozenset())


# The web


@pytest.mark.parametrize(
    ("answer", "intercepted"),
    [
        (HttpAnswer(200, {}, b"ok\n"), False),
        (HttpAnswer(200, {}, b"<html>Welcome to the hotel"), True),
        (HttpAnswer(302, {"location": "http://login.hotel/\x1b[31m"}, b""), True),
        (HttpAnswer(511, {}, b""), True),
        (HttpAnswer(404, {}, b"ok\n"), True),
    ],
)
def test_answers_in_anothers_place_are_noticed(answer, intercepted):
    """Captive portals redirect, or answer 200 with their own page."""
    question = relay_question("ws://relay.example:8080")
    assert question is not None
    found, detail = judge(question, answer)
    assert found is intercepted
    assert bool(detail) is intercepted
    assert "\x1b" not in detail


def test_relays_question_is_its_health_page():
    """Over TLS where the relay is."""
    asked = [relay_question(url) for url in ("wss://relay.example/path", "relay.example:8080")]
    urls = ["https://relay.example/healthz", "http://relay.example:8080/healthz"]
    assert [page and page.url for page in asked] == urls


def test_clock_is_compared_with_the_date():
    """And whatever is no date is no evidence."""
    assert clock_offset_s(HttpAnswer(200, {"date": formatdate(1000, usegmt=True)}, b""), 1090.0) == 90
    for text in ("", "yesterday", "Mon, 99 Foo 2026"):
        assert clock_offset_s(HttpAnswer(200, {"date": text}, b""), 0) is None


def test_strangers_text_is_printed_harmlessly():
    """A portal must not paint the terminal."""
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
    assert len(printable("x" * 999)) == 200


def test_proxy_is_named_without_its_password(monkeypatch):
    """Output ends up in bug reports."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    assert environment_proxy("https") == "http://proxy.example:3128"
    monkeypatch.delenv("HTTPS_PROXY")
    assert environment_proxy("https") is None


async def test_portal_on_the_way_is_seen_through_real_sockets():
    """From the question to the verdict, by h11 on both ends or by nonsense on the other."""
    date = formatdate(time.time() - 3600, usegmt=True)
    answers = [
        f"HTTP/1.1 204 No Content\r\nDate: {date}\r\n\r\n".encode(),
        b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\nContent-Length: 0\r\n\r\n",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"x" * 99999,
    ]

    async def answer(stream):
        await stream.receive_some()
        await stream.send_all(answers[len(served)])
        served.append(stream)
        await stream.aclose()

    served = []
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), answer, 0)
        port = listener.socket.getsockname()[1]
        question = KnownPage(f"http://127.0.0.1:{port}/generate_204", 204)
        found = [await look_at_web(SystemNetwork(), question) for _ in answers]
        nursery.cancel_scope.cancel()
    assert [one.intercepted for one in found] == [False, True, None, True]
    assert found[0].clock_offset_s == pytest.approx(3600, abs=3)
    refused = await look_at_web(SystemNetwork(), question)
    assert refused.intercepted is None
    assert "refused" in refused.detail
