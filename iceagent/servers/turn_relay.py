"""Relayed addresses on Trio: one socket each, read as long as the allocation lives."""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.turn.server import PeerDatagrams, RelayedAddress, ToPeer
from iceagent.net.api import HasDescriptor, SetsFragments, UdpSocket
from iceagent.net.batch import Batch

if TYPE_CHECKING:
    from iceagent.servers.turn import TurnService

ROUNDS: Final = 8  # of the poll before others get their turn
READS: Final = 1  # of a ready socket; one call brings a whole buffer, and the poll reports more for less than a try

_ICMP_OF: Final = {
    4: {
        errno.ECONNREFUSED: (3, 3),
        errno.EHOSTUNREACH: (3, 1),
        errno.ENETUNREACH: (3, 0),
        errno.EMSGSIZE: (3, 4),
        errno.EACCES: (3, 13),
    },
    6: {
        errno.ECONNREFUSED: (1, 4),
        errno.EHOSTUNREACH: (1, 3),
        errno.ENETUNREACH: (1, 0),
        errno.EMSGSIZE: (2, 0),
        errno.EACCES: (1, 1),
    },
}
"""Type and code of what the system reports as an errno, by family."""


class RelaySockets:
    """The sockets of all relays.

    Where the system has epoll, one task waits for all of them: with a hundred small flows a task each would spend most
    of its time on being woken. Elsewhere, and on a virtual network, each relay has its task.
    """

    def __init__(self, service: TurnService) -> None:
        self._service = service
        self._sockets: dict[RelayedAddress, UdpSocket] = {}
        self._polled: dict[int, tuple[RelayedAddress, HasDescriptor]] = {}
        self._poll: select.epoll | None = None

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._sockets)

    def get(self, relay: RelayedAddress) -> UdpSocket | None:
        """Return the socket of a relay while it is open."""
        return self._sockets.get(relay)

    def send_one(self, transmit: ToPeer) -> None:
        """Send what came in a Send indication, with DF set if it asks for that."""
        sock = self._sockets.get(transmit.relay)
        if transmit.dont_fragment and isinstance(sock, SetsFragments):
            sock.forbid_fragments()
            self._service.forward([PeerDatagrams(transmit.relay, transmit.peer, [transmit.data])])
            sock.allow_fragments()
        else:
            self._service.forward([PeerDatagrams(transmit.relay, transmit.peer, [transmit.data])])

    async def run(self, relay: RelayedAddress) -> None:
        """Bind a relayed address, report it to the core, and have it read until it is closed."""
        service = self._service
        try:
            sock = await service.network.open_udp(relay.bind.host, relay.bind.port)
        except OSError:
            service.core.relay_failed(trio.current_time(), relay)
            service.settle()
            return
        if isinstance(sock, SetsFragments):
            sock.allow_fragments()  # RFC 8656 section 15: DF is not ours to set
        self._sockets[relay] = sock
        if not service.core.relay_opened(trio.current_time(), relay):
            self.close(relay)
            return
        if self._poll is not None and isinstance(sock, HasDescriptor):
            self._polled[sock.fileno()] = (relay, sock)
            self._poll.register(sock.fileno(), select.EPOLLIN)
            service.settle()
            return
        service.settle()
        try:
            while True:
                self._take(trio.current_time(), relay, sock, await sock.receive())
        except trio.ClosedResourceError:
            return
        finally:
            self.close(relay)

    def close(self, relay: RelayedAddress) -> None:
        """Close a relay's socket, if it is open."""
        sock = self._sockets.pop(relay, None)
        if sock is None:
            return
        if self._poll is not None and isinstance(sock, HasDescriptor) and sock.fileno() in self._polled:
            self._poll.unregister(sock.fileno())
            del self._polled[sock.fileno()]
        sock.close()

    def close_all(self) -> None:
        """Close all that are open."""
        for relay in list(self._sockets):
            self.close(relay)

    async def run_poll(self) -> None:
        """Read all relays of this machine until cancelled."""
        if not hasattr(select, "epoll"):
            return
        with select.epoll() as poll:
            self._poll = poll
            try:
                while True:
                    await trio.lowlevel.wait_readable(poll)
                    self._take_rounds(poll)
            finally:
                self._poll = None  # the sockets are closed after it, when the server ends

    def _take_rounds(self, poll: select.epoll) -> None:
        for _ in range(ROUNDS):
            ready = poll.poll(0)
            if not ready:
                break
            self._take_ready(trio.current_time(), ready)

    def _take_ready(self, now: float, ready: list[tuple[int, int]]) -> None:
        for number, _ in ready:
            found = self._polled.get(number)
            if found is not None:  # else closed since
                relay, sock = found
                self._take(now, relay, sock, sock.receive_nowait(READS))

    def _take(self, now: float, relay: RelayedAddress, sock: UdpSocket, batches: list[Batch]) -> None:
        service = self._service
        send = service.sender_to(relay.allocation.path)
        for batch in batches:
            remote = service.announced(batch.remote)
            messages = service.core.forward_to_client(now, relay, remote, batch.data, batch.segment_size)
            if messages:
                send(messages)
        if not batches:
            self._report_errors(now, relay, sock)

    def _report_errors(self, now: float, relay: RelayedAddress, sock: UdpSocket) -> None:
        for error in sock.take_errors():
            kind = _ICMP_OF[error.remote.family].get(error.errno)
            if kind is not None:
                self._service.core.report_icmp(now, relay, error.remote, *kind)
        self._service.settle()


Sender = Callable[[list[bytes]], None]
"""Takes messages for one client; never waits, drops what does not fit."""
