"""What `send` and `receive` have in common: how they meet, and what they print while files are on their way."""

from __future__ import annotations

import shlex
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
import trio

from iceagent.cli.codes import show_code
from iceagent.cli.connection import ConnectionOptions, connection_options
from iceagent.cli.options import output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.peer_options import JoinWish, verification, verify_option
from iceagent.cli.progress import follow_paths, shown_progress
from iceagent.cli.timeline import kept_timeline, timeline_option
from iceagent.files.progress import FileProgress
from iceagent.files.words import count_of, format_size, shown
from iceagent.net.tasks import open_background

if TYPE_CHECKING:
    from iceagent.files.sender import Transferred
    from iceagent.tunnel.peer import Link

F = TypeVar("F", bound=Callable[..., Any])

SHOW_S = 0.2  # between two states of the line on a terminal
TELL_S = 1.0  # between two lines of JSON
RATE_S = 5.0  # over which the rate is taken
WIDTH = 78


def meeting_options(function: F) -> F:
    """Add the options of how the two sides meet, of the connection, and of what is printed."""
    below: Any = output_options(function)
    for decorate in (timeline_option, connection_options, relay_option, verify_option):
        below = decorate(below)
    whole: F = timeout_option("Give up if nobody comes.")(below)
    return whole


@dataclass(frozen=True, slots=True)
class Meeting:
    """Whom to meet, and how: nobody in particular (a code is printed), by a code, or a paired peer."""

    who: str | None
    waits_for_peer: bool  # the side that a paired peer comes to
    other_verb: Sequence[str]
    timeout_s: float | None
    verify: bool
    relay: Sequence[str]
    connection: ConnectionOptions
    timeline: str | None

    def check(self) -> None:
        """Refuse what is neither a code nor a name; see `JoinWish.check`."""
        if self.who is not None:
            JoinWish(self.who, self.relay, None, self.timeout_s).check()

    @asynccontextmanager
    async def open(self, output: Output) -> AsyncIterator[Link]:
        """Yield the session, whose path and outages are printed."""
        from iceagent.tunnel.peer import invite, listen

        config = self.connection.config()
        verify = verification(output, wanted=self.verify)
        async with AsyncExitStack() as stack:
            kept = stack.enter_context(kept_timeline(self.timeline))
            progress = await stack.enter_async_context(shown_progress(output, kept))
            if self.who is None:
                invitation = await stack.enter_async_context(
                    invite(relay=self.relay, config=config, progress=progress, verify=verify)
                )
                self._show_code(invitation.code, invitation.relay_url, output)
                link = await stack.enter_async_context(invitation.accept(timeout_s=self.timeout_s))
            else:
                wish = JoinWish(self.who, self.relay, verify, self.timeout_s)
                peer = wish.peer() if self.waits_for_peer else None
                if peer is None:
                    link = await stack.enter_async_context(wish.join(config, progress))
                else:
                    output.line("listening", f"waiting for {peer}", peer=peer)
                    waited = listen(
                        peer,
                        relay=self.relay,
                        config=config,
                        progress=progress,
                        verify=verify,
                        timeout_s=self.timeout_s,
                    )
                    link = await stack.enter_async_context(waited)
            nursery = await stack.enter_async_context(open_background())
            await nursery.start(lambda task_status: follow_paths(link, output, task_status=task_status))
            yield link

    def _show_code(self, code: str, relay_url: str, output: Output) -> None:
        options = ["--hard-nat"] * self.connection.hard_nat + ([] if "@" in code else ["--relay", relay_url])
        verb, *before_code = self.other_verb
        command = shlex.join(["iceagent", verb, *options, *before_code, code])
        show_code(output, code=code, relay=relay_url, command=command)


@asynccontextmanager
async def shown_transfer(output: Output) -> AsyncIterator[FileProgress]:
    """Yield what a transfer keeps up to date; while the body runs it is shown: a line that moves, or lines of JSON."""
    progress = FileProgress()
    moves = not output.as_json and not output.quiet and sys.stderr is not None and sys.stderr.isatty()
    async with open_background() as nursery:
        if moves or output.as_json:
            nursery.start_soon(_show, progress, output, moves)
        try:
            yield progress
        finally:
            if moves:
                output.raw("\r\x1b[K")


async def _show(progress: FileProgress, output: Output, moves: bool) -> None:
    pace = Pace()
    while True:
        await trio.sleep(SHOW_S if moves else TELL_S)
        if not progress.files or not (progress.bytes_done or progress.files_done):
            continue
        pace.note(trio.current_time(), progress.bytes_moved)
        if moves:
            output.raw(f"\r{progress_line(progress, pace)[:WIDTH]}\x1b[K")
        else:
            output.line(
                "progress",
                "",
                files=progress.files,
                files_done=progress.files_done,
                size=None if progress.is_stream else progress.size,
                done=progress.bytes_done,
                moved=progress.bytes_moved,
                rate=round(pace.rate, 1),
                eta_s=pace.eta_s(progress),
                name=shown(progress.current),
            )


class Pace:
    """How fast bytes move, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, moved: int) -> None:
        """Note how many bytes had moved at a time, seconds."""
        self._seen.append((now, moved))
        while now - self._seen[0][0] > RATE_S:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Bytes per second, 0 while it is not known."""
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return max(0, last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def eta_s(self, progress: FileProgress) -> float | None:
        """Return how many seconds it will still take, None if nobody knows."""
        if progress.is_stream or not self.rate:
            return None
        return round(max(0, progress.size - progress.bytes_done) / self.rate, 1)


def progress_line(progress: FileProgress, pace: Pace) -> str:
    """Return the state in one line: how much, how fast, how long still, which file."""
    parts = [format_size(progress.bytes_done)]
    if not progress.is_stream and progress.size:
        parts = [f"{100 * progress.bytes_done // progress.size:3d} %", f"{parts[0]} of {format_size(progress.size)}"]
    parts.append(f"{format_size(pace.rate)}/s")
    eta_s = pace.eta_s(progress)
    if eta_s is not None:
        parts.append(f"{format_duration(eta_s)} left")
    if progress.files > 1:
        parts.append(f"file {progress.files_done + 1} of {progress.files}")
    parts.append(shown(progress.current))
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """Return seconds as people read them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_transferred(done: Transferred, seconds: float, verb: str, output: Output) -> None:
    """Print what a transfer came to."""
    there = done.size - done.moved
    text = f"{verb} {count_of(done.files)}, {format_size(done.size)}, in {seconds:.1f} s"
    if there:
        text += f"; {format_size(there)} were there already"
    output.line(
        "transferred",
        f"{text}; all verified" if not done.missing else text,
        files=done.files,
        size=done.size,
        moved=done.moved,
        seconds=round(seconds, 3),
        missing=list(done.missing),
    )


def missing_words(missing: Sequence[str], files: int) -> str:
    """Return what is missing, in one sentence's worth."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{len(missing)} of {count_of(files + len(missing))}: {missing[0]}{more}"


def check_one_stream(paths: Sequence[str]) -> None:
    """Refuse `-` beside other paths."""
    if "-" in paths and len(paths) > 1:
        raise click.UsageError("- stands for standard input, which is sent alone")
