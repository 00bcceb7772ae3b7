"""The settings and limits of a link."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from iceagent.core.checked import check_fields
from iceagent.errors import LocalError

KIB = 1024
MIB = 1024 * KIB

# RFC 9000 section 14: every path that carries QUIC carries UDP payloads of this size. Neither QUIC library notices
# that a path which carried more stopped doing so, and ICE may move the link to a smaller path (a VPN, a relay over
# IPv6) at any time: a larger packet would then hang the link for good.
PACKET_SIZE = 1200
MAX_PACKET_SIZE = 1472
MAX_NAME_SIZE = KIB
MIN_WINDOW = 4 * KIB  # the name of a stream must always fit
MAX_STREAMS = 1280  # that the peer may have open at once: a thousand connections, and some
MAX_DATAGRAM_SIZE = 65_507  # the largest UDP payload over IPv4, so that any UDP datagram can be tunnelled


class LinkRole(Enum):
    """Who speaks first in QUIC; both sides have the same rights afterwards."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> LinkRole:
        """The peer's role."""
        return LinkRole.SERVER if self is LinkRole.CLIENT else LinkRole.CLIENT


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Limits of a link; the defaults suit a tunnel. Sizes in bytes, times in seconds.

    Args:
        stream_window: how much of one stream the peer may send ahead of the reader.
        initial_window: the same before the stream was looked at, and what a stream keeps when memory is short.
        link_ceiling: what all streams of the link together may hold; streams share what is left.
        send_buffer: per stream, what is handed to QUIC ahead of the network.
        link_send_buffer: for all streams of the link, what is handed to QUIC and not yet acknowledged, beyond what a
            path of 1 Gbit/s holds. What exceeds the receiving socket's buffer is lost whenever its process pauses.
        accept_backlog: opened streams that wait for `accept_stream`; more are reset with `StreamCode.BACKLOG_FULL`.
        datagram_queue: datagrams that wait in each direction.
        datagram_patience_s: how long `send_datagram` waits for a full queue before the oldest datagram is dropped.
        idle_timeout_s: how long the peer's end may leave every PING unanswered, while the path under the link works,
            before it counts as gone. A quiet link asks four times in this time; see `iceagent.link.liveness`.
        handshake_timeout_s: how long the two ends have to authenticate each other.
        close_timeout_s: how long closing waits for a peer that takes nothing more of what was written; at most two
            minutes are given to one that does, or this if it is longer.
        initial_rtt_s: the round-trip time assumed before the first measurement (RFC 9002 section 6.2.2).
        packet_size: UDP payload of a QUIC packet; larger is faster but must fit every path the link may ever take.
    """

    stream_window: int = 4 * MIB
    initial_window: int = 32 * KIB
    link_ceiling: int = 32 * MIB
    send_buffer: int = 512 * KIB
    link_send_buffer: int = 4 * MIB
    accept_backlog: int = MAX_STREAMS
    datagram_queue: int = 1024
    datagram_patience_s: float = 0.25
    idle_timeout_s: float = 120.0
    handshake_timeout_s: float = 30.0
    close_timeout_s: float = 3.0  # room for two packets lost in a row on a path of 300 ms
    initial_rtt_s: float = 0.333
    packet_size: int = PACKET_SIZE

    def __post_init__(self) -> None:
        check_fields(self)
        if not MIN_WINDOW <= self.initial_window <= self.stream_window <= self.link_ceiling:
            raise LocalError("LinkConfig needs 4 KiB <= initial_window <= stream_window <= link_ceiling")
        if not PACKET_SIZE <= self.packet_size <= MAX_PACKET_SIZE:
            raise LocalError(f"LinkConfig.packet_size must be {PACKET_SIZE} to {MAX_PACKET_SIZE} bytes")
        if not self.idle_timeout_s > 0:  # nan, too
            raise LocalError("LinkConfig.idle_timeout_s must be positive")
        if min(self.send_buffer, self.link_send_buffer, self.accept_backlog, self.datagram_queue) < 1:
            raise LocalError("the bounds of LinkConfig must be positive")
