"""Encrypted, authenticated streams and datagrams to one peer: QUIC over an agent, or over any datagram transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.link.backends import gather_entropy, preload
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
    from iceagent.link.link import LinkStatistics, QuicLink, open_link
    from iceagent.link.stream import LinkStream
    from iceagent.link.transport import DatagramTransport
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "config": "LinkConfig LinkRole",
            "credit": "Ledger",
            "errors": (
                "AuthenticationError LinkClosedByPeer LinkCode LinkError LinkLost LinkUnanswered PeerRefused "
                "StreamCode StreamReset WishRefused"
            ),
            "identity": "LinkIdentity generate_identity",
            "link": "QuicLink LinkStatistics open_link",
            "backends": "gather_entropy preload",
            "stream": "LinkStream",
            "transport": "DatagramTransport",
        },
    )

__all__ = [
    "AuthenticationError",
    "DatagramTransport",
    "Ledger",
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
    "QuicLink",
    "StreamCode",
    "StreamReset",
    "WishRefused",
    "gather_entropy",
    "generate_identity",
    "open_link",
    "preload",
]
