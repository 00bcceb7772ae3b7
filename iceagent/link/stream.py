"""The stream that the application reads and writes."""

from __future__ import annotations

import trio
import trio.abc

from iceagent.core.checked import check_buffer, checked
from iceagent.link.config import KIB
from iceagent.link.errors import StreamCode, StreamReset
from iceagent.link.protocol import LinkProtocol, LinkState
from iceagent.link.streams import StreamState

_RECEIVE_SIZE = 256 * KIB


class _Gate:
    """Lets one task in at a time, and lets it wait for a call of `open`."""

    __slots__ = ("_event", "_verb", "busy")

    def __init__(self, verb: str) -> None:
        self.busy = False
        self._verb = verb
        self._event: trio.Event | None = None

    def __enter__(self) -> None:
        if self.busy:
            raise trio.BusyResourceError(f"another task is {self._verb} this stream")
        self.busy = True

    def __exit__(self, *_: object) -> None:
        self.busy = False

    def open(self) -> None:
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        self._event = trio.Event()
        try:
            await self._event.wait()
        finally:
            self._event = None


class LinkStream(trio.abc.HalfCloseableStream):
    """A reliable stream to the peer with true back-pressure: a reader that stops, stops the writer.

    `aclose()` ends sending gracefully: all that `send_all` accepted is delivered, followed by EOF. If it is cancelled,
    or a `send_all` was, the stream is reset instead, so that the peer never takes the part for the whole.
    """

    def __init__(self, protocol: LinkProtocol, state: StreamState) -> None:
        self._protocol = protocol
        self._state = state
        self._closed = False
        self._torn = False
        self._reading = _Gate("receiving from")
        self._writing = _Gate("sending on")
        state.wake_reader = self._reading.open
        state.wake_writer = self._writing.open

    @property
    def name(self) -> str:
        """What the opener called it."""
        return self._state.name

    @property
    def id(self) -> int:
        """The QUIC stream id, unique within the link."""
        return self._state.id

    @property
    def reset_code(self) -> int | None:
        """The code with which the peer gave the stream up, in whichever direction; None if it has not."""
        state = self._state
        return state.receive_reset if state.receive_reset is not None else state.send_stopped

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, waiting while the peer's reader or the network does not keep up.

        Raises:
            trio.BrokenResourceError: the peer reset the stream or the link ended; the cause says which.
            trio.ClosedResourceError: closed or ended here.
            trio.BusyResourceError: another task is sending.
        """
        check_buffer("data", data)
        with self._writing:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            with memoryview(data) as whole, whole.cast("B") as view:
                sent = self._protocol.write(self._state, view) if len(view) else 0
                try:
                    while sent < len(view):
                        await self._writing.wait()
                        self._check_sendable()
                        sent += self._protocol.write(self._state, view[sent:])
                except trio.Cancelled:
                    self._torn = True
                    raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` would accept something at once.

        Raises: as `send_all`.
        """
        with self._writing:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            while not self._protocol.writable(self._state):
                await self._writing.wait()
                self._check_sendable()

    async def send_eof(self) -> None:
        """End sending; the peer reads EOF after all that was sent, receiving goes on.

        Raises: as `send_all`.
        """
        with self._writing:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("the stream is closed")
            if not self._state.send_ended:
                self._check_sendable()
                self._protocol.end_sending(self._state)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, waiting for the first byte; b"" at the end of the stream.

        Args:
            max_bytes: the most to return; None for all that is at hand, up to 256 KiB.
        Raises:
            trio.BrokenResourceError: the peer reset the stream or the link ended; the cause says which.
            trio.ClosedResourceError: closed here.
            trio.BusyResourceError: another task is receiving.
        """
        if max_bytes is None:
            max_bytes = _RECEIVE_SIZE
        elif not isinstance(max_bytes, int):
            raise TypeError("max_bytes must be an int")
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._reading:
            await trio.lowlevel.checkpoint()
            state = self._state
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("the stream is closed")
                if state.receive_reset is not None:
                    raise trio.BrokenResourceError("the stream was reset") from StreamReset(
                        state.name, state.receive_reset
                    )
                if state.size:
                    return self._protocol.take(state, max_bytes)
                if state.receive_ended:
                    return b""
                self._check_link()
                if state.receive_stopped:
                    raise trio.ClosedResourceError("the stream was reset here")
                await self._reading.wait()

    @checked
    def reset(self, code: int = StreamCode.CANCELLED) -> None:
        """Give up both directions at once; the peer's calls raise with a `StreamReset` of this code. Idempotent."""
        if not self._closed:
            self._close(code)

    async def aclose(self) -> None:
        """Close: gracefully, or by a reset if cancelled (see the class). Idempotent."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self._close(None if self._state.send_ended else StreamCode.CANCELLED)
            raise
        self._close(StreamCode.CANCELLED if self._torn or self._writing.busy else None)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _close(self, code: int | None) -> None:
        self._closed = True
        protocol, state = self._protocol, self._state
        if protocol.state is not LinkState.CLOSED:
            if code is None:
                protocol.end_sending(state)
            else:
                protocol.reset_sending(state, code)
            protocol.stop_receiving(state, StreamCode.CLOSED if code is None else code)
        else:
            state.discard()
        state.wake()

    def _check_link(self) -> None:
        protocol = self._protocol
        if protocol.state is LinkState.CLOSED:
            if protocol.closed_here:
                raise trio.ClosedResourceError("the link is closed")
            raise trio.BrokenResourceError("the link has ended") from protocol.error

    def _check_sendable(self) -> None:
        state = self._state
        if self._closed or state.send_ended or state.send_reset:
            raise trio.ClosedResourceError("the stream is closed for sending")
        if state.send_stopped is not None:
            raise trio.BrokenResourceError("the stream was reset") from StreamReset(state.name, state.send_stopped)
        if state.receive_reset is not None and state.receive_reset != StreamCode.CLOSED:
            # who resets gives up both directions; the two frames may come apart
            raise trio.BrokenResourceError("the stream was reset") from StreamReset(state.name, state.receive_reset)
        self._check_link()
