"""A connection of an engine's that remembers what it was told; and when nodes on one Redis are done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import coredis
import trio
from icesignal import wire
from icesignal.engines.shared import SharedEngine
from icesignal.sources import Levels

F = TypeVar("F", bound=wire.Frame)


@dataclass(eq=False)
class Listener:
    """A subscriber that remembers."""

    frames: list[Any] = field(default_factory=list)
    closed: wire.CloseCode | None = None
    levels: Levels = (("test", 1.0),)
    confirmed: int = 0
    challenge: bytes = b"c" * 32

    copies: int = 0

    def confirm(self) -> None:
        self.confirmed += 1

    def charge(self, copies: int, size: int) -> None:
        self.copies += copies

    def deliver(self, frame: wire.Frame) -> None:
        assert self.closed is None, "nothing is delivered after the close"
        self.frames.append(frame)

    def close(self, code: wire.CloseCode) -> None:
        self.closed = code

    def take(self, kind: type[wire.Frame] | None = None) -> list[Any]:
        """Return and forget the frames, of one kind if asked."""
        taken = [frame for frame in self.frames if kind is None or type(frame) is kind]
        self.frames = [frame for frame in self.frames if frame not in taken] if kind is not None else []
        return taken

    def one(self, kind: type[F]) -> F:
        """Return the only frame of a kind, and forget it."""
        frame: F
        (frame,) = self.take(kind)
        return frame


async def settled(client: coredis.Redis[bytes], *engines: SharedEngine) -> None:
    """Wait until nothing is under way, and both nodes know of each room what Redis has."""
    with trio.fail_after(60):
        while True:
            idle = all(engine.is_in_touch and engine.node.is_idle for engine in engines)
            known = {(key, version) for engine in engines for key, version in engine.node.versions.items()}
            if idle and all([await stored_version(client, key) == version for key, version in known]):
                return
            await trio.sleep(0.002)


async def stored_version(client: coredis.Redis[bytes], key: str) -> str:
    return ((await client.hget(f"ice:{{{key}}}:room", "v")) or b"").decode()
