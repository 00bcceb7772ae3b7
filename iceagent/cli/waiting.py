"""What the command line prints while it waits for the other side, so that nobody has to guess what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from iceagent.cli.output import Output
from iceagent.cli.timeline import TimelineFile
from iceagent.net.background import open_background
from iceagent.session.progress import Progress, Stage

FIRST_S = 2.5  # nothing is said of what takes no longer than that
AGAIN_S = 10.0  # between two lines while the same thing is waited for


@asynccontextmanager
async def shown_progress(output: Output, timeline: TimelineFile | None = None) -> AsyncIterator[Progress]:
    """Yield what `invite` and `join` take as `progress`; until the session is open, its progress is printed.

    `timeline` gets what happened to the connection, once that has ended.
    """
    progress = Progress(keep_timeline=timeline is not None)
    async with open_background() as nursery:
        nursery.start_soon(_show_progress, progress, output)
        try:
            yield progress
        finally:
            if timeline is not None:
                timeline.text = progress.timeline or ""


async def _show_progress(progress: Progress, output: Output) -> None:
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
