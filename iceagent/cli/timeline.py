"""`--timeline FILE`: the events of the connection as JSON, written when the command ends, also with an error."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import click

from iceagent.cli.connection import GROUP
from iceagent.cli.help import rare

F = TypeVar("F", bound=Callable[..., object])

_log = logging.getLogger(__name__)


def timeline_option(function: F) -> F:
    """Add `--timeline`."""
    option = click.option(
        "--timeline",
        metavar="FILE",
        help="Write what happened to the connection, as JSON, when the command ends (docs/explain.md).",
    )
    return rare(GROUP, option)(function)


class TimelineFile:
    """What will be written: `shown_progress` fills it."""

    def __init__(self) -> None:
        self.text = ""


@contextmanager
def kept_timeline(path: str | None, what: str = "the timeline") -> Iterator[TimelineFile | None]:
    """Yield what takes a timeline, which is written to `path` at the end; None without a path.

    The file is opened first, so that a code is not used up for a command that cannot do what it was asked. It stays
    empty if there never was an agent. Only its owner may read it: it holds addresses. `what` names it in messages.

    Raises:
        LocalIOError: the file cannot be written.
    """
    if path is None:
        yield None
        return
    from iceagent.tunnel.errors import LocalIOError

    timeline = TimelineFile()
    try:
        descriptor = _create(path)
    except OSError as error:
        raise LocalIOError(f"{what} cannot be written to {path}: {error.strerror}") from error
    failure: OSError | None = None
    try:
        yield timeline
    finally:
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(timeline.text)
        except OSError as error:
            failure = error
            _log.warning("%s cannot be written to %s: %s", what, path, error.strerror)
    if failure is not None:
        raise LocalIOError(f"{what} cannot be written to {path}: {failure.strerror}") from failure


def _create(path: str) -> int:
    """Return the descriptor of a new file in the place of an older one, which only its owner may read.

    A file that was there may be readable by others, open in another program, or a second name of something else; a link
    may lead anywhere, and a fifo to anybody. So nothing that exists is written to: a plain file is taken away, and the
    new one made, or refused if somebody else was quicker.

    Raises:
        OSError: it cannot be, or what is there is no plain file.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is something that is no plain file; name another")
        os.unlink(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
