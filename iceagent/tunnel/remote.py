"""The side that has another listen for it (`-R`): connections made over there come to a target here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from iceagent.net.logs import limited_logger
from iceagent.net.tasks import open_background
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import wire
from iceagent.tunnel.errors import FailedError, SpecError
from iceagent.tunnel.forward import MAX_CONNECTIONS, Forward
from iceagent.tunnel.pump import RESET_TUNNEL
from iceagent.tunnel.serve import serve_requests, serve_target
from iceagent.tunnel.spec import (
    BackTarget,
    ForwardSpec,
    ListenTarget,
    Target,
    TcpTarget,
    UdpTarget,
    UnixBind,
    UnixTarget,
    is_udp,
    parse_forward,
)
from iceagent.tunnel.traffic import Traffic, shown_traffic

CLOSE_S = 5.0  # for the other side to say that its socket is closed, so that it can be opened again at once

_log = limited_logger(__name__)


@asynccontextmanager
async def forward_remote(session: Session, spec: str | ForwardSpec) -> AsyncIterator[Forward]:
    """Have the other side listen, and carry what connects there to a target here, while the body runs.

    Args:
        session: the session to the other side, which must be serving forwards and allow this (`listen:…`).
        spec: `[BIND:]PORT:HOST:PORT[/udp]`, with `unix:PATH` on either side, or the value of one; the first half is
            over there, the second here. With port 0 the other side's system chooses; `Forward.bind` has it.
    Raises:
        SpecError: `spec` is malformed.
        RefusedError: the other side does not allow it.
        FailedError: the other side cannot open it, or does not serve forwards.
        trio.BrokenResourceError: the link has ended.
    """
    spec = parse_forward(spec) if isinstance(spec, str) else spec
    target = spec.target
    if not isinstance(target, TcpTarget | UdpTarget | UnixTarget):
        raise SpecError("the other side's programs cannot choose where they come out; name one target")
    if is_udp(target) and isinstance(spec.bind, UnixBind):
        raise SpecError("a Unix stream socket cannot carry UDP; a right one: 5353:192.0.2.1:53/udp")
    number = session.datagrams.new_flow_id()
    with session.streams.serving(wire.back_service(number)):
        stream, binds = await _open_listener(session, ListenTarget(spec.bind, is_udp(target)), number)
        try:
            async with open_background() as nursery:
                traffic = Traffic(str(target), tuple(f"there {bind}" for bind in binds))
                back = _Back(session, target, traffic)
                nursery.start_soon(serve_requests, session, back.handle, MAX_CONNECTIONS, wire.back_service(number))
                nursery.start_soon(_watch, session, stream, binds[0])
                with shown_traffic(session, traffic):
                    yield Forward(binds[0], spec, binds, is_remote=True)
            await _close_listener(stream)
        finally:
            stream.reset(RESET_TUNNEL)  # nothing once it is closed


async def _open_listener(session: Session, wanted: ListenTarget, number: int) -> tuple[NamedStream, tuple[str, ...]]:
    stream = await session.streams.open_service(TUNNEL_SERVICE)
    try:
        async with answer_within(session, wire.ANSWER_TIMEOUT_S):
            await wire.send_request(stream, wire.request_for(wanted, op="listen", listener=number))
            answer = await wire.receive_answer(stream)
        answer.raise_unless_ok(wanted)
    except trio.TooSlowError:
        stream.reset(RESET_TUNNEL)
        raise FailedError("the other side is connected but serves no forwards; start it with --allow") from None
    except BaseException:
        stream.reset(RESET_TUNNEL)
        raise
    binds = tuple(wire.printable(bind) for bind in answer.binds[: wire.MAX_BINDS])
    return stream, binds or (wire.printable(str(wanted.bind)),)


async def _close_listener(stream: NamedStream) -> None:
    """Have the other side close its socket, and wait until it has; one that is gone has."""
    try:
        with trio.move_on_after(CLOSE_S):
            await stream.send_eof()
            while await stream.receive_some(wire.MAX_FRAME):
                pass
            await stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def _watch(session: Session, stream: NamedStream, bind: str) -> None:
    """Say so if the other side gives the listener up while the session lasts."""
    try:
        while await stream.receive_some(wire.MAX_FRAME):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    if session.close_reason is None:
        _log.warning("the other side no longer listens on %s", bind)


class _Back:
    """What comes back for one forward: it reaches the target that was named here, whatever is asked for."""

    def __init__(self, session: Session, target: TcpTarget | UdpTarget | UnixTarget, traffic: Traffic) -> None:
        self._session = session
        self._target = target
        self._traffic = traffic

    async def handle(self, stream: NamedStream, request: wire.StreamRequest, asked: Target) -> None:
        """Serve one stream of the other side's."""
        if request.op != "open" or not isinstance(asked, BackTarget):
            raise wire.WireError(f"the other side asks for {asked} where a connection comes back")
        await serve_target(self._session, stream, request, self._target, self._traffic)
