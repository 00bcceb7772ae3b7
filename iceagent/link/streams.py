"""One stream without I/O: what has arrived, what may be sent, how each direction ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from iceagent.link.config import MAX_NAME_SIZE
from iceagent.link.credit import ReceiveCredit, SendCredit

_SMALL = 4096  # chunks below this are put together, so that tiny frames cannot cost many times their size
_NAME_LENGTH = 2


class BadHeader(ValueError):
    """The peer opened a stream with a malformed name."""


def encode_header(name: bytes) -> bytes:
    """Return the first bytes of a stream: the length of its name (2 bytes) and the name in UTF-8."""
    return len(name).to_bytes(_NAME_LENGTH, "big") + name


def _nothing() -> None:
    """Wake nobody."""


class StreamState:
    """The state of one stream, both directions.

    Attributes:
        header_size: bytes of the stream taken by its name, counted as consumed with the first read.
        receive_ended: the peer's FIN arrived.
        receive_reset, send_stopped: the peer's code when it gave up sending, or wants nothing more.
        receive_stopped, send_reset, send_ended: what this end has done.
        wake_reader, wake_writer: called when a waiting task should look again.
    """

    __slots__ = (
        "accepted",
        "chunks",
        "credit",
        "head",
        "header_size",
        "id",
        "is_local",
        "name",
        "receive_ended",
        "receive_reset",
        "receive_stopped",
        "send_credit",
        "send_ended",
        "send_reset",
        "send_stopped",
        "size",
        "wake_reader",
        "wake_writer",
    )

    def __init__(self, stream_id: int, *, is_local: bool, name: str, credit: ReceiveCredit, send_limit: int) -> None:
        self.id = stream_id
        self.is_local = is_local
        self.name = name
        self.credit = credit
        self.send_credit = SendCredit(send_limit)
        self.head: bytearray | None = None if is_local else bytearray()
        self.header_size = 0
        self.chunks: deque[bytes | bytearray] = deque()
        self.size = 0
        self.accepted = is_local
        self.receive_ended = False
        self.receive_reset: int | None = None
        self.receive_stopped = False
        self.send_ended = False
        self.send_reset = False
        self.send_stopped: int | None = None
        self.wake_reader: Callable[[], None] = _nothing
        self.wake_writer: Callable[[], None] = _nothing

    @property
    def receive_finished(self) -> bool:
        """Whether nothing more will arrive that anybody wants."""
        return self.receive_ended or self.receive_stopped or self.receive_reset is not None

    @property
    def send_finished(self) -> bool:
        """Whether nothing more can be sent."""
        return self.send_ended or self.send_reset or self.send_stopped is not None

    def feed_untrusted(self, data: bytes) -> bool:
        """Keep `data` for the reader; return whether the name has just become complete.

        Raises:
            BadHeader: the name is too long or not UTF-8.
        """
        if self.head is None:
            self._append(data)
            return False
        self.head += data
        if len(self.head) < _NAME_LENGTH:
            return False
        size = int.from_bytes(self.head[:_NAME_LENGTH], "big")
        end = _NAME_LENGTH + size
        if size > MAX_NAME_SIZE:
            raise BadHeader(f"a name of {size} bytes")
        if len(self.head) < end:
            return False
        try:
            self.name = self.head[_NAME_LENGTH:end].decode()
        except UnicodeDecodeError as exc:
            raise BadHeader("a name that is not UTF-8") from exc
        rest = bytes(self.head[end:])
        self.head = None
        self.header_size = end
        if rest:
            self._append(rest)
        return True

    def _append(self, data: bytes) -> None:
        self.size += len(data)
        if len(data) < _SMALL and self.chunks:
            last = self.chunks[-1]
            if isinstance(last, bytearray):
                if len(last) < 16 * _SMALL:
                    last += data
                    return
            elif len(last) < _SMALL:
                self.chunks[-1] = bytearray(last + data)
                return
        self.chunks.append(data)

    def take(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` of what has arrived and remove it; b"" if there is nothing."""
        chunks = self.chunks
        if not chunks:
            return b""
        if self.size <= max_bytes:
            taken = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self.size = 0
            return bytes(taken)
        parts: list[bytes | bytearray | memoryview] = []
        room = max_bytes
        while room:
            chunk = chunks.popleft()
            if len(chunk) > room:
                view = memoryview(chunk)
                parts.append(view[:room])
                chunks.appendleft(bytes(view[room:]))
                break
            parts.append(chunk)
            room -= len(chunk)
        self.size -= max_bytes
        return b"".join(parts)

    def discard(self) -> None:
        """Forget what has arrived: nobody will read it."""
        self.chunks.clear()
        self.size = 0

    def wake(self) -> None:
        """Wake both directions: the link ended."""
        self.wake_reader()
        self.wake_writer()
