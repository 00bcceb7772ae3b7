"""What is said at a control socket: one line of JSON each way. The schema is in docs/status.md."""

from __future__ import annotations

from typing import Any, Final

import msgspec

CONTROL_VERSION: Final = 1
"""A key never changes its meaning within a version; new keys and requests may come at any time."""
MAX_REQUEST: Final = 16 * 1024  # ours: bytes of a line; a forward's specification has some hundreds
MAX_ANSWER: Final = 4 * 1024 * 1024  # ours: bytes of a line; some hundred sessions of a hundred forwards each
MAX_SHOWN: Final = 256  # ours: sessions, and forwards of one, in an answer; further ones are counted


class Request(msgspec.Struct):
    """A wish.

    Attributes:
        version: of the protocol.
        request: `status`, or what the running command has registered.
        arguments: of the request, as it wants them.
    """

    version: int
    request: str
    arguments: dict[str, Any] = {}


class Answer(msgspec.Struct):
    """What came of it.

    Attributes:
        version: of the protocol.
        ok: whether the wish was granted.
        error: in words, where it was not.
        exit: the exit code that goes with that.
        value: what was asked for.
    """

    version: int = CONTROL_VERSION
    ok: bool = True
    error: str = ""
    value: Any = None
    exit: int = 0


class PathStatus(msgspec.Struct):
    """How two sides reach each other now; `text` is the line that is printed when it changes, the rest its parts."""

    text: str
    direct: bool
    transport: str
    local: str
    remote: str
    rtt_ms: float | None = None
    because: str | None = None


class ForwardStatus(msgspec.Struct):
    """What is carried for one target.

    Attributes:
        target: as an `--allow` rule would name it.
        binds: the local addresses; none where the other side asked for the target.
        open: connections and flows now.
        total: all there were.
        sent, received: bytes of their payload, to the other side and from it.
    """

    target: str
    binds: list[str] = []
    open: int = 0
    total: int = 0
    sent: int = 0
    received: int = 0


class SessionStatus(msgspec.Struct):
    """One session, or the attempt to get one.

    Attributes:
        state: `waiting` for a person or a peer to come, `connecting`, `connected` or `reconnecting`.
        since: when that began, Unix time in seconds.
        peer: the name of a paired peer, or `code 7` with the number of a code; never its words.
        doing: what is being tried, in words; "" while connected.
        relay: where the two sides met.
        path: in use; null while there is none.
        sent, received: bytes over all its paths, without what keeps them open.
        forwards: what is carried.
        forwards_left_out: how many more there are.
    """

    state: str
    since: float
    peer: str = ""
    doing: str = ""
    relay: str = ""
    path: PathStatus | None = None
    sent: int = 0
    received: int = 0
    forwards: list[ForwardStatus] = []
    forwards_left_out: int = 0


class CommandStatus(msgspec.Struct):
    """A running command.

    Attributes:
        pid: of its process.
        verb: such as `forward`.
        since: when it began, Unix time in seconds.
        program: its version.
        requests: what it can be asked for besides `status`.
        sessions: those that are open or being opened.
        sessions_left_out: how many more there are.
    """

    pid: int
    verb: str
    since: float
    program: str
    requests: list[str] = []
    sessions: list[SessionStatus] = []
    sessions_left_out: int = 0


class BadMessage(ValueError):
    """What came over a control socket is no message of this protocol."""


def read_request_untrusted(line: bytes) -> Request:
    """Return a request.

    Raises:
        BadMessage: the line is none, or of another version.
    """
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadMessage("this is no request; docs/status.md has its form") from None
    if request.version != CONTROL_VERSION:
        raise BadMessage(f"this command speaks version {CONTROL_VERSION} of the control protocol")
    return request


def read_answer_untrusted(line: bytes) -> Answer:
    """Return an answer.

    Raises:
        BadMessage: the line is none, or of another version.
    """
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadMessage("its answer cannot be read") from None
    if answer.version != CONTROL_VERSION:
        raise BadMessage(f"it speaks version {answer.version} of the control protocol, this program {CONTROL_VERSION}")
    return answer


def read_status_untrusted(answer: Answer) -> CommandStatus:
    """Return what a command has said of itself.

    Raises:
        BadMessage: it is no status, or it has not said it.
    """
    if not answer.ok:
        raise BadMessage(answer.error)
    try:
        return msgspec.convert(answer.value, CommandStatus)
    except msgspec.MsgspecError:
        raise BadMessage("its status cannot be read") from None


def to_line(message: Request | Answer) -> bytes:
    """Return a message as it is sent."""
    return msgspec.json.encode(message) + b"\n"
