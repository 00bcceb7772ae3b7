"""What tests look for at UDP sockets."""

from __future__ import annotations

import trio

from iceagent.net.api import UdpSocket


async def silent(sock: UdpSocket, seconds: float = 5.0) -> bool:
    """Return whether nothing comes for so long."""
    with trio.move_on_after(seconds):
        return not await sock.receive()
    return True
