"""What a running command does now, and what it can be asked to do: for its control socket."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from iceagent.net.tasks import PerRun

if TYPE_CHECKING:
    from iceagent.cli.control.messages import CommandStatus, ForwardStatus, PathStatus, SessionStatus
    from iceagent.session.path import Path
    from iceagent.session.progress import Progress
    from iceagent.session.session import Session

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Grants a wish: gets its arguments, and returns what JSON has. Raises `ValueError` or `IceError` with the reason."""


class Running:
    """What one command does.

    Attributes:
        handlers: what it can be asked for besides `status`, by name: a verb adds its own (`handling`).
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.verb = ""
        self._since = time.time()
        self._parts: dict[int, Callable[[], SessionStatus | None]] = {}
        self._next = 0

    @contextmanager
    def handling(self, name: str, handler: Handler) -> Iterator[None]:
        """Let a wish of this name be granted by `handler` while the body runs."""
        self.handlers[name] = handler
        try:
            yield
        finally:
            self.handlers.pop(name, None)

    @contextmanager
    def attempt(self, progress: Progress) -> Iterator[None]:
        """Show an attempt to get a session while the body runs, until the session is open."""
        with self._showing(lambda: _attempt_status(progress)):
            yield

    @contextmanager
    def session(self, session: Session) -> Iterator[None]:
        """Show an open session while the body runs."""
        opened_at = trio.current_time()
        with self._showing(lambda: session_status(session, opened_at)):
            yield

    @contextmanager
    def _showing(self, read: Callable[[], SessionStatus | None]) -> Iterator[None]:
        number, self._next = self._next, self._next + 1
        self._parts[number] = read
        try:
            yield
        finally:
            del self._parts[number]

    def status(self) -> CommandStatus:
        """Return what the command does now."""
        from iceagent import __version__
        from iceagent.cli.control.messages import MAX_SHOWN, CommandStatus

        reads = list(self._parts.values())
        sessions = [status for read in reads[:MAX_SHOWN] if (status := read()) is not None]
        return CommandStatus(
            pid=os.getpid(),
            verb=self.verb,
            since=self._since,
            program=__version__,
            requests=sorted(self.handlers),
            sessions=sessions,
            sessions_left_out=max(0, len(reads) - MAX_SHOWN),
        )


RUNNING = PerRun("iceagent.cli.control", Running)
"""The command of this Trio run."""


def _wall_time(at: float) -> float:
    return time.time() - (trio.current_time() - at)


def _attempt_status(progress: Progress) -> SessionStatus | None:
    from iceagent.cli.control.messages import SessionStatus
    from iceagent.session.progress import Stage

    if progress.stage is Stage.OPEN:
        return None
    state = "waiting" if progress.stage in (Stage.CODE, Stage.MEET) else "connecting"
    return SessionStatus(state, _wall_time(progress.since), progress.peer, str(progress), progress.relay)


def session_status(session: Session, opened_at: float) -> SessionStatus:
    """Return what an open session does now; `opened_at` on Trio's clock."""
    from iceagent.cli.control.messages import MAX_SHOWN, SessionStatus

    outage, since = session.outage, session.outage_since
    is_out = outage is not None and since is not None
    sent, received = session.traffic()
    forwards = _forwards(session)
    return SessionStatus(
        state="reconnecting" if is_out else "connected",
        since=_wall_time(opened_at if since is None else since),
        peer=session.peer,
        doing=str(outage) if is_out else "",
        relay=session.relay,
        path=_path_status(session.path),
        sent=sent,
        received=received,
        forwards=forwards[:MAX_SHOWN],
        forwards_left_out=max(0, len(forwards) - MAX_SHOWN),
    )


def _path_status(path: Path | None) -> PathStatus | None:
    from iceagent.cli.control.messages import PathStatus

    if path is None:
        return None
    rtt_ms = None if path.rtt_s is None else round(path.rtt_s * 1000, 3)
    return PathStatus(str(path), path.direct, path.transport, str(path.local), str(path.remote), rtt_ms, path.because)


def _forwards(session: Session) -> list[ForwardStatus]:
    from iceagent.cli.control.messages import ForwardStatus
    from iceagent.tunnel.traffic import traffic_of

    return [
        ForwardStatus(one.target, list(one.binds), one.open, one.total, one.sent, one.received)
        for one in traffic_of(session)
    ]
