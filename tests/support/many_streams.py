"""Two ends of a QUIC backend in one process, in virtual time: many streams both ways over a path that loses and delays.

    python tests/support/many_streams.py --sessions 300 --loss 0.01

The client opens streams, a few at a time, and ends each; the server answers each in kind. Prints a line for every
session in which the library failed or that stood still, and what they came to.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from iceagent.core.address import TransportAddress
from iceagent.link import LinkConfig, LinkRole, generate_identity
from iceagent.link.backends import create_endpoint
from iceagent.net.batch import Batch

ADDRESS = TransportAddress("198.51.100.1", 1)
SIZES = (10, 500, 30_000, 30_000)
TICK_S = 1e-6
QUEUE_S = 0.1
PATIENCE_S = 30.0  # virtual: three times what is ever needed without a byte, probe timeouts and all


@dataclass(frozen=True)
class Load:
    """What a session does: `at_once` of `streams` are open; times in seconds, `rate` in bits per second."""

    streams: int = 120
    at_once: int = 60
    loss: float = 0.01
    late: float = 0.1
    late_s: float = 0.010
    delay_s: float = 0.020
    rate: float = 20e6
    stopped: float = 0.0
    """Share of the streams whose answer the client gives up at once."""


class End:
    """One endpoint and what it received: bytes by stream, and which streams have ended."""

    def __init__(self, backend: str, role: LinkRole, identities: Iterable[Any]) -> None:
        own, peer = identities
        self.endpoint = create_endpoint(backend, role, own, peer.fingerprint, LinkConfig())
        self.received: dict[int, int] = {}
        self.ended: list[int] = []
        self.stopped: set[int] = set()

    def on_handshake_completed(self) -> None:
        """The endpoint knows."""

    def on_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        self.received[stream_id] = self.received.get(stream_id, 0) + len(data)
        if end_stream:
            self.ended.append(stream_id)

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        self.ended.append(stream_id)

    def on_stop_sending(self, stream_id: int, code: int) -> None:
        self.stopped.add(stream_id)
        self.endpoint.reset_stream(stream_id, code)

    def on_datagram(self, data: bytes) -> None:
        """Nobody sends any."""

    def on_ping_acknowledged(self) -> None:
        """Nobody asks."""

    def take(self, datagrams: Iterable[bytes], now: float) -> None:
        self.endpoint.receive_untrusted([Batch(ADDRESS, datagram, len(datagram)) for datagram in datagrams], now)
        self.endpoint.drain_events(self)

    def time(self, now: float) -> None:
        timer = self.endpoint.timer()
        if timer is not None and timer <= now:
            self.endpoint.handle_timer(now)
            self.endpoint.drain_events(self)


def two_ends(backend: str) -> tuple[End, End]:
    """Return client and server, the handshake still to come."""
    client, server = generate_identity(), generate_identity()
    return End(backend, LinkRole.CLIENT, (client, server)), End(backend, LinkRole.SERVER, (server, client))


class Session:
    """Two ends, the path between them, and their time."""

    def __init__(self, seed: int, load: Load = Load(), backend: str = "qh3") -> None:
        self.load = load
        self.now = 0.0
        self.client, self.server = self.ends = two_ends(backend)
        self._rng = random.Random(seed)
        self._arrivals: list[tuple[float, int, End, bytes]] = []
        self._count = 0
        self._free_at = dict.fromkeys(self.ends, 0.0)
        self._opened = self._answered = 0
        self._heard_at = 0.0

    @property
    def failures(self) -> int:
        """How often the library failed."""
        return sum(end.endpoint.library_errors for end in self.ends)

    @property
    def finished(self) -> int:
        """How many streams have ended in both directions."""
        return len(self.client.ended)

    def run(self) -> bool:
        """Return whether all streams ended; not, if no byte arrives for `PATIENCE_S`."""
        self.client.endpoint.connect(self.now)
        while self.finished < self.load.streams:
            self._send()
            dues = [at for end in self.ends if (at := end.endpoint.timer()) is not None]
            self.now = max(self.now + TICK_S, min([*dues, *(arrival[0] for arrival in self._arrivals[:1])]))
            if self.now - self._heard_at > PATIENCE_S:
                return False
            if self._arrivals and self._arrivals[0][0] <= self.now:
                _, _, end, datagram = heapq.heappop(self._arrivals)
                before = sum(end.received.values()), len(end.ended)
                end.take([datagram], self.now)
                if before != (sum(end.received.values()), len(end.ended)):
                    self._heard_at = self.now
            for end in self.ends:
                end.time(self.now)
            self._talk()
        return True

    def _talk(self) -> None:
        client, server = self.client.endpoint, self.server.endpoint
        if not (client.handshake_done and server.handshake_done):
            return
        while self._opened < min(self.load.streams, self.finished + self.load.at_once) and client.can_open_stream():
            stream = client.open_stream()
            client.send_stream(stream, bytes(self._rng.choice(SIZES)))
            client.end_stream(stream)
            if self._rng.random() < self.load.stopped:
                client.stop_stream(stream, 1)
            self._opened += 1
        for stream in self.server.ended[self._answered :]:
            if stream not in self.server.stopped:
                server.send_stream(stream, bytes(self._rng.choice(SIZES)))
                server.end_stream(stream)
        self._answered = len(self.server.ended)

    def _send(self) -> None:
        load, rng = self.load, self._rng
        for end, peer in (self.ends, self.ends[::-1]):
            for datagram in end.endpoint.datagrams_to_send(self.now):
                begins = max(self._free_at[end], self.now)
                if begins - self.now > QUEUE_S or (self._opened and rng.random() < load.loss):
                    continue
                self._free_at[end] = begins + len(datagram) * 8 / load.rate
                late_s = rng.random() * load.late_s if rng.random() < load.late else 0.0
                self._count += 1
                at = self._free_at[end] + load.delay_s + late_s
                heapq.heappush(self._arrivals, (at, self._count, peer, datagram))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--backend", default="qh3")
    for name, value in vars(Load()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    first, sessions, backend = (options.pop(name) for name in ("first", "sessions", "backend"))
    load = Load(**options)
    logging.disable(logging.WARNING)
    stood = failed = 0
    seconds = 0.0
    for seed in range(first, first + sessions):
        session = Session(seed, load, backend)
        ended = session.run()
        stood += not ended
        failed += session.failures > 0
        seconds += session.now
        if session.failures or not ended:
            print(f"seed {seed}: {session.failures} failures, {session.finished} of {load.streams} streams ended")
    print(
        f"{load}\n{sessions} sessions: {stood} stood still, the library failed in {failed}; {seconds:.0f} s of theirs"
    )


if __name__ == "__main__":
    main()
