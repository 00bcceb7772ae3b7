"""The timers and limits of a TURN server, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PERMISSION_LIFETIME_S: Final = 300.0  # RFC 8656 section 9
CHANNEL_LIFETIME_S: Final = 600.0  # RFC 8656 section 12
DEFAULT_LIFETIME_S: Final = 600  # RFC 8656 section 3.2
MAX_LIFETIME_S: Final = 3600  # RFC 8656 section 7.2: at least 3600 is recommended
RESERVATION_S: Final = 30.0  # RFC 8656 section 7.2: how long an unused reservation lasts
NONCE_LIFETIME_S: Final = 3600.0  # RFC 8656 section 5: at most an hour
CONNECT_TIMEOUT_S: Final = 30.0  # RFC 6062 section 5.2
BIND_TIMEOUT_S: Final = 30.0  # RFC 6062 section 5.2

FIRST_PORT: Final = 49152  # RFC 8656 section 7.2: the dynamic range of RFC 6335
LAST_PORT: Final = 65535

PORT_REST_S: Final = 60.0  # ours: how long a released port stays unused, so that strangers' late packets find nobody
IN_FLIGHT_S: Final = 1.0  # ours: how long what a relay sent before its end may take to another relay of this server
MAX_DEPARTED: Final = 4096  # ours: relays remembered for that
OPEN_ATTEMPTS: Final = 8  # ours: ports tried when other programs hold them
MAX_PENDING_OUTPUT: Final = 65536  # ours: transmits and events the shell has not drained
REPLY_FLOOR_BYTES: Final = 4096  # ours: answers to all strangers together that no bytes in pay for, per second
FREE_REPLIES: Final = 3  # ours: the same for one source, in answers: the sockets of one honest client
MAX_REPLY_CREDIT: Final = 2048  # ours: bytes in that later answers may be paid from
PROVEN_FOR_S: Final = 600.0  # ours: how long a source is believed to receive what it is sent
MAX_REPLY_SOURCES: Final = 65536  # ours: unproven sources remembered: a flood of 100,000/s is outlived by half a second
PROVEN_RATE_PER_S: Final = 50.0  # ours: error answers to a source that has shown to receive what we send it
PROVEN_BURST: Final = 200.0  # ours


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """What one user, one source and the whole server may have.

    Attributes:
        allocations: of the whole server.
        allocations_per_user: of one user, whatever names and addresses it comes with.
        allocations_per_source: of one IPv4 address or one IPv6 /64.
        permissions: of one allocation.
        channels: of one allocation.
        connections: RFC 6062 connections of one allocation.
        default_lifetime_s: given when the client asks for less or for nothing.
        max_lifetime_s: given when the client asks for more.
        bytes_per_s: relayed for one user, both directions together; None for no limit.
        burst_s: how much of `bytes_per_s` may come at once, in seconds of it.
    """

    allocations: int = 4096
    allocations_per_user: int = 64
    allocations_per_source: int = 256
    permissions: int = 256
    channels: int = 256
    connections: int = 64
    default_lifetime_s: int = DEFAULT_LIFETIME_S
    max_lifetime_s: int = MAX_LIFETIME_S
    bytes_per_s: float | None = None
    burst_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what would serve nobody.

        Raises:
            ValueError: a limit is not positive, or the longest lifetime is below the default.
        """
        for name in ("allocations", "allocations_per_user", "allocations_per_source", "permissions", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"a server with {name}={getattr(self, name)} serves nobody")
        if self.connections < 0 or self.burst_s <= 0 or (self.bytes_per_s is not None and self.bytes_per_s <= 0):
            raise ValueError("limits are positive numbers")
        if not 0 < self.default_lifetime_s <= self.max_lifetime_s:
            raise ValueError("the longest lifetime is below the default one")
