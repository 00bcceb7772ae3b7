"""Runs a small machine of the core on some sockets: NAT discovery, port mapping. One task per socket, one timer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.transmit import Transmit
from iceagent.net.api import UdpSocket


class Machine(Protocol):
    """The part of the core's contract that all machines share."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        ...

    def next_timeout(self) -> float | None:
        """Return when something is due next."""
        ...

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send."""
        ...


Receive = Callable[[float, TransportAddress, TransportAddress, bytes], object]
"""What takes a datagram: now, the local address it arrived at, the remote one, the bytes."""

Unreachable = Callable[[float, TransportAddress], object]
"""What takes an ICMP error: now and the remote address it is about."""


class MachineDriver:
    """Feeds a machine with datagrams and time and sends what it wants sent.

    Args:
        machine: which is driven.
        sockets: by the address the machine knows them under.
        receive: takes the datagrams.
        settle: drains the machine's events after each change; returns True when the machine has done its work.
        unreachable: takes ICMP errors.
    """

    def __init__(
        self,
        machine: Machine,
        sockets: Mapping[TransportAddress, UdpSocket],
        *,
        receive: Receive,
        settle: Callable[[], bool],
        unreachable: Unreachable | None = None,
    ) -> None:
        self._machine = machine
        self._sockets = sockets
        self._receive = receive
        self._settle_events = settle
        self._unreachable = unreachable
        self._kick = trio.Event()
        self._done = False

    def mutate(self, change: Callable[[float], object]) -> None:
        """Change the machine, given the time, and carry out what follows at once."""
        change(trio.current_time())
        self._settle()

    async def run(self) -> None:
        """Run until the machine has done its work."""
        async with trio.open_nursery() as nursery:
            for local, sock in self._sockets.items():
                nursery.start_soon(self._receive_from, local, sock)
            while not self._done:
                self._kick = trio.Event()
                due = self._machine.next_timeout()
                with trio.move_on_at(math.inf if due is None else due):
                    await self._kick.wait()
                self._machine.handle_timeout(trio.current_time())
                self._settle()
            nursery.cancel_scope.cancel()

    async def _receive_from(self, local: TransportAddress, sock: UdpSocket) -> None:
        while True:
            batches = await sock.receive()
            for error in sock.take_errors():
                if self._unreachable is not None:
                    self._unreachable(trio.current_time(), error.remote)
            for batch in batches:
                for datagram in batch.datagrams():
                    self._receive(trio.current_time(), local, batch.remote, datagram)
            self._settle()

    def _settle(self) -> None:
        while (transmit := self._machine.poll_transmit()) is not None:
            sock = self._sockets.get(transmit.local)
            if sock is not None:  # a full buffer loses the packet, as the network may: all is retransmitted
                sock.send_nowait((transmit.data,), transmit.remote)
        self._done = self._settle_events() or self._done
        self._kick.set()
