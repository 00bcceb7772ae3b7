"""What a link runs over: anything that carries datagrams to one peer, an `iceagent.Agent` above all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from iceagent.net.batch import Batch


class DatagramTransport(Protocol):
    """Unreliable datagrams to one peer, in batches. One task receives, one sends."""

    async def send_many(self, datagrams: Sequence[bytes], /) -> None:
        """Send the datagrams in order, waiting while the socket's buffer is full.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: no path will ever carry a datagram again.
        """
        ...

    async def receive_batches(self) -> list[Batch]:
        """Wait until datagrams arrived, then return all that are at hand, oldest first.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: no path will ever bring a datagram again.
        """
        ...

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram, in bytes of UDP payload, that the path is expected to carry."""
        ...


@runtime_checkable
class SendsEverywhere(Protocol):
    """A transport of several paths that the peer may be reached by, as an agent is."""

    async def send_everywhere(self, datagrams: Sequence[bytes], /) -> None:
        """Send the datagrams on each of them; raises what `send_many` does."""
        ...


@runtime_checkable
class KnowsPath(Protocol):
    """A transport that can tell whether its path works, as an agent can."""

    @property
    def is_answering(self) -> bool:
        """Whether the other end of the path answers now; while it does not, the link's silence says nothing."""
        ...
