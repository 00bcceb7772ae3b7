"""Slow connections to a relay, as a program: `slow_connections.py PORT COUNT SOURCES KIND` until it is killed.

A process of its own, so that what they take of a processor is not the relay's. Says a line when all have been opened.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from secrets import token_bytes

from icesignal import wire

TURN_S = 1.0  # between two bytes of a slow connection
BACK_S = 5.0  # until one that was ended comes back
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(192)
"""The beginning of a TLS handshake that says 200 bytes follow."""


def masked(payload: bytes) -> bytes:
    """Return a binary message of a client, masked with zeros."""
    return bytes((0x82, 0x80 | len(payload))) + bytes(4) + payload


def slowly(data: bytes) -> Iterator[bytes]:
    """Give bytes one by one, then nothing more."""
    return chain((bytes([byte]) for byte in data), repeat(b""))


def silent() -> Iterator[bytes]:
    """Say nothing."""
    return repeat(b"")


def head() -> Iterator[bytes]:
    """Say a request that does not end."""
    return slowly(UPGRADE[:-4] + b"\r\nX: " + b"y" * 10_000)


def handshake() -> Iterator[bytes]:
    """Begin TLS."""
    return slowly(HELLO)


def frame() -> Iterator[bytes]:
    """Open a websocket, and say a frame."""
    return chain([UPGRADE], slowly(masked(wire.encode(wire.Allocate(session=token_bytes(16))))))


def deaf() -> Iterator[bytes]:
    """Take a place, ask for this and that, and read no answer."""
    allocate, ask = wire.encode(wire.Allocate(session=token_bytes(16))), masked(wire.encode(wire.AskServers()))
    return chain([UPGRADE, masked(allocate)], repeat(20 * ask))


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {one.__name__: one for one in (silent, head, handshake, frame, deaf)}


class Slow:
    """One connection, again and again."""

    def __init__(self, port: int, source: str, kind: str) -> None:
        self._port, self._source, self._kind = port, source, kind
        self._socket: socket.socket | None = None
        self._says: Iterator[bytes] = repeat(b"")
        self._back_at = 0.0

    def turn(self, now: float) -> None:
        """Say a little more, or come back."""
        if self._socket is None:
            if now >= self._back_at:
                self._open()
            return
        try:
            if self._kind != "deaf":
                with suppress(BlockingIOError):
                    if not self._socket.recv(65_536):
                        raise ConnectionResetError
            if data := next(self._says):
                with suppress(BlockingIOError):
                    self._socket.send(data)
        except OSError:
            self._socket.close()
            self._socket, self._back_at = None, now + BACK_S

    def _open(self) -> None:
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.bind((self._source, 0))
        self._socket.connect_ex(("127.0.0.1", self._port))
        self._says = chain([b""], KINDS[self._kind]())


def main(port: int, count: int, sources: int, kind: str) -> None:
    """Keep so many connections, each taking its turn once a second."""
    parts = (number % sources for number in range(count))
    all_of_them = [Slow(port, f"127.{1 + part // 250}.{part % 250}.7", kind) for part in parts]
    is_said = False
    while True:
        began = time.monotonic()
        for number, one in enumerate(all_of_them):
            one.turn(time.monotonic())
            if number % 50 == 49:
                time.sleep(0.01)  # a backlog has its bounds, and so has what the relay is to be asked for at once
        if not is_said:
            is_said = True
            print("all there", flush=True)
        time.sleep(max(0.0, began + TURN_S - time.monotonic()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
