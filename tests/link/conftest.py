"""A pair of in-memory datagram transports with delay, loss and a bounded queue, and links over them."""

from __future__ import annotations

import contextlib
import heapq
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest
import trio

from iceagent.core.address import TransportAddress
from iceagent.link import LinkConfig, LinkIdentity, LinkRole, QuicLink, generate_identity, open_link
from iceagent.net.batch import Batch

ADDRESS = TransportAddress("198.51.100.1", 1)


class MemoryTransport:
    """One end of a path; `peer` is the other. Times in seconds, of Trio's clock."""

    def __init__(self, *, delay_s: float, loss: float, rng: random.Random, queue: int) -> None:
        self.peer: MemoryTransport
        self.delay_s = delay_s
        self.loss = loss
        self.cut = False
        self.lose_next = 0
        self.rate_bps = float("inf")
        self._free_at = 0.0
        self.max_datagram_size = 1472
        self.largest_sent = 0
        self.sent = 0
        self.bytes_sent = 0
        self.dropped = 0
        self._rng = rng
        self._queue = queue
        self._arrivals: list[tuple[float, int, bytes]] = []
        self._changed = trio.Event()
        self._broken = False

    async def send_many(self, datagrams: Sequence[bytes], /) -> None:
        await trio.lowlevel.checkpoint()
        if self._broken:
            raise trio.BrokenResourceError
        for datagram in datagrams:
            self.sent += 1
            self.bytes_sent += len(datagram)
            self.largest_sent = max(self.largest_sent, len(datagram))
            self.lose_next -= 1
            if self.cut or self.lose_next >= 0 or self._rng.random() < self.loss:
                self.dropped += 1
            else:
                self._free_at = max(self._free_at, trio.current_time()) + 8 * len(datagram) / self.rate_bps
                self.peer.inject(datagram, self._free_at + self.delay_s)

    def inject(self, datagram: bytes, at: float) -> None:
        """Let `datagram` arrive here at time `at`."""
        if len(self._arrivals) >= self._queue:
            self.dropped += 1
            return
        heapq.heappush(self._arrivals, (at, self.sent + self.peer.sent, datagram))
        self._changed.set()

    async def receive_batches(self) -> list[Batch]:
        await trio.lowlevel.checkpoint()
        while True:
            if self._broken:
                raise trio.BrokenResourceError from OSError("the path died")
            now = trio.current_time()
            batches: list[Batch] = []
            while self._arrivals and self._arrivals[0][0] <= now and len(batches) < 256:
                data = heapq.heappop(self._arrivals)[2]
                batches.append(Batch(ADDRESS, data, max(1, len(data))))
            if batches:
                return batches
            self._changed = trio.Event()
            with trio.move_on_at(self._arrivals[0][0] if self._arrivals else float("inf")):
                await self._changed.wait()

    def break_down(self) -> None:
        """Let every call raise from now on."""
        self._broken = True
        self._changed.set()


def transport_pair(
    *, delay_s: float = 0.005, loss: float = 0.0, seed: int = 1, queue: int = 20_000
) -> tuple[MemoryTransport, MemoryTransport]:
    """Return the two ends of a path."""
    rng = random.Random(seed)
    a = MemoryTransport(delay_s=delay_s, loss=loss, rng=rng, queue=queue)
    b = MemoryTransport(delay_s=delay_s, loss=loss, rng=rng, queue=queue)
    a.peer, b.peer = b, a
    return a, b


@dataclass
class Ends:
    """What the two ends of a link are made of; change an entry to provoke a mismatch."""

    backend: str
    client_transport: MemoryTransport
    server_transport: MemoryTransport
    client_identity: LinkIdentity
    server_identity: LinkIdentity
    client_key: bytes = b"k" * 32
    server_key: bytes = b"k" * 32
    config: LinkConfig = field(default_factory=LinkConfig)

    def client(self) -> contextlib.AbstractAsyncContextManager[QuicLink]:
        return open_link(
            self.client_transport,
            role=LinkRole.CLIENT,
            identity=self.client_identity,
            peer_fingerprint=self.server_identity.fingerprint,
            session_key=self.client_key,
            config=self.config,
            backend=self.backend,
        )

    def server(self) -> contextlib.AbstractAsyncContextManager[QuicLink]:
        return open_link(
            self.server_transport,
            role=LinkRole.SERVER,
            identity=self.server_identity,
            peer_fingerprint=self.client_identity.fingerprint,
            session_key=self.server_key,
            config=self.config,
            backend=self.backend,
        )

    @contextlib.asynccontextmanager
    async def links(self) -> AsyncIterator[tuple[QuicLink, QuicLink]]:
        """Open both ends at once; yield client and server."""
        async with trio.open_nursery() as nursery:
            links: list[QuicLink] = []
            opened, done, closed = trio.Event(), trio.Event(), trio.Event()

            async def serve() -> None:
                async with self.server() as server:
                    links.append(server)
                    opened.set()
                    await done.wait()
                closed.set()

            nursery.start_soon(serve)
            try:
                async with self.client() as client:
                    await opened.wait()
                    yield client, links[0]
            finally:
                done.set()
                with trio.CancelScope(shield=True):
                    if opened.is_set():
                        await closed.wait()
                nursery.cancel_scope.cancel()


@pytest.fixture(params=["qh3", "aioquic"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def identities() -> tuple[LinkIdentity, LinkIdentity]:
    return generate_identity(), generate_identity()


@pytest.fixture
def ends(backend: str, identities: tuple[LinkIdentity, LinkIdentity]) -> Callable[..., Ends]:
    """Return a maker of `Ends`; keyword arguments are those of `transport_pair`, and `config`."""

    def make(*, config: LinkConfig | None = None, **path: object) -> Ends:
        client_transport, server_transport = transport_pair(**path)  # type: ignore[arg-type]
        return Ends(
            backend,
            client_transport,
            server_transport,
            *identities,
            config=config if config is not None else LinkConfig(),
        )

    return make
