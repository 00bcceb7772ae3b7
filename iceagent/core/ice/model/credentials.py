"""Username fragments and passwords: RFC 8445 sections 5.3 and 7.2.2, RFC 8839 section 5.4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from iceagent.core import sdp, stun
from iceagent.core.checked import check_fields

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # ice-char: 64, so 6 bits each
_UFRAG_LENGTH: Final = 8  # 48 bits; RFC 8445 section 5.3 asks for 24
_PWD_LENGTH: Final = 24  # 144 bits; RFC 8445 section 5.3 asks for 128


@dataclass(frozen=True, slots=True)
class Credentials:
    """A username fragment and password, valid for one ICE session. The password does not show in `repr`.

    Raises:
        SdpError: either breaks the grammar of RFC 8839 section 5.4 (a `ValueError`, too).
    """

    ufrag: str
    pwd: str = field(repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        sdp.check_credentials(self.ufrag, self.pwd)


def generate_credentials(randbytes: Callable[[int], bytes]) -> Credentials:
    """Return fresh credentials of 48 and 144 random bits.

    Args:
        randbytes: a source of unpredictable bytes, such as `secrets.token_bytes`.
    """
    text = "".join(_ALPHABET[byte & 63] for byte in randbytes(_UFRAG_LENGTH + _PWD_LENGTH))
    return Credentials(text[:_UFRAG_LENGTH], text[_UFRAG_LENGTH:])


class KeyRing:
    """Both sides' credentials with the STUN keys made of them."""

    def __init__(self, local: Credentials) -> None:
        self.local = local
        self.local_key = stun.short_term_key(local.pwd)
        self.remote: Credentials | None = None
        self.remote_key = b""

    def set_remote(self, remote: Credentials) -> None:
        """Take the peer's credentials."""
        self.remote = remote
        self.remote_key = stun.short_term_key(remote.pwd)

    def outgoing_username(self) -> str:
        """Return the USERNAME of our checks: theirs, colon, ours (RFC 8445 section 7.2.2)."""
        assert self.remote is not None
        return f"{self.remote.ufrag}:{self.local.ufrag}"
