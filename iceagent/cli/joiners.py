"""What `iceagent listen` says and does about whoever comes: one joiner, or many at once, each line with its name."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from iceagent.cli.codes import show_code
from iceagent.cli.output import Output
from iceagent.cli.progress import closing_words, follow_paths, shown_progress
from iceagent.cli.timeline import TimelineFile
from iceagent.errors import IceError
from iceagent.net.tasks import open_background
from iceagent.session.errors import PeerTurnedAway, SessionError
from iceagent.session.progress import Progress
from iceagent.tunnel.allow import AllowRule, ListenRule
from iceagent.tunnel.peer import Invitation, Link
from iceagent.tunnel.spec import join_host_port

Use = Callable[[Link, trio.Event], Awaitable[None]]
"""Uses a session to its end; sets the event once the joiner is one that the command was waiting for."""


class NamedOutput(Output):
    """The lines about one of several joiners: its name is in front of them, or `peer` in the JSON objects."""

    def __init__(self, output: Output, peer: str = "") -> None:
        super().__init__(as_json=output.as_json, quiet=output.quiet, pipe=output.pipe)
        self.peer = peer

    def line(self, kind: str, text: str, *, essential: bool = False, **fields: Any) -> None:
        """Print one line; see `Output.line`."""
        named = {"peer": self.peer} if self.peer else {}
        super().line(kind, f"{self.peer}: {text}" if self.peer else text, essential=essential, **{**named, **fields})


class Joiners:
    """What the command does about each joiner, for `iceagent.session.standing`.

    Args:
        rules: what is let in; none for a pipe.
        output: where lines go.
        use: uses one session.
        timeline: gets what happened to the last connection.
        one: whether one joiner is waited for: the end of its session is that of `run`.
        hard_nat: whether the other side is asked for it, too.
    """

    def __init__(
        self,
        rules: Sequence[AllowRule],
        output: Output,
        use: Use,
        *,
        timeline: TimelineFile | None = None,
        one: bool = False,
        hard_nat: bool = False,
    ) -> None:
        self.rules = rules
        self.output = output
        self.use = use
        self.hard_nat = hard_nat
        self._timeline = timeline
        self._one = one
        self._scope = trio.CancelScope()
        self._error: Exception | None = None

    async def run(self, listen: Callable[[], Awaitable[None]]) -> None:
        """Run the listener: for ever, or until the session of the one joiner has ended, whose error is raised."""
        with self._scope:
            await listen()
        if self._error is not None:
            raise self._error

    @asynccontextmanager
    async def open_attempt(self, name: str | None) -> AsyncIterator[Joiner]:
        """Yield what is done about the next of them; `name`: of a paired peer."""
        output = self.output if self._one else NamedOutput(self.output, name or "")
        async with shown_progress(output, self._timeline) as progress:
            joiner = Joiner(self, output, progress)
            yield joiner
        if self._one and joiner.taken.is_set():
            self._error = joiner.error
            self._scope.cancel()

    def report_full(self) -> None:
        """Print that no further one can come."""
        self.output.line("full", "as many are connected as may be; the next code comes when one of them has left")


class Joiner:
    """One of them, from the code that waits for it to the end of its session.

    Attributes:
        taken: set once it is one that the command was waiting for.
        error: what its session ended with then.
    """

    def __init__(self, joiners: Joiners, output: Output, progress: Progress) -> None:
        self.progress = progress
        self.taken = trio.Event()
        self.error: Exception | None = None
        self._joiners = joiners
        self._output = output

    def show_code(self, invitation: Invitation) -> None:
        """Print the code, and what to run on the other machine."""
        relay_url = invitation.relay_url
        command = other_command(invitation.code, self._joiners.rules, relay_url, hard_nat=self._joiners.hard_nat)
        show_code(self._joiners.output, code=invitation.code, relay=relay_url, command=command)
        if isinstance(self._output, NamedOutput):
            self._output.peer = invitation.nameplate

    async def serve(self, session: Link) -> None:
        """Use the session to its end."""
        try:
            async with open_background() as nursery:
                await nursery.start(lambda task_status: follow_paths(session, self._output, task_status=task_status))
                await self._joiners.use(session, self.taken)
                words = closing_words(session)
        except PeerTurnedAway:
            self.taken = trio.Event()
            raise
        except Exception as error:
            self.error = error
            raise
        if self._joiners.rules:
            self._output.line("closed", words, reason=words)

    def report_end(self, error: IceError) -> None:
        """Print why nobody came of it, or why the session ended; that of the only one is told as the command ends."""
        if self.error is not None and self.taken.is_set() and not isinstance(self._output, NamedOutput):
            return
        verdict = error.verdict if isinstance(error, SessionError) else None
        shown = None if verdict is None else verdict.as_dict()
        self._output.line("closed", str(error), reason=str(error), verdict=shown)


def other_command(code: str, rules: Sequence[AllowRule], relay_url: str, *, hard_nat: bool = False) -> str:
    """Return what to paste on the other machine; it names the relay unless the code does."""
    options = ["--hard-nat"] * hard_nat + ([] if "@" in code else ["--relay", relay_url])
    if not rules:
        return shlex.join(["iceagent", "connect", *options, code])
    return shlex.join(["iceagent", "forward", *options, *_example_option(rules[0]), code])


def _example_option(rule: AllowRule) -> tuple[str, str]:
    """Return the option for a forward that the rule allows."""
    if not isinstance(rule, ListenRule):
        return "-L", example_forward(rule)
    if rule.what == "unix":
        return "-R", f"unix:{rule.path}:localhost:80"
    port = rule.port or 0
    there = str(port) if rule.host is None else join_host_port(rule.host, port)
    return "-R", f"{there}:localhost:{port or 80}{'/udp' if rule.what == 'udp' else ''}"


def example_forward(rule: AllowRule) -> str:
    """Return a forward that the rule allows."""
    if rule.kind == "unix":
        return f"8080:{rule}"
    port = rule.port or 80
    suffix = "/udp" if rule.kind == "udp" else ""
    return f"{_near_port(port)}:{join_host_port(rule.host or 'localhost', port)}{suffix}"


def _near_port(port: int) -> int:
    """Return a port like the far one that needs no privileges: 22 gives 2222, 80 gives 8080, 53 gives 5353."""
    well_known = {22: 2222, 80: 8080, 443: 8443, 53: 5353}
    return port if port > 1023 else well_known.get(port, 10_000 + port)
