"""`iceagent receive`: the files and folders that the other side sends, or one file on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import trio

from iceagent.cli.connection import ConnectionOptions
from iceagent.cli.options import Common
from iceagent.cli.output import Output
from iceagent.cli.peer_options import confirmed
from iceagent.cli.run import run_verb
from iceagent.cli.transfers import (
    Meeting,
    meeting_options,
    missing_words,
    show_transferred,
    shown_transfer,
)
from iceagent.files.words import count_of, format_size

if TYPE_CHECKING:
    from iceagent.files.receiver import FileOffer

_EXAMPLE = """
Example:  iceagent receive --into ~/Downloads 7-guitar-ozone
"""
MAX_SHOWN = 5  # names of what would be overwritten


@click.command("receive", epilog=_EXAMPLE)
@click.argument("words", nargs=-1, envvar="ICEAGENT_CODE", metavar="[CODE]")
@click.option("--into", metavar="DIR", default=".", help="Where to; - writes one file to standard output.")
@click.option("-y", "--yes", is_flag=True, help="Accept without asking, and overwrite what is there.")
@meeting_options
def command(
    words: Sequence[str],
    into: str,
    yes: bool,
    timeout_s: float | None,
    verify: bool,
    relay: Sequence[str],
    connection: ConnectionOptions,
    timeline: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Receive the files and folders that the other side sends.

    CODE is what its `iceagent send` printed, or the name of a paired peer, which runs `iceagent send --to`. Without
    CODE one is printed. Shows what comes and asks first; nothing is written outside DIR.
    """
    output = Common(as_json, quiet, verbose).open_output(pipe=into == "-")
    who = " ".join(words) or None
    meeting = Meeting(who, True, ["send", "PATH", "--to"], timeout_s, verify, relay, connection, timeline)
    return run_verb(lambda: _receive(into, yes, meeting, output), output, has_peer=True)


async def _receive(into: str, yes: bool, meeting: Meeting, output: Output) -> None:
    from iceagent.files.errors import TransferFailed
    from iceagent.files.receiver import receive_files

    meeting.check()
    agreement = _Agreement(yes, into, output)
    async with meeting.open(output) as link:
        async with shown_transfer(output) as progress:
            done = await receive_files(link, 1 if into == "-" else into, accept=agreement.accept, progress=progress)
        show_transferred(done, trio.current_time() - agreement.began_at, "received", output)
    if done.missing:
        raise TransferFailed(f"the other side could not send {missing_words(done.missing, done.files)}")


class _Agreement:
    """Shows what is offered, and asks."""

    def __init__(self, yes: bool, into: str, output: Output) -> None:
        self.began_at = trio.current_time()
        self._yes = yes
        self._into = into
        self._output = output

    async def accept(self, offer: FileOffer) -> bool:
        """Return whether it is accepted.

        Raises:
            TransferRefused: something would be overwritten, and there is nobody to ask.
        """
        from iceagent.files.errors import TransferRefused

        self._show(offer)
        if self._yes:
            accepted = True
        elif offer.overwrites:
            accepted = await confirmed("Receive, and overwrite?", unasked=False)
            if not accepted and not _can_ask():
                raise TransferRefused(
                    f"{offer.overwrites[0]!r} is there already, and there is no terminal to ask at; "
                    "--yes overwrites, --into writes elsewhere"
                )
        else:
            accepted = self._into == "-" or await confirmed("Receive?")
        if not accepted:
            raise TransferRefused("its user said no")
        self.began_at = trio.current_time()
        return True

    def _show(self, offer: FileOffer) -> None:
        size = "a stream" if offer.size is None else f"{count_of(offer.files)}, {format_size(offer.size)}"
        more = f" and {offer.more_names} more" if offer.more_names else ""
        lines = [f"offered: {size}: {', '.join(offer.names)}{more}"]
        if offer.there:
            lines.append(f"there already: {format_size(offer.there)}")
        if offer.overwrites:
            rest = len(offer.overwrites) - MAX_SHOWN
            names = ", ".join(offer.overwrites[:MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
            lines.append(f"would be overwritten: {names}")
        self._output.line(
            "offer",
            "\n".join(lines),
            essential=not self._yes,
            files=offer.files,
            size=offer.size,
            there=offer.there,
            names=list(offer.names),
            more_names=offer.more_names,
            overwrites=list(offer.overwrites[:MAX_OVERWRITES]),
        )


MAX_OVERWRITES = 1000  # that a line of JSON names


def _can_ask() -> bool:
    import sys

    return sys.stderr is not None and sys.stderr.isatty()
