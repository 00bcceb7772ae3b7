"""Encrypted, authenticated streams and datagrams to one peer: QUIC over an agent, or over any datagram transport."""

from iceagent.link.config import LinkConfig, LinkRole
from iceagent.link.credit import Ledger
from iceagent.link.errors import (
    AuthenticationError,
    LinkClosedByPeer,
    LinkCode,
    LinkError,
    LinkLost,
    LinkUnanswered,
    PeerRefused,
    StreamCode,
    StreamReset,
    WishRefused,
)
from iceagent.link.identity import LinkIdentity, generate_identity
from iceagent.link.link import Link, LinkStatistics, open_link
from iceagent.link.quic import preload
from iceagent.link.stream import LinkStream
from iceagent.link.transport import DatagramTransport

__all__ = [
    "AuthenticationError",
    "DatagramTransport",
    "Ledger",
    "Link",
    "LinkClosedByPeer",
    "LinkCode",
    "LinkConfig",
    "LinkError",
    "LinkIdentity",
    "LinkLost",
    "LinkRole",
    "LinkStatistics",
    "LinkStream",
    "LinkUnanswered",
    "PeerRefused",
    "StreamCode",
    "StreamReset",
    "WishRefused",
    "generate_identity",
    "open_link",
    "preload",
]
