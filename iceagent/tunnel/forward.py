"""The side of the user: a local socket whose every connection becomes a stream to the other side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import trio

from iceagent.errors import IceError
from iceagent.net.logs import limited_logger
from iceagent.net.tasks import contained, open_background
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import wire
from iceagent.tunnel.datagrams import PlainUdpSocket
from iceagent.tunnel.dynamic import serve_program
from iceagent.tunnel.errors import FailedError, RefusedError, SpecError
from iceagent.tunnel.local import accept_connections, open_listeners
from iceagent.tunnel.opening import ANSWER_PATIENCE_S, open_tunnel_stream, unanswered
from iceagent.tunnel.pump import RESET_TUNNEL, Closable, break_off, pump
from iceagent.tunnel.spec import (
    AnyTarget,
    BackTarget,
    ForwardSpec,
    PortBind,
    Target,
    TcpTarget,
    UdpTarget,
    UnixTarget,
    parse_dynamic,
    parse_forward,
)
from iceagent.tunnel.traffic import Traffic, shown_traffic
from iceagent.tunnel.udp import UdpForward, open_udp_sockets

MAX_CONNECTIONS = 2048  # per local address, more than a session carries: those wait; a further one is reset

_log = limited_logger(__name__)


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward that is open.

    `bind` is the local address as text, with the port the system chose; `binds` are all of them, where the forward has
    several: both families, or all addresses of a name. With `is_remote` they are the other side's.
    """

    bind: str
    spec: ForwardSpec
    binds: tuple[str, ...] = ()
    is_remote: bool = False

    @property
    def target(self) -> Target:
        """What it leads to: on the other side, or of a remote forward on this one."""
        return self.spec.target

    @property
    def direction(self) -> Literal["local", "remote", "dynamic"]:
        """Which kind it is: as ssh's `-L`, `-R` or `-D`."""
        if self.is_remote:
            return "remote"
        return "dynamic" if isinstance(self.spec.target, AnyTarget) else "local"


@dataclass(frozen=True, slots=True)
class HeldForward:
    """A forward whose local sockets are open and ours, before there is a session that could carry what comes to them.

    What connects meanwhile waits in the backlog. `close` lets nobody connect any more; `forget` drops the datagrams
    that nobody has read.
    """

    spec: ForwardSpec
    binds: tuple[str, ...]
    run: Callable[[Session, Traffic], Awaitable[None]]
    close: Callable[[], None]
    forget: Callable[[], None] = lambda: None


@asynccontextmanager
async def hold_forward(spec: str | ForwardSpec) -> AsyncIterator[HeldForward]:
    """Open the local sockets of a forward: before a code is used, which is good for one try.

    Raises:
        SpecError: `spec` is malformed.
        BindError: a local socket cannot be opened.
    """
    spec = parse_forward(spec) if isinstance(spec, str) else spec
    target = spec.target
    if isinstance(target, UdpTarget) or (isinstance(target, BackTarget) and target.udp):
        if not isinstance(spec.bind, PortBind):
            raise SpecError("a Unix stream socket cannot carry UDP; a right one: 5353:192.0.2.1:53/udp")
        async with open_udp_sockets(spec.bind) as sockets:
            binds = tuple(sock.text for sock in sockets)
            run = partial(_run_udp, target, sockets)
            yield HeldForward(spec, binds, run, partial(_close, sockets), partial(_forget, sockets))
    else:
        async with open_listeners(spec.bind) as (listeners, binds):
            close = partial(_close, [listener.socket for listener in listeners])
            yield HeldForward(spec, binds, partial(_run_streams, listeners, target), close)


def _close(sockets: Sequence[Closable]) -> None:
    for sock in sockets:
        sock.close()


def _forget(sockets: Sequence[PlainUdpSocket]) -> None:
    for sock in sockets:
        sock.forget()


@asynccontextmanager
async def forward_local(
    session: Session, spec: str | ForwardSpec | HeldForward, *, keep: bool = False
) -> AsyncIterator[Forward]:
    """Forward a local socket to a target on the other side, while the body runs.

    The other side is asked first whether it allows the target, so that a forbidden forward fails here and now and not
    at its first connection.

    Args:
        session: the session to the other side, which must be serving forwards.
        spec: `[BIND:]PORT:HOST:PORT[/udp]`, with `unix:PATH` on either side, or the value of one; or one whose local
            sockets are open already (`hold_forward`).
        keep: whether those stay open afterwards, for another session.
    Raises:
        SpecError: `spec` is malformed.
        BindError: the local socket cannot be opened.
        RefusedError: the other side does not allow the target.
        FailedError: the other side does not serve forwards.
    """
    if not isinstance(spec, HeldForward):
        async with hold_forward(spec) as held, forward_local(session, held) as forward:
            yield forward
        return
    await check_allowed(session, spec.spec.target)
    traffic = Traffic(str(spec.spec.target), spec.binds)
    try:
        async with open_background() as nursery:
            nursery.start_soon(spec.run, session, traffic)
            with shown_traffic(session, traffic):
                yield Forward(spec.binds[0], spec.spec, spec.binds)
    finally:
        if not keep:
            spec.close()


@asynccontextmanager
async def forward_dynamic(session: Session, spec: str | ForwardSpec | HeldForward) -> AsyncIterator[Forward]:
    """Take programs that speak SOCKS or HTTP CONNECT to whatever the other side can reach, and allows, meanwhile.

    Names are resolved over there.

    Args:
        session: the session to the other side, which must be serving forwards.
        spec: `[BIND:]PORT` or `unix:PATH`, or the value of one, or one whose local sockets are open already.
    Raises:
        SpecError: `spec` is malformed.
        BindError: the local socket cannot be opened.
        RefusedError: the other side allows nothing.
        FailedError: the other side does not serve forwards.
    """
    async with forward_local(session, parse_dynamic(spec) if isinstance(spec, str) else spec) as forward:
        yield forward


async def _run_udp(
    target: UdpTarget | BackTarget, sockets: Sequence[PlainUdpSocket], session: Session, traffic: Traffic
) -> None:
    async with trio.open_nursery() as nursery:
        for sock in sockets:
            nursery.start_soon(UdpForward(session, sock, target, traffic=traffic).run)


async def _run_streams(
    listeners: Sequence[trio.SocketListener],
    target: TcpTarget | UnixTarget | AnyTarget | BackTarget,
    session: Session,
    traffic: Traffic,
) -> None:
    async def handle(near: trio.SocketStream) -> None:
        with contained("a connection of a forward"), traffic.connection():
            if isinstance(target, AnyTarget):
                await serve_program(session, near, traffic)
            else:
                await forward_connection(session, near, target, traffic)

    async def accept(listener: trio.SocketListener) -> None:
        await accept_connections(listener, handle, limit=MAX_CONNECTIONS)

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept, listener)


async def check_allowed(session: Session, target: Target) -> None:
    """Ask the other side whether it allows a target.

    Raises:
        RefusedError: it does not.
        FailedError: it does not answer.
        trio.BrokenResourceError: the link has ended.
    """
    stream = await session.streams.open_service(TUNNEL_SERVICE)
    try:
        async with answer_within(session, wire.ANSWER_TIMEOUT_S):
            await wire.send_request(stream, wire.request_for(target, op="check"))
            answer = await wire.receive_answer(stream)
        await stream.aclose()
    except trio.TooSlowError:
        raise FailedError("the other side is connected but serves no forwards; start it with --allow") from None
    except BaseException:
        stream.reset(RESET_TUNNEL)
        raise
    answer.raise_unless_ok(target)


async def forward_connection(
    session: Session,
    near: trio.SocketStream,
    target: TcpTarget | UnixTarget | BackTarget,
    traffic: Traffic | None = None,
) -> None:
    """Carry one local connection to the target; when it cannot be, close it at once and log why.

    Nothing waits for the answer before sending: what the application says first travels behind the request.
    """
    try:
        far = await open_tunnel_stream(session, target)
        try:
            await wire.send_request(far, wire.request_for(target))
        except BaseException:
            far.reset(RESET_TUNNEL)
            raise
        await pump(near, far, incoming=Answered(session, far, target), traffic=traffic)
    except (RefusedError, FailedError, wire.WireError) as error:
        _log.warning("%s", error)
    except (IceError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.info("a connection to %s broke off: %s", target, error)
    finally:
        break_off(near)  # a connection that ended well is closed already


class Answered:
    """The far side's bytes behind its answer, which must be a good one."""

    def __init__(self, session: Session, stream: NamedStream, target: Target) -> None:
        self._session = session
        self._stream = stream
        self._target = target
        self._answered = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what the target sent; raises `RefusedError` or `FailedError` in place of the first of it."""
        if not self._answered:
            try:
                async with answer_within(self._session, ANSWER_PATIENCE_S):
                    answer = await wire.receive_answer(self._stream)
            except trio.TooSlowError:
                raise unanswered(self._target) from None
            answer.raise_unless_ok(self._target)
            self._answered = True
        return await self._stream.receive_some(max_bytes)
