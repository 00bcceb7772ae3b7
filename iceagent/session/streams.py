"""Sorts the streams the other side opens: the application's, and those of the services built into iceagent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from iceagent.errors import LocalError
from iceagent.link.config import MAX_STREAMS
from iceagent.net.logs import limited_logger
from iceagent.session.raw import RawLink

if TYPE_CHECKING:
    from iceagent.link import LinkStream

RESERVED_PREFIX = "iceagent."  # names beginning so belong to iceagent's own services
TUNNEL_SERVICE = "iceagent.tunnel"
FILES_SERVICE = "iceagent.files"
PING_SERVICE = "iceagent.ping"
APPLICATION = ""
MAX_PENDING_STREAMS = MAX_STREAMS  # not yet taken, per service: a burst of all the other side may open is no offence
RESET_BUSY = 16  # codes from 16 upwards are not the link's own
RESET_UNKNOWN = 17

_log = limited_logger(__name__)


class StreamRouter:
    """Takes every stream from the link and queues it for whoever it is meant for.

    A queue is there before anybody reads it, so a stream that comes before its service is ready waits instead of
    failing. A full queue resets the newest stream: nothing the other side opens can grow memory without bound.
    """

    def __init__(self, link: RawLink) -> None:
        self._link = link
        self._ended: BaseException | None = None
        self._has_ended = False
        self._queues = {
            name: trio.open_memory_channel["LinkStream"](MAX_PENDING_STREAMS)
            for name in (APPLICATION, TUNNEL_SERVICE, FILES_SERVICE, PING_SERVICE)
        }

    @contextmanager
    def serving(self, name: str) -> Iterator[None]:
        """Let streams of one more service in while the body runs; those that nobody took by then are reset."""
        queue = self._queues[name] = trio.open_memory_channel["LinkStream"](MAX_PENDING_STREAMS)
        if self._has_ended:
            queue[0].close()
        try:
            yield
        finally:
            del self._queues[name]
            queue[0].close()
            with suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    queue[1].receive_nowait().reset(RESET_UNKNOWN)

    async def run(self) -> None:
        """Route until the link ends."""
        try:
            while True:
                self._route(await self._link.accept_stream())
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel) as error:
            self._ended = error
        finally:
            self._has_ended = True
            for send, _ in self._queues.values():
                send.close()

    def _route(self, stream: LinkStream) -> None:
        name = stream.name if stream.name.startswith(RESERVED_PREFIX) else APPLICATION
        queue = self._queues.get(name)
        if queue is None:
            _log.info("the other side opened a stream for an unknown service")
            stream.reset(RESET_UNKNOWN)
            return
        try:
            queue[0].send_nowait(stream)
        except trio.WouldBlock:
            _log.warning("more than %d streams wait to be accepted; the newest is reset", MAX_PENDING_STREAMS)
            stream.reset(RESET_BUSY)

    async def accept(self, name: str = APPLICATION) -> LinkStream:
        """Wait for the next stream of the application, or of a service.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the link has ended.
        """
        try:
            return await self._queues[name][1].receive()
        except trio.EndOfChannel:
            raise trio.BrokenResourceError("the link has ended") from self._ended

    @property
    def can_open(self) -> bool:
        """Whether a stream can be opened now; if not, opening waits for one of ours to end."""
        return self._link.can_open_stream

    async def open(self, name: str) -> LinkStream:
        """Open a stream of the application.

        Raises:
            LocalError: the name is reserved.
        """
        if name.startswith(RESERVED_PREFIX):
            raise LocalError(f"stream names beginning with {RESERVED_PREFIX!r} are reserved; choose another")
        return await self._link.open_stream(name)

    async def open_service(self, name: str) -> LinkStream:
        """Open a stream to a service built into iceagent."""
        return await self._link.open_stream(name)
