"""A broken connection must not look like one that has ended: half an answer would be taken for a whole one.

Over TCP the peer of a broken connection gets a reset. The system sends an ordinary end for the connections of a killed
process. So every connection is *armed* from its first moment: whoever closes it resets it, also the system after a
`kill -9` (SO_LINGER with a time of zero; RFC 9293 section 3.10.4 calls it ABORT). It is disarmed only for the close
after both directions have ended well.

Unix sockets and pipes have no reset: their reader sees an ordinary end, and only the log can show the difference.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import Protocol, runtime_checkable

import trio

from iceagent.session.raw import ByteStream

_FORMAT = "hh" if sys.platform == "win32" else "ii"  # struct linger: on or off, seconds
_RESET = struct.pack(_FORMAT, 1, 0)
_END = struct.pack(_FORMAT, 0, 0)
_INTERNET = {socket.AF_INET, socket.AF_INET6}


@runtime_checkable
class Closable(Protocol):
    """What can be closed without waiting."""

    def close(self) -> None:
        """Close at once."""
        ...


def arm(sock: socket.socket | trio.socket.SocketType) -> None:
    """Let closing this socket reset its connection, whether we close it or the end of this process does.

    A listener hands it on to what it accepts where the system does so (Linux, the BSDs); what was accepted is armed
    again. Nothing for a Unix socket, which has no reset.
    """
    _set_linger(sock, _RESET)


def disarm(stream: ByteStream) -> None:
    """Let closing this stream end it well: what was written is delivered, then comes the end."""
    if isinstance(stream, trio.SocketStream):
        _set_linger(stream.socket, _END)


def break_off(stream: ByteStream) -> None:
    """Close a local stream at once; a TCP peer sees a reset, as it would have without the tunnel."""
    if isinstance(stream, trio.SocketStream):
        if stream.socket.fileno() < 0:
            return
        arm(stream.socket)
        stream.socket.close()
    elif isinstance(stream, Closable):
        stream.close()


def has_reset(stream: ByteStream) -> bool:
    """Return whether the reader of a local stream can see that it broke."""
    return not isinstance(stream, trio.SocketStream) or stream.socket.family in _INTERNET


def _set_linger(sock: socket.socket | trio.socket.SocketType, value: bytes) -> None:
    if sock.family in _INTERNET:
        with suppress(OSError):  # some systems refuse once the peer has reset the connection itself
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)
