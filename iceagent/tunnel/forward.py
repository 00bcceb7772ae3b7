"""The side of the user: a local socket whose every connection becomes a stream to the other side."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from iceagent.errors import IceError
from iceagent.session.background import open_background
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import wire
from iceagent.tunnel.errors import FailedError, RefusedError, SpecError
from iceagent.tunnel.local import accept_connections, open_listeners
from iceagent.tunnel.pump import RESET_TUNNEL, break_off, pump
from iceagent.tunnel.spec import Bind, ForwardSpec, PortBind, Target, TcpTarget, UdpTarget, UnixTarget, parse_forward
from iceagent.tunnel.udp import bind_udp, open_udp_forward

MAX_CONNECTIONS = 1024  # per forward; more wait in the listener's backlog

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward that is open. `bind` is the local address as text, with the port the system chose."""

    bind: str
    spec: ForwardSpec

    @property
    def target(self) -> Target:
        """What it leads to, on the other side."""
        return self.spec.target


@asynccontextmanager
async def forward_local(session: Session, spec: str | ForwardSpec) -> AsyncIterator[Forward]:
    """Forward a local socket to a target on the other side, while the body runs.

    The other side is asked first whether it allows the target, so that a forbidden forward fails here and now and not
    at its first connection.

    Args:
        session: the session to the other side, which must be serving forwards.
        spec: `[BIND:]PORT:HOST:PORT[/udp]`, with `unix:PATH` on either side, or the value of one.
    Raises:
        SpecError: `spec` is malformed.
        BindError: the local socket cannot be opened.
        RefusedError: the other side does not allow the target.
        FailedError: the other side does not serve forwards.
    """
    spec = parse_forward(spec) if isinstance(spec, str) else spec
    async with _open_local(session, spec) as bind:
        await check_allowed(session, spec.target)
        yield Forward(bind, spec)


@asynccontextmanager
async def _open_local(session: Session, spec: ForwardSpec) -> AsyncIterator[str]:
    if isinstance(spec.target, UdpTarget):
        if not isinstance(spec.bind, PortBind):
            raise SpecError("a Unix stream socket cannot carry UDP; a right one: 5353:192.0.2.1:53/udp")
        async with open_udp_forward(session, spec.bind, spec.target) as bind:
            yield bind
    else:
        async with _open_stream_forward(session, spec.bind, spec.target) as bind:
            yield bind


@asynccontextmanager
async def _open_stream_forward(session: Session, bind: Bind, target: TcpTarget | UnixTarget) -> AsyncIterator[str]:
    async def handle(near: trio.SocketStream) -> None:
        await forward_connection(session, near, target)

    async with open_listeners(bind) as (listeners, address), open_background() as nursery:
        for listener in listeners:

            async def accept(listener: trio.SocketListener = listener) -> None:
                await accept_connections(listener, handle, limit=MAX_CONNECTIONS)

            nursery.start_soon(accept)
        yield address


async def check_bind(spec: ForwardSpec) -> None:
    """Find out whether the local socket of a forward can be opened now.

    Raises:
        BindError: it cannot.
    """
    if isinstance(spec.target, UdpTarget) and isinstance(spec.bind, PortBind):
        (await bind_udp(spec.bind)).close()
        return
    async with open_listeners(spec.bind):
        pass


async def check_allowed(session: Session, target: Target) -> None:
    """Ask the other side whether it allows a target.

    Raises:
        RefusedError: it does not.
        FailedError: it does not answer.
        trio.BrokenResourceError: the link has ended.
    """
    stream = await session.streams.open_service(TUNNEL_SERVICE)
    try:
        with trio.fail_after(wire.ANSWER_TIMEOUT_S):
            await wire.send_request(stream, wire.request_for(target, op="check"))
            answer = await wire.receive_answer(stream)
        await stream.aclose()
    except trio.TooSlowError:
        raise FailedError("the other side is connected but serves no forwards; start it with --allow") from None
    except BaseException:
        stream.reset(RESET_TUNNEL)
        raise
    answer.raise_unless_ok(target)


async def forward_connection(session: Session, near: trio.SocketStream, target: TcpTarget | UnixTarget) -> None:
    """Carry one local connection to the target; when it cannot be, close it at once and log why.

    Nothing waits for the answer before sending: what the application says first travels behind the request.
    """
    try:
        far = await session.streams.open_service(TUNNEL_SERVICE)
        try:
            await wire.send_request(far, wire.request_for(target))
        except BaseException:
            far.reset(RESET_TUNNEL)
            raise
        await pump(near, far, incoming=_Answered(far, target))
    except (RefusedError, FailedError, wire.WireError) as error:
        _log.warning("%s", error)
    except (IceError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.info("a connection to %s broke off: %s", target, error)
    finally:
        break_off(near)  # a connection that ended well is closed already


class _Answered:
    """The far side's bytes behind its answer, which must be a good one."""

    def __init__(self, stream: NamedStream, target: Target) -> None:
        self._stream = stream
        self._target = target
        self._answered = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._answered:
            (await wire.receive_answer(self._stream)).raise_unless_ok(self._target)
            self._answered = True
        return await self._stream.receive_some(max_bytes)
