"""`iceagent send`: files and folders, or standard input, to the other side."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import click
import trio

from iceagent.cli.connection import ConnectionOptions
from iceagent.cli.options import Common
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.cli.transfers import (
    Meeting,
    check_one_stream,
    meeting_options,
    missing_words,
    show_transferred,
    shown_transfer,
)
from iceagent.files.words import count_of, format_size

_log = logging.getLogger(__name__)

_EXAMPLE = """
Example:  here$  iceagent send holiday.mp4 photos/
          there$ iceagent receive 7-guitar-ozone
"""


@click.command("send", epilog=_EXAMPLE)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--to", "who", metavar="CODE", help="The code of `iceagent receive`, or the name of a paired peer.")
@meeting_options
def command(
    paths: Sequence[str],
    who: str | None,
    timeout_s: float | None,
    verify: bool,
    relay: Sequence[str],
    connection: ConnectionOptions,
    timeline: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Send files and folders to the other side.

    Prints a code for `iceagent receive`, unless --to says to whom. PATH may be - for standard input. After an
    interruption the same command goes on where it was.
    """
    check_one_stream(paths)
    output = Common(as_json, quiet, verbose).open_output()
    meeting = Meeting(who, False, ["receive"], timeout_s, verify, relay, connection, timeline)
    return run_verb(lambda: _send(paths, meeting, output), output, has_peer=True)


async def _send(paths: Sequence[str], meeting: Meeting, output: Output) -> None:
    from iceagent.errors import LocalIOError
    from iceagent.files.manifest import scan
    from iceagent.files.plan import Plan
    from iceagent.files.receiver import offer_of
    from iceagent.files.sender import send_files, stream_scan

    meeting.check()
    found = stream_scan() if paths == ("-",) else await trio.to_thread.run_sync(scan, paths)
    for one in found.left_out:
        _log.warning("left out: %s", one)
    offer = offer_of([one.entry for one in found.sources], Plan())
    if not found.sources:
        raise LocalIOError("there is nothing to send: all of it is left out")
    size = "standard input" if offer.size is None else f"{count_of(offer.files)}, {format_size(offer.size)}"
    output.line(
        "offer",
        f"sending {size}",
        files=offer.files,
        size=offer.size,
        there=0,
        names=list(offer.names),
        more_names=offer.more_names,
        overwrites=[],
    )
    async with meeting.open(output) as link:
        began_at = trio.current_time()
        async with shown_transfer(output) as progress:
            done = await send_files(link, found, progress)
    show_transferred(done, trio.current_time() - began_at, "sent", output)
    if done.missing:
        raise LocalIOError(f"not sent: {missing_words(done.missing, done.files)}; send it again")
