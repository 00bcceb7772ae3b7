"""The errors of a link, and their codes on the wire. Each way to end has its own message."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from iceagent.errors import IceError, NetworkError, RemoteError

if TYPE_CHECKING:
    from iceagent.link.quic import QuicClose

MAX_WORDS = 200  # characters of the peer's own text that may reach a log or a terminal


class LinkCode(IntEnum):
    """Application error codes of the QUIC CONNECTION_CLOSE frame; its reason phrase says more where a word is needed.

    CANCELLED: whoever used the link was interrupted. UNANSWERED: the sender's PINGs found a path that works, and no
    answer. REFUSED: what the sender asked for is not allowed at the receiver, as which the phrase names it.
    """

    CLOSED = 0
    AUTHENTICATION_FAILED = 1
    PROTOCOL_VIOLATION = 2
    CREDIT_EXCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    UNANSWERED = 6
    REFUSED = 7


class StreamCode(IntEnum):
    """Codes of a reset stream that the link itself uses; an application takes its own from 16 upwards."""

    CLOSED = 0
    CANCELLED = 1
    BACKLOG_FULL = 2
    BAD_HEADER = 3


class LinkError(RemoteError):
    """The peer broke the link's protocol or closed it with an error."""


class LinkClosedByPeer(LinkError):
    """The other side closed the link on purpose; `interrupted` if it had not come to its end (LinkCode.CANCELLED)."""

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


class PeerRefused(RemoteError):
    """The other side does not allow what was asked of it; `wish` names that.

    A link whose body raises it sends that to the other side, which then knows the reason.
    """

    def __init__(self, message: str, *, wish: str = "") -> None:
        super().__init__(message)
        self.wish = wish


class WishRefused(LinkError):
    """The other side asked for what is not allowed here, and left."""


class AuthenticationError(LinkError):
    """The peer is not the one that signaling introduced: wrong certificate or wrong session key."""


class LinkLost(NetworkError):
    """The path under the link is gone; `__cause__` is the error of the transport."""


class LinkUnanswered(LinkLost):
    """The peer's end of the link does not answer, and no fault of the path is known."""

    def __init__(self, seconds: float, *, path_works: bool) -> None:
        """`path_works`: the transport says so; otherwise it is unknown."""
        silence = f"end of the link has answered nothing for {seconds:g} s"
        if path_works:
            text = f"the path to the other side works, but its {silence}: its program hangs, or has lost the link"
        else:
            text = f"the other side's {silence}: it has ended, or nothing leads to it any more"
        super().__init__(text)


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
    """Return what a connection's end, which the peer or the QUIC library has brought about, means to the user."""
    said = words_untrusted(close.reason)
    if close.by_application:
        return _error_of_code(close.code, said)
    if close.is_bad_certificate:
        return AuthenticationError("the certificate is not the one that signaling announced")
    if "timeout" in said.lower():  # only where the peer has a timer: ours is off
        return LinkLost("nothing has arrived from the other side for as long as it allows")
    return LinkError(f"QUIC ended the link: {said or f'error {close.code:#x}'}")


def _error_of_code(code: int, said: str) -> IceError:
    match code:
        case LinkCode.CLOSED:
            more = "" if said in ("", "done") else f": {said}"
            return LinkClosedByPeer(f"the other side has closed the session{more}")
        case LinkCode.CANCELLED:
            return LinkClosedByPeer("the other side was interrupted, and has closed the session", interrupted=True)
        case LinkCode.AUTHENTICATION_FAILED:
            return AuthenticationError(f"the other side refused the link: {said}")
        case LinkCode.PROTOCOL_VIOLATION | LinkCode.CREDIT_EXCEEDED:
            return LinkError(f"the other side ended the link because this side broke its protocol: {said}")
        case LinkCode.UNANSWERED:
            return LinkError("the other side gave the link up: it got no answer from this end")
        case LinkCode.REFUSED:
            wish = said or "something"
            return WishRefused(f"the other side asked for {wish}, which is not allowed here, and left")
    return LinkError(f"the other side ended the link: {said or f'code {code}'}")


def words_untrusted(text: str) -> str:
    """Return a text of the peer's without anything a terminal would obey, cut to `MAX_WORDS`."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_WORDS])
