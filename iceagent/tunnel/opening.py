"""Streams for connections and flows: a session has a limited number; that one has to wait for a free one is logged."""

from __future__ import annotations

import trio

from iceagent.net.logs import limited_logger
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.tunnel import wire
from iceagent.tunnel.errors import FailedError
from iceagent.tunnel.pump import RESET_TUNNEL
from iceagent.tunnel.spec import Target

GRACE_S = 1.0  # that a connection waits for a stream before anything is said
ANSWER_PATIENCE_S = 60.0  # for the answer; the other side has shorter limits of its own, but may be cut off
PATIENCE_S = 20.0  # that it waits before it is given up

_log = limited_logger(__name__)


async def open_tunnel_stream(session: Session, target: Target) -> NamedStream:
    """Open a stream for a connection or a flow; when all are in use, wait for one, say so, and not for ever.

    Raises:
        FailedError: none has become free.
        trio.BrokenResourceError: the link has ended.
    """
    with trio.move_on_after(GRACE_S):
        return await session.streams.open_service(wire.service_of(target))
    if not session.streams.can_open:
        _log.warning(
            "the session carries as many connections as it can; one to %s waits up to %g s for another to end",
            target,
            PATIENCE_S,
        )
    with trio.move_on_after(PATIENCE_S):
        return await session.streams.open_service(wire.service_of(target))
    raise FailedError(f"the session carries as many connections as it can; one to {target} is given up", cause="busy")


async def connect_through(session: Session, target: Target) -> NamedStream:
    """Return a stream to a target, once the other side has reached it.

    Raises:
        RefusedError: the other side does not allow it.
        FailedError: it cannot reach it, or does not answer.
        WireError: it answers with something else.
        trio.BrokenResourceError: the link has ended.
    """
    far = await open_tunnel_stream(session, target)
    try:
        async with answer_within(session, ANSWER_PATIENCE_S):
            await wire.send_request(far, wire.request_for(target))
            (await wire.receive_answer(far)).raise_unless_ok(target)
    except trio.TooSlowError:
        far.reset(RESET_TUNNEL)
        raise unanswered(target) from None
    except BaseException:
        far.reset(RESET_TUNNEL)
        raise
    return far


def unanswered(target: Target) -> FailedError:
    """Return the error for an answer that did not come within `ANSWER_PATIENCE_S`."""
    return FailedError(f"the other side has not answered about {target} for {ANSWER_PATIENCE_S:g} s", cause="timeout")
