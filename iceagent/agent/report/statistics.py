"""What an agent has counted, shaped like the W3C's `RTCStatsReport`: candidates, pairs, transport.

The values have Python's spelling and seconds; `AgentStatistics.as_w3c` gives the objects as a browser's `getStats`
does. What this agent cannot know is left out there, see docs/explain.md.

Source: https://www.w3.org/TR/webrtc-stats/, sections on RTCIceCandidateStats, RTCIceCandidatePairStats and
RTCTransportStats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CandidateStatistics:
    """One candidate.

    Attributes:
        id: its name, the same for as long as the agent lives.
        timestamp_s: when this was read, seconds since the epoch.
        transport_id: the transport it belongs to.
        is_remote: whether it is the peer's.
        candidate_type: `host`, `srflx`, `prflx` or `relay`.
        protocol: `udp` or `tcp`.
        address, port: where it is reached.
        priority: 32 bits.
        foundation: equal for those that probably live and die together.
        base: the socket of a local one as `HOST:PORT`; None for remote ones.
        network_interface: the interface that has its base's address; None for remote and relayed ones.
        url: of the server that reported it; None for host, peer-reflexive and remote ones, and for mapped ports.
        relay_protocol: how we reach our relay: `udp`, `tcp`, `tls` or `dtls`; None for all others.
        related_address, related_port: what a reflexive or relayed one says of its base; None where it says nothing.
        username_fragment: of the side it is of; None for a peer-reflexive one of a peer whose credentials are unknown.
        tcp_type: `active`, `passive` or `so` for TCP.
        component: 1 unless the agent has several.
    """

    id: str
    timestamp_s: float
    transport_id: str
    is_remote: bool
    candidate_type: str
    protocol: str
    address: str
    port: int
    priority: int
    foundation: str
    base: str | None = None
    network_interface: str | None = None
    url: str | None = None
    relay_protocol: str | None = None
    related_address: str | None = None
    related_port: int | None = None
    username_fragment: str | None = None
    tcp_type: str | None = None
    component: int = 1

    def as_w3c(self) -> dict[str, Any]:
        """Return an `RTCIceCandidateStats`; the address of a peer-reflexive remote one is null, as the W3C asks."""
        is_hidden = self.is_remote and self.candidate_type == "prflx"
        found = {
            "transportId": self.transport_id,
            "port": self.port,
            "protocol": self.protocol,
            "candidateType": self.candidate_type,
            "priority": self.priority,
            "url": self.url,
            "relayProtocol": "udp" if self.relay_protocol == "dtls" else self.relay_protocol,
            "foundation": self.foundation,
            "relatedAddress": self.related_address,
            "relatedPort": self.related_port,
            "usernameFragment": self.username_fragment,
            "tcpType": self.tcp_type,
        }
        kind = "remote-candidate" if self.is_remote else "local-candidate"
        stats = _stats(kind, self.id, self.timestamp_s, found)
        return {**stats, "address": None if is_hidden else self.address}


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """One candidate pair. Packets and bytes are those of application data alone, without headers.

    Attributes:
        id, timestamp_s, transport_id: as those of a candidate.
        local_candidate_id, remote_candidate_id: what it is made of.
        local, remote: the same, as `HOST:PORT`.
        state: `frozen`, `waiting`, `in-progress`, `failed` or `succeeded`.
        nominated: whether the controlling side chose it.
        selected: whether data goes over it.
        valid: whether data may go over it.
        priority: 64 bits.
        packets_sent, bytes_sent, packets_received, bytes_received: application data.
        last_packet_sent_timestamp_s, last_packet_received_timestamp_s: since the epoch; None before the first.
        total_round_trip_time_s: sum of all round trips measured, by checks and consent checks.
        round_trip_time_measurements: how many they are: answers to repeated requests are ambiguous and not measured.
        current_round_trip_time_s: the last one; None before the first.
        smoothed_round_trip_time_s: a running mean, which `CandidatePair.rtt_s` is.
        requests_sent: checks begun, without retransmissions and consent checks.
        consent_requests_sent: consent checks (RFC 7675), and quick checks of a path in doubt.
        checks_sent: all requests that left, retransmissions included.
        requests_received, responses_sent: authenticated checks of the peer, retransmissions included, and answers.
        responses_received: authenticated answers.
        packets_discarded_on_send, bytes_discarded_on_send: refused by the socket.
    """

    id: str
    timestamp_s: float
    transport_id: str
    local_candidate_id: str
    remote_candidate_id: str
    local: str
    remote: str
    state: str
    nominated: bool
    selected: bool
    valid: bool
    priority: int
    packets_sent: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    last_packet_sent_timestamp_s: float | None = None
    last_packet_received_timestamp_s: float | None = None
    total_round_trip_time_s: float = 0.0
    round_trip_time_measurements: int = 0
    current_round_trip_time_s: float | None = None
    smoothed_round_trip_time_s: float | None = None
    requests_sent: int = 0
    consent_requests_sent: int = 0
    checks_sent: int = 0
    requests_received: int = 0
    responses_sent: int = 0
    responses_received: int = 0
    packets_discarded_on_send: int = 0
    bytes_discarded_on_send: int = 0

    def as_w3c(self) -> dict[str, Any]:
        """Return an `RTCIceCandidatePairStats`."""
        found = {
            "transportId": self.transport_id,
            "localCandidateId": self.local_candidate_id,
            "remoteCandidateId": self.remote_candidate_id,
            "state": self.state,
            "nominated": self.nominated,
            "packetsSent": self.packets_sent,
            "packetsReceived": self.packets_received,
            "bytesSent": self.bytes_sent,
            "bytesReceived": self.bytes_received,
            "lastPacketSentTimestamp": _milliseconds(self.last_packet_sent_timestamp_s),
            "lastPacketReceivedTimestamp": _milliseconds(self.last_packet_received_timestamp_s),
            "totalRoundTripTime": self.total_round_trip_time_s,
            "currentRoundTripTime": self.current_round_trip_time_s,
            "requestsReceived": self.requests_received,
            "requestsSent": self.requests_sent,
            "responsesReceived": self.responses_received,
            "responsesSent": self.responses_sent,
            "consentRequestsSent": self.consent_requests_sent,
            "packetsDiscardedOnSend": self.packets_discarded_on_send,
            "bytesDiscardedOnSend": self.bytes_discarded_on_send,
        }
        return _stats("candidate-pair", self.id, self.timestamp_s, found)


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """The agent as a whole, or one of its components.

    Attributes:
        id, timestamp_s: as those of a candidate.
        ice_state: where the session stands.
        ice_role: `controlling` or `controlled`.
        ice_local_username_fragment: ours, since the last restart.
        selected_candidate_pair_id: of the pair data goes over; None before one is selected.
        selected_candidate_pair_changes: how often another pair, or none, was selected.
        packets_sent, bytes_sent, packets_received, bytes_received: application data over all pairs there ever were.
        datagrams_sent, datagrams_received: everything at the sockets open now, checks included.
        socket_bytes_sent, socket_bytes_received: likewise.
        send_errors, icmp_errors: refused by the sockets, and reported by the network (ICMP).
        receive_queue_dropped: arrived, and dropped since nobody received.
        events_missed: by subscribers of `events()` that were too slow.
        dropped: what the core did not do, by reason.
    """

    id: str
    timestamp_s: float
    ice_state: str
    ice_role: str
    ice_local_username_fragment: str
    selected_candidate_pair_id: str | None
    selected_candidate_pair_changes: int
    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int
    datagrams_sent: int
    datagrams_received: int
    socket_bytes_sent: int
    socket_bytes_received: int
    send_errors: int
    icmp_errors: int
    receive_queue_dropped: int
    events_missed: int
    dropped: Mapping[str, int]

    @property
    def selected_pair_changes(self) -> int:
        """The same as `selected_candidate_pair_changes`."""
        return self.selected_candidate_pair_changes

    def as_w3c(self) -> dict[str, Any]:
        """Return an `RTCTransportStats`, less what is of DTLS, SRTP and RTP: there is none here."""
        found = {
            "packetsSent": self.packets_sent,
            "packetsReceived": self.packets_received,
            "bytesSent": self.bytes_sent,
            "bytesReceived": self.bytes_received,
            "iceRole": self.ice_role,
            "iceLocalUsernameFragment": self.ice_local_username_fragment,
            "iceState": self.ice_state,
            "selectedCandidatePairId": self.selected_candidate_pair_id,
            "selectedCandidatePairChanges": self.selected_candidate_pair_changes,
        }
        return _stats("transport", self.id, self.timestamp_s, found)


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """A snapshot.

    Attributes:
        candidates, pairs: of all components; their `transport_id` says of which.
        transport: the agent's, or that of its first component where there are several.
        transports: one for each component.
    """

    candidates: tuple[CandidateStatistics, ...]
    pairs: tuple[PairStatistics, ...]
    transport: TransportStatistics
    transports: tuple[TransportStatistics, ...]

    def as_w3c(self) -> dict[str, dict[str, Any]]:
        """Return id to object, as an `RTCStatsReport`: camelCase names, milliseconds; what is unknown is left out."""
        found = {transport.id: transport.as_w3c() for transport in self.transports}
        found.update({candidate.id: candidate.as_w3c() for candidate in self.candidates})
        found.update({pair.id: pair.as_w3c() for pair in self.pairs})
        return found

    def to_json(self) -> str:
        """Return `as_w3c()` as JSON text."""
        return json.dumps(self.as_w3c())


def _stats(kind: str, identifier: str, timestamp_s: float, members: Mapping[str, Any]) -> dict[str, Any]:
    head = {"id": identifier, "type": kind, "timestamp": _milliseconds(timestamp_s)}
    return {**head, **{name: value for name, value in members.items() if value is not None}}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
