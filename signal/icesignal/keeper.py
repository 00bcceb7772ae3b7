"""Keeps a connection to a relay for one session: dials, takes up the session again, dials again with growing pauses.

What is said over the connection is the session's (`MemberSession`), whatever kind of room it is in.
Source: docs/relay-protocol.md section 4.
"""

from __future__ import annotations

import enum
import logging
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from icesignal import wire
from icesignal.dial import ADVICE, OpenStream, bad_answer
from icesignal.errors import RelayUnreachable, SignalError
from icesignal.expect import expect, expect_function
from icesignal.logs import LossLog
from icesignal.member_session import Action, MemberSession
from icesignal.pauses import FIRST_PAUSE_S, LONGEST_PAUSE_S, TIMEOUT_S, TOO_FAST_PAUSE_S, jittered, longer
from icesignal.race import FIRST_TO_ANSWER, Choice, Reached, Way, dial_first
from icesignal.tasks import open_background
from icesignal.transport import ConnectionEnded, OutboxFull, WebsocketConnection
from icesignal.url import RelayUrl, parse_relay_urls

logger = logging.getLogger("icesignal.client")


class RelayState(enum.Enum):
    """How a client stands with its relay."""

    DIALLING = "dialling"  # for the first time, or again after a connection that nobody needed
    CONNECTED = "connected"
    LOST = "lost"  # an open session has no connection; it is being dialled again and again


class Keeper:
    """Keeps a connection to a relay, and moves the frames of at most one session over it. Made by `open_keeper`.

    Of several relays the first that answers serves, see `Choice`; a session that has, or had, its place there stays.

    Attributes:
        ways: the relays, and how they are reached.
        timeout_s: how long the relay may take to answer.
        randbytes: a cryptographic source.
        state: whether the relay is being dialled, is there, or was lost.
        session: whose frames are moved; whoever enters a room puts it here.
        connection: the present one, None while there is none.
    """

    def __init__(
        self,
        ways: Sequence[Way],
        *,
        ssl_context: ssl.SSLContext | None,
        timeout_s: float,
        randbytes: Callable[[int], bytes],
        on_state: Callable[[RelayState], None],
        choice: Choice,
    ) -> None:
        self.ways = tuple(ways)
        self.timeout_s = timeout_s
        self.randbytes = randbytes
        self.state = RelayState.DIALLING
        self.session: MemberSession[Any] | None = None
        self.connection: WebsocketConnection | None = None
        self._ssl_context = ssl_context
        self._choice = choice
        self._way = ways[0]
        self._on_state = on_state
        self._welcome: wire.Welcome | None = None
        self._failure: SignalError | None = None
        self._log = LossLog(self.url.shown)
        self._changed = trio.Event()
        self._begun = trio.Event()
        self._nudged = trio.Event()
        self._dialling: trio.CancelScope | None = None

    @property
    def url(self) -> RelayUrl:
        """The relay that serves, or did last; before that the first to be tried."""
        return self._way.url

    @property
    def welcome(self) -> wire.Welcome:
        """What the relay says of itself."""
        assert self._welcome is not None, "a keeper is handed out after the welcome"
        return self._welcome

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the relay at this moment."""
        return self.connection is not None and self.connection.is_open

    async def wait_begun(self) -> None:
        """Wait for the first connection.

        Raises:
            RelayUnreachable, RelayRefused, ProtocolMismatch: there is none, and `run` has ended.
        """
        await self._begun.wait()
        if self._failure is not None:
            raise self._failure

    def transmit(self, frame: wire.Frame | None) -> None:
        """Send a frame, if there is one, and a connection."""
        if self.connection is None or frame is None:
            return
        try:
            self.connection.send_nowait(wire.encode(frame))
        except OutboxFull:
            # What is unacknowledged goes out again on the next connection.
            self.connection.abort(wire.CloseCode.GOING_AWAY)

    def begin(self, session: MemberSession[Any]) -> None:
        """Move the frames of this session from now on."""
        self.session = session
        if self.is_connected:
            self.transmit(session.begin(self._welcome))
        self.notify()

    def abandon(self) -> None:
        """Forget a session that got no place; unless it was refused, the answer that may still come finds nobody."""
        session, self.session = self.session, None
        if session is not None and session.refused is None and self.connection is not None:
            # Nobody waits for the answer, and the place it gives is not to be held.
            self.connection.abort(wire.CloseCode.GOING_AWAY)

    def close(self, reason: wire.CloseReason) -> None:
        """End the session; returns at once, the word goes out as the block of `open_keeper` ends."""
        session = self.session
        if session is None or session.over is not None:
            return
        if session.has_place:
            self.transmit(wire.Close(reason=reason))
        session.finish(SignalError("the conversation was ended here"))
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        """Wait until anything has changed: what arrived, the peer, the connection."""
        await self._changed.wait()

    def look_again(self, present: Collection[str] | None = None) -> None:
        """See at once whether the connection still works, and get another one if not; see `Client.look_again`."""
        connection = self.connection
        if connection is not None:
            host = connection.local_host
            if host is not None and present is not None and host.partition("%")[0] not in present:
                connection.give_up(f"this machine has {host} no longer")
            else:
                connection.probe()
        elif present is not None:  # what is being tried may be bound to what is gone
            self._nudged.set()
            if self._dialling is not None:
                self._dialling.cancel()

    async def run(self) -> None:
        """Keep a connection for as long as there is something to keep it for. Never raises."""
        pause_s, lost_at = FIRST_PAUSE_S, trio.current_time()
        while True:
            code, error = None, RelayUnreachable(f"the relay {self.url.shown} hangs up each time. {ADVICE}")
            try:
                async with self._dial() as reached:
                    since = trio.current_time()
                    self._take(reached)
                    code = await self._serve(reached.connection)
                    if self.session is None or not self.session.stays or self.session.resumed_here:
                        lost_at = trio.current_time()
                        # A relay that hangs up on whoever resumes is asked ever more seldom, like one that is away.
                        pause_s = FIRST_PAUSE_S if lost_at - since >= LONGEST_PAUSE_S else pause_s
            except Exception as failure:
                # Whatever it is, it is about this connection: an open session must outlive it.
                if not isinstance(failure, SignalError):
                    logger.debug("a connection to the relay failed unexpectedly", exc_info=True)
                error = RelayUnreachable(str(failure) if isinstance(failure, SignalError) else f"{error}")
                if self._welcome is None:
                    self._failure = failure if isinstance(failure, SignalError) else error
                    return
                self._log.lost(self.session)
            finally:
                self.connection = None
                self._begun.set()
                self.notify()
            self._give_up_after(lost_at, error)
            stays = self.session is not None and self.session.over is None and self.session.stays
            self._report_state(RelayState.LOST if stays else RelayState.DIALLING)
            while self.session is None or self.session.over is not None or not self.session.has_room:
                await self.wait_change()
            is_too_fast = code == wire.CloseCode.TOO_FAST
            await self.pause(max(pause_s, TOO_FAST_PAUSE_S) if is_too_fast else jittered(pause_s, self.randbytes(1)[0]))
            pause_s = FIRST_PAUSE_S if self._nudged.is_set() else longer(pause_s)
            self._nudged = trio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait until it is time for another attempt; after a change of the network that is soon."""
        with trio.move_on_after(seconds):
            await self._nudged.wait()
            await trio.sleep(jittered(FIRST_PAUSE_S, self.randbytes(1)[0]))

    def _take(self, reached: Reached) -> None:
        self.connection, self._welcome = reached.connection, reached.welcome
        if reached.way is not self._way:
            self._way = reached.way
            self._log = LossLog(self.url.shown)
        self._report_state(RelayState.CONNECTED)
        self._begun.set()

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator[Reached, None]:
        """Dial; where the relay was there before, a change of the network ends the attempt, and another one follows."""
        with trio.CancelScope() as scope:
            self._dialling = None if self._welcome is None else scope
            stays = self.session is not None and self.session.over is None and self.session.stays
            ways = [self._way] if stays else self.ways
            try:
                async with dial_first(
                    ways, ssl_context=self._ssl_context, timeout_s=self.timeout_s, choice=self._choice
                ) as found:
                    self._dialling = None
                    yield found
            finally:
                self._dialling = None
        if scope.cancelled_caught:
            raise RelayUnreachable("the network changed meanwhile")

    def _report_state(self, state: RelayState) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(state)

    async def _serve(self, connection: WebsocketConnection) -> int:
        """Exchange frames until the connection ends; return its close code."""
        if self.session is not None and self.session.over is None:
            self.transmit(self.session.begin(self._welcome))
            self.notify()  # it may have to be worked for
        while True:
            try:
                message = await connection.receive()
            except trio.Cancelled:
                self.close("left")  # here, as this task may be cancelled before the block of `open_keeper` is
                raise
            except ConnectionEnded as ended:
                if self.session is not None:
                    self.session.handle_end(ended.code)
                logger.debug("the connection to the relay ended with code %s", ended.code)
                return ended.code
            try:
                frame = wire.decode_relay_untrusted(message, self._log.left_out)
            except wire.BadFrame as error:
                if error.reason is not wire.BadFrameReason.UNKNOWN_TYPE:
                    logger.debug("the relay sent what is no frame")
                    if self.session is not None:
                        self.session.handle_bad_answer(bad_answer(self.url, error))
                        self.notify()
                    connection.abort(wire.CloseCode.GOING_AWAY)
                continue
            self._handle_frame(connection, frame)

    def _handle_frame(self, connection: WebsocketConnection, frame: wire.Frame) -> None:
        session = self.session
        if session is None or session.over is not None:
            return
        answers, action = session.handle_frame(frame)
        for answer in answers:
            self.transmit(answer)
        self._log.found(session)
        if action is Action.RECONNECT:
            connection.abort(wire.CloseCode.GOING_AWAY)
        self.notify()

    def _give_up_after(self, lost_at: float, error: RelayUnreachable) -> None:
        session = self.session
        if session is not None and trio.current_time() - lost_at >= session.resume_s:
            session.finish(session.refused or error)
            self.notify()


def _ways(relays: str | Sequence[str], open_stream: OpenStream | Sequence[OpenStream | None] | None) -> list[Way]:
    urls = parse_relay_urls(relays)
    streams = open_stream if isinstance(open_stream, Sequence) else [open_stream] * len(urls)
    if len(streams) != len(urls):
        raise ValueError("open_stream has one entry for each different relay, or is one for all")
    for one in streams:
        if one is not None:
            expect_function(open_stream=one)
    return [Way(url, one) for url, one in zip(urls, streams, strict=True)]


@asynccontextmanager
async def open_keeper(
    relays: str | Sequence[str],
    *,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
    open_stream: OpenStream | Sequence[OpenStream | None] | None = None,
    on_state: Callable[[RelayState], None] = lambda state: None,
    choice: Choice = FIRST_TO_ANSWER,
) -> AsyncGenerator[Keeper, None]:
    """Connect to a relay; when the block ends, the session is ended, and nothing stays behind. See `open_client`."""
    expect(ssl.SSLContext, None, ssl_context=ssl_context)
    expect(float, timeout_s=timeout_s)
    expect_function(randbytes=randbytes, on_state=on_state)
    keeper = Keeper(
        _ways(relays, open_stream),
        ssl_context=ssl_context,
        timeout_s=timeout_s,
        randbytes=randbytes,
        on_state=on_state,
        choice=choice,
    )
    async with open_background() as nursery:
        nursery.start_soon(keeper.run)
        await keeper.wait_begun()
        try:
            yield keeper
        finally:
            keeper.close("left")
