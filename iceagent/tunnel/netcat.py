"""Standard input and output joined with one target of the other side's: what ssh calls a ProxyCommand."""

from __future__ import annotations

import trio

from iceagent.net.tasks import open_background
from iceagent.session.errors import PeerLeft
from iceagent.session.raw import ByteStream
from iceagent.session.session import Session
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import wire
from iceagent.tunnel.errors import SpecError
from iceagent.tunnel.forward import Answered
from iceagent.tunnel.opening import open_tunnel_stream
from iceagent.tunnel.pump import RESET_TUNNEL, pump
from iceagent.tunnel.spec import TcpTarget, UnixTarget, parse_port, split_fields, unix_path
from iceagent.tunnel.stdio import reason_of_end

EXAMPLE = "localhost:22 (or [fe80::1]:22, unix:/run/app.sock, 22 for localhost:22)"


def parse_target(text: str) -> TcpTarget | UnixTarget:
    """Return the target written as `HOST:PORT`, `PORT` or `unix:PATH`.

    Raises:
        SpecError: it is none of these; the message has an example of a right one.
    """
    try:
        if text.startswith("unix:"):
            return UnixTarget(unix_path(text.removeprefix("unix:")))
        *hosts, port = split_fields(text)
        if len(hosts) > 1:
            raise ValueError(f"parts: {len(hosts) + 1}, not two")
        return TcpTarget(hosts[0] if hosts else "localhost", parse_port(port))
    except ValueError as error:
        raise SpecError(f"{text!r} is no target: {error}. A right one: {EXAMPLE}") from None


async def join_target(session: Session, local: ByteStream, target: TcpTarget | UnixTarget) -> None:
    """Join `local` with a target until both directions have ended, and the target has all that was sent to it.

    Args:
        session: the session to the other side, which serves forwards.
        local: usually `StandardStreams()`.
        target: as the other side sees it.
    Raises:
        RefusedError: the other side does not allow the target.
        FailedError: it cannot reach the target, or serves no forwards.
        PeerLeft: the connection broke before its end.
        PeerLost: the other side fell silent.
        LocalIOError: `local` broke.
    """
    flow = session.datagrams.new_flow_id()
    async with open_background() as nursery:
        nursery.start_soon(_watch_lost, session)
        try:
            far = await open_tunnel_stream(session, target)
            try:
                await wire.send_request(far, wire.request_for(target, flow=flow))
            except BaseException:
                far.reset(RESET_TUNNEL)
                raise
            await pump(local, far, incoming=Answered(session, far, target))
            await _wait_delivered(session, target, flow)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise await _reason(session, target) from error


async def _watch_lost(session: Session) -> None:
    """Raise why the session ended, if it was not closed in good order; what that means is for the pump to say."""
    await session.wait_closed()


async def _wait_delivered(session: Session, target: TcpTarget | UnixTarget, flow: int) -> None:
    """Wait until the other side has written everything to the target: it drops what is under way once we are gone."""
    stream = await session.streams.open_service(TUNNEL_SERVICE)
    try:
        await wire.send_request(stream, wire.request_for(target, op="done", flow=flow))
        (await wire.receive_answer(stream)).raise_unless_ok(target)
        await stream.aclose()
    except BaseException:
        stream.reset(RESET_TUNNEL)
        raise


async def _reason(session: Session, target: TcpTarget | UnixTarget) -> Exception:
    reason = await reason_of_end(session)
    if isinstance(reason, PeerLeft) and session.close_reason is None:
        return PeerLeft(f"the connection to {target} broke before its end")
    return reason
