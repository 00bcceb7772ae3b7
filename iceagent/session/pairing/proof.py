"""What two sides say of who they are, inside their sealed channel. Sans-IO.

Pairing, after the words (`iceagent.session.pairing.words`), from both sides at once:

    {"type": "pair", "version": 1, "key": 32 bytes, "exchange": 32 bytes, "name": str}
    {"type": "pair-proof", "signature": 64 bytes}       Ed25519("iceagent/1 pair" 0x00 role transcript)
    {"type": "pair-accept"}                             once it is proved, and its person has not said no
    {"type": "pair-refuse"}                             if not
    {"type": "pair-done"}                               once both have accepted, and the other is pinned

    transcript = SHA-256( lp(binding) lp(inviter's key, exchange) lp(its name) lp(joiner's ...) lp(its name) )

Meeting by name, the joiner first; the keys are pinned, so only the proof is sent:

    {"type": "identity", "version": 1, "signature": 64 bytes}    Ed25519("iceagent/1 meet" 0x00 role transcript)
    {"type": "identity-accepted"}                                from the joiner, once the inviter has proved itself
    {"type": "identity-refused"}                                 instead, from who is not content with the other's

    transcript = SHA-256( lp(binding) lp(inviter's key, exchange) lp(joiner's key, exchange) )

`binding` is a key of the session, so a signature is good in one session alone, and the identity is said inside what the
session's key seals (SIGMA). `lp(x)` is a 4-byte big-endian length of x, then x.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from iceagent.errors import RemoteError
from iceagent.session.errors import IdentityError, PeerNotPinned, PeerTurnedAway, VersionMismatch, shown_version
from iceagent.session.pairing.identity import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicIdentity

VERSION: Final = 1
PAIR_PURPOSE: Final = "pair 1"  # of the session's key
MEET_PURPOSE: Final = "meet 1"
MAX_PROPOSED: Final = 64  # characters of the name that a side proposes for itself
_PAIR, _MEET = b"iceagent/1 pair\0", b"iceagent/1 meet\0"
_OTHER_COMMAND: Final = (
    "the other side does not pair: it runs another command of iceagent. Run `iceagent pair` on one machine, and "
    "`iceagent pair CODE` on the other"
)

_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class _Hello(msgspec.Struct, frozen=True):
    key: _Key
    exchange: _Key
    name: Annotated[str, msgspec.Meta(max_length=MAX_PROPOSED)] = ""


class _Proof(msgspec.Struct, frozen=True):
    signature: _Signature


def other(role: str) -> str:
    """Return the role of the other side."""
    return "joiner" if role == "inviter" else "inviter"


class PairingExchange:
    """One side of a pairing: who the other one is, whether it has proved that, and whether both accept.

    Attributes:
        peer: who the other side says it is; not to be believed before `is_proved`.
        proposed: the name that it proposes for itself.
        is_proved: whether it has the secret halves of the keys it named, in this session.
        is_accepted: whether it accepts.
        is_done: whether it has pinned us.
    """

    def __init__(self, role: str, binding: bytes, identity: Identity, name: str) -> None:
        """Make one side.

        Args:
            role: `inviter` or `joiner`.
            binding: a key of the session, 32 bytes, for this purpose.
            identity: ours.
            name: what we propose to be called.
        """
        self.peer: PublicIdentity | None = None
        self.proposed = ""
        self.is_proved = False
        self.is_accepted = False
        self.is_done = False
        self._role = role
        self._binding = binding
        self._identity = identity
        self._name = name[:MAX_PROPOSED]

    def begin(self) -> list[dict[str, Any]]:
        """Return what to say first."""
        ours = self._identity.public
        hello = {"key": ours.key, "exchange": ours.exchange, "name": self._name}
        return [{"type": "pair", "version": VERSION, **hello}]

    @staticmethod
    def says(word: Literal["accept", "refuse", "done"]) -> dict[str, Any]:
        """Return what tells the other side that this one accepts it, or does not, or has pinned it."""
        return {"type": f"pair-{word}"}

    def handle_untrusted(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take a message of the other side; return what to answer.

        Raises:
            RemoteError: it is not who it says, does not keep to this, or runs another command.
            VersionMismatch: it speaks another version.
        """
        match message.get("type"):
            case "pair" if self.peer is None:
                return self._handle_hello(message)
            case "pair-proof" if self.peer is not None and not self.is_proved:
                self._check_proof(_converted(message, _Proof).signature)
            case "pair-accept" if self.is_proved:
                self.is_accepted = True
            case "pair-done" if self.is_accepted:
                self.is_done = True
            case "pair-refuse":
                raise PeerTurnedAway("the other side did not accept: nothing was kept, on neither side")
            case "description" | "candidates" | "netcheck" | "identity":
                raise RemoteError(_OTHER_COMMAND)
            case "pair" | "pair-proof" | "pair-accept" | "pair-done":
                raise RemoteError(_BROKEN)
        return []

    def _handle_hello(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        _check_version(message)
        hello = _converted(message, _Hello)
        peer = PublicIdentity(hello.key, hello.exchange)
        if peer.key == self._identity.public.key:
            raise RemoteError(
                "the other side has this very identity; a machine pairs with another one, or with another user"
            )
        try:
            self._identity.shared_with(peer)
        except IdentityError:
            raise RemoteError(_BROKEN) from None  # with such a key the two could never meet
        self.peer, self.proposed = peer, hello.name
        signature = self._identity.sign(_PAIR + self._role.encode() + self._transcript())
        return [{"type": "pair-proof", "signature": signature}]

    def _check_proof(self, signature: bytes) -> None:
        assert self.peer is not None
        if not self.peer.has_signed(signature, _PAIR + other(self._role).encode() + self._transcript()):
            raise RemoteError("the other side has not proved its identity; nothing was kept of it. Pair again")
        self.is_proved = True

    def _transcript(self) -> bytes:
        assert self.peer is not None
        ours = (self._identity.public.packed, self._name.encode())
        theirs = (self.peer.packed, self.proposed.encode())
        first, second = (ours, theirs) if self._role == "inviter" else (theirs, ours)
        return _hashed(self._binding, *first, *second)


class MeetingProof:
    """One side of a meeting by name: it proves its identity to a pinned peer, and has the peer prove its own.

    `is_proved` once the other side has, `is_done` once it is known to be content, too.
    """

    def __init__(self, role: str, binding: bytes, identity: Identity, peer: PublicIdentity) -> None:
        """`binding` is a key of the session, 32 bytes, for this purpose; `peer` whom we expect."""
        self.is_proved = False
        self.is_done = False
        self._role = role
        self._identity = identity
        self._peer = peer
        ours, theirs = identity.public.packed, peer.packed
        first, second = (ours, theirs) if role == "inviter" else (theirs, ours)
        self._transcript = _hashed(binding, first, second)

    def begin(self) -> list[dict[str, Any]]:
        """Return what to say first: the joiner's proof."""
        return [self._proof()] if self._role == "joiner" else []

    def handle_untrusted(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take a message of the other side; return what to answer.

        Raises:
            PeerNotPinned: it is not who is pinned.
            VersionMismatch: it speaks another version.
        """
        if message.get("type") == "identity-refused":
            raise PeerNotPinned(
                "the other side refuses us: it has paired with another identity under our name, or has removed us. "
                "Pair again"
            )
        if message.get("type") == "identity-accepted":
            self.is_done = self.is_proved
            return []
        if message.get("type") != "identity":
            return []
        _check_version(message)
        proof = _converted(message, _Proof)
        if self.is_proved or not self._peer.has_signed(
            proof.signature, _MEET + other(self._role).encode() + self._transcript
        ):
            raise PeerNotPinned(
                "whoever is there has not proved to be the peer that was paired; it is refused. If its machine has a "
                "new identity, remove it here and pair again"
            )
        self.is_proved = True
        if self._role == "inviter":
            return [self._proof()]
        self.is_done = True
        return [{"type": "identity-accepted"}]

    @staticmethod
    def refusal() -> dict[str, Any]:
        """Return what tells the other side that it is refused."""
        return {"type": "identity-refused"}

    def _proof(self) -> dict[str, Any]:
        signature = self._identity.sign(_MEET + self._role.encode() + self._transcript)
        return {"type": "identity", "version": VERSION, "signature": signature}


_BROKEN: Final = "the other side does not keep to how pairing goes; nothing was kept of it"
S = TypeVar("S", bound=msgspec.Struct)


def _converted(message: Mapping[str, Any], kind: type[S]) -> S:
    try:
        return msgspec.convert(dict(message), kind)
    except (msgspec.ValidationError, RecursionError, OverflowError):
        raise RemoteError(_BROKEN) from None


def _check_version(message: Mapping[str, Any]) -> None:
    if message.get("version") != VERSION:
        raise VersionMismatch(
            f"the other side speaks version {shown_version(message.get('version'))} of pairing, this one {VERSION}; "
            "install the same version of iceagent on both machines"
        )


def _hashed(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
