"""A paired peer whose session has ended is met again: its next process, in the place of the one that is gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from iceagent.cli.output import Output
from iceagent.cli.peer_options import JoinWish
from iceagent.errors import IceError
from iceagent.session.errors import (
    NoLink,
    NoPath,
    NotDirect,
    PeerLeft,
    PeerLost,
    PeerTurnedAway,
    RelayError,
    SessionError,
)

AGAIN_S = 1.0  # ours: between an attempt that failed and the next
LONGEST_PAUSE_S = 30.0  # each is twice the one before
_WAITED_OUT = (NoLink, NoPath, PeerLeft, PeerLost, RelayError)
_FINAL = (NotDirect, PeerTurnedAway)

Use = Callable[[JoinWish, trio.Event], Awaitable[None]]
"""Joins and uses one session; sets the event once it is open, and raises as it ends."""


class Returns:
    """What a command does that stays with a paired peer.

    Args:
        wish: whom it joins.
        output: where it is said that a session is over.
        patience_s: how long the next process of the peer may take to come, seconds.
    """

    def __init__(self, wish: JoinWish, output: Output, patience_s: float) -> None:
        self._wish = wish
        self._output = output
        self._patience_s = patience_s
        self._deadline = 0.0
        self._pause_s = AGAIN_S

    async def run(self, use: Use) -> None:
        """Use one session after the other.

        Raises:
            IceError: there was no first one, the peer's next process did not come, or what it says is final.
        """
        wish = self._wish
        while True:
            is_open = trio.Event()
            try:
                await use(wish, is_open)
                return
            except _WAITED_OUT as error:
                if is_open.is_set():
                    self._deadline, self._pause_s = trio.current_time() + self._patience_s, AGAIN_S
                elif wish is self._wish:
                    raise
                left_s = self._deadline - trio.current_time()
                if isinstance(error, _FINAL) or left_s <= 0:
                    raise
                if is_open.is_set():
                    self._report(error)
            await trio.sleep(min(self._pause_s, left_s))
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            wish = replace(self._wish, timeout_s=max(AGAIN_S, self._deadline - trio.current_time()))

    def _report(self, error: IceError) -> None:
        verdict = error.verdict if isinstance(error, SessionError) else None
        name = self._wish.code_or_name
        self._output.line(
            "closed",
            f"{str(error).rstrip('.')}. What connects now waits until {name} is back",
            peer=name,
            reason=str(error),
            verdict=None if verdict is None else verdict.as_dict(),
        )
