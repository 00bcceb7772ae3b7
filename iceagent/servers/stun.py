"""A STUN server on Trio: one socket, one task, whole batches, and answers from the address that was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.stun import BindingLimits, BindingServer
from iceagent.net.api import Network, UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.options import bound_to
from iceagent.net.tasks import open_background

DEFAULT_PORT: Final = 3478  # RFC 8489 section 18.6


class StunServer:
    """A running server; made by `open_stun_server`."""

    def __init__(self, sock: UdpSocket, core: BindingServer) -> None:
        self._socket = sock
        self._core = core

    @property
    def address(self) -> TransportAddress:
        """The bound address; its port is the real one also where 0 was asked for."""
        return self._socket.local_address

    @property
    def counters(self) -> Counter[str]:
        """What became of all datagrams, by reason: see `BindingServer`; and `send_buffer_full` for lost answers."""
        return self._core.counters

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            for batch in await self._socket.receive():
                self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        now, local, remote = trio.current_time(), bound_to(self.address, batch.local), batch.remote
        answers = [
            answer
            for datagram in batch.datagrams()
            if (answer := self._core.handle_datagram(now, local, remote, datagram)) is not None
        ]
        if not answers:
            return
        # Waiting for one client would make all others wait; a lost answer is asked for again.
        lost = len(answers) - self._socket.send_nowait(answers, remote, source=batch.local)
        if lost:
            self.counters["send_buffer_full"] += lost


@asynccontextmanager
async def open_stun_server(
    host: str,
    port: int = DEFAULT_PORT,
    *,
    network: Network | None = None,
    limits: BindingLimits | None = None,
    software: str = "",
) -> AsyncGenerator[StunServer, None]:
    """Serve Binding requests for as long as the block runs.

    Args:
        host: IP literal to bind. `0.0.0.0` serves all IPv4 addresses of the machine, also those that come later, and
            `::` all IPv6 ones; each answers for itself where the system can do that (Linux, macOS). Elsewhere (Windows)
            the system chooses among several: bind each then.
        port: 0 lets the system choose.
        network: where to bind; this machine by default.
        limits: what one source may ask for.
        software: what to say in SOFTWARE; empty to keep silent.

    Raises:
        OSError: the address is not ours or the port is taken.
        ValueError: a limit is not positive.
    """
    core = BindingServer(limits=limits, software=software)
    sock = await _network(network).open_udp(host, port)
    try:
        server = StunServer(sock, core)
        async with open_background() as nursery:
            nursery.start_soon(server.run)
            yield server
    finally:
        sock.close()


def _network(network: Network | None) -> Network:
    if network is not None:
        return network
    from iceagent.net import SystemNetwork

    return SystemNetwork()
