"""The data path: client to peer and back, whole buffers at a time. RFC 8656 sections 11 and 12."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.channel_data import CHANNEL_MAX_RFC5766, decode_channel_data, strip_channel_batch
from iceagent.core.turn.server.allocation import Allocation, AllocationState, ClientPath, RelayedAddress
from iceagent.core.turn.server.state import ServerState, ToClient, ToPeer

_HEADER: Final = struct.Struct("!HH")
_MAX_PEER_DATA: Final = 65507  # what fits into a UDP datagram over IPv4
_MAX_INDICATED: Final = 65400  # what fits into the DATA of an indication


class PeerDatagrams(NamedTuple):
    """Datagrams for one peer, to be sent from `relay` in one go."""

    relay: RelayedAddress
    peer: TransportAddress
    datagrams: list[bytes]


def channel_data_to_peer(
    state: ServerState, now: float, allocation: Allocation, data: bytes, segment_size: int
) -> list[PeerDatagrams]:
    """Return what a buffer of ChannelData becomes on the other side.

    Args:
        state: the server's.
        now: seconds.
        allocation: the client's.
        data: ChannelData messages back to back, as UDP_GRO delivers them.
        segment_size: bytes of each but the last.
    """
    stripped = strip_channel_batch(data, segment_size, CHANNEL_MAX_RFC5766)
    if stripped is not None:
        forward = _to_channel(state, now, allocation, *stripped)
        return [] if forward is None else [forward]
    forwards: list[PeerDatagrams] = []
    for at in range(0, len(data), segment_size):
        single = decode_channel_data(data[at : at + segment_size], CHANNEL_MAX_RFC5766)
        if single is None:
            state.counters["channel_data_malformed"] += 1
            continue
        forward = _to_channel(state, now, allocation, single[0], [single[1]])
        if forward is not None:
            if forwards and forwards[-1].relay is forward.relay and forwards[-1].peer == forward.peer:
                forwards[-1].datagrams.extend(forward.datagrams)
            else:
                forwards.append(forward)
    return forwards


def _to_channel(
    state: ServerState, now: float, allocation: Allocation, number: int, datagrams: list[bytes]
) -> PeerDatagrams | None:
    channel = allocation.channels.get(number)
    if channel is None or channel.expires_at <= now:
        state.counters["channel_unknown"] += len(datagrams)
        return None
    size = len(datagrams[0])
    meter = allocation.meter
    if meter is not None:
        passing = meter.take_some(now, size, len(datagrams))
        if passing < len(datagrams):
            state.counters["bandwidth_exceeded"] += len(datagrams) - passing
            datagrams = datagrams[:passing]
            if not datagrams:
                return None
    if state.policy.is_own(channel.peer.host) and channel.peer not in state.relays:
        state.counters["peers_gone"] += len(datagrams)
        return None
    traffic = allocation.traffic
    count = len(datagrams)
    traffic["datagrams_to_peer"] += count
    traffic["bytes_to_peer"] += size * (count - 1) + len(datagrams[-1])
    return PeerDatagrams(channel.relay, channel.peer, datagrams)


def handle_send(state: ServerState, now: float, path: ClientPath, data: bytes) -> None:
    """Forward a Send indication, or drop it silently, as RFC 8656 section 11.2 demands."""
    allocation = state.allocations.get(path)
    if allocation is None or allocation.state is not AllocationState.ACTIVE:
        state.counters["send_without_allocation"] += 1
        return
    try:
        message = stun.decode(data)
    except stun.StunError:
        state.counters["send_malformed"] += 1
        return
    peer, payload = message.get(stun.XorPeerAddress), message.get(stun.Data)
    if peer is None or payload is None or message.unknown_comprehension_required:
        state.counters["send_malformed"] += 1
        return
    if message.verify_fingerprint() is False or len(payload.value) > _MAX_PEER_DATA:
        state.counters["send_malformed"] += 1
        return
    relay = allocation.relay_for(peer.address)
    if (
        relay is None
        or relay.transport != "udp"
        or allocation.permissions.get(peer.address.host, 0.0) <= now
        # The permission says so for the host; between relays of this server the port matters, too.
        or not state.policy.still_allows(peer.address, state.is_relayed)
    ):
        state.counters["send_without_permission"] += 1
        return
    if allocation.meter is not None and not allocation.meter.take(now, len(payload.value)):
        state.counters["bandwidth_exceeded"] += 1
        return
    allocation.traffic["datagrams_to_peer"] += 1
    allocation.traffic["bytes_to_peer"] += len(payload.value)
    state.send(ToPeer(relay, peer.address, payload.value, message.get(stun.DontFragment) is not None))


def peer_data_to_client(
    state: ServerState, now: float, relay: RelayedAddress, remote: TransportAddress, data: bytes, segment_size: int
) -> list[bytes]:
    """Return what a buffer of datagrams from a peer becomes on the client's side; nothing without a permission.

    Args:
        state: the server's.
        now: seconds.
        relay: where they came to.
        remote: where they came from.
        data: datagrams back to back, as UDP_GRO delivers them.
        segment_size: bytes of each but the last.
    """
    allocation = relay.allocation
    count = -(-len(data) // segment_size) if data else 1
    if allocation.state is not AllocationState.ACTIVE or allocation.permissions.get(remote.host, 0.0) <= now:
        state.counters["peer_without_permission"] += count
        return []
    if state.policy.is_own(remote.host) and not state.was_relayed(now, remote):
        state.counters["peer_without_permission"] += count  # a permission for our own host is one for relays
        return []
    meter = allocation.meter
    if meter is not None:
        passing = meter.take_some(now, min(segment_size, len(data)), count)
        if passing < count:
            state.counters["bandwidth_exceeded"] += count - passing
            if not passing:
                return []
            count, data = passing, data[: passing * segment_size]
    traffic = allocation.traffic
    traffic["datagrams_to_client"] += count
    traffic["bytes_to_client"] += len(data)
    channel = allocation.channel_of.get(remote)
    if channel is None or channel.expires_at <= now:
        return _data_indications(state, allocation, remote, data, segment_size)
    return _channel_messages(channel.number, data, segment_size, pad=allocation.path.is_stream)


def _channel_messages(number: int, data: bytes, size: int, *, pad: bool) -> list[bytes]:
    length = len(data)
    if length <= size:
        return [_HEADER.pack(number, length) + data + (bytes(-length & 3) if pad else b"")]
    header, padding = _HEADER.pack(number, size), bytes(-size & 3) if pad else b""
    whole = length - length % size
    messages = [header + data[at : at + size] + padding for at in range(0, whole, size)]
    if whole < length:
        messages += _channel_messages(number, data[whole:], size, pad=pad)
    return messages


def _data_indications(
    state: ServerState, allocation: Allocation, remote: TransportAddress, data: bytes, size: int
) -> list[bytes]:
    peer = stun.XorPeerAddress(remote)
    return [
        stun.encode(
            stun.Message(
                stun.MessageClass.INDICATION,
                stun.Method.DATA,
                state.randbytes(12),
                (peer, stun.Data(data[at : at + size])),
            ),
            fingerprint=False,
        )
        for at in range(0, len(data) or 1, size)
        if size <= _MAX_INDICATED
    ]


def report_icmp(
    state: ServerState, now: float, relay: RelayedAddress, remote: TransportAddress, icmp_type: int, icmp_code: int
) -> None:
    """Report to a client the ICMP error that its datagram caused. RFC 8656 section 11.5."""
    allocation = relay.allocation
    if allocation.state is not AllocationState.ACTIVE or allocation.permissions.get(remote.host, 0.0) <= now:
        return
    indication = stun.Message(
        stun.MessageClass.INDICATION,
        stun.Method.DATA,
        state.randbytes(12),
        (stun.XorPeerAddress(remote), stun.Icmp(icmp_type, icmp_code)),
    )
    state.send(ToClient(allocation.path, stun.encode(indication, fingerprint=False)))
