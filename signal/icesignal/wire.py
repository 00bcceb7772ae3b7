"""The relay's frames: msgpack maps to frozen types and back, with every bound checked. Pure functions.

`decode_client_untrusted` and `decode_relay_untrusted` raise `BadFrame` and nothing else, for any bytes.
Source: docs/relay-protocol.md section 3.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgpack
import msgspec
from msgspec import UNSET, UnsetType

from icesignal.work import Solution, Work

VERSION = 1
MAX_MESSAGE_BYTES = 65_536
MAX_PAYLOAD_BYTES = 61_440
MAX_OPENING_BYTES = 1_024
MAX_MAP_KEYS = 32
MAX_TEXT = 256  # characters of a name, a message or a URL
MAX_ICE_URLS = 8  # of one entry
SESSION_BYTES = 16
TOKEN_BYTES = 16
NAME_BYTES = 32
MEMBER_BYTES = 16
CHALLENGE_BYTES = 32
MAX_TICKET_BYTES = 1_024
MAX_MEMBERS = 64  # of a room of many
OFFERS_SERVERS = "servers"  # in `Welcome.offers`
OFFERS_ROOMS = "rooms"
OFFERS_OUTCOMES = "outcomes"
OFFERS_TURN = "turn"
OUTCOMES = ("direct", "relayed", "failed")
# Why a connection turned out as it did, in `Outcome.why`; a relay counts what it does not know as "other".
WHYS = frozenset(
    {
        *("", "no-path", "policy", "peer-relays-only", "direct-filtered", "direct-path-lost", "udp-blocked"),
        *("no-common-family", "no-common-transport", "both-map-per-destination", "one-maps-per-destination"),
        *("no-public-address", "no-direct-answer", "no-local-address", "filtered-by-policy", "relay-refused"),
        *("relay-unreachable", "no-name-resolution", "no-udp-egress", "stun-ipv4-only", "stun-ipv6-only"),
        *("unusable-candidates", "wrong-credentials", "peer-never-checked", "peer-never-answered", "consent-lost"),
        *("consent-revoked", "path-lost", "network-changed", "no-link", "peer-left"),
    }
)

SessionId = Annotated[bytes, msgspec.Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
Token = Annotated[bytes, msgspec.Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
Name = Annotated[bytes, msgspec.Meta(min_length=NAME_BYTES, max_length=NAME_BYTES)]
MemberId = Annotated[bytes, msgspec.Meta(min_length=MEMBER_BYTES, max_length=MEMBER_BYTES)]
Challenge = Annotated[bytes, msgspec.Meta(max_length=CHALLENGE_BYTES)]
TicketBytes = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_TICKET_BYTES)]
Proof = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Opening = Annotated[bytes, msgspec.Meta(max_length=MAX_OPENING_BYTES)]
Payload = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_PAYLOAD_BYTES)]
_NAMEPLATE = r"^[1-9][0-9]{0,8}\Z"
Nameplate = Annotated[str, msgspec.Meta(pattern=_NAMEPLATE)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
ClientSeq = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Role = Literal["inviter", "joiner"]
PeerPresence = Literal["absent", "present", "away"]
MemberPresence = Literal["present", "away", "gone"]
Present = Literal["present", "away"]
Arrival = Literal["joined", "resumed", "resync"]
CloseReason = Literal["left", "done", "code-wrong"]


class BadFrameReason(enum.Enum):
    """Why a message is not a frame."""

    MALFORMED = "malformed"
    UNKNOWN_TYPE = "unknown-type"
    VERSION = "version"


class BadFrame(ValueError):
    """A message from the network is not a frame that we know."""

    def __init__(self, reason: BadFrameReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class CloseCode(enum.IntEnum):
    """Why a connection is closed. Source: docs/relay-protocol.md section 11."""

    DONE = 1000
    GOING_AWAY = 1001
    TOO_BIG = 1009
    PROTOCOL_ERROR = 4000
    VERSION = 4001
    FENCED = 4002
    TOO_SLOW = 4003
    TOO_FAST = 4004
    IDLE = 4005
    ROOM_ENDED = 4006


# After these a client must not come back with the same session.
FINAL_CLOSE_CODES = frozenset(
    {
        CloseCode.DONE,
        CloseCode.TOO_BIG,
        CloseCode.PROTOCOL_ERROR,
        CloseCode.VERSION,
        CloseCode.FENCED,
        CloseCode.ROOM_ENDED,
    }
)


class RelayErrorCode(enum.StrEnum):
    """Why the relay refused a frame. Source: docs/relay-protocol.md section 3.3."""

    MALFORMED = "malformed"
    UNKNOWN_TYPE = "unknown-type"
    VERSION = "version"
    UNKNOWN_NAMEPLATE = "unknown-nameplate"
    EXPIRED_NAMEPLATE = "expired-nameplate"
    CROWDED = "crowded"
    NOT_JOINED = "not-joined"
    ALREADY_JOINED = "already-joined"
    GAP = "gap"
    RATE = "rate"
    BUSY = "busy"
    FORBIDDEN = "forbidden"
    UNKNOWN_SESSION = "unknown-session"
    BAD_TOKEN = "bad-token"  # noqa: S105 - the name of an error
    BAD_TICKET = "bad-ticket"
    EXPIRED_TICKET = "expired-ticket"
    REMOVED = "removed"
    WORK = "work"


_UNSHOWN = frozenset(
    {"session", "token", "opening", "payload", "name", "credential", "ticket", "proof", "challenge", "work"}
)


class _SecretsHidden(msgspec.Struct, frozen=True, kw_only=True):
    """A struct whose `repr()`, which may end up in a log, leaves out codes, tokens and passwords."""

    def __repr__(self) -> str:
        shown = (name for name in self.__struct_fields__ if name not in _UNSHOWN)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


class Frame(_SecretsHidden, frozen=True, kw_only=True):
    """The base of all frames; `type` is what stands on the wire."""

    type: ClassVar[str]


class Allocate(Frame, frozen=True, kw_only=True):
    """Make a room and take the inviter's place."""

    type: ClassVar[str] = "allocate"
    session: SessionId
    opening: Opening = b""
    work: Solution | UnsetType = UNSET


class Join(Frame, frozen=True, kw_only=True):
    """Take the joiner's place of the room with this nameplate."""

    type: ClassVar[str] = "join"
    session: SessionId
    nameplate: Nameplate
    opening: Opening = b""
    work: Solution | UnsetType = UNSET


class Meet(Frame, frozen=True, kw_only=True):
    """Enter a rendezvous room, making it if it is not there."""

    type: ClassVar[str] = "meet"
    session: SessionId
    name: Name
    role: Role
    opening: Opening = b""


class Enter(Frame, frozen=True, kw_only=True):
    """Enter a room of many, making it if it is not there; or, for who is inside, show a newer ticket."""

    type: ClassVar[str] = "enter"
    session: SessionId
    ticket: TicketBytes
    proof: Proof
    opening: Opening = b""


class Resume(Frame, frozen=True, kw_only=True):
    """Move a session to this connection; `(epoch, seq)` is the last position seen."""

    type: ClassVar[str] = "resume"
    session: SessionId
    token: Token
    epoch: Count
    seq: Count


class Send(Frame, frozen=True, kw_only=True, omit_defaults=True):
    """Say something to the other member, or in a room of many to those named, None for all."""

    type: ClassVar[str] = "send"
    client_seq: ClientSeq
    payload: Payload
    to: Annotated[list[MemberId], msgspec.Meta(min_length=1, max_length=MAX_MEMBERS)] | None = None


class Remove(Frame, frozen=True, kw_only=True):
    """Remove a member from a room of many, and keep its ticket out."""

    type: ClassVar[str] = "remove"
    member: MemberId


class Close(Frame, frozen=True, kw_only=True):
    """End the room for both; of a room of many leave it, or with `done` end it for all."""

    type: ClassVar[str] = "close"
    reason: CloseReason


class AskServers(Frame, frozen=True, kw_only=True):
    """Ask for ICE servers anew, with fresh credentials; a relay that answers has `OFFERS_SERVERS` in its welcome."""

    type: ClassVar[str] = "servers"


class Outcome(Frame, frozen=True, kw_only=True):
    """Tell the operator how the connection turned out, once a session; a relay that counts it has `OFFERS_OUTCOMES`.

    `why` is one of `WHYS`, `ms` how long it took.
    """

    type: ClassVar[str] = "outcome"
    outcome: Literal["direct", "relayed", "failed"]
    why: Annotated[str, msgspec.Meta(max_length=40)] = ""
    ms: Count


class RTCIceServer(_SecretsHidden, frozen=True, kw_only=True, omit_defaults=True):
    """A STUN or TURN server as browsers write it; a URL with an empty host means the relay's own host.

    `ttl` is for how many seconds the credentials are good, from now on.
    """

    urls: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=MAX_ICE_URLS)]
    username: Text | None = None
    credential: Text | None = None
    ttl: Count | None = None


class Welcome(Frame, frozen=True, kw_only=True):
    """The first frame on every connection."""

    type: ClassVar[str] = "welcome"
    versions: Annotated[list[Count], msgspec.Meta(max_length=MAX_MAP_KEYS)]
    relay: Text = ""
    max_payload: Count = MAX_PAYLOAD_BYTES
    offers: Annotated[list[Text], msgspec.Meta(max_length=MAX_MAP_KEYS)] = []
    challenge: Challenge = b""
    work: Work | UnsetType = UNSET


class Joined(Frame, frozen=True, kw_only=True):
    """The place is yours. Also the shape of `Resumed` and `Resync`. `hung_up` is as in `Peer`."""

    type: ClassVar[str] = "joined"
    room: Text
    role: Role
    token: Token
    epoch: Count
    seq: Count
    peer: PeerPresence
    hung_up: bool = False
    opening: Opening
    client_seq: Count
    resume_s: Count
    ice_servers: Annotated[list[RTCIceServer], msgspec.Meta(max_length=MAX_MAP_KEYS)] = []


class Resumed(Joined, frozen=True, kw_only=True):
    """The session continues here; every message after the named position follows."""

    type: ClassVar[str] = "resumed"


class Resync(Joined, frozen=True, kw_only=True):
    """The session continues here, but messages after the named position are no longer kept."""

    type: ClassVar[str] = "resync"


class Entered(Frame, frozen=True, kw_only=True):
    """The place in a room of many is yours; a `Member` frame for each other member follows, `members` in number."""

    type: ClassVar[str] = "entered"
    room: Text
    member: MemberId
    arrival: Arrival
    token: Token
    epoch: Count
    seq: Count
    client_seq: Count
    members: Count
    resume_s: Count
    ice_servers: Annotated[list[RTCIceServer], msgspec.Meta(max_length=MAX_MAP_KEYS)] = []


class Member(Frame, frozen=True, kw_only=True):
    """How another member of a room of many is; `gone` for good. `hung_up` is as in `Peer`."""

    type: ClassVar[str] = "member"
    member: MemberId
    state: MemberPresence
    hung_up: bool = False
    ticket: TicketBytes
    opening: Opening


class Servers(Frame, frozen=True, kw_only=True):
    """The ICE servers of now; the answer to `AskServers`."""

    type: ClassVar[str] = "servers"
    ice_servers: Annotated[list[RTCIceServer], msgspec.Meta(max_length=MAX_MAP_KEYS)]


class Message(Frame, frozen=True, kw_only=True, omit_defaults=True):
    """The other member said this; in a room of many, `sender`."""

    type: ClassVar[str] = "message"
    epoch: Count
    seq: Count
    payload: Payload
    sender: MemberId | None = None


class Ack(Frame, frozen=True, kw_only=True):
    """A `Send` has its place in the order; `seq` 0: accepted before and no longer in the log."""

    type: ClassVar[str] = "ack"
    client_seq: Count
    epoch: Count
    seq: Count


class Peer(Frame, frozen=True, kw_only=True):
    """The other member came, went away or came back.

    `hung_up` says how one went that is away: its connection was closed from its side, and it had not said that it would
    come back. A program that is killed goes so.
    """

    type: ClassVar[str] = "peer"
    state: PeerPresence
    hung_up: bool = False
    opening: Opening


class Closed(Frame, frozen=True, kw_only=True):
    """The room has ended."""

    type: ClassVar[str] = "closed"
    reason: Text


class Error(Frame, frozen=True, kw_only=True):
    """A frame was refused."""

    type: ClassVar[str] = "error"
    code: Text
    message: Text
    work: Work | UnsetType = UNSET


_CLIENT_TYPES: dict[str, type[Frame]] = {
    kind.type: kind for kind in (Allocate, Join, Meet, Enter, Resume, Send, Remove, Close, AskServers, Outcome)
}
_RELAY_TYPES: dict[str, type[Frame]] = {
    kind.type: kind
    for kind in (Welcome, Joined, Resumed, Resync, Entered, Member, Servers, Message, Ack, Peer, Closed, Error)
}
F = TypeVar("F", bound=Frame)


def is_nameplate(text: str) -> bool:
    """Return whether a room may have this name that a person reads out."""
    return re.match(_NAMEPLATE, text) is not None


def encode(frame: Frame) -> bytes:
    """Return the websocket message of a frame."""
    fields: dict[str, Any] = msgspec.to_builtins(frame, builtin_types=(bytes,))
    return bytes(msgpack.packb({"type": frame.type, "v": VERSION, **fields}, use_bin_type=True) or b"")


def decode_client_untrusted(data: bytes | str) -> Frame:
    """Return the frame a client sent.

    Raises:
        BadFrame: it is none.
    """
    return _decode_untrusted(data, _CLIENT_TYPES)


def decode_relay_untrusted(data: bytes | str, left_out: Callable[[str], object] = lambda why: None) -> Frame:
    """Return the frame a relay sent.

    An ICE server that is none is left out: the others are good all the same, and so is the place in the room.

    Args:
        data: the message.
        left_out: called for each such server with what is wrong with it, without any value of it.
    Raises:
        BadFrame: it is none.
    """
    return _decode_untrusted(data, _RELAY_TYPES, left_out)


def unpack_map_untrusted(data: bytes) -> dict[str, Any]:
    """Return the msgpack map that `data` is, bounded in every dimension.

    Raises:
        BadFrame: it is not one map with string keys, or it exceeds a bound.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadFrame(BadFrameReason.MALFORMED, f"a message of {len(data)} bytes exceeds {MAX_MESSAGE_BYTES}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_MESSAGE_BYTES,
            max_bin_len=MAX_MESSAGE_BYTES,
            max_array_len=MAX_MAP_KEYS * 8,
            max_map_len=MAX_MAP_KEYS * 8,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises six unrelated classes, and any of them only says: not msgpack
        raise BadFrame(BadFrameReason.MALFORMED, f"not msgpack: {type(error).__name__}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadFrame(BadFrameReason.MALFORMED, "not a map with string keys")
    return value


def _decode_untrusted(
    data: bytes | str, types: dict[str, type[Frame]], left_out: Callable[[str], object] = lambda why: None
) -> Frame:
    if isinstance(data, str):
        raise BadFrame(BadFrameReason.MALFORMED, "a text message; frames are binary")
    fields = unpack_map_untrusted(data)
    if len(fields) > MAX_MAP_KEYS:
        raise BadFrame(BadFrameReason.MALFORMED, f"{len(fields)} keys")
    version = fields.get("v")
    if type(version) is not int:
        raise BadFrame(BadFrameReason.MALFORMED, "the key v, the protocol version, is missing")
    if version != VERSION:
        raise BadFrame(BadFrameReason.VERSION, f"protocol version {version}; this is version {VERSION}")
    name = fields.get("type")
    if not isinstance(name, str):
        raise BadFrame(BadFrameReason.MALFORMED, "the key type is missing")
    kind = types.get(name)
    if kind is None:
        raise BadFrame(BadFrameReason.UNKNOWN_TYPE, "no such type of frame")
    if issubclass(kind, Joined | Entered | Servers) and "ice_servers" in fields:
        fields["ice_servers"] = list(_usable_servers(fields["ice_servers"], left_out))
    return _convert(fields, kind)


def _usable_servers(entries: object, left_out: Callable[[str], object]) -> Iterator[dict[str, Any]]:
    """Give the entries that are ICE servers, as many as a frame may have."""
    if not isinstance(entries, list):
        left_out("all of them: what it names is no list")
        return
    for number, entry in enumerate(entries):
        try:
            if number >= MAX_MAP_KEYS:
                raise msgspec.ValidationError(f"it is beyond the first {MAX_MAP_KEYS}")
            msgspec.convert(entry, RTCIceServer, builtin_types=(bytes,))
            yield entry
        except (msgspec.ValidationError, RecursionError, OverflowError) as error:
            left_out(f"{error}"[:200])


def _convert(fields: dict[str, Any], kind: type[F]) -> F:
    try:
        return msgspec.convert(fields, kind, builtin_types=(bytes,))
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        # The validator's text names keys and types, never values.
        raise BadFrame(BadFrameReason.MALFORMED, f"{kind.type}: {error}"[:200]) from None
