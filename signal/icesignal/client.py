"""The client of a room of two: one session that survives its connections.

Source: docs/relay-protocol.md sections 3 and 4.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from icesignal import wire
from icesignal.client_session import ClientSession
from icesignal.dial import OpenStream
from icesignal.expect import expect
from icesignal.keeper import RelayState, open_keeper
from icesignal.member_client import MemberClient
from icesignal.pauses import TIMEOUT_S


class Client(MemberClient[ClientSession]):
    """A connection to a relay and at most one session on it, in a room of two. Made by `open_client`."""

    @property
    def room(self) -> str:
        """The name of the room; empty before one is entered."""
        return "" if self._session is None or self._session.joined is None else self._session.joined.room

    @property
    def peer(self) -> wire.PeerPresence:
        """Whether the other member is `absent`, `present` or `away`."""
        return "absent" if self._session is None else self._session.peer

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
        return await self._enter_room(wire.Allocate(session=self._new_session_id(), opening=opening))

    async def join(self, nameplate: str, opening: bytes = b"") -> str:
        """Enter the room with this nameplate.

        Raises:
            CodeUnknown, CodeExpired, Crowded: there is no such place.
            RelayRefused, RelayUnreachable: as for `allocate`.
        """
        expect(str, nameplate=nameplate)
        expect(bytes, opening=opening)
        return await self._enter_room(wire.Join(session=self._new_session_id(), nameplate=nameplate, opening=opening))

    async def meet(self, name: bytes, role: wire.Role, opening: bytes = b"") -> str:
        """Enter the rendezvous room with this name of 32 bytes, making it if it is not there.

        Raises:
            Crowded: the place is taken.
            RelayRefused, RelayUnreachable: as for `allocate`.
        """
        expect(str, role=role)
        expect(bytes, name=name, opening=opening)
        return await self._enter_room(wire.Meet(session=self._new_session_id(), name=name, role=role, opening=opening))

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

    def send_nowait(self, payload: bytes) -> None:
        """Queue bytes for the other member, after `wait_may_send`.

        Raises:
            ValueError: the payload is empty or longer than 61,440 bytes.
        """
        expect(bytes, bytearray, payload=payload)
        if not 0 < len(payload) <= wire.MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload has 1 to {wire.MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
        self._transmit_live(self._require_session().send(payload))

    async def receive(self) -> bytes:
        """Return what the other member sent next.

        Raises:
            MessagesLost: some are missing at this place; call again for what comes after.
            SignalError: the session is over, and everything that came before is taken.
        """
        return await self._next(self._require_session())

    async def _enter_room(self, entry: wire.Allocate | wire.Join | wire.Meet) -> str:
        await self._enter(ClientSession(entry))
        return self.room


@asynccontextmanager
async def open_client(
    relays: str | Sequence[str],
    *,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
    open_stream: OpenStream | Sequence[OpenStream | None] | None = None,
    on_state: Callable[[RelayState], None] = lambda state: None,
) -> AsyncGenerator[Client, None]:
    """Connect to a relay. When the block ends, an open room is left, and nothing stays behind.

    Args:
        relays: `ws://[USER:PASSWORD@]HOST[:PORT][/PATH][?QUERY]`, `wss://…` or a bare `HOST:PORT`; or several, of which
            the first that answers serves, tried half a second apart in this order. A session stays where it began.
        ssl_context: for `wss` with other than the system's certificates.
        timeout_s: how long the relay may take to answer.
        randbytes: a cryptographic source.
        open_stream: opens the connections in another way than directly, as through a proxy; it resolves the name, too.
            For several relays one for each, where they differ; None is directly.
        on_state: called with each change between dialling, connected and lost; must return at once and not raise.
    Raises:
        ValueError: a URL is malformed; nothing was dialled.
        RelayUnreachable: nobody answered in time; the sentence says why, of each.
        RelayRefused: the relay takes no more connections from here.
        ProtocolMismatch: it speaks other versions.
    """
    async with open_keeper(
        relays,
        ssl_context=ssl_context,
        timeout_s=timeout_s,
        randbytes=randbytes,
        open_stream=open_stream,
        on_state=on_state,
    ) as keeper:
        yield Client(keeper)
