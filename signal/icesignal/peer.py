"""One client of the relay: its frames in, its frames out, its budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import trio

from icesignal import wire
from icesignal.engines import Engine
from icesignal.sources import Limits, Source
from icesignal.transport import ABNORMAL, Connection, ConnectionEnded, OutboxFull
from icesignal.wire import CloseCode, ErrorCode

RELAY_NAME = "icesignal"
_ENTRIES = (wire.Allocate, wire.Join, wire.Meet)
# What a guesser would see: each of these costs its source more than a success.
_FAILED_ENTRIES = frozenset({ErrorCode.UNKNOWN_NAMEPLATE, ErrorCode.EXPIRED_NAMEPLATE, ErrorCode.CROWDED})

_KNOWN_CODES = frozenset({*map(int, CloseCode), ABNORMAL})


def _tells_failure(frame: wire.Frame) -> bool:
    if isinstance(frame, wire.Error):
        return frame.code in _FAILED_ENTRIES
    return isinstance(frame, wire.Closed) and frame.reason == "code-wrong"


class RelayPeer:
    """The relay's side of one websocket. An engine knows it as a `Subscriber`."""

    def __init__(
        self,
        connection: Connection,
        engine: Engine,
        source: Source,
        limits: Limits,
        ice_servers: Callable[[], list[wire.IceServer]],
        counters: Counter[str],
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._source = source
        self._limits = limits
        self._ice_servers = ice_servers
        self._counters = counters
        self._malformed = 0
        self._is_joiner = False

    # -- what the engine calls

    def deliver(self, frame: wire.Frame) -> None:
        """Send a frame; a client that does not take what it is sent is closed with a code that says resume."""
        if isinstance(frame, wire.Joined):
            frame = msgspec.structs.replace(frame, ice_servers=self._ice_servers())
        elif self._is_joiner and _tells_failure(frame):
            self._charge_failure()
        try:
            self._connection.send_nowait(wire.encode(frame))
            self._counters["frames_out"] += 1
        except OutboxFull:
            self._counters["slow_consumers"] += 1
            self._connection.abort(CloseCode.TOO_SLOW, "you take your messages too slowly; resume")

    def close(self, code: CloseCode) -> None:
        """Close after what was delivered."""
        self._connection.close(code)

    # -- the connection's task

    async def run(self) -> None:
        """Serve the client until its connection ends."""
        self.deliver(wire.Welcome(versions=[wire.VERSION], relay=RELAY_NAME))
        try:
            message: bytes | str | None = None
            with trio.move_on_after(self._limits.first_frame_s):
                message = await self._connection.receive()
            if message is None:
                self._counters["idle"] += 1
                self.close(CloseCode.IDLE)
                return
            while True:
                await self._handle_message(message)
                message = await self._connection.receive()
        except ConnectionEnded as ended:
            self._counters[f"ended_{ended.code}" if ended.code in _KNOWN_CODES else "ended_other"] += 1
        except trio.Cancelled:
            self.close(CloseCode.GOING_AWAY)  # the relay ends, perhaps here first; the session need not
            raise
        finally:
            with trio.CancelScope(shield=True):  # bounded by the engine; the memory engine does not wait at all
                await self._engine.disconnect(self)

    async def _handle_message(self, message: bytes | str) -> None:
        now = trio.current_time()
        self._counters["frames_in"] += 1
        if not self._source.messages.take(now):
            self._counters["messages_over_limit"] += 1
            self._connection.abort(CloseCode.TOO_FAST, "too many messages; resume after a pause")
            return
        try:
            frame = wire.decode_client_untrusted(message)
        except wire.WireError as error:
            self._refuse(error)
            return
        if isinstance(frame, _ENTRIES) and not self._source.joins.take(now):
            self._counters["joins_over_limit"] += 1
            self.deliver(wire.Error(code=ErrorCode.RATE, message="too many codes from your address; wait a minute"))
            return
        self._is_joiner = self._is_joiner or isinstance(frame, wire.Join)
        if isinstance(frame, wire.Close) and frame.reason == "code-wrong" and self._is_joiner:
            self._charge_failure()
        await self._engine.handle_frame(self, frame)

    def _refuse(self, error: wire.WireError) -> None:
        self._counters[f"frames_{error.reason.value}"] += 1
        self.deliver(wire.Error(code=error.reason.value, message=str(error)[:256]))
        if error.reason is wire.WireErrorReason.VERSION:
            self.close(CloseCode.VERSION)
        elif error.reason is wire.WireErrorReason.MALFORMED:
            self._malformed += 1
            if self._malformed >= self._limits.malformed_frames:
                self.close(CloseCode.PROTOCOL_ERROR)

    def _charge_failure(self) -> None:
        self._source.joins.charge(trio.current_time(), self._limits.failed_join_cost - 1)
