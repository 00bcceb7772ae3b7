"""Statistics in the W3C's shape, and the exported timeline: whole, consistent, and without secrets."""

from __future__ import annotations

import json
from typing import Any

import trio
from virtual_sites import STUN, TURN, site

from iceagent.agent.report.timeline import MAX_EVENTS, Timeline
from iceagent.agent.report.traffic import MAX_PATHS, Traffic
from iceagent.core.address import make_address
from iceagent.net.batch import Batch
from iceagent.vnet import FULL_CONE, PORT_RESTRICTED, SYMMETRIC

# https://www.w3.org/TR/webrtc-stats/: the members of the dictionaries, in their order there.
COMMON = {"id", "type", "timestamp"}
TRANSPORT = COMMON | {
    *("packetsSent", "packetsReceived", "bytesSent", "bytesReceived", "iceRole", "iceLocalUsernameFragment"),
    *("iceState", "selectedCandidatePairId", "selectedCandidatePairChanges"),
}
CANDIDATE = COMMON | {
    *("transportId", "address", "port", "protocol", "candidateType", "priority", "url", "relayProtocol"),
    *("foundation", "relatedAddress", "relatedPort", "usernameFragment", "tcpType"),
}
PAIR = COMMON | {
    *("transportId", "localCandidateId", "remoteCandidateId", "state", "nominated", "packetsSent", "packetsReceived"),
    *("bytesSent", "bytesReceived", "lastPacketSentTimestamp", "lastPacketReceivedTimestamp", "totalRoundTripTime"),
    *("currentRoundTripTime", "requestsReceived", "requestsSent", "responsesReceived", "responsesSent"),
    *("consentRequestsSent", "packetsDiscardedOnSend", "bytesDiscardedOnSend"),
}
MEMBERS = {"transport": TRANSPORT, "local-candidate": CANDIDATE, "remote-candidate": CANDIDATE, "candidate-pair": PAIR}


async def test_the_report_has_the_w3cs_shape(vnet: Any) -> None:
    """Names and references as in a browser's, so that tools for those can draw it."""
    async with site(vnet(), FULL_CONE, PORT_RESTRICTED) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        await town.alice.send_many([b"x" * 100] * 3)
        await town.bob.receive_many()
        await town.bob.send(b"y" * 10)
        await town.alice.receive()
        report = json.loads(town.alice.statistics().to_json())
    kinds = {one["type"] for one in report.values()}
    assert kinds == set(MEMBERS)
    for identifier, one in report.items():
        assert one["id"] == identifier
        assert set(one) <= MEMBERS[one["type"]], one
        if one["type"] != "transport":
            assert report[one["transportId"]]["type"] == "transport"
        if one["type"] == "candidate-pair":
            assert report[one["localCandidateId"]]["type"] == "local-candidate"
            assert report[one["remoteCandidateId"]]["type"] == "remote-candidate"
            assert one["state"] in ("frozen", "waiting", "in-progress", "failed", "succeeded")
    (transport,) = [one for one in report.values() if one["type"] == "transport"]
    assert set(transport) == TRANSPORT
    pair = report[transport["selectedCandidatePairId"]]
    assert set(pair) == PAIR
    assert (pair["packetsSent"], pair["bytesSent"]) == (transport["packetsSent"], transport["bytesSent"]) == (3, 300)
    assert (pair["packetsReceived"], pair["bytesReceived"]) == (1, 10)
    assert pair["lastPacketReceivedTimestamp"] >= pair["lastPacketSentTimestamp"]
    assert pair["nominated"]


async def test_candidates_say_where_they_come_from(vnet: Any) -> None:
    """Which server told it, how the relay is reached, which interface it is on."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        found = {(one.is_remote, one.candidate_type): one for one in town.alice.statistics().candidates}
    host, srflx, relay = (found[False, kind] for kind in ("host", "srflx", "relay"))
    assert (host.network_interface, host.url, host.related_address) == ("eth0", None, None)
    assert srflx.url in {server.url for server in (*STUN, TURN)}
    assert (srflx.related_address, srflx.related_port) == (host.address, host.port)
    assert (relay.url, relay.relay_protocol, relay.network_interface) == (TURN.url, "udp", None)
    assert found[True, "host"].url is None
    assert found[True, "host"].username_fragment == town.bob.credentials.ufrag


async def test_the_w3c_form_hides_what_the_peer_has_not_told(vnet: Any) -> None:
    """The address of a peer-reflexive candidate is null, as the W3C asks, in the timeline, too."""
    async with site(vnet(), FULL_CONE, SYMMETRIC) as town:
        await town.open_both(*STUN)
        await town.connect()
        pair = town.alice.selected_pair
        assert pair is not None
        assert pair.remote.type.value == "prflx"
        secret = str(pair.remote.address)
        report = town.alice.statistics().as_w3c()
        reflexive = [one for one in report.values() if one.get("candidateType") == "prflx" and "remote" in one["type"]]
        document = town.alice.timeline()
        document.pop("verdict")
        text = json.dumps([report, document])
    assert reflexive
    assert all(one["address"] is None for one in reflexive)
    assert secret not in text


async def test_the_timeline_tells_the_story_and_no_secret(vnet: Any) -> None:
    """Times that only grow, wall-clock times beside them, ids as in the statistics, and no password."""
    async with site(vnet(), SYMMETRIC, SYMMETRIC) as town:
        await town.serve_turn()
        await town.open_both(*STUN, TURN)
        await town.connect()
        town.alice.restart()
        text = town.alice.timeline_json()
        document = json.loads(text)
        for agent in town.agents:
            assert agent.credentials.pwd not in text
    assert TURN.credential is not None
    assert f'"{TURN.credential}"' not in text
    events = document["events"]
    times = [event["t"] for event in events]
    assert times == sorted(times)
    assert times[0] == 0
    assert document["started"] == events[0]["time"]
    kinds = [event["kind"] for event in events]
    for kind in ("state-changed", "server-answered", "relay-allocated", "pair-validated", "pair-nominated"):
        assert kind in kinds
    restarted = next(event for event in events if event["kind"] == "restarted")
    assert set(restarted["credentials"]) == {"ufrag"}
    selected = next(event for event in events if event["kind"] == "selected-pair-changed")
    assert selected["pair"]["local"]["id"] in document["statistics"]
    assert document["verdict"]["because"] == "both-map-per-destination"
    assert len(text.splitlines()) == len(events) + 2, "one event a line"


async def test_an_ended_agent_can_still_be_read(vnet: Any) -> None:
    """The story is wanted most when it is over."""
    async with site(vnet(), FULL_CONE, PORT_RESTRICTED) as town:
        await town.open_both(*STUN)
        await town.connect()
        alice = town.alice
        text = alice.timeline_json()
    assert json.loads(text)["verdict"]["kind"] == "connected"
    after = alice.timeline()
    assert after["verdict"]["kind"] == "closed"
    assert after["events"][-1]["kind"] == "state-changed"


def test_the_latest_word_outlives_the_log() -> None:
    """A verdict after a day still knows what the servers said in the first second."""
    timeline: Timeline[str] = Timeline(lambda event: event[0] if event[0] in "ab" else None, lambda: 1000.0)
    for event in ("a1", "b1", "a2", *(f"c{number}" for number in range(MAX_EVENTS))):
        timeline.record(0.0, event)
    assert [event for _, event in timeline.latest(str)] == ["b1", "a2"]
    assert timeline.events_forgotten == 3


def test_a_sleep_of_the_machine_shows_in_wall_clock_times() -> None:
    """The clock that does not jump stands still while a laptop sleeps; the file is read beside other logs."""
    wall = [1000.0]
    timeline: Timeline[str] = Timeline(wall_clock=lambda: wall[0])
    for now, shown in ((0.0, 1000.0), (1.0, 1001.0), (2.0, 4602.0), (3.0, 4603.0)):
        wall[0] = shown
        timeline.record(now, "event")
    assert [timeline.wall_time(at) for at in (0.0, 1.5, 2.0, 3.0)] == [1000.0, 1001.5, 4602.0, 4603.0]


def test_traffic_is_counted_per_batch_and_bounded() -> None:
    """Of many paths only the sum of the oldest is kept; nothing is lost from the total."""
    traffic = Traffic()
    base = make_address("192.0.2.1", 1)
    paths = [(base, make_address("192.0.2.2", port)) for port in range(1, MAX_PATHS + 11)]
    for path in paths:
        traffic.sent(1.0, path, [b"abc", b"d"])
        traffic.received(2.0, base, Batch(path[1], b"x" * 25, 10))
    traffic.sent(3.0, paths[-1], [b"a" * 10] * 4, discarded=1)
    assert traffic.of(paths[0]).packets_sent == 0, "forgotten"
    assert traffic.of(paths[-1]).packets_sent == 2 + 3
    assert (traffic.of(paths[-1]).packets_discarded, traffic.of(paths[-1]).bytes_discarded) == (1, 10)
    total = traffic.total()
    assert (total.packets_sent, total.bytes_sent) == (2 * len(paths) + 3, 4 * len(paths) + 30)
    assert (total.packets_received, total.bytes_received) == (3 * len(paths), 25 * len(paths))


async def test_reading_costs_nothing_until_it_is_asked_for(vnet: Any) -> None:
    """A snapshot changes nothing: two in a row agree but for their times."""
    async with site(vnet(), FULL_CONE, FULL_CONE) as town:
        await town.open_both(*STUN)
        await town.connect()
        await trio.sleep(1)
        one, other = town.alice.statistics(), town.alice.statistics()
    assert [pair.id for pair in one.pairs] == [pair.id for pair in other.pairs]
    assert one.transport.dropped == other.transport.dropped
    assert [candidate.id for candidate in one.candidates] == [candidate.id for candidate in other.candidates]


async def test_each_component_is_a_transport(vnet: Any) -> None:
    """As in a browser: one RTCTransportStats for each, with its own candidates and pairs."""
    async with site(vnet(), FULL_CONE, PORT_RESTRICTED) as town:
        await town.open_both(*STUN, streams=(2,))
        await town.connect()
        components = town.alice.streams[0].components
        await components[1].send(b"to the second")
        whole, second = town.alice.statistics(), components[1].statistics()
    assert [transport.id for transport in whole.transports] == ["IT01", "IT02"]
    assert [transport.packets_sent for transport in whole.transports] == [0, 1]
    assert {candidate.component for candidate in whole.candidates if candidate.transport_id == "IT02"} == {2}
    ids = [*(one.id for one in whole.candidates), *(one.id for one in whole.pairs)]
    assert len(set(ids)) == len(ids)
    assert [transport.packets_sent for transport in second.transports] == [1]
    assert {candidate.component for candidate in second.candidates} == {2}
    report = whole.as_w3c()
    for transport in whole.transports:
        assert transport.selected_candidate_pair_id in report
