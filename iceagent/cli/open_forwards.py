"""The forwards of a running command: some from its start, others added and removed while it runs (docs/status.md).

They stay for all the sessions that the command has, one after the other: the local sockets stay open in between, and
what connects then waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from iceagent.cli.control.running import RUNNING
from iceagent.net.tasks import open_background
from iceagent.session.session import Session
from iceagent.tunnel.errors import FailedError, SpecError
from iceagent.tunnel.forward import Forward, HeldForward, forward_local, hold_forward
from iceagent.tunnel.remote import forward_remote
from iceagent.tunnel.spec import ForwardSpec, parse_dynamic, parse_forward

MAX_FORWARDS = 256  # ours: of one command
REASON_S = 2.0  # ours: until a session that is ending has said why
PARSERS: Mapping[str, Callable[[str], ForwardSpec]] = {
    "local": parse_forward,
    "remote": parse_forward,
    "dynamic": parse_dynamic,
}
"""What can be added, by its direction: `-L`, `-R`, `-D`."""


@dataclass(slots=True, eq=False)
class _Kept:
    """One forward.

    Attributes:
        held: its local sockets; None if it listens on the other side.
        binds: where it was open last.
        holding, carrying: end its local sockets, and what the present session carries of it.
    """

    spec: ForwardSpec
    held: HeldForward | None = None
    binds: tuple[str, ...] = ()
    holding: trio.CancelScope = field(default_factory=trio.CancelScope)
    carrying: trio.CancelScope = field(default_factory=trio.CancelScope)


class Forwards:
    """The forwards of one command, each in tasks of its own, so that one can end while the others go on.

    Args:
        holding: whose tasks hold local sockets.
        show: called with each that is open, again where it is open elsewhere than before.
    """

    def __init__(self, holding: trio.Nursery, show: Callable[[Forward], object]) -> None:
        self._holding = holding
        self._show = show
        self._kept: list[_Kept] = []
        self._session: Session | None = None
        self._carrying: trio.Nursery | None = None

    async def keep(self, spec: ForwardSpec, *, is_remote: bool = False) -> None:
        """Open the local sockets of a forward, and have each session carry it, the present one too.

        Raises:
            SpecError, BindError: they cannot be opened.
            RefusedError, FailedError: the present session's other side does not take it.
        """
        kept = _Kept(spec)
        if not is_remote:
            kept.held = await self._holding.start(self._hold, kept)
        self._kept.append(kept)
        try:
            await self._open(kept)
        except BaseException:
            self._drop(kept)
            raise

    @asynccontextmanager
    async def carried_by(self, session: Session) -> AsyncIterator[None]:
        """Open them all over a session, and let the control socket add and remove some, while the body runs.

        Raises:
            RefusedError, FailedError: one cannot be opened.
        """
        running = RUNNING.get()
        async with open_background() as nursery:
            self._session, self._carrying = session, nursery
            try:
                for kept in self._kept:
                    await self._open(kept)
                with running.handling("forward.add", self.add), running.handling("forward.remove", self.remove):
                    yield
            finally:
                self._session = self._carrying = None

    async def carry(self, session: Session) -> None:
        """Carry them all until the session has ended.

        Raises:
            RefusedError, FailedError: one cannot be opened.
            PeerLost, PeerLeft: see `Session.wait_closed`.
        """
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self.carried_by(session):
                await session.wait_closed()
        with trio.move_on_after(REASON_S):  # if it ended while they were being opened, it says why
            await session.wait_closed()
            return
        raise FailedError("the other side broke off while forwards were being opened; try again")

    async def add(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Open what is asked for at the control socket: `spec`, and its `direction`.

        Raises:
            SpecError, BindError, RefusedError, FailedError: it cannot be opened.
        """
        spec, direction = arguments.get("spec"), arguments.get("direction", "local")
        parse = PARSERS.get(direction) if isinstance(direction, str) else None
        if not isinstance(spec, str) or parse is None:
            raise SpecError(f"name what to forward, and its direction: one of {', '.join(PARSERS)}")
        if len(self._kept) >= MAX_FORWARDS:
            raise SpecError(f"this command has {MAX_FORWARDS} forwards already; remove one, or start another command")
        await self.keep(parse(spec), is_remote=direction == "remote")
        added = self._kept[-1]
        return {"bind": added.binds[0], "binds": list(added.binds), "target": str(added.spec.target)}

    async def remove(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Close the forward at a local address, `bind`; connections that it carries are broken off.

        Raises:
            SpecError: there is none.
        """
        await trio.lowlevel.checkpoint()
        bind = arguments.get("bind")
        for kept in self._kept:
            binds = kept.binds
            if isinstance(bind, str) and any(bind == one or bind == one.rpartition(":")[2] for one in binds):
                self._drop(kept)
                return {"bind": binds[0], "binds": list(binds)}
        known = ", ".join(one for kept in self._kept for one in kept.binds)
        raise SpecError(f"no forward is open at {bind!r}; open are: {known or 'none'}")

    async def _hold(self, kept: _Kept, task_status: trio.TaskStatus[HeldForward]) -> None:
        with kept.holding:
            async with hold_forward(kept.spec) as held:
                task_status.started(held)
                await trio.sleep_forever()

    async def _open(self, kept: _Kept) -> None:
        """Have the present session carry a forward, if there is one."""
        if self._carrying is None:
            return
        kept.carrying = trio.CancelScope()
        forward: Forward = await self._carrying.start(self._carry, kept)
        binds = forward.binds or (forward.bind,)
        if binds != kept.binds:
            kept.binds = binds
            self._show(forward)

    async def _carry(self, kept: _Kept, task_status: trio.TaskStatus[Forward]) -> None:
        session, held = self._session, kept.held
        assert session is not None
        if held is not None and kept.binds:
            held.forget()  # what came since the session before is too old for anybody to wait for
        with kept.carrying:
            opening = forward_remote(session, kept.spec) if held is None else forward_local(session, held, keep=True)
            async with opening as forward:
                task_status.started(forward)
                await trio.sleep_forever()

    def _drop(self, kept: _Kept) -> None:
        kept.carrying.cancel()
        kept.holding.cancel()
        self._kept.remove(kept)


@asynccontextmanager
async def open_forwards(show: Callable[[Forward], object]) -> AsyncIterator[Forwards]:
    """Yield where forwards are kept; all end with the body."""
    async with open_background() as nursery:
        yield Forwards(nursery, show)
