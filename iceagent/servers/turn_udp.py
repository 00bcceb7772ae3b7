"""UDP clients of the TURN server: one socket, one task, whole buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from iceagent.core.stun import Method
from iceagent.core.turn.server import Allocation, ClientPath
from iceagent.net.api import UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.options import bound_to

if TYPE_CHECKING:
    from iceagent.servers.turn import TurnService

_BINDING = Method.BINDING.to_bytes(2, "big")  # the type of a Binding request


class UdpListener:
    """Reads one listening socket.

    Args:
        service: the server.
        sock: bound.
    """

    def __init__(self, service: TurnService, sock: UdpSocket) -> None:
        self._service = service
        self._sock = sock
        self._local = sock.local_address
        self._flows = service.core.flows("udp", self._local.port)

    async def run(self) -> None:
        """Serve until cancelled or closed."""
        service, core = self._service, self._service.core
        while True:
            try:
                batches = await self._sock.receive()
            except trio.ClosedResourceError:
                return
            now = trio.current_time()
            asked = False
            for batch in batches:
                data, size = batch.data, batch.segment_size
                allocation = self._flow(batch)
                if allocation is not None and _is_channel_data(data, size):
                    service.forward(core.forward_to_peer(now, allocation, data, size))
                else:
                    self._take_singly(now, batch)
                    asked = True
            if asked:
                service.settle()
            self._sock.take_errors()

    def _flow(self, batch: Batch) -> Allocation | None:
        """Return the newest allocation of a client if it is at the address that was asked."""
        allocation = self._flows.get(batch.remote)
        asked = batch.local or self._local.host
        return allocation if allocation is not None and allocation.path.local.host == asked else None

    def _take_singly(self, now: float, batch: Batch) -> None:
        service = self._service
        path = ClientPath("udp", bound_to(self._local, batch.local), batch.remote)
        for data in batch.datagrams():
            if data[:2] == _BINDING:
                service.answer_binding(now, path.local, batch.remote, data)
            elif 0x40 <= (data[0] if data else 0) < 0x80:
                allocation = service.core.allocations.get(path)
                if allocation is None:
                    service.counters["channel_unknown"] += 1
                else:
                    service.forward(service.core.forward_to_peer(now, allocation, data, len(data)))
            else:
                service.core.handle_message(now, path, data)
                service.settle()


def _is_channel_data(data: bytes, size: int) -> bool:
    """Return whether all datagrams of a buffer are ChannelData, by the first byte of each."""
    if len(data) <= size:
        return bool(data) and 0x40 <= data[0] < 0x80
    starts = data[::size]
    return min(starts) >= 0x40 and max(starts) < 0x80
