"""Runs the body of a verb: signals, errors, exit codes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from iceagent.cli.exits import Exit, exit_of
from iceagent.cli.output import Output

GRACE_S = 1.7  # for a clean end after Ctrl-C, so that the command has ended within 2 s whatever happens

_log = logging.getLogger(__name__)


def run_verb(body: Callable[[], Awaitable[None]], output: Output) -> Exit:
    """Run a verb to its end, print why if it failed, and return its exit code."""
    supervisor = _Supervisor(body)
    try:
        trio.run(supervisor.run)
    except BaseException as error:  # noqa: ASYNC103
        return _report(_unwrap(error), output)  # noqa: ASYNC104
    if supervisor.interrupted:
        output.error(Exit.INTERRUPTED, "interrupted")
        return Exit.INTERRUPTED
    return Exit.OK


class _Supervisor:
    def __init__(self, body: Callable[[], Awaitable[None]]) -> None:
        self.interrupted = False
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
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
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
    os._exit(Exit.INTERRUPTED)


def _unwrap(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
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
