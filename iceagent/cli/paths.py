"""How the two sides reach each other, printed again when it changes; outages, and how the session ended."""

from __future__ import annotations

import trio

from iceagent.cli.output import Output
from iceagent.net.background import open_background
from iceagent.session.path import Path
from iceagent.session.session import Session


async def follow_paths(
    session: Session, output: Output, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Print the session's path now, each one it moves to, and outages; started once the first path is printed."""
    async with open_background() as nursery:
        nursery.start_soon(_show_outages, session, output)
        async for path in session.paths():
            show_path(path, output)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED


async def _show_outages(session: Session, output: Output) -> None:
    async for outage in session.outages():
        output.line(
            "outage",
            str(outage),
            state=outage.kind.value,
            seconds=round(outage.seconds, 1),
            here=outage.is_ours,
            gives_up_s=None if outage.gives_up_s is None else round(outage.gives_up_s, 1),
        )


def closing_words(session: Session) -> str:
    """Return why a session is over that the other side has closed on purpose."""
    reason = session.close_reason
    return "the other side has closed the session" if reason is None else str(reason)


def show_path(path: Path, output: Output) -> None:
    """Print a path."""
    output.line(
        "path",
        str(path),
        direct=path.direct,
        transport=path.transport,
        local=str(path.local),
        remote=str(path.remote),
        rtt_ms=None if path.rtt_s is None else round(path.rtt_s * 1000, 3),
        because=path.because,
    )
