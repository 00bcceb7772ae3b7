"""A listener that stays: one code after the other, each good for one joiner, and paired peers, who come by name.

Each joiner has a session of its own. What goes wrong with one, a wrong guess at a code among it, is reported and costs
the others nothing; the next code is made, and whoever waits for a peer waits on. Guesses at one code after the other
would find one at last, so that after `GUESSES` wrong ones the codes are longer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import icesignal
import trio

from iceagent.errors import IceError
from iceagent.net.tasks import contained, open_background
from iceagent.session.connect import Invitation, invite_at, meet_peer
from iceagent.session.errors import (
    IdentityError,
    NobodyCame,
    NoLink,
    NoPath,
    PeerLeft,
    PeerLost,
    UnknownPeer,
    WordsRefused,
)
from iceagent.session.progress import Progress
from iceagent.session.relay import Relays, open_relay
from iceagent.session.session import Session

if TYPE_CHECKING:
    from iceagent.agent import AgentConfig
    from iceagent.session.pairing.identity import Identity
    from iceagent.session.pairing.store import PeerStore
    from iceagent.session.pairing.words import Verify

S = TypeVar("S", bound=Session)
MOST_PEERS = 64  # ours: at once, unless it is said otherwise
GUESSES = 8
"""Ours: wrong ones until codes have four words: together one chance in 32,768 that a guess was right."""
AGAIN_S = 1.0  # ours: between an attempt that failed and the next
LONGEST_PAUSE_S = 30.0  # each is twice the one before, while the relay cannot be used

_OF_ONE_JOINER: Final = (NoPath, NoLink, PeerLeft, PeerLost, WordsRefused)


class Attempt(Protocol[S]):
    """What the owner of a standing listener does about one joiner, from its code to the end of its session.

    Attributes:
        progress: is informed until the session is open.
    """

    progress: Progress

    def show_code(self, invitation: Invitation[S]) -> None:
        """Give the code to whoever is to join."""

    async def serve(self, session: S) -> None:
        """Use the session, which ends when this returns."""

    def report_end(self, error: IceError) -> None:
        """Take note of why nobody came of it, or how its session ended."""


OpenAttempt = Callable[[str | None], AbstractAsyncContextManager[Attempt[S]]]
"""Called with the name of the paired peer that is waited for, None for whoever has the code."""


@dataclass(slots=True)
class _Turn:
    """One attempt as its loop sees it.

    Attributes:
        next_may_begin: somebody has come, or nobody will.
        error: why nobody will.
    """

    next_may_begin: trio.Event
    error: IceError | None = None


class StandingListener(Generic[S]):
    """Waits for one joiner after the other, each in a session of its own.

    Args:
        session_type: makes the sessions.
        open_attempt: opens what is done about one of them.
        most_peers: how many may be there at once; while they are, no code is made.
        on_full: called when so many are there.
        config, verify: as for `iceagent.invite`.
    """

    def __init__(
        self,
        session_type: Callable[..., S],
        open_attempt: OpenAttempt[S],
        *,
        most_peers: int = MOST_PEERS,
        on_full: Callable[[], object] = lambda: None,
        config: AgentConfig | None = None,
        verify: Verify | None = None,
    ) -> None:
        if most_peers < 1:
            raise ValueError(f"{most_peers} peers are none; give 1 or more")
        self._session_type = session_type
        self._open_attempt = open_attempt
        self._most_peers = most_peers
        self._on_full = on_full
        self._config = config
        self._verify = verify
        self._slots = trio.Semaphore(most_peers)
        self._has_met = False
        self._guesses = 0

    async def run_codes(self, relay: Relays = None, *, timeout_s: float | None = None) -> None:
        """Make one code after the other, at one relay, for ever.

        Args:
            relay: as for `iceagent.invite`.
            timeout_s: how long to wait for the first joiner, seconds.
        Raises:
            RelayError, LocalError, VersionMismatch: there is no first code; later they are waited out.
            NobodyCame: nobody came in `timeout_s`.
        """
        async with open_relay(relay, most_peers=self._most_peers, config=self._config) as place:
            has_code = False

            async def invite(turn: _Turn) -> None:
                nonlocal has_code
                async with (
                    self._open_attempt(None) as attempt,
                    _reported(attempt, turn),
                    invite_at(
                        place,
                        self._session_type,
                        config=self._config,
                        progress=attempt.progress,
                        verify=self._verify,
                        is_long=self._guesses >= GUESSES,
                    ) as invitation,
                ):
                    has_code = True
                    invitation.came = turn.next_may_begin
                    attempt.show_code(invitation)
                    async with invitation.accept(timeout_s=None if self._has_met else timeout_s) as session:
                        await attempt.serve(session)

            await self._stand(invite, lambda error: not has_code or isinstance(error, NobodyCame))

    async def run_peer(
        self,
        name: str,
        relay: Relays = None,
        *,
        timeout_s: float | None = None,
        identity: Identity | None = None,
        store: PeerStore | None = None,
    ) -> None:
        """Wait for a paired peer again and again, for ever. Several of its processes may be there at once.

        Raises:
            RelayError, PeerNotPinned: it could not be waited for at first; later that is waited out.
            NobodyCame: it did not come in `timeout_s`.
            UnknownPeer, IdentityError: nobody has this name, or not any more.
        """
        has_come = False

        async def meet(turn: _Turn) -> None:
            nonlocal has_come
            async with (
                self._open_attempt(name) as attempt,
                _reported(attempt, turn),
                meet_peer(
                    self._session_type,
                    name,
                    "inviter",
                    relay=relay,
                    config=self._config,
                    progress=attempt.progress,
                    verify=self._verify,
                    identity=identity,
                    store=store,
                    timeout_s=None if has_come else timeout_s,
                    is_free=turn.next_may_begin,
                ) as session,
            ):
                has_come = True
                await attempt.serve(session)

        def ends(error: IceError) -> bool:
            if isinstance(error, UnknownPeer | IdentityError | NobodyCame):
                return True
            return not (has_come or isinstance(error, _OF_ONE_JOINER))

        await self._stand(meet, ends)

    async def _stand(self, begin: Callable[[_Turn], Awaitable[None]], ends: Callable[[IceError], bool]) -> None:
        """Begin one attempt after the other, the next as soon as somebody has come, or nobody will."""
        pause_s = AGAIN_S
        async with open_background() as nursery:
            while True:
                await self._take_slot()
                turn = _Turn(trio.Event())
                nursery.start_soon(self._run_turn, begin, turn)
                await turn.next_may_begin.wait()
                if turn.error is None:
                    self._has_met, pause_s = True, AGAIN_S
                    continue
                if ends(turn.error):
                    raise turn.error
                cause = turn.error.__cause__
                self._guesses += isinstance(cause, icesignal.CodeWrong)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if not isinstance(cause, icesignal.CodeError) else AGAIN_S
                await trio.sleep(pause_s)

    async def _run_turn(self, begin: Callable[[_Turn], Awaitable[None]], turn: _Turn) -> None:
        def note(_: Exception) -> None:
            if not turn.next_may_begin.is_set():
                turn.error = IceError("an unforeseen error; see the log")

        try:
            with contained("the session of a joiner", note):
                await begin(turn)
        finally:
            self._slots.release()
            turn.next_may_begin.set()

    async def _take_slot(self) -> None:
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            self._on_full()
            await self._slots.acquire()


@asynccontextmanager
async def _reported(attempt: Attempt[S], turn: _Turn) -> AsyncIterator[None]:
    """Let an error of one joiner end nothing else."""
    try:
        yield
    except IceError as error:
        if not turn.next_may_begin.is_set():
            turn.error = error
        attempt.report_end(error)
