"""The addresses of a name, and a connection to the first of them that accepts one.

Each is tried a quarter of a second after the one before it, or at once when that one has failed; so a dead first
address costs a quarter of a second, and one that refuses no time. Source: RFC 8305 sections 4 and 5.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from dataclasses import dataclass

import trio

ATTEMPT_DELAY_S = 0.25  # RFC 8305 section 5: "Connection Attempt Delay"
MAX_ADDRESSES = 16  # ours: of one name; with the delay above all are tried within 4 s


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a name, as sockets take it."""

    family: socket.AddressFamily
    sockaddr: tuple[str | int | bytes, ...]


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host, best first, the families taking turns.

    Raises:
        OSError: it has none.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        if not host.endswith("."):
            raise
        # DNS knows absolute names by their final dot, a file of hosts does not.
        found = await trio.socket.getaddrinfo(host.removesuffix("."), port, type=socket.SOCK_STREAM)
    addresses = [Address(socket.AddressFamily(family), tuple(sockaddr)) for family, _, _, _, sockaddr in found]
    return interleave(list(dict.fromkeys(addresses)))[:MAX_ADDRESSES]


def interleave(addresses: list[Address]) -> list[Address]:
    """Return addresses so that families take turns, in the order given within each; the first stays the first.

    Source: RFC 8305 section 4.
    """
    first = [one for one in addresses if one.family is addresses[0].family]
    queues = deque(first), deque(one for one in addresses if one not in first)
    mixed: list[Address] = []
    while any(queues):
        mixed += [queue.popleft() for queue in queues if queue]
    return mixed


async def connect_first(addresses: deque[Address]) -> trio.SocketStream:
    """Return a connection to the first address that takes one; it, and those that failed, are taken out of `addresses`.

    An address that was being tried when another one won stays: it may be asked again.

    Raises:
        OSError: none takes one; it says what each said.
    """
    race = _Race(addresses)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(race.run, nursery, list(addresses))
    except BaseException:
        if race.winner is not None:  # somebody cancelled us in the moment it was there
            race.winner.socket.close()
        raise
    if race.winner is None:
        raise race.error()
    return race.winner


class _Race:
    """The attempts of one `connect_first`: each starts the next one, in time or as soon as it fails."""

    def __init__(self, left: deque[Address]) -> None:
        self.winner: trio.SocketStream | None = None
        self._left = left
        self._errors: list[OSError] = []

    async def run(self, nursery: trio.Nursery, addresses: list[Address]) -> None:
        """Try the first address, and the others when their turn comes."""
        if not addresses:
            return
        failed = trio.Event()
        nursery.start_soon(self._run_others, nursery, addresses[1:], failed)
        try:
            stream = await _connect(addresses[0])
        except OSError as error:
            self._errors.append(error)
            self._left.remove(addresses[0])
            failed.set()
            return
        if self.winner is not None:  # two at the same moment
            await trio.aclose_forcefully(stream)
            return
        self._left.remove(addresses[0])
        self.winner = stream
        nursery.cancel_scope.cancel()

    async def _run_others(self, nursery: trio.Nursery, addresses: list[Address], failed: trio.Event) -> None:
        with trio.move_on_after(ATTEMPT_DELAY_S):
            await failed.wait()
        await self.run(nursery, addresses)

    def error(self) -> OSError:
        """Return what is to be raised, nothing having worked: the only error, or one that names all."""
        distinct = {(error.errno, str(error)): error for error in self._errors}
        if len(distinct) == 1:
            return self._errors[0]
        texts = [os.strerror(error.errno) if error.errno else str(error) for error in distinct.values()]
        return OSError("; ".join(dict.fromkeys(text.lower() for text in texts)) or "it has no address")


async def _connect(address: Address) -> trio.SocketStream:
    sock = trio.socket.socket(address.family, socket.SOCK_STREAM)
    try:
        await sock.connect(address.sockaddr)
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise
