"""How many bytes a link gives to QUIC before the network has taken them: per stream, and for the whole link."""

from __future__ import annotations

from iceagent.link.config import LinkConfig
from iceagent.link.quic import QuicEndpoint
from iceagent.link.streams import StreamState

_PATH_RATE = 125_000_000  # bytes per second: 1 Gbit/s


class SendBudget:
    """Bounds what is under way, and wakes the writers that met the bound once there is room again."""

    def __init__(self, endpoint: QuicEndpoint, config: LinkConfig) -> None:
        self._endpoint = endpoint
        self._config = config
        self._waiting: set[StreamState] = set()
        self._shortest_rtt_s: float | None = None

    def room(self, stream: StreamState) -> int:
        """Return how many bytes of `stream` may be handed over now; if none, its writer will be woken."""
        endpoint = self._endpoint
        room = min(
            self._config.send_buffer - endpoint.send_buffer_size(stream.id), self._link_bound() - self._under_way()
        )
        if room <= 0:
            self._waiting.add(stream)
        return max(0, room)

    def wait_for_room(self, stream: StreamState) -> None:
        """Wake the writer of `stream` once there is room."""
        self._waiting.add(stream)

    def wake_writers(self) -> None:
        """Wake those for whom there is room now; called whenever something was sent or acknowledged."""
        if not self._waiting or self._under_way() > self._link_bound() * 3 // 4:
            return
        low = self._config.send_buffer // 2
        for stream in list(self._waiting):
            if self._endpoint.send_buffer_size(stream.id) <= low:
                self._waiting.discard(stream)
                stream.wake_writer()

    def forget(self, stream: StreamState) -> None:
        """Nobody will write to `stream` any more."""
        self._waiting.discard(stream)

    def forget_path(self) -> None:
        """Measure the round trip afresh: the path is another."""
        self._shortest_rtt_s = None

    def clear(self) -> None:
        """Nobody will write at all any more."""
        self._waiting.clear()

    def _under_way(self) -> int:
        return self._endpoint.send_buffer_size() + self._endpoint.bytes_in_flight

    def _link_bound(self) -> int:
        """Return how much may be under way at once: what a socket holds and, on a long path, what the path does.

        The shortest round trip counts: what a longer one adds is queues, and those are full enough.
        """
        rtt_s = self._endpoint.rtt_s or 0.0
        if self._shortest_rtt_s is None or rtt_s < self._shortest_rtt_s:
            self._shortest_rtt_s = rtt_s
        return self._config.link_send_buffer + min(int(self._shortest_rtt_s * _PATH_RATE), self._config.link_ceiling)
