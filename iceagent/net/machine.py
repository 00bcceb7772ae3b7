"""Drives machines of the core: `MachineTimer` is a timer for any, `MachineDriver` runs a small one on sockets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NoReturn, Protocol

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.transmit import Transmit
from iceagent.net.api import UdpSocket


class Timed(Protocol):
    """What all machines of the core have: they say when they want to be called."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        ...

    def next_timeout(self) -> float | None:
        """Return when something is due next."""
        ...


class Machine(Timed, Protocol):
    """A machine that sends datagrams."""

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send."""
        ...


Receive = Callable[[float, TransportAddress, TransportAddress, bytes], object]
"""What takes a datagram: now, the local address it arrived at, the remote one, the bytes."""

Unreachable = Callable[[float, TransportAddress], object]
"""What takes an ICMP error: now and the remote address it is about."""


class MachineTimer:
    """The one timer of a machine: calls it when it wants to be called.

    Args:
        machine: which is called.
        settle: carries out what it then wants done.
    """

    def __init__(self, machine: Timed, settle: Callable[[], object]) -> None:
        self._machine = machine
        self._settle = settle
        self._wakes_at = -math.inf  # until it runs nothing can be too late for it
        self._changed = trio.Event()

    def follow(self) -> None:
        """Take note that the machine was changed: something may be due earlier. To be called after each change."""
        due = self._machine.next_timeout()
        if due is not None and due < self._wakes_at:
            self._changed.set()

    async def run(self) -> NoReturn:
        """Keep time until cancelled."""
        while True:
            self._changed = trio.Event()
            due = self._machine.next_timeout()
            self._wakes_at = math.inf if due is None else due
            with trio.move_on_at(self._wakes_at):
                await self._changed.wait()
            self._machine.handle_timeout(trio.current_time())
            self._settle()


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
        self._timer = MachineTimer(machine, self._settle)
        self._done = trio.Event()

    def mutate(self, change: Callable[[float], object]) -> None:
        """Change the machine, given the time, and carry out what follows at once."""
        change(trio.current_time())
        self._settle()

    async def run(self) -> None:
        """Run until the machine has done its work."""
        async with trio.open_nursery() as nursery:
            for local, sock in self._sockets.items():
                nursery.start_soon(self._receive_from, local, sock)
            nursery.start_soon(self._timer.run)
            await self._done.wait()
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
        if self._settle_events():
            self._done.set()
        self._timer.follow()
