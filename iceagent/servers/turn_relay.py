"""Relayed addresses on Trio: one socket each, read as long as the allocation lives."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from iceagent.core.turn.server import Relay
from iceagent.net.api import Batch, UdpSocket

if TYPE_CHECKING:
    from iceagent.servers.turn import TurnService

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
"""Type and code of what the system tells as an errno, by family."""


class RelaySockets:
    """The sockets of all relays."""

    def __init__(self, service: TurnService) -> None:
        self._service = service
        self._sockets: dict[Relay, UdpSocket] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._sockets)

    def get(self, relay: Relay) -> UdpSocket | None:
        """Return the socket of a relay while it is open."""
        return self._sockets.get(relay)

    async def run(self, relay: Relay) -> None:
        """Bind a relay, tell the core, and read it until it is closed."""
        service = self._service
        try:
            sock = await service.network.open_udp(relay.bind.host, relay.bind.port)
        except OSError:
            service.core.relay_failed(trio.current_time(), relay)
            service.settle()
            return
        self._sockets[relay] = sock
        try:
            wanted = service.core.relay_opened(trio.current_time(), relay)
            service.settle()
            while wanted:
                self._take(relay, sock, await sock.receive())
        except trio.ClosedResourceError:
            return
        finally:
            self._sockets.pop(relay, None)
            sock.close()

    def close(self, relay: Relay) -> None:
        """Close a relay's socket, if it is open."""
        sock = self._sockets.pop(relay, None)
        if sock is not None:
            sock.close()

    def _take(self, relay: Relay, sock: UdpSocket, batches: list[Batch]) -> None:
        now = trio.current_time()
        service = self._service
        send = service.sender_to(relay.allocation.path)
        for batch in batches:
            remote = service.announced(batch.remote)
            messages = service.core.forward_to_client(now, relay, remote, batch.data, batch.segment_size)
            if messages:
                send(messages)
        if not batches:
            self._report_errors(now, relay, sock)

    def _report_errors(self, now: float, relay: Relay, sock: UdpSocket) -> None:
        for error in sock.take_errors():
            kind = _ICMP_OF[error.remote.family].get(error.errno)
            if kind is not None:
                self._service.core.report_icmp(now, relay, error.remote, *kind)
        self._service.settle()


Sender = Callable[[list[bytes]], None]
"""Takes messages for one client; never waits, drops what does not fit."""
