"""The path line: how the two sides reach each other, printed again when it changes."""

from __future__ import annotations

import trio

from iceagent.cli.output import Output
from iceagent.session.path import Path
from iceagent.session.session import Session


async def follow_paths(
    session: Session, output: Output, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Print the session's path now, and each one it moves to; started once the first is printed."""
    async for path in session.paths():
        show_path(path, output)
        task_status.started()
        task_status = trio.TASK_STATUS_IGNORED


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
