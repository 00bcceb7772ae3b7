"""Streams for connections and flows: a session has a limited number; that one has to wait for a free one is logged."""

from __future__ import annotations

import trio

from iceagent.net.logs import limited_logger
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel.errors import FailedError
from iceagent.tunnel.spec import Target

GRACE_S = 1.0  # that a connection waits for a stream before anything is said
PATIENCE_S = 20.0  # that it waits before it is given up

_log = limited_logger(__name__)


async def open_tunnel_stream(session: Session, target: Target) -> NamedStream:
    """Open a stream for a connection or a flow; when all are in use, wait for one, say so, and not for ever.

    Raises:
        FailedError: none has become free.
        trio.BrokenResourceError: the link has ended.
    """
    with trio.move_on_after(GRACE_S):
        return await session.streams.open_service(TUNNEL_SERVICE)
    if not session.streams.can_open:
        _log.warning(
            "the session carries as many connections as it can; one to %s waits up to %g s for another to end",
            target,
            PATIENCE_S,
        )
    with trio.move_on_after(PATIENCE_S):
        return await session.streams.open_service(TUNNEL_SERVICE)
    raise FailedError(f"the session carries as many connections as it can; one to {target} is given up")
