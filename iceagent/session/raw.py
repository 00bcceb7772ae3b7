"""What a session needs of a link: an interface, so that tunnels can be tested on an in-memory link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from iceagent.errors import IceError

if TYPE_CHECKING:
    from iceagent.link import LinkStream


class ByteStream(Protocol):
    """A bidirectional stream of bytes whose directions end apart: `trio.abc.HalfCloseableStream`, structurally."""

    async def send_all(self, data: bytes) -> None:
        """Send, waiting while the other side does not read."""
        ...

    async def send_eof(self) -> None:
        """End this side's direction; the other stays open."""
        ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what is at hand, `b""` at the end."""
        ...

    async def aclose(self) -> None:
        """Close both directions."""
        ...


class NamedStream(ByteStream, Protocol):
    """A stream of a link; its opener names it, the other side sees the name before the first byte."""

    @property
    def name(self) -> str:
        """The name given by the opener."""
        ...

    def reset(self, code: int = 0) -> None:
        """Abandon both directions at once: the other side sees a broken stream, not an end."""
        ...


class RawLink(Protocol):
    """Streams and datagrams to one authenticated peer: `iceagent.link.QuicLink`."""

    async def open_stream(self, name: str) -> LinkStream:
        """Open a stream; the first bytes may be sent at once."""
        ...

    @property
    def can_open_stream(self) -> bool:
        """Whether `open_stream` would not have to wait for one of ours to end."""
        ...

    async def accept_stream(self) -> LinkStream:
        """Wait for the next stream that the other side opened."""
        ...

    async def send_datagram(self, data: bytes) -> None:
        """Send one datagram, at most `max_datagram_size` bytes; it may be lost."""
        ...

    async def receive_datagram(self) -> bytes:
        """Wait for the next datagram."""
        ...

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram now, bytes."""
        ...

    async def wait_closed(self) -> None:
        """Return when the link has ended, for whatever reason."""
        ...

    @property
    def close_reason(self) -> IceError | None:
        """Why the link has ended; None while it lives, and when it was closed here."""
        ...

    def statistics(self) -> Any:
        """Return counters."""
        ...
