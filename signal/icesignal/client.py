"""The client of a relay: one session that survives its connections.

Source: docs/relay-protocol.md sections 3 and 4.
"""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import trio

from icesignal import wire
from icesignal.client_session import Action, ClientSession, Lost, RelayState
from icesignal.dial import ADVICE, OpenStream, bad_answer, dial, with_own_host
from icesignal.errors import MessagesLost, RelayRefused, RelayUnreachable, SignalError
from icesignal.expect import expect, expect_function
from icesignal.logs import LossLog
from icesignal.pauses import FIRST_PAUSE_S, LONGEST_PAUSE_S, TIMEOUT_S, TOO_FAST_PAUSE_S, jittered
from icesignal.tasks import open_background
from icesignal.transport import ConnectionEnded, OutboxFull, WebsocketConnection
from icesignal.url import RelayUrl, parse_relay_url

logger = logging.getLogger("icesignal.client")
RESUME_S = 120.0  # until the relay says how long it keeps a session


class Client:
    """A connection to a relay and at most one session on it. Made by `open_client`."""

    def __init__(
        self,
        url: RelayUrl,
        *,
        ssl_context: ssl.SSLContext | None,
        timeout_s: float,
        randbytes: Callable[[int], bytes],
        open_stream: OpenStream | None = None,
        on_state: Callable[[RelayState], None] = lambda state: None,
    ) -> None:
        self._url = url
        self._ssl_context = ssl_context
        self._timeout_s = timeout_s
        self._randbytes = randbytes
        self._open_stream = open_stream
        self._on_state = on_state
        self._state = RelayState.DIALLING
        self._connection: WebsocketConnection | None = None
        self._welcome: wire.Welcome | None = None
        self._session: ClientSession | None = None
        self._failure: SignalError | None = None
        self._log = LossLog(url.shown)
        self._changed = trio.Event()
        self._begun = trio.Event()
        self._nudged = trio.Event()
        self._dialling: trio.CancelScope | None = None

    @property
    def url(self) -> str:
        """The relay's URL as it may be shown: without what may be secret."""
        return self._url.shown

    @property
    def state(self) -> RelayState:
        """Whether the relay is being dialled, is there, or was lost."""
        return self._state

    @property
    def welcome(self) -> wire.Welcome:
        """What the relay says of itself."""
        assert self._welcome is not None, "open_client yields after the welcome"
        return self._welcome

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the relay at this moment."""
        return self._connection is not None and self._connection.is_open

    @property
    def room(self) -> str:
        """The name of the room; empty before one is entered."""
        return "" if self._session is None or self._session.joined is None else self._session.joined.room

    @property
    def peer(self) -> wire.PeerPresence:
        """Whether the other member is `absent`, `present` or `away`."""
        return "absent" if self._session is None else self._session.peer

    @property
    def ice_servers(self) -> list[dict[str, Any]]:
        """The STUN and TURN servers that the relay recommends to members of a room; empty before one is entered.

        Maps with `urls` and perhaps `username`, `credential` and `ttl`, seconds. The relay's own host is filled in.
        """
        joined = None if self._session is None else self._session.joined
        return [] if joined is None else with_own_host(joined.ice_servers, self._url.host)

    async def renew_ice_servers(self) -> list[dict[str, Any]]:
        """Ask the relay for its ICE servers anew, with fresh credentials; return them.

        While the connection is gone this waits for it: whoever resumes gets them without asking.

        Raises:
            RelayRefused: this relay names them only to who enters a room or resumes.
            SignalError: the conversation is over.
        """
        session = self._require_session()
        given, asked_at = session.servers_given, None
        await trio.lowlevel.checkpoint()
        while session.servers_given == given:
            if session.over is not None:
                raise session.over
            if session.is_live and self._connection is not asked_at:
                if wire.OFFERS_SERVERS not in self.welcome.offers:
                    raise RelayRefused("this relay gives no fresh credentials to a session that lasts")
                asked_at = self._connection
                self._transmit(wire.AskServers())
            await self.wait_change()
        return self.ice_servers

    async def wait_ice_servers(self, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Wait until the relay has named other ICE servers than these, or other credentials; return them.

        Raises:
            SignalError: the conversation is over.
        """
        session = self._require_session()
        await trio.lowlevel.checkpoint()
        while self.ice_servers == known:
            if session.over is not None:
                raise session.over
            await self.wait_change()
        return self.ice_servers

    # -- entering a room

    async def allocate(self, opening: bytes = b"") -> str:
        """Make a room and return its nameplate.

        Args:
            opening: what the peer gets as it joins; at most 1,024 bytes.
        Raises:
            RelayRefused: too many codes from here, or the relay is full.
            RelayUnreachable: it does not answer.
        """
        expect(bytes, opening=opening)
        return await self._enter(wire.Allocate(session=self._new_session(), opening=opening))

    async def join(self, nameplate: str, opening: bytes = b"") -> str:
        """Enter the room with this nameplate.

        Raises:
            CodeUnknown, CodeExpired, Crowded: there is no such place.
            RelayRefused, RelayUnreachable: as for `allocate`.
        """
        expect(str, nameplate=nameplate)
        expect(bytes, opening=opening)
        return await self._enter(wire.Join(session=self._new_session(), nameplate=nameplate, opening=opening))

    async def meet(self, name: bytes, role: wire.Role, opening: bytes = b"") -> str:
        """Enter the rendezvous room with this name of 32 bytes, making it if it is not there.

        Raises:
            Crowded: the place is taken.
            RelayRefused, RelayUnreachable: as for `allocate`.
        """
        expect(str, role=role)
        expect(bytes, name=name, opening=opening)
        return await self._enter(wire.Meet(session=self._new_session(), name=name, role=role, opening=opening))

    async def wait_peer(self) -> bytes:
        """Wait until the other member is there; return its opening.

        Raises:
            SignalError: the session is over.
        """
        session = self._require_session()
        while session.peer == "absent":
            if session.over is not None:
                raise session.over
            await self.wait_change()
        return session.peer_opening

    @property
    def is_peer_away(self) -> bool:
        """Whether the relay says at this moment that the other member's connection is gone; it may come back."""
        return self._session is not None and self._session.is_peer_away

    @property
    def has_peer_hung_up(self) -> bool:
        """Whether it is away, and its connection was closed from its side without a goodbye: killed, most likely."""
        return self._session is not None and self._session.is_peer_away and self._session.hung_up

    @property
    def over(self) -> SignalError | None:
        """Why the conversation is over; None while it is not."""
        return None if self._session is None else self._session.over

    # -- talking

    async def send(self, payload: bytes) -> None:
        """Send bytes to the other member; returns when they are queued, waits while too many are unacknowledged.

        Raises:
            ValueError: the payload is empty or longer than 61,440 bytes.
            SignalError: the session is over.
        """
        expect(bytes, bytearray, payload=payload)
        await self.wait_may_send()
        self.send_nowait(payload)

    async def wait_may_send(self) -> None:
        """Wait until `send_nowait` may be called; there must be no other wait before the call.

        Raises:
            SignalError: the session is over.
        """
        session = self._require_session()
        await trio.lowlevel.checkpoint()
        while session.over is None and not session.may_send:
            await self.wait_change()
        if session.over is not None:
            raise session.over

    def send_nowait(self, payload: bytes) -> None:
        """Queue bytes for the other member, after `wait_may_send`.

        Raises:
            ValueError: the payload is empty or longer than 61,440 bytes.
        """
        expect(bytes, bytearray, payload=payload)
        if not 0 < len(payload) <= wire.MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload has 1 to {wire.MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
        session = self._require_session()
        frame = session.send(payload)
        if session.is_live:
            self._transmit(frame)

    async def receive(self) -> bytes:
        """Return what the other member sent next.

        Raises:
            MessagesLost: some are missing at this place; call again for what comes after.
            SignalError: the session is over, and everything that came before is taken.
        """
        session = self._require_session()
        while not session.inbox:
            if session.over is not None:
                raise session.over
            await self.wait_change()
        await trio.lowlevel.checkpoint()
        item = session.inbox.popleft()
        self._notify()
        if isinstance(item, Lost):
            raise MessagesLost("messages were lost while the connection to the relay was away")
        return item

    def close(self, reason: wire.CloseReason = "left") -> None:
        """End the room for both members; returns at once, the word goes out as the block of `open_client` ends."""
        session = self._session
        if session is None or session.over is not None:
            return
        if session.joined is not None:
            self._transmit(wire.Close(reason=reason))
        session.finish(SignalError("the conversation was ended here"))
        self._notify()

    def look_again(self, present: Collection[str] | None = None) -> None:
        """See at once whether the connection still works, and get another one if not.

        For those who know that the network has changed, or who are about to say something that cannot wait: TCP and the
        usual pings would notice a dead connection after most of a minute.

        Args:
            present: the addresses that this machine has now, if they are known: without its own a connection is dead.
        """
        connection = self._connection
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

    def _new_session(self) -> bytes:
        return self._randbytes(wire.SESSION_BYTES)

    def _require_session(self) -> ClientSession:
        if self._session is None:
            raise RuntimeError("enter a room first: allocate, join or meet")
        return self._session

    async def _enter(self, entry: wire.Allocate | wire.Join | wire.Meet) -> str:
        if self._session is not None:
            raise RuntimeError("this client is in a room already; open another client")
        session = self._session = ClientSession(entry)
        if self.is_connected:
            self._transmit(session.begin())
        self._notify()
        try:
            with trio.move_on_after(self._timeout_s):
                while session.joined is None and session.refused is None and session.over is None:
                    await self.wait_change()
        finally:
            if session.joined is None:
                self._session = None
                if session.refused is None and self._connection is not None:
                    # An answer may still come; nobody waits for it, and the place it gives is not to be held.
                    self._connection.abort(wire.CloseCode.GOING_AWAY)
        if session.joined is not None:
            return session.joined.room
        silent = RelayUnreachable(f"the relay {self.url} did not answer within {self._timeout_s:g} s. {ADVICE}")
        raise session.refused or session.over or silent

    def _transmit(self, frame: wire.Frame) -> None:
        if self._connection is None:
            return
        try:
            self._connection.send_nowait(wire.encode(frame))
        except OutboxFull:
            # What is unacknowledged goes out again on the next connection.
            self._connection.abort(wire.CloseCode.GOING_AWAY)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        """Wait until anything has changed: what arrived, the peer, the connection."""
        await self._changed.wait()

    async def run(self) -> None:
        """Keep a connection for as long as there is something to keep it for. Never raises."""
        pause_s, lost_at = FIRST_PAUSE_S, trio.current_time()
        while True:
            code, error = None, RelayUnreachable(f"the relay {self.url} hangs up each time. {ADVICE}")
            try:
                async with self._dial() as (connection, hello):
                    self._connection, self._welcome, since = connection, hello, trio.current_time()
                    self._report_state(RelayState.CONNECTED)
                    self._begun.set()
                    code = await self._serve(connection)
                    if self._session is None or self._session.joined is None or self._session.resumed_here:
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
                self._log.lost(self._session)
            finally:
                self._connection = None
                self._begun.set()
                self._notify()
            self._give_up_after(lost_at, error)
            has_place = self._session is not None and self._session.over is None and self._session.joined is not None
            self._report_state(RelayState.LOST if has_place else RelayState.DIALLING)
            while self._session is None or self._session.over is not None or not self._session.has_room:
                await self.wait_change()
            is_too_fast = code == wire.CloseCode.TOO_FAST
            await self._pause(
                max(pause_s, TOO_FAST_PAUSE_S) if is_too_fast else jittered(pause_s, self._randbytes(1)[0])
            )
            pause_s = FIRST_PAUSE_S if self._nudged.is_set() else min(2 * pause_s, LONGEST_PAUSE_S)
            self._nudged = trio.Event()

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator[tuple[WebsocketConnection, wire.Welcome], None]:
        """Dial; where the relay was there before, a change of the network ends the attempt, and another one follows."""
        with trio.CancelScope() as scope:
            self._dialling = None if self._welcome is None else scope
            try:
                async with dial(
                    self._url, ssl_context=self._ssl_context, timeout_s=self._timeout_s, open_stream=self._open_stream
                ) as found:
                    self._dialling = None
                    yield found
            finally:
                self._dialling = None
        if scope.cancelled_caught:
            raise RelayUnreachable("the network changed meanwhile")

    async def _pause(self, seconds: float) -> None:
        """Wait until it is time for another attempt; after a change of the network that is soon."""
        with trio.move_on_after(seconds):
            await self._nudged.wait()
            await trio.sleep(jittered(FIRST_PAUSE_S, self._randbytes(1)[0]))

    def _report_state(self, state: RelayState) -> None:
        if state is not self._state:
            self._state = state
            self._on_state(state)

    async def _serve(self, connection: WebsocketConnection) -> int:
        """Exchange frames until the connection ends; return its close code."""
        if self._session is not None and self._session.over is None:
            self._transmit(self._session.begin())
        while True:
            try:
                message = await connection.receive()
            except trio.Cancelled:
                self.close("left")  # here, as this task may be cancelled before the block of `open_client` is
                raise
            except ConnectionEnded as ended:
                if self._session is not None:
                    self._session.handle_end(ended.code)
                logger.debug("the connection to the relay ended with code %s", ended.code)
                return ended.code
            try:
                frame = wire.decode_relay_untrusted(message, self._log.left_out)
            except wire.BadFrame as error:
                if error.reason is not wire.BadFrameReason.UNKNOWN_TYPE:
                    logger.debug("the relay sent what is no frame")
                    if self._session is not None:
                        self._session.handle_bad_answer(bad_answer(self._url, error))
                        self._notify()
                    connection.abort(wire.CloseCode.GOING_AWAY)
                continue
            self._handle_frame(connection, frame)

    def _handle_frame(self, connection: WebsocketConnection, frame: wire.Frame) -> None:
        session = self._session
        if session is None or session.over is not None:
            return
        answers, action = session.handle_frame(frame)
        for answer in answers:
            self._transmit(answer)
        self._log.found(session)
        if action is Action.RECONNECT:
            connection.abort(wire.CloseCode.GOING_AWAY)
        self._notify()

    def _give_up_after(self, lost_at: float, error: RelayUnreachable) -> None:
        session = self._session
        keeps_s = RESUME_S if session is None or session.joined is None else session.joined.resume_s
        if session is not None and trio.current_time() - lost_at >= keeps_s:
            session.finish(error)
            self._notify()


@asynccontextmanager
async def open_client(
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
    open_stream: OpenStream | None = None,
    on_state: Callable[[RelayState], None] = lambda state: None,
) -> AsyncGenerator[Client, None]:
    """Connect to a relay. When the block ends, an open room is left, and nothing stays behind.

    Args:
        url: `ws://[USER:PASSWORD@]HOST[:PORT][/PATH][?QUERY]`, `wss://…` or a bare `HOST:PORT`.
        ssl_context: for `wss` with other than the system's certificates.
        timeout_s: how long the relay may take to answer.
        randbytes: a cryptographic source.
        open_stream: opens the connections in another way than directly, as through a proxy; it resolves the name, too.
        on_state: called with each change between dialling, connected and lost; must return at once and not raise.
    Raises:
        ValueError: the URL is malformed.
        RelayUnreachable: nobody answered in time; the sentence says why.
        RelayRefused: the relay takes no more connections from here.
        ProtocolMismatch: it speaks other versions.
    """
    expect(ssl.SSLContext, None, ssl_context=ssl_context)
    expect(float, timeout_s=timeout_s)
    expect_function(randbytes=randbytes, on_state=on_state)
    if open_stream is not None:
        expect_function(open_stream=open_stream)
    client = Client(
        parse_relay_url(url),
        ssl_context=ssl_context,
        timeout_s=timeout_s,
        randbytes=randbytes,
        open_stream=open_stream,
        on_state=on_state,
    )
    async with open_background() as nursery:
        nursery.start_soon(client.run)
        await client._begun.wait()  # noqa: SLF001 - one module, one object
        if client._failure is not None:  # noqa: SLF001
            raise client._failure  # noqa: SLF001
        try:
            yield client
        finally:
            client.close("left")
