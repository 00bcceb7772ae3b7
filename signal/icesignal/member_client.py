"""What the clients of all kinds of rooms have in common: a relay, a place, its ICE servers, what arrived."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any, Generic, Literal, TypeVar

import trio

from icesignal import wire
from icesignal.dial import ADVICE, with_own_host
from icesignal.errors import MessagesLost, RelayRefused, RelayUnreachable, SignalError
from icesignal.keeper import Keeper, RelayState
from icesignal.member_session import Lost, MemberSession
from icesignal.url import RelayUrl
from icesignal.work import Work, solve

M = TypeVar("M")
S = TypeVar("S", bound=MemberSession[Any])


class MemberClient(Generic[S]):
    """A connection to a relay and at most one session on it, `S` by the kind of its room."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._session: S | None = None

    @property
    def url(self) -> str:
        """The relay's URL as it may be shown: without what may be secret."""
        return self._keeper.url.shown

    @property
    def place(self) -> RelayUrl:
        """The relay that serves, its URL taken apart."""
        return self._keeper.url

    @property
    def has_choice(self) -> bool:
        """Whether several relays were given, so that the other side may have to be told which one serves."""
        return len(self._keeper.ways) > 1

    @property
    def state(self) -> RelayState:
        """Whether the relay is being dialled, is there, or was lost."""
        return self._keeper.state

    @property
    def welcome(self) -> wire.Welcome:
        """What the relay says of itself."""
        return self._keeper.welcome

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the relay at this moment."""
        return self._keeper.is_connected

    @property
    def over(self) -> SignalError | None:
        """Why the conversation is over; None while it is not."""
        return None if self._session is None else self._session.over

    @property
    def ice_servers(self) -> list[dict[str, Any]]:
        """The STUN and TURN servers that the relay recommends to members of a room; empty before one is entered.

        Maps with `urls` and perhaps `username`, `credential` and `ttl`, seconds. The relay's own host is filled in.
        """
        entries = () if self._session is None else self._session.ice_servers
        return with_own_host(entries, self._keeper.url.host)

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
            if session.is_live and self._keeper.connection is not asked_at:
                if wire.OFFERS_SERVERS not in self.welcome.offers:
                    raise RelayRefused("this relay gives no fresh credentials to a session that lasts")
                asked_at = self._keeper.connection
                self._keeper.transmit(wire.AskServers())
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

    def report_outcome(self, outcome: Literal["direct", "relayed", "failed"], why: str, seconds: float) -> None:
        """Report to the relay's operator, if it counts them, how the connection turned out: no address is in it.

        It is lost where there is no connection to the relay at this moment.

        Args:
            outcome: how the two sides reach each other, if they do.
            why: one of `wire.WHYS`.
            seconds: how long it took.
        """
        session = self._session
        if session is not None and session.is_live and wire.OFFERS_OUTCOMES in self.welcome.offers:
            self._keeper.transmit(wire.Outcome(outcome=outcome, why=why, ms=max(0, round(seconds * 1000))))

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

    def close(self, reason: wire.CloseReason = "left") -> None:
        """End the room for both members; returns at once, the word goes out as the block of `open_client` ends."""
        self._keeper.close(reason)

    def look_again(self, present: Collection[str] | None = None) -> None:
        """See at once whether the connection still works, and get another one if not.

        For those who know that the network has changed, or who are about to say something that cannot wait: TCP and the
        usual pings would notice a dead connection after most of a minute.

        Args:
            present: the addresses that this machine has now, if they are known: without its own a connection is dead.
        """
        self._keeper.look_again(present)

    async def wait_change(self) -> None:
        """Wait until anything has changed: what arrived, the peer, the connection."""
        await self._keeper.wait_change()

    # -- for the kinds of rooms

    def _require_session(self) -> S:
        if self._session is None:
            raise RuntimeError("enter a room first: allocate, join or meet")
        return self._session

    def _new_session_id(self) -> bytes:
        return self._keeper.randbytes(wire.SESSION_BYTES)

    async def _enter(self, session: S) -> None:
        """Ask for a place, and wait for the answer.

        Raises:
            SignalError: there is none to be had, or no answer; another try may be made.
        """
        if self._session is not None:
            raise RuntimeError("this client is in a room already; open another client")
        self._session = session
        self._keeper.begin(session)
        try:
            with trio.move_on_after(self._keeper.timeout_s):
                while not session.has_place and session.refused is None and session.over is None:
                    if session.puzzle is None:
                        await self.wait_change()
                    else:
                        await self._work(session, session.puzzle)
        finally:
            if not session.has_place:
                self._session = None
                self._keeper.abandon()
        if session.has_place:
            return
        silent = RelayUnreachable(f"the relay {self.url} did not answer within {self._keeper.timeout_s:g} s. {ADVICE}")
        raise session.refused or session.over or silent

    async def _work(self, session: S, puzzle: Work) -> None:
        """Solve what the relay asks for, and ask for the place with the solution."""
        stop = threading.Event()
        try:
            solution = await trio.to_thread.run_sync(
                solve, puzzle, session.work_subject(), stop.is_set, abandon_on_cancel=True
            )
        finally:
            stop.set()  # a thread that is left alone ends soon
        self._keeper.transmit(session.solved(puzzle, solution))

    def _transmit_live(self, frame: wire.Frame) -> None:
        """Send what the session has numbered, unless it waits for its place: then it goes out with the answer."""
        if self._require_session().is_live:
            self._keeper.transmit(frame)

    async def _next(self, session: MemberSession[M]) -> M:
        """Return what arrived next.

        Raises:
            MessagesLost: some are missing at this place; call again for what comes after.
            SignalError: the session is over, and everything that came before is taken.
        """
        while not session.inbox:
            if session.over is not None:
                raise session.over
            await self.wait_change()
        await trio.lowlevel.checkpoint()
        item = session.inbox.popleft()
        self._keeper.notify()
        if isinstance(item, Lost):
            raise MessagesLost("messages were lost while the connection to the relay was away")
        return item
