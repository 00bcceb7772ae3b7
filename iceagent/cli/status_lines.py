"""The status of a command in words, and the numbers in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from iceagent.cli.control.messages import CommandStatus, ForwardStatus, SessionStatus
from iceagent.core.printable import printable
from iceagent.session.outages import format_time

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def format_bytes(count: int) -> str:
    """Return a number of bytes with as many digits as mean something, in powers of 1000: `0 B`, `1.2 MB`, `34 GB`."""
    if count < 1000:
        return f"{count} B"
    value, step = count / 1000, 0
    while value >= 999.5 and step < len(_UNITS) - 1:
        value, step = value / 1000, step + 1
    unit = _UNITS[step]
    return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"


def status_lines(status: CommandStatus, now: float | None = None) -> Iterator[str]:
    """Give the lines that say what a command does; `now` is Unix time, seconds."""
    now = time.time() if now is None else now
    yield f"{printable(status.verb)}, process {status.pid}, {_since(status.since, now)}"
    for session in status.sessions:
        yield from _session_lines(session, now)
    if not status.sessions:
        yield "  no session, and nobody is waited for"
    if status.sessions_left_out:
        yield f"  and {status.sessions_left_out} sessions more"


def _session_lines(session: SessionStatus, now: float) -> Iterator[str]:
    whom = f"{printable(session.peer)}: " if session.peer else ""
    at = f", met at {printable(session.relay)}" if session.relay else ""
    yield f"  {whom}{printable(session.state)} {_since(session.since, now)}{at}"
    if session.doing:
        yield f"    {printable(session.doing)}"
    if session.path is not None:
        yield f"    {printable(session.path.text)}"
    if session.path is not None or session.sent or session.received:
        yield f"    sent {format_bytes(session.sent)}, received {format_bytes(session.received)}"
    for forward in session.forwards:
        yield f"    {_forward_line(forward)}"
    if session.forwards_left_out:
        yield f"    and {session.forwards_left_out} forwards more"


def _forward_line(forward: ForwardStatus) -> str:
    binds = " and ".join(map(printable, forward.binds))
    what = f"{binds} to {printable(forward.target)}" if binds else f"{printable(forward.target)} for the other side"
    carried = f"sent {format_bytes(forward.sent)}, received {format_bytes(forward.received)}"
    return f"{what}: {forward.open} open, {forward.total} in all, {carried}"


def _since(at: float, now: float) -> str:
    """Return since when, by the clock on the wall here, and for how long."""
    try:
        moment = datetime.fromtimestamp(at)
        today = datetime.fromtimestamp(now)
    except (ValueError, OverflowError, OSError):
        return "since a time that is none"
    clock = moment.strftime("%H:%M:%S" if moment.date() == today.date() else "%Y-%m-%d %H:%M")
    return f"since {clock} ({format_time(max(0.0, now - at))})"
