"""Clients of a relay that cost less than the relay does: all at one `epoll`, frames put together by hand."""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import cast

import msgpack
from icesignal import wire

PATIENCE_S = 0.1
"""How long the clients wait for anything to happen before they look at the time again."""

Talk = Generator[None, bytes, None]


@dataclass(slots=True)
class Client:
    """One websocket of ours, driven by a generator that gets nothing once it is open, and then each message."""

    loop: Loop
    talk: Talk
    socket: socket.socket
    data: bytearray = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)
    is_open: bool = False

    def send(self, frame: wire.Frame) -> None:
        """Send a frame of the relay's protocol."""
        self.send_bytes(wire.encode(frame))

    def send_bytes(self, payload: bytes) -> None:
        """Send a binary message, masked with zeros."""
        size = len(payload)
        head = bytes((0x82, 0x80 | size)) if size < 126 else bytes((0x82, 0xFE)) + size.to_bytes(2, "big")
        self.out += head + bytes(4) + payload
        self.flush()

    def flush(self) -> None:
        """Write what can be written now."""
        try:
            sent = self.socket.send(self.out)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        del self.out[:sent]
        if self.out:
            self.loop.watch(self, select.EPOLLIN | select.EPOLLOUT)

    def close(self) -> None:
        """Hang up."""
        self.loop.forget(self)
        self.socket.close()

    def readable(self) -> None:
        """Take what has come."""
        try:
            data = self.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.data += data
        if not self.is_open:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self.data.startswith(b"HTTP/1.1 101"):
                raise SystemExit(f"refused: {bytes(self.data[:200])!r}")
            del self.data[: end + 4]
            self.is_open = True
            self.talk.send(b"")
        for message in self._messages():
            try:
                self.talk.send(message)
            except StopIteration:
                self.close()
                return

    def _messages(self) -> Iterator[bytes]:
        while len(self.data) >= 2:
            size, begin = self.data[1] & 0x7F, 2
            if size == 126:
                if len(self.data) < 4:
                    return
                size, begin = int.from_bytes(self.data[2:4], "big"), 4
            if len(self.data) < begin + size:
                return
            kind, message = self.data[0] & 0x0F, bytes(self.data[begin : begin + size])
            del self.data[: begin + size]
            if kind == 2:
                yield message
            elif kind == 9:  # a ping
                self.out += bytes((0x8A, 0x80 | size)) + bytes(4) + message
                self.flush()


class Loop:
    """The clients, and what wakes them."""

    def __init__(self, *urls: str) -> None:
        """Make one without clients, whose clients each choose one of the URLs."""
        places = [url.removeprefix("ws://").rpartition(":") for url in urls]
        self._addresses = [(host, int(port)) for host, _, port in places]
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._random = random.Random(1)

    def connect(self, talk: Callable[[Client], Talk]) -> Client:
        """Open a websocket from another source than any before."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = self._random.choice(self._addresses)
        sock.connect_ex(address)
        source = ".".join(str(self._random.randrange(256)) for _ in range(3))
        request = (
            f"GET / HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"X-Forwarded-For: 11.{source}\r\n\r\n"
        )
        client = Client(self, cast("Talk", iter(())), sock, out=bytearray(request.encode()))
        self._clients[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        client.talk = talk(client)
        next(client.talk)
        return client

    def watch(self, client: Client, events: int) -> None:
        """Wait for other events of a client's."""
        self._epoll.modify(client.socket.fileno(), events)

    def forget(self, client: Client) -> None:
        """Wait for nothing of a client's."""
        if self._clients.pop(client.socket.fileno(), None) is not None:
            self._epoll.unregister(client.socket.fileno())

    def turn(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait once, and wake whom it concerns."""
        for number, events in self._epoll.poll(timeout_s):
            client = self._clients.get(number)
            if client is not None and events & select.EPOLLOUT:
                client.flush()
                if not client.out:
                    self.watch(client, select.EPOLLIN)
            if client is not None and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                client.readable()

    def close(self) -> None:
        """Hang up everywhere."""
        for client in list(self._clients.values()):
            client.close()
        self._epoll.close()


def frame_of(message: bytes) -> dict[str, object]:
    """Return a relay's frame, unchecked: the clients are to be cheap."""
    return cast("dict[str, object]", msgpack.unpackb(message))
