"""What a TURN client is asked for, its events, and its timers: values only. RFC 8656, RFC 6062."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.errors import NetworkError

PERMISSION_LIFETIME_S: Final = 300.0  # RFC 8656 section 9
CHANNEL_LIFETIME_S: Final = 600.0  # RFC 8656 section 12
REFRESH_MARGIN_S: Final = 60.0  # ours: longer than a transaction takes to fail (39.5 s), so there is time for another
# Ours: RFC 8489 section 6.2.1 doubles the wait up to 16 s. On a line that loses half of all questions or their answers,
# one permission in a hundred would never come, and one in thirty too late for the checks; so at least every 2 s it is.
SCHEDULE: Final = stun.RetransmissionSchedule(rc=18, max_gap_s=2.0)  # fails at 39.5 s, as the usual one does
RETRY_S: Final = 5.0  # ours: pause before a failed refresh is tried again
DEFAULT_LIFETIME_S: Final = 600  # RFC 8656 section 7.2
MAX_LIFETIME_S: Final = 3600  # RFC 8656 section 7.2; what a server grants beyond is refreshed as if it were this
KEEPALIVE_S: Final = 15.0  # RFC 8445 section 11: Tr, for the NAT between us and the server

MAX_CHALLENGES: Final = 16  # ours: nonces one request may go through; a server that wants more is broken
MAX_PERMISSIONS: Final = 256  # ours: peer addresses of one allocation
MAX_CHANNELS: Final = 1024  # ours: of the 4096 numbers; further peers get Send indications
MAX_HELD: Final = 64  # ours: datagrams kept per peer address until its permission stands
MAX_EVENTS: Final = 1024  # ours: the shell drains after each call

SUSPICION_S: Final = 1.0  # ours: silence of the server while we send, after which it is asked whether it lives
SUSPICION_MAX_S: Final = 32.0  # ours: the same once it has answered and the peers are silent still: doubled each time
PROBE_INTERVAL_S: Final = 0.5  # ours
PROBE_TIMEOUT_S: Final = 2.0  # ours: a satellite's round trip and some
DEAD_AFTER_S: Final = 6.0  # ours: unanswered probes this long mean that the server is gone


class ClientState(Enum):
    """Where an allocation stands."""

    NEW = "new"
    ALLOCATING = "allocating"
    ALLOCATED = "allocated"
    RELEASING = "releasing"
    ENDED = "ended"


CLIENT_TRANSITIONS: Final[dict[ClientState, frozenset[ClientState]]] = {
    ClientState.NEW: frozenset({ClientState.ALLOCATING, ClientState.ENDED}),
    ClientState.ALLOCATING: frozenset({ClientState.ALLOCATED, ClientState.RELEASING, ClientState.ENDED}),
    ClientState.ALLOCATED: frozenset({ClientState.RELEASING, ClientState.ENDED}),
    ClientState.RELEASING: frozenset({ClientState.ENDED}),
    ClientState.ENDED: frozenset(),
}


class EndReason(Enum):
    """Why there is no allocation, or no longer one."""

    CLOSED = "closed"
    NO_ANSWER = "no answer"
    NOT_AUTHENTIC = "answers came, none of them authentic"
    CREDENTIALS_NEEDED = "the server asks for credentials and there are none"
    CREDENTIALS_REFUSED = "the server refuses the credentials"
    BID_DOWN = "the server's challenge contradicts itself; somebody in between may have changed it"
    ALTERNATE_SERVER = "the server names another one"
    MISMATCH = "the server knows another allocation, or none, for this connection"
    QUOTA = "the user's quota of allocations is reached"
    CAPACITY = "the server has no capacity left"
    FORBIDDEN = "the server forbids it"
    UNSUPPORTED = "the server does not support what was asked for"
    REFUSED = "the server refused"
    USELESS = "what the server gave cannot be used"
    EXPIRED = "the allocation could not be refreshed in time"
    CONNECTION_LOST = "the connection to the server is lost"


REASON_OF_CODE: Final[dict[int, EndReason]] = {
    300: EndReason.ALTERNATE_SERVER,
    401: EndReason.CREDENTIALS_REFUSED,
    403: EndReason.FORBIDDEN,
    420: EndReason.UNSUPPORTED,
    437: EndReason.MISMATCH,
    440: EndReason.UNSUPPORTED,
    441: EndReason.CREDENTIALS_REFUSED,
    442: EndReason.UNSUPPORTED,
    486: EndReason.QUOTA,
    508: EndReason.CAPACITY,
}


class TurnError(NetworkError):
    """There is no allocation; `reason` and `code` (of the server, or None) say why."""

    def __init__(self, reason: EndReason, code: int | None = None, detail: str = "") -> None:
        self.reason = reason
        self.code = code
        said = f" ({code} {detail})".replace(" )", ")") if code is not None else f" ({detail})" if detail else ""
        super().__init__(f"{reason.value}{said}")


@dataclass(frozen=True, slots=True)
class AllocationRequest:
    """What to ask a server for.

    Attributes:
        families: (4,), (6,) or (4, 6); both are asked for in one request, and one of them may be refused.
        tcp: peers are reached over TCP (RFC 6062); the server must be, too.
        lifetime_s: seconds; None leaves it to the server.
        even_port: the relayed port must be even.
        reserve_next: and the next higher one is reserved; the token comes with `Allocated`.
        reservation_token: use a port reserved before (8 bytes).
        dont_fragment: refuse a server that cannot set DF towards peers, and ask for it with each Send indication.
        software: for SOFTWARE; empty for none.

    Raises:
        ValueError: the combination is one that RFC 8656 section 7.1 forbids.
    """

    families: tuple[int, ...] = (4,)
    tcp: bool = False
    lifetime_s: int | None = None
    even_port: bool = False
    reserve_next: bool = False
    reservation_token: bytes | None = field(default=None, repr=False)
    dont_fragment: bool = False
    software: str = ""

    def __post_init__(self) -> None:
        if self.families not in ((4,), (6,), (4, 6)):
            raise ValueError(f"families {self.families!r} is not (4,), (6,) or (4, 6)")
        wants_port = self.even_port or self.reserve_next
        if self.reservation_token is not None and (wants_port or len(self.families) > 1):
            raise ValueError("a reservation token names the port and family; nothing else can be asked for")
        if self.reserve_next and len(self.families) > 1:
            raise ValueError("a port can be reserved for one address family only")
        if self.tcp and (wants_port or self.reservation_token is not None or self.dont_fragment):
            raise ValueError("TCP allocations know neither reserved ports nor DF (RFC 6062 section 4.1)")

    def attributes(self) -> list[stun.Attribute]:
        """Return the attributes of the Allocate request, in the order of RFC 8656 section 20."""
        found: list[stun.Attribute] = []
        if self.software:
            found.append(stun.Software(self.software))
        if self.lifetime_s is not None:
            found.append(stun.Lifetime(self.lifetime_s))
        found.append(stun.RequestedTransport(stun.TRANSPORT_TCP if self.tcp else stun.TRANSPORT_UDP))
        if self.reservation_token is not None:
            return [*found, stun.ReservationToken(self.reservation_token)]
        if self.families == (6,):
            found.append(stun.RequestedAddressFamily(stun.FAMILY_IPV6))
        elif len(self.families) > 1:
            found.append(stun.AdditionalAddressFamily(stun.FAMILY_IPV6))
        if self.even_port or self.reserve_next:
            found.append(stun.EvenPort(self.reserve_next))
        if self.dont_fragment:
            found.append(stun.DontFragment())
        return found


@dataclass(frozen=True, slots=True)
class Allocated:
    """The server has given what is listed here.

    Attributes:
        relayed: one address per family granted, IPv4 first.
        mapped: our own address as the server sees it.
        lifetime_s: seconds until it would expire; it is refreshed long before.
        reservation_token: of the next higher port, if it was asked for.
        refused: (family, code) of a family that was not granted.
    """

    relayed: tuple[TransportAddress, ...]
    mapped: TransportAddress
    lifetime_s: int
    reservation_token: bytes | None = field(default=None, repr=False)
    refused: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """There is no allocation, or no longer one; nothing follows.

    Attributes:
        reason: why.
        code: of the server's error response, or None.
        detail: its reason phrase.
        alternate: the server to try instead, with ALTERNATE_SERVER.
        alternate_domain: the name its certificate must carry, or None.
    """

    reason: EndReason
    code: int | None = None
    detail: str = ""
    alternate: TransportAddress | None = None
    alternate_domain: str | None = None

    def error(self) -> TurnError:
        """Return the same as an error."""
        return TurnError(self.reason, self.code, self.detail)


@dataclass(frozen=True, slots=True)
class PermissionInstalled:
    """Datagrams from and to this address (any port) pass."""

    host: str


@dataclass(frozen=True, slots=True)
class PermissionFailed:
    """They do not, and what waited for it is dropped; other addresses are not concerned. `code` is None for silence."""

    host: str
    code: int | None


@dataclass(frozen=True, slots=True)
class ChannelBound:
    """Datagrams to this peer cost four bytes more, no longer 36."""

    peer: TransportAddress
    number: int


@dataclass(frozen=True, slots=True)
class ChannelFailed:
    """The channel was not bound, datagrams go as indications. `code` is None for silence."""

    peer: TransportAddress
    code: int | None


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """The server met an ICMP error towards this peer. RFC 8656 section 11.5."""

    peer: TransportAddress
    icmp_type: int
    icmp_code: int


@dataclass(frozen=True, slots=True)
class CredentialsChanged:
    """New credentials are in use for this allocation; or, not `accepted`, they wait for the next one."""

    accepted: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """A TCP connection to a peer stands and waits for its data connection. RFC 6062 section 4.3."""

    peer: TransportAddress
    connection_id: int


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """The server could not connect to a peer; `code` is None for silence."""

    peer: TransportAddress
    code: int | None


@dataclass(frozen=True, slots=True)
class ConnectionAttempted:
    """A peer has connected to the relayed address; bind `connection_id` within 30 s. RFC 6062 section 4.4."""

    peer: TransportAddress
    connection_id: int


TurnEvent: TypeAlias = (
    Allocated
    | Ended
    | PermissionInstalled
    | PermissionFailed
    | ChannelBound
    | ChannelFailed
    | PeerUnreachable
    | CredentialsChanged
    | Connected
    | ConnectFailed
    | ConnectionAttempted
)
