"""The side that pings: how long there and back takes over the path in use, and what of it gets lost."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from iceagent.errors import IceError
from iceagent.link import StreamReset
from iceagent.session.echo import ANSWER_S, ID_SIZE, MAX_ASKERS, receive_exactly
from iceagent.session.errors import PeerLeft, VersionMismatch
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import PING_SERVICE, RESET_UNKNOWN

_TOKEN: Final = 16  # bytes of a ping; none can be answered before it has been seen


class Pinger:
    """Asks; made by `open_pinger`."""

    def __init__(self, session: Session, flow: int) -> None:
        self._session = session
        self._flow = flow
        self._awaited = b""
        self._answered_at: float | None = None
        self._answered = trio.Event()

    def take_untrusted(self, data: bytes) -> None:
        """Take what comes back; what does not answer the present ping, as a late answer, is dropped."""
        if self._awaited and data == self._awaited and self._answered_at is None:
            self._answered_at = trio.current_time()
            self._answered.set()

    async def ping(self, timeout_s: float) -> float | None:
        """Return how long there and back takes, seconds; None if there is no answer within `timeout_s`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the session has ended.
        """
        self._awaited, self._answered, self._answered_at = secrets.token_bytes(_TOKEN), trio.Event(), None
        begun_at = trio.current_time()
        with trio.move_on_after(timeout_s):
            await self._session.datagrams.send(self._flow, self._awaited)
            await self._answered.wait()
        return None if self._answered_at is None else self._answered_at - begun_at


@asynccontextmanager
async def open_pinger(session: Session) -> AsyncIterator[Pinger]:
    """Yield what asks the other side of a session.

    Raises:
        VersionMismatch: it answers no pings.
        PeerLeft: it does not answer, or is gone.
    """
    flow = session.datagrams.new_flow_id()
    pinger = Pinger(session, flow)
    session.datagrams.open_flow(flow, pinger.take_untrusted)
    try:
        stream = await _asked(session, flow)
        try:
            yield pinger
        finally:
            stream.reset(RESET_UNKNOWN)
    finally:
        session.datagrams.close_flow(flow)


async def _asked(session: Session, flow: int) -> NamedStream:
    stream = await session.streams.open_service(PING_SERVICE)
    try:
        async with answer_within(session, ANSWER_S):
            await stream.send_all(flow.to_bytes(ID_SIZE, "big"))
            await receive_exactly(stream, 1)
    except trio.TooSlowError:
        stream.reset(RESET_UNKNOWN)
        raise PeerLeft(f"the other side is connected, and has not answered for {ANSWER_S:.0f} s") from None
    except trio.BrokenResourceError as error:
        stream.reset(RESET_UNKNOWN)
        if not isinstance(error.__cause__, StreamReset):
            raise
        raise _refusal(error.__cause__) from error
    except BaseException:
        stream.reset(RESET_UNKNOWN)
        raise
    return stream


def _refusal(reset: StreamReset) -> IceError:
    if reset.code == RESET_UNKNOWN:
        return VersionMismatch("the other side's version of iceagent answers no pings; upgrade it")
    return PeerLeft(f"the other side answers {MAX_ASKERS} others already; try again")
