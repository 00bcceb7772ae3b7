"""Names for candidates and pairs in statistics and timelines: the same thing always has the same name in both.

The names are keyed hashes, so that they do not reveal the addresses they were made from. Source: RTCStats.id of
https://www.w3.org/TR/webrtc-stats/, which asks for ids that mean nothing and last as long as what they name.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import Final

from iceagent.core import ice
from iceagent.core.address import TransportAddress

_SIZE: Final = 6  # bytes: no two of an agent's few hundred candidates will share a name


class Identifiers:
    """The names one agent gives.

    Args:
        secret: what nobody else knows; it does not show in the names.
    """

    __slots__ = ("_key",)

    def __init__(self, secret: str) -> None:
        self._key = blake2s(secret.encode()).digest()

    def candidate(self, candidate: ice.Candidate, *, is_remote: bool) -> str:
        """Return the name of a candidate; a peer-reflexive one keeps it when its signalled twin comes."""
        base = "" if is_remote else str(candidate.path_base)
        text = f"{candidate.component} {candidate.transport} {candidate.tcp_type} {candidate.address} {base}"
        return f"{'IR' if is_remote else 'IL'}{self._hash(text)}"

    def pair(self, path: tuple[TransportAddress, TransportAddress], ufrag: str = "") -> str:
        """Return the name of a pair, by its path and the session (its local ufrag) it belongs to."""
        return f"IP{self._hash(f'{ufrag} {path[0]} {path[1]}')}"

    def _hash(self, text: str) -> str:
        return blake2s(text.encode(), key=self._key, digest_size=_SIZE).hexdigest()
