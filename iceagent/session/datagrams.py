"""Sorts datagrams by flow: each begins with its flow's id, a QUIC varint; flow 0 is the application's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from iceagent.errors import LocalError
from iceagent.session.raw import RawLink

APPLICATION_FLOW = 0
MAX_QUEUED_DATAGRAMS = 1024  # of the application, received and not yet taken; more are dropped and counted
_VARINT_LIMITS = ((1 << 6, 1, 0x00), (1 << 14, 2, 0x40), (1 << 30, 4, 0x80), (1 << 62, 8, 0xC0))


def encode_varint(value: int) -> bytes:
    """Return a variable-length integer, 0 to 2**62 - 1. Source: RFC 9000 section 16."""
    for limit, size, prefix in _VARINT_LIMITS:
        if value < limit:
            return (value | prefix << (8 * (size - 1))).to_bytes(size, "big")
    raise ValueError(f"{value} does not fit into 62 bits")


def split_varint_untrusted(data: bytes) -> tuple[int, bytes] | None:
    """Return the integer at the start of `data` and the rest; None if `data` is too short."""
    if not data:
        return None
    size = 1 << (data[0] >> 6)
    if len(data) < size:
        return None
    if size == 1:
        return data[0], data[1:]
    return int.from_bytes(data[:size], "big") & ((1 << (8 * size - 2)) - 1), data[size:]


class DatagramRouter:
    """Takes every datagram from the link and hands it to its flow."""

    def __init__(self, link: RawLink, *, first_flow: int) -> None:
        """`first_flow` is 1 on one side and 2 on the other, so that both can open flows without asking."""
        self._link = link
        self._next_flow = first_flow
        self._flows: dict[int, Callable[[bytes], None]] = {}
        self._application = trio.open_memory_channel[bytes](MAX_QUEUED_DATAGRAMS)
        self.dropped: Counter[str] = Counter()

    def new_flow_id(self) -> int:
        """Return an id that neither side has used on this link."""
        flow, self._next_flow = self._next_flow, self._next_flow + 2
        return flow

    def open_flow(self, flow: int, handler: Callable[[bytes], None]) -> bool:
        """Let `handler`, which must not block, have the datagrams of a flow; False if the id is taken or reserved."""
        if flow == APPLICATION_FLOW or flow in self._flows:
            return False
        self._flows[flow] = handler
        return True

    def close_flow(self, flow: int) -> None:
        """Forget a flow; its late datagrams are dropped."""
        self._flows.pop(flow, None)

    async def run(self) -> None:
        """Route until the link ends."""
        try:
            while True:
                self._route_untrusted(await self._link.receive_datagram())
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            pass
        finally:
            self._application[0].close()

    def _route_untrusted(self, data: bytes) -> None:
        split = split_varint_untrusted(data)
        if split is None:
            self.dropped["malformed"] += 1
            return
        flow, payload = split
        if flow == APPLICATION_FLOW:
            self._queue(payload)
        elif (handler := self._flows.get(flow)) is not None:
            handler(payload)
        else:
            self.dropped["unknown flow"] += 1

    def _queue(self, payload: bytes) -> None:
        try:
            self._application[0].send_nowait(payload)
        except trio.WouldBlock:
            self.dropped["queue full"] += 1

    def room(self, flow: int) -> int:
        """Return the largest payload that one datagram of the flow carries now, bytes."""
        return self._link.max_datagram_size - len(encode_varint(flow))

    async def send(self, flow: int, payload: bytes) -> None:
        """Send one datagram of a flow.

        Raises:
            LocalError: it is larger than `room(flow)`.
        """
        if len(payload) > self.room(flow):
            raise LocalError(f"a datagram of {len(payload)} bytes is too large; at most {self.room(flow)} fit now")
        await self._link.send_datagram(encode_varint(flow) + payload)

    async def receive(self) -> bytes:
        """Wait for the application's next datagram.

        Raises:
            trio.BrokenResourceError: the link has ended.
        """
        try:
            return await self._application[1].receive()
        except trio.EndOfChannel:
            raise trio.BrokenResourceError("the link has ended") from None
