"""What can go wrong between a program, its relay and its peer. Each message says what happened and what to do next."""

from __future__ import annotations

from typing import ClassVar


class SignalError(Exception):
    """Anything icesignal raises on purpose."""


class RelayUnreachable(SignalError):
    """The relay did not answer in time, or a resume was tried for as long as the relay keeps a session."""


class RelayRefused(SignalError):
    """The relay answered and said no: too many requests, too large, full, or an error of ours."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ProtocolMismatch(SignalError):
    """The relay and this program, or the two programs, do not speak the same protocol version."""

    def __init__(self, message: str, versions: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.versions = versions


class SessionLost(SignalError):
    """The relay no longer knows this session, or another connection has taken it over."""


class PeerLeft(SignalError):
    """The other side ended the conversation, or stayed away for longer than the relay keeps its place.

    Attributes:
        said_goodbye: whether it ended the conversation itself.
        is_done: whether it did so because nothing is left to say.
        is_dead: whether the relay says what a program leaves that was killed: it hung up without a word and was not
            back, or another one has taken its place.
    """

    def __init__(self, text: str, *, said_goodbye: bool = False, is_done: bool = False, is_dead: bool = False) -> None:
        super().__init__(text)
        self.said_goodbye = said_goodbye
        self.is_done = is_done
        self.is_dead = is_dead


class RoomOver(SignalError):
    """Our stay in a room of many is over.

    Attributes:
        reason: `done` (the room was ended for all), `removed`, `replaced` (this member entered elsewhere), `expired`
            (the ticket, or we were away for too long), `left`.
    """

    _WORDS: ClassVar[dict[str, str]] = {
        "done": "the room was ended for all",
        "removed": "we were removed from the room",
        "replaced": "this member has entered the room from elsewhere; one ticket has one place",
        "expired": "our ticket to the room has expired, or we were away for too long; enter again, with a new ticket",
        "left": "we left the room",
    }

    def __init__(self, reason: str) -> None:
        self.reason = reason if reason in self._WORDS else "left"
        super().__init__(self._WORDS.get(reason, "the relay ended our stay in the room"))


class ChannelBroken(SignalError):
    """Messages between the peers were lost for good, or what arrived was not made by the peer."""


class MessagesLost(SignalError):
    """At this place of the conversation messages are missing; `receive` may be called again for those after them."""


class CodeError(SignalError):
    """The code does not lead to a peer. Codes are good for one try: ask the other side for a new one."""


class CodeMalformed(CodeError, ValueError):
    """The text is not a code."""


class CodeWrong(CodeError):
    """Somebody joined with other words than the inviter's. Both sides get this, and the code is dead."""


class CodeUnknown(CodeError):
    """The relay has no such nameplate."""


class CodeExpired(CodeError):
    """The nameplate was used already, or nobody used it for too long."""


class Crowded(CodeError):
    """Two peers have met under this code; there is no place for a third."""
