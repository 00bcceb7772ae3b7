"""Runs the body of a verb: signals, errors, exit codes."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import click
import trio

from iceagent.cli.control import leftovers
from iceagent.cli.exits import Exit, exit_of
from iceagent.cli.output import Output

GRACE_S = 1.7  # for a clean end after Ctrl-C, so that the command has ended within 2 s whatever happens

_log = logging.getLogger(__name__)


def run_verb(body: Callable[[], Awaitable[None]], output: Output, *, has_peer: bool = False) -> Exit:
    """Run a verb to its end, print why if it failed, and return its exit code.

    Args:
        body: the verb.
        output: where to print.
        has_peer: it leaves somebody behind when its terminal is closed (SIGHUP), who is to be informed as after Ctrl-C.
    """
    if has_peer:
        from iceagent.net.accepting import raise_descriptor_limit

        raise_descriptor_limit()  # each connection of a tunnel takes one
    supervisor = _Supervisor(_controlled(body) if has_peer else body, _signals(has_peer=has_peer))
    if not gc.isenabled():  # see `iceagent.cli.main`
        gc.freeze()  # what is there now stays
        gc.enable()
    try:
        trio.run(supervisor.run)
    except BaseException as error:  # noqa: ASYNC103
        return _report(_unwrap(error), output)  # noqa: ASYNC104
    if supervisor.interrupted:
        output.error(Exit.INTERRUPTED, "interrupted")
        return Exit.INTERRUPTED
    return Exit.OK


def _controlled(body: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return a verb that can be asked what it does while it runs (docs/status.md)."""
    context = click.get_current_context(silent=True)
    verb = "" if context is None else context.info_name or ""

    async def run() -> None:
        from iceagent.cli.control.running import RUNNING
        from iceagent.cli.control.server import open_control

        running = RUNNING.get()
        running.verb = verb
        async with open_control(running):
            await body()

    return run


def _signals(*, has_peer: bool) -> Sequence[int]:
    """Return the signals that end a verb; SIGHUP unless it is ignored, as under `nohup`."""
    hangup = getattr(signal, "SIGHUP", None)
    if not has_peer or hangup is None or signal.getsignal(hangup) is not signal.SIG_DFL:
        return (signal.SIGINT, signal.SIGTERM)
    return (signal.SIGINT, signal.SIGTERM, hangup)


class _Supervisor:
    def __init__(self, body: Callable[[], Awaitable[None]], signals: Sequence[int]) -> None:
        self.interrupted = False
        self._signals = signals
        self._body = body

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            await nursery.start(self._watch_signals, scope)
            with scope:
                await self._body()
            nursery.cancel_scope.cancel()

    async def _watch_signals(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """The first signal ends the body; the second, or the end of the grace period, ends the process."""
        with trio.open_signal_receiver(*self._signals) as signals:
            task_status.started()
            async for _ in signals:
                if self.interrupted:
                    _exit_now()
                self.interrupted = True
                timer = threading.Timer(GRACE_S, _exit_now)
                timer.daemon = True
                timer.start()
                scope.cancel()


def _exit_now() -> NoReturn:
    leftovers.remove_all()
    os._exit(Exit.INTERRUPTED)


def _unwrap(error: BaseException) -> BaseException:
    """Return the error that helps the user most: of a group the first, of a broken stream why its link has ended."""
    from iceagent.errors import IceError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio.BrokenResourceError) and isinstance(error.__cause__, IceError):
        return error.__cause__
    return error


def _report(error: BaseException, output: Output) -> Exit:
    code = exit_of(error)
    if code is Exit.INTERRUPTED:
        output.error(code, "interrupted")
    elif code is Exit.INTERNAL:
        _log.debug("internal error", exc_info=error)
        output.error(code, f"internal error: {type(error).__name__}: {error} (run again with -vv to see where)")
    else:
        output.error(code, str(error), verdict=_verdict_of(error))
    return code


def _verdict_of(error: BaseException) -> dict[str, object] | None:
    from iceagent.session.errors import SessionError

    verdict = error.verdict if isinstance(error, SessionError) else None
    return None if verdict is None else verdict.as_dict()
