"""The forwards of a running command: some from its start, others added and removed while it runs (docs/status.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from iceagent.cli.control.running import RUNNING
from iceagent.net.tasks import open_background
from iceagent.session.session import Session
from iceagent.tunnel.errors import SpecError
from iceagent.tunnel.forward import Forward, forward_local
from iceagent.tunnel.remote import forward_remote
from iceagent.tunnel.spec import ForwardSpec, parse_dynamic, parse_forward

MAX_FORWARDS = 256  # ours: of one command
PARSERS: Mapping[str, Callable[[str], ForwardSpec]] = {
    "local": parse_forward,
    "remote": parse_forward,
    "dynamic": parse_dynamic,
}
"""What can be added, by its direction: `-L`, `-R`, `-D`."""


class OpenForwards:
    """Forwards, each in a task of its own, so that one can end while the others go on.

    Args:
        session: that carries them.
        nursery: whose tasks they are.
        show: called with each that is added while the command runs.
    """

    def __init__(self, session: Session, nursery: trio.Nursery, show: Callable[[Forward], object]) -> None:
        self._session = session
        self._nursery = nursery
        self._show = show
        self._open: dict[tuple[str, ...], trio.CancelScope] = {}

    async def enter_async_context(self, opening: AbstractAsyncContextManager[Forward]) -> Forward:
        """Open a forward, and leave it open until it is removed or the command ends.

        Raises:
            SpecError, BindError, RefusedError, FailedError: it cannot be opened.
        """
        forward: Forward = await self._nursery.start(self._hold, opening)
        return forward

    async def _hold(self, opening: AbstractAsyncContextManager[Forward], task_status: trio.TaskStatus[Forward]) -> None:
        with trio.CancelScope() as scope:
            async with opening as forward:
                binds = forward.binds or (forward.bind,)
                self._open[binds] = scope
                try:
                    task_status.started(forward)
                    await trio.sleep_forever()
                finally:
                    self._open.pop(binds, None)

    async def add(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Open what is asked for at the control socket: `spec`, and its `direction`.

        Raises:
            SpecError, BindError, RefusedError, FailedError: it cannot be opened.
        """
        spec, direction = arguments.get("spec"), arguments.get("direction", "local")
        parse = PARSERS.get(direction) if isinstance(direction, str) else None
        if not isinstance(spec, str) or parse is None:
            raise SpecError(f"name what to forward, and its direction: one of {', '.join(PARSERS)}")
        if len(self._open) >= MAX_FORWARDS:
            raise SpecError(f"this command has {MAX_FORWARDS} forwards already; remove one, or start another command")
        opening = forward_remote if direction == "remote" else forward_local
        forward = await self.enter_async_context(opening(self._session, parse(spec)))
        self._show(forward)
        return {"bind": forward.bind, "binds": list(forward.binds), "target": str(forward.target)}

    async def remove(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Close the forward at a local address, `bind`; connections that it carries are broken off.

        Raises:
            SpecError: there is none.
        """
        await trio.lowlevel.checkpoint()
        bind = arguments.get("bind")
        for binds, scope in self._open.items():
            if isinstance(bind, str) and any(bind == one or bind == one.rpartition(":")[2] for one in binds):
                scope.cancel()
                return {"bind": binds[0], "binds": list(binds)}
        known = ", ".join(one for binds in self._open for one in binds)
        raise SpecError(f"no forward is open at {bind!r}; open are: {known or 'none'}")


@asynccontextmanager
async def open_forwards(session: Session, show: Callable[[Forward], object]) -> AsyncIterator[OpenForwards]:
    """Yield where forwards are opened, and let the control socket add and remove some; all end with the body."""
    running = RUNNING.get()
    async with open_background() as nursery:
        forwards = OpenForwards(session, nursery, show)
        with running.handling("forward.add", forwards.add), running.handling("forward.remove", forwards.remove):
            yield forwards
