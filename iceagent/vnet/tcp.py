"""TCP of virtual hosts: streams and listeners as Trio knows them, over the packets of the virtual network."""

from __future__ import annotations

import errno
import math
import operator
import os
from collections import deque
from typing import TYPE_CHECKING

import trio

from iceagent.core.address import TransportAddress
from iceagent.vnet.packet import Packet, Quote, Segment
from iceagent.vnet.tcp_connection import TcpConnection, TcpState

if TYPE_CHECKING:
    from iceagent.vnet.host import Host

BACKLOG = 128
LINGER_S = 2.0  # for so long late segments of a finished connection are answered; real systems take a minute
READ_BYTES = 65536


class VirtualTcpStream(trio.abc.HalfCloseableStream):
    """One end of a connection. Closed by its user, it lives on in the host until all is sent."""

    def __init__(self, stack: TcpStack, local: TransportAddress, remote: TransportAddress, *, is_client: bool) -> None:
        self.local_address = local
        self.remote_address = remote
        self.is_closed = False
        self._stack = stack
        self._machine = TcpConnection(trio.current_time(), is_client=is_client)
        self._changed = trio.Event()
        self._alarm_at = math.inf
        self._send_guard = _Guard("another task is sending on this stream")
        self._receive_guard = _Guard("another task is receiving on this stream")

    def __repr__(self) -> str:
        return f"<VirtualTcpStream {self.local_address} > {self.remote_address} {self.state.value}>"

    @property
    def state(self) -> TcpState:
        """Where the connection stands."""
        return self._machine.state

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all, waiting while the peer reads too slowly."""
        with self._send_guard:
            await trio.lowlevel.checkpoint()
            if self._machine.is_ending and not self.is_closed:
                raise trio.ClosedResourceError("send_eof was called before")
            left = bytes(data)
            while True:
                self._check()
                room = self._machine.room
                if room:
                    self._machine.write(trio.current_time(), left[:room])
                    left = left[room:]
                    self.settle()
                if not left:
                    return
                await self._wait()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        with self._send_guard:
            await trio.lowlevel.checkpoint()
            self._check()
            while not self._machine.room:
                await self._wait()
                self._check()

    async def send_eof(self) -> None:
        """Say that nothing follows; receiving works on."""
        with self._send_guard:
            await trio.lowlevel.checkpoint()
            self._check()
            self._machine.end(trio.current_time())
            self.settle()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; `b""` when the peer has said that nothing follows."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receive_guard:
            await trio.lowlevel.checkpoint()
            while True:
                if self.is_closed:
                    raise trio.ClosedResourceError("this stream was closed here")
                if self._machine.readable:
                    data = self._machine.read(max_bytes or READ_BYTES)
                    self.settle()
                    return data
                if self._machine.is_eof_received:
                    return b""
                self._check()
                await self._wait()

    async def aclose(self) -> None:
        """Close: what was sent is delivered yet; unread bytes reset the connection, as in real systems."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._machine.readable or self.state in (TcpState.CONNECTING, TcpState.ACCEPTING):
            self._machine.abort()
        else:
            self._machine.end(trio.current_time())
        self.settle()
        self._wake()

    def reset(self) -> None:
        """Close at once by a reset, also of what was sent and has not arrived. Idempotent."""
        self.is_closed = True
        self._machine.abort()
        self.settle()
        self._wake()

    async def wait_open(self) -> None:
        """Wait until the handshake is over.

        Raises:
            OSError: it failed.
        """
        while self.state in (TcpState.CONNECTING, TcpState.ACCEPTING):
            await self._wait()
        if self.state is TcpState.BROKEN:
            refused = "refused" in self._machine.error
            raise _os_error(errno.ECONNREFUSED if refused else errno.ETIMEDOUT, str(self.remote_address))

    def handle_segment(self, segment: Segment, data: bytes) -> None:
        """Take a segment that arrived."""
        if self.is_closed and data and self.state is TcpState.OPEN:
            self._machine.abort()  # nobody will read it
        else:
            self._machine.handle_segment(trio.current_time(), segment, data)
        self.settle()
        self._wake()

    def handle_error(self, quote: Quote) -> None:
        """Take an ICMP error about this connection."""
        if quote.errno == errno.EMSGSIZE:
            self._machine.handle_too_big(trio.current_time())
            self.settle()

    def vanish(self) -> None:
        """Die with the host: not even a reset is sent."""
        self._machine.state, self._machine.error = TcpState.BROKEN, "the host crashed"
        self.is_closed = True
        self._wake()

    def settle(self) -> None:
        """Send what the machine wants sent and see to its timer."""
        machine = self._machine
        while (out := machine.poll_segment()) is not None:
            self._stack.send(self.local_address, self.remote_address, *out)
        if machine.state is TcpState.BROKEN:
            self._stack.forget(self)
        elif machine.state is TcpState.DONE:
            self._set_alarm(trio.current_time() + LINGER_S)
        elif machine.timeout_at is not None:
            self._set_alarm(machine.timeout_at)

    def _set_alarm(self, at: float) -> None:
        if at < self._alarm_at:
            self._alarm_at = at
            self._stack.host.call_at(at, self._alarm_rings)

    def _alarm_rings(self, now: float) -> None:
        if now < self._alarm_at:
            return
        self._alarm_at = math.inf
        machine = self._machine
        if machine.state is TcpState.DONE:
            self._stack.forget(self)
        elif machine.timeout_at is not None and machine.timeout_at <= now:
            machine.handle_timeout(now)
            self.settle()
            self._wake()
        elif machine.timeout_at is not None:
            self._set_alarm(machine.timeout_at)

    def _check(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError("this stream was closed here")
        if self.state is TcpState.BROKEN:
            raise trio.BrokenResourceError(self._machine.error)

    async def _wait(self) -> None:
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _Guard:
    """Lets one task in at a time; a second one gets an error."""

    def __init__(self, complaint: str) -> None:
        self._complaint = complaint
        self._is_held = False

    def __enter__(self) -> None:
        if self._is_held:
            raise trio.BusyResourceError(self._complaint)
        self._is_held = True

    def __exit__(self, *_: object) -> None:
        self._is_held = False


class VirtualTcpListener(trio.abc.Listener[VirtualTcpStream]):
    """A listening socket."""

    def __init__(self, stack: TcpStack, local: TransportAddress) -> None:
        self.local_address = local
        self.is_closed = False
        self._stack = stack
        self._waiting: deque[VirtualTcpStream] = deque()
        self._changed = trio.Event()

    async def accept(self) -> VirtualTcpStream:
        """Wait for the next connection."""
        await trio.lowlevel.checkpoint()
        while True:
            if self.is_closed:
                raise trio.ClosedResourceError(f"the listener at {self.local_address} was closed")
            while self._waiting:
                stream = self._waiting.popleft()
                if stream.state is not TcpState.BROKEN:
                    return stream
            await self._changed.wait()

    async def aclose(self) -> None:
        """Close; connections that wait are reset."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self._stack.forget_listener(self)
            for stream in self._waiting:
                stream.close()
            self._waiting.clear()
            self._changed.set()

    def has_room(self) -> bool:
        """Whether one more connection may wait."""
        return len(self._waiting) < BACKLOG

    def take(self, stream: VirtualTcpStream) -> None:
        """Queue a connection whose handshake is over."""
        self._waiting.append(stream)
        self._changed.set()
        self._changed = trio.Event()


class TcpStack:
    """All TCP of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._streams: dict[tuple[TransportAddress, TransportAddress], VirtualTcpStream] = {}
        self._listeners: dict[TransportAddress, VirtualTcpListener] = {}
        self._accepting: dict[VirtualTcpStream, VirtualTcpListener] = {}

    def open_ends(self) -> list[VirtualTcpStream | VirtualTcpListener]:
        """Return the streams and listeners that their users have not closed."""
        streams = [stream for stream in self._streams.values() if not stream.is_closed]
        return [*self._listeners.values(), *(stream for stream in streams if stream not in self._accepting)]

    def ports(self) -> set[int]:
        """Return the ports in use."""
        return {local.port for local, _ in self._streams} | {local.port for local in self._listeners}

    def is_taken(self, wanted: TransportAddress) -> bool:
        """Return whether somebody listens there already."""
        wildcards = ("::", "0.0.0.0")  # noqa: S104
        return any(
            bound.port == wanted.port
            and bound.family == wanted.family
            and (wanted.host in wildcards or bound.host in (wanted.host, *wildcards))
            for bound in self._listeners
        )

    def crash(self) -> None:
        """Lose everything without a word."""
        for stream in list(self._streams.values()):
            stream.vanish()
        self._streams.clear()
        self._accepting.clear()
        for listener in list(self._listeners.values()):
            listener.close()

    async def connect(self, local: TransportAddress, remote: TransportAddress) -> VirtualTcpStream:
        """Connect; the way there is known.

        Raises:
            OSError: nobody listens or answers there, or the two addresses are connected already.
        """
        if (local, remote) in self._streams:
            raise _os_error(errno.EADDRNOTAVAIL, f"{local} to {remote}")
        stream = self._streams[local, remote] = VirtualTcpStream(self, local, remote, is_client=True)
        try:
            stream.settle()
            await stream.wait_open()
        except BaseException:
            stream.close()
            raise
        return stream

    def listen(self, local: TransportAddress) -> VirtualTcpListener:
        """Listen at a free address."""
        listener = self._listeners[local] = VirtualTcpListener(self, local)
        return listener

    def handle_packet(self, packet: Packet) -> bool:
        """Take a segment; return False when nobody is there, which has been answered with a reset."""
        segment = packet.segment
        assert segment is not None
        stream = self._streams.get((packet.destination, packet.source))
        if stream is None and segment.flags == "S":
            stream = self._accept(packet)
        if stream is None:
            if "R" not in segment.flags:
                flags = Segment("AR", segment.acknowledged, segment.sequence + 1, 0)
                self.send(packet.destination, packet.source, flags, b"")
            return False
        stream.handle_segment(segment, packet.data)
        if stream in self._accepting and stream.state is not TcpState.ACCEPTING:
            self._accepting.pop(stream).take(stream)
        return True

    def handle_error(self, quote: Quote) -> bool:
        """Take an ICMP error about a segment; return whether it was about one of our connections."""
        stream = self._streams.get((quote.source, quote.destination))
        if stream is not None:
            stream.handle_error(quote)
        return stream is not None

    def send(self, local: TransportAddress, remote: TransportAddress, segment: Segment, data: bytes) -> None:
        """Put a segment on its way."""
        self.host.send_packet(Packet(local, remote, data, None, segment))

    def forget(self, stream: VirtualTcpStream) -> None:
        """Drop a connection that is over."""
        self._streams.pop((stream.local_address, stream.remote_address), None)
        self._accepting.pop(stream, None)

    def forget_listener(self, listener: VirtualTcpListener) -> None:
        """Free the address of a closed listener; handshakes under way are reset."""
        self._listeners.pop(listener.local_address, None)
        for stream in [stream for stream, whose in self._accepting.items() if whose is listener]:
            stream.close()

    def _accept(self, packet: Packet) -> VirtualTcpStream | None:
        wildcard = TransportAddress("::" if packet.destination.family == 6 else "0.0.0.0", packet.destination.port)  # noqa: S104
        listener = self._listeners.get(packet.destination) or self._listeners.get(wildcard)
        if listener is None or not listener.has_room():
            return None
        key = (packet.destination, packet.source)
        stream = self._streams[key] = VirtualTcpStream(self, *key, is_client=False)
        self._accepting[stream] = listener
        return stream


def _os_error(code: int, what: str) -> OSError:
    return OSError(code, f"{os.strerror(code)}: {what}")
