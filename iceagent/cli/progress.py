"""What the command line says while it waits for the other side, and of the paths on which the two reach each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle

import trio

from iceagent.cli.control.running import RUNNING
from iceagent.cli.output import Output
from iceagent.cli.peer_options import show_words
from iceagent.cli.timeline import TimelineFile
from iceagent.net.tasks import open_background
from iceagent.session.path import Path
from iceagent.session.progress import Progress, Stage
from iceagent.session.session import Session

FIRST_S = 2.5  # nothing is said of what takes no longer than that
STILL_S = 0.4  # as little on a terminal
MOVE_S = 0.25
TURNING = "|/-\\"
AGAIN_S = 10.0  # between two lines while the same thing is waited for


@asynccontextmanager
async def shown_progress(output: Output, timeline: TimelineFile | None = None) -> AsyncIterator[Progress]:
    """Yield what `invite` and `join` take as `progress`; until the session is open, its progress is printed.

    `timeline` gets what happened to the connection, once that has ended.
    """
    progress = Progress(keep_timeline=timeline is not None)
    progress.on_words = partial(show_words, output=output)
    with RUNNING.get().attempt(progress):
        async with open_background() as nursery:
            nursery.start_soon(_show_progress, progress, output)
            try:
                yield progress
            finally:
                if timeline is not None:
                    timeline.text = progress.timeline or ""


async def _show_progress(progress: Progress, output: Output) -> None:
    if output.can_move:
        await _move_progress(progress, output)
    else:
        await _tell_progress(progress, output)


async def _move_progress(progress: Progress, output: Output) -> None:
    """Say in one line what is tried, and for how long; while a person is waited for, the line with the code stands."""
    turns = cycle(TURNING)
    try:
        while progress.stage is not Stage.OPEN:
            if progress.stage is Stage.CODE:
                output.still()
                await progress.wait_changed()
                continue
            if progress.seconds >= STILL_S:
                output.move(f"{next(turns)} {progress.seconds:.0f} s {progress}")  # the end of it may be cut
            with trio.move_on_after(MOVE_S):
                await progress.wait_changed()
    finally:
        output.still()


async def _tell_progress(progress: Progress, output: Output) -> None:
    due_at = progress.since + FIRST_S
    has_spoken = False
    while progress.stage is not Stage.OPEN:
        if progress.stage is Stage.CODE:  # as long as a person takes; the line with the code has said so
            await progress.wait_changed()
            due_at, has_spoken = progress.since + FIRST_S, False
            continue
        with trio.move_on_at(due_at) as waiting:
            await progress.wait_changed()
        if not (waiting.cancelled_caught or has_spoken) or progress.stage in (Stage.OPEN, Stage.CODE):
            continue
        _show(progress, output)
        due_at, has_spoken = trio.current_time() + AGAIN_S, True


def _show(progress: Progress, output: Output) -> None:
    verdict = progress.verdict
    seconds = progress.seconds
    output.line(
        "waiting",
        f"{progress} ({seconds:.0f} s)" if seconds >= 1 else str(progress),
        stage=progress.stage.value,
        seconds=round(seconds, 1),
        verdict=None if verdict is None else verdict.kind.value,
    )


async def follow_paths(
    session: Session, output: Output, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Print the session's path now, each one it moves to, and outages; started once the first path is printed."""
    with RUNNING.get().session(session):
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
