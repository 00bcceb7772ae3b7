"""What a session's forwards carry, counted for whoever asks: connections, and bytes each way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from weakref import WeakKeyDictionary

from iceagent.session.session import Session

MAX_TARGETS: Final = 64  # ours: of a session, that are counted apart; the other side may ask for any number
OTHERS: Final = "others"


class Traffic:
    """What is carried for one target.

    Attributes:
        target: as an `--allow` rule would name it.
        binds: the local addresses; none where the other side asked for the target.
        open, total: connections and flows: those of now, and all there were.
        sent, received: bytes of their payload, to the other side and from it.
    """

    __slots__ = ("binds", "open", "received", "sent", "target", "total")

    def __init__(self, target: str = "", binds: Sequence[str] = ()) -> None:
        self.target = target
        self.binds = tuple(binds)
        self.open = self.total = self.sent = self.received = 0

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Count a connection or a flow, which lasts as long as the body."""
        self.open += 1
        self.total += 1
        try:
            yield
        finally:
            self.open -= 1


_of_sessions: WeakKeyDictionary[Session, list[Traffic]] = WeakKeyDictionary()


def traffic_of(session: Session) -> Sequence[Traffic]:
    """Return what is counted for a session: its forwards, and what the other side has asked for."""
    return _of_sessions.get(session, ())


@contextmanager
def shown_traffic(session: Session, traffic: Traffic) -> Iterator[None]:
    """Let a forward of this side be seen while the body runs."""
    counted = _of_sessions.setdefault(session, [])
    counted.append(traffic)
    try:
        yield
    finally:
        counted.remove(traffic)


def traffic_to(session: Session, target: str) -> Traffic:
    """Return where to count what the other side has asked for; beyond `MAX_TARGETS` all others are one."""
    counted = _of_sessions.setdefault(session, [])
    asked = {one.target: one for one in counted if not one.binds}
    name = target if target in asked or len(asked) < MAX_TARGETS else OTHERS
    if name not in asked:
        asked[name] = Traffic(name)
        counted.append(asked[name])
    return asked[name]
