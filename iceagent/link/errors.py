"""What can go wrong with a link, and the codes that say so on the wire."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from iceagent.errors import IceError, NetworkError, RemoteError

if TYPE_CHECKING:
    from iceagent.link.quic import QuicClose


class LinkCode(IntEnum):
    """Application error codes of the QUIC CONNECTION_CLOSE frame."""

    CLOSED = 0
    AUTHENTICATION_FAILED = 1
    PROTOCOL_VIOLATION = 2
    CREDIT_EXCEEDED = 3
    FAILED = 4


class StreamCode(IntEnum):
    """Codes of a reset stream that the link itself uses; an application takes its own from 16 upwards."""

    CLOSED = 0
    CANCELLED = 1
    BACKLOG_FULL = 2
    BAD_HEADER = 3


class LinkError(RemoteError):
    """The peer broke the link's protocol or closed it with an error."""


class LinkClosedByPeer(LinkError):
    """The other side closed the link on purpose."""


class AuthenticationError(LinkError):
    """The peer is not the one that signaling introduced: wrong certificate or wrong session key."""


class LinkLost(NetworkError):
    """Nothing arrives from the peer any more."""


class StreamReset(RemoteError):
    """The other side gave up one stream; `code` is what it said (see `StreamCode`)."""

    def __init__(self, name: str, code: int) -> None:
        try:
            reason = StreamCode(code).name.lower().replace("_", " ")
        except ValueError:
            reason = f"code {code}"
        super().__init__(f"the other side reset the stream {name!r}: {reason}")
        self.code = code


def error_of_close(close: QuicClose) -> IceError:
    """Return what a connection's end means to the user."""
    if close.by_application:
        if close.code == LinkCode.CLOSED:
            return LinkClosedByPeer(f"the other side closed the link: {close.reason or 'done'}")
        if close.code == LinkCode.AUTHENTICATION_FAILED:
            return AuthenticationError(f"the other side refused the link: {close.reason}")
        return LinkError(f"the other side ended the link: {close.reason or f'code {close.code}'}")
    if close.is_bad_certificate:
        return AuthenticationError("the certificate is not the one that signaling announced")
    if "timeout" in close.reason.lower():
        return LinkLost("nothing has arrived from the other side for too long")
    return LinkError(f"QUIC ended the link: {close.reason or f'error {close.code:#x}'}")
