"""The interface of an engine, and that of a connection as an engine sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from icesignal import wire
from icesignal.sources import Balance, Charge, Levels
from icesignal.toll import Pressure


class Subscriber(Protocol):
    """A connection, as an engine sees it. Its methods return at once and never raise."""

    @property
    def levels(self) -> Levels:
        """Who is connected: what counts the rooms it makes."""
        ...

    @property
    def challenge(self) -> bytes:
        """What its `welcome` had, for the owner of a ticket to sign."""
        ...

    def deliver(self, frame: wire.Frame) -> None:
        """Send a frame to the client, after all that was delivered before."""
        ...

    def close(self, code: wire.CloseCode) -> None:
        """Close the connection after what was delivered; the engine ignores what it still says."""
        ...

    def charge(self, copies: int, size: int) -> None:
        """Note that a message of the client's went to so many more members than one, and how many bytes that was."""
        ...

    def confirm(self) -> None:
        """Note that the client has proved itself to its peer: its claim of a nameplate was no guess."""
        ...


class Engine(Protocol):
    """The rooms, on one node or on many."""

    def run(self) -> AbstractAsyncContextManager[None]:
        """Keep the engine's clocks and connections going while the block lasts."""
        ...

    async def handle_frame(self, subscriber: Subscriber, frame: wire.Frame) -> None:
        """Take a frame from a client; what follows is delivered, to it and to its peer, in the room's order."""
        ...

    def drained(self, subscriber: Subscriber) -> None:
        """Note that all that was delivered has been written; messages that had no place before follow.

        Returns at once.
        """
        ...

    async def disconnect(self, subscriber: Subscriber, *, hung_up: bool = False) -> None:
        """Note that a client's connection is gone. Its session stays and may resume, on any node.

        Args:
            subscriber: whose it was.
            hung_up: it was closed from the client's side, without a goodbye.
        """
        ...

    def is_ready(self) -> bool:
        """Return whether this node takes rooms now."""
        ...

    async def pay(self, levels: Levels, charges: Sequence[Charge]) -> Balance | None:
        """Take from the budgets that all nodes share: all that is needed at every level, or nothing.

        None where there is but one node, or nothing is known of the others: what this one has counted itself holds.
        """
        ...

    def give_back(self, levels: Levels, charges: Sequence[Charge]) -> None:
        """Give back to those budgets, some time; returns at once, and never raises."""
        ...

    def pressure(self) -> Pressure:
        """Return how much guessing there is, at all nodes, and which share of its rooms this one has."""
        ...

    def statistics(self) -> Mapping[str, int]:
        """Return totals and gauges by name; none of them names a room."""
        ...
