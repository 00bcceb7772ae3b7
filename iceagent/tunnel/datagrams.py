"""Simple UDP sockets: each wake-up reads all that has arrived, and an error of one datagram does not stop the rest.

Not the agent's `UdpSocket`: that one sets DF and never fragments, while a forward must carry whatever the
application's own socket would have carried.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.options import enable_packet_info, read_ancillary, source_cmsg
from iceagent.net.sockaddr import SockAddr, bind_sockaddr
from iceagent.tunnel.binds import bound_text

MAX_DATAGRAM = 65535  # bytes, more than a UDP payload can have
BURST = 64  # datagrams taken per wake-up, so that one busy socket does not starve the others
SOCKET_BUFFER = 4 * 1024 * 1024  # bytes asked of the system for bursts; it gives what its limits allow
MAX_UNANSWERED = 64 * 1024  # bytes of a flow that are sent again to the next address when one refuses, and
MAX_UNANSWERED_DATAGRAMS = 64  # how many datagrams; empty ones have no bytes, and small ones many to go through
_ANCILLARY = 128  # bytes; one in6_pktinfo, with room
_REFUSED = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM}


class Origin(NamedTuple):
    """Where a datagram came from, and the address of ours that it came to, None where that is the socket's own."""

    source: SockAddr
    local: str | None


class PlainUdpSocket:
    """A bound UDP socket that answers from the address that was asked: a NAT lets no other answer through."""

    def __init__(self, sock: socket.socket) -> None:
        """Take a socket that is bound and does not block."""
        self._socket = sock
        _ask_for_buffers(sock)
        host = sock.getsockname()[0]
        self._tells_local = host in {"0.0.0.0", "::"} and enable_packet_info(sock)  # noqa: S104 (compared)

    @property
    def text(self) -> str:
        """The bound address as text."""
        return bound_text(self._socket)

    async def receive(self) -> list[tuple[bytes, Origin]]:
        """Wait, then return the datagrams at hand with their origins, oldest first, at most `BURST`."""
        await trio.lowlevel.wait_readable(self._socket)
        received: list[tuple[bytes, Origin]] = []
        for _ in range(BURST):
            try:
                received.append(self._receive_one())
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error about something sent earlier: no reason to stop
        return received

    def _receive_one(self) -> tuple[bytes, Origin]:
        if not self._tells_local:
            data, source = self._socket.recvfrom(MAX_DATAGRAM)
            return data, Origin(source, None)
        data, ancillary, _, source = self._socket.recvmsg(MAX_DATAGRAM, _ANCILLARY)
        return data, Origin(source, read_ancillary(ancillary, len(data))[1])

    def send(self, data: bytes, origin: Origin) -> bool:
        """Answer an origin with one datagram; False if the system would not take it, as UDP allows."""
        try:
            if origin.local is None:
                self._socket.sendto(data, origin.source)
            else:
                self._socket.sendmsg([data], source_cmsg(origin.local), 0, origin.source)
        except OSError:
            return False
        return True

    def forget(self) -> None:
        """Drop what has come and nobody has read."""
        with suppress(OSError):
            while True:
                self._receive_one()

    def close(self) -> None:
        """Close."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class TargetSocket:
    """A UDP socket to a target, whose name may have several addresses.

    When an address refuses, the next one is used, and what nobody has answered yet is sent again: nothing else shows
    which of them is served (`localhost` is often `::1` first). The address that answers stays until it refuses.
    """

    def __init__(self, addresses: Sequence[TransportAddress]) -> None:
        """Connect to the first of `addresses` there is a way to, best first; raises OSError if there is none."""
        self._addresses = addresses
        self._at = 0
        self._refusals = 0  # addresses that have refused one after the other, since the last answer
        self._unanswered: deque[bytes] = deque(maxlen=MAX_UNANSWERED_DATAGRAMS)
        self._socket: socket.socket | None = None
        failures = []
        for at in range(len(addresses)):
            try:
                self._use(at)
            except OSError as error:
                failures.append(error)
            else:
                return
        raise failures[0] if failures else OSError("there is no address")

    def send(self, data: bytes) -> bool:
        """Send one datagram; False if no address takes it, as UDP allows."""
        if len(self._addresses) > 1:
            self._unanswered.append(data)  # bounded: the oldest goes
            while sum(map(len, self._unanswered)) > MAX_UNANSWERED and len(self._unanswered) > 1:
                self._unanswered.popleft()
        try:
            self._current().send(data)
        except OSError as error:
            return error.errno in _REFUSED and (self._move_on() or self._send_after_error(data))
        return True

    def _send_after_error(self, data: bytes) -> bool:
        """Send what the system would not take because it had to report an earlier one's refusal instead."""
        with suppress(OSError):
            self._current().send(data)
            return True
        return False

    async def receive(self) -> list[bytes]:
        """Wait, then return the datagrams at hand, oldest first, at most `BURST`.

        Raises:
            trio.ClosedResourceError: it was closed here.
        """
        while True:
            sock = self._current()
            try:
                await trio.lowlevel.wait_readable(sock)
            except trio.ClosedResourceError:
                continue  # another address is in use by now; or closed, which raises
            if received := self._take(sock):
                self._refusals = 0
                self._unanswered.clear()
                return received

    def _take(self, sock: socket.socket) -> list[bytes]:
        received: list[bytes] = []
        while len(received) < BURST:
            try:
                received.append(sock.recv(MAX_DATAGRAM))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _REFUSED and not received:
                    self._move_on()
                break
        return received

    def _move_on(self) -> bool:
        """Use the next address, and send it what nobody has answered; False once each has refused."""
        count = len(self._addresses)
        if count == 1:
            return False
        while self._refusals < count - 1:
            self._refusals += 1
            self._at = (self._at + 1) % count
            with suppress(OSError):  # no way to that one, either
                self._use(self._at)
                for data in self._unanswered:
                    self._current().send(data)
                return True
        self._refusals = 0
        self._unanswered.clear()  # the next datagram begins another round
        return False

    def _use(self, at: int) -> None:
        address = self._addresses[at]
        family, sockaddr = bind_sockaddr(address.host, address.port)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            _ask_for_buffers(sock)
            sock.connect(sockaddr)
        except BaseException:
            sock.close()
            raise
        self.close()
        self._socket, self._at = sock, at

    def _current(self) -> socket.socket:
        if self._socket is None:
            raise trio.ClosedResourceError("the socket is closed")
        return self._socket

    def close(self) -> None:
        """Close; idempotent."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None


def _ask_for_buffers(sock: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
