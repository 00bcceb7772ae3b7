"""The sessions of one agent, from one restart to the next, and which of them carries the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from iceagent.core import constants, stun
from iceagent.core.ice.checks.scheduler import Scheduler
from iceagent.core.ice.context import Context, Slots
from iceagent.core.ice.events import AgentState, Failed, Restarted, RestartFailed
from iceagent.core.ice.model.credentials import Credentials
from iceagent.core.ice.model.pair import Path
from iceagent.core.ice.outbox import Outbox
from iceagent.core.ice.retired import Retired
from iceagent.core.ice.roles import RoleKeeper
from iceagent.core.ice.session import Session
from iceagent.core.ice.standing import Standing

if TYPE_CHECKING:
    from iceagent.core.ice.checklist_set import Seat


class Generations:
    """What `IceAgent` stands on: its sessions, and what it has come to as a whole.

    Args:
        outbox: where datagrams and events go.
        roles: our role.
        new_session: makes one, given credentials and `steady`.
        credentials: of the first session.
        slots: which all sessions share.
        seat: the place among components that share a checklist set, or None.
    """

    def __init__(
        self,
        outbox: Outbox,
        roles: RoleKeeper,
        new_session: Callable[..., Session],
        credentials: Credentials,
        slots: Slots,
        seat: Seat | None,
    ) -> None:
        self._outbox = outbox
        self._roles = roles
        self._slots = slots
        self._seat = seat
        self._standing = Standing(outbox)
        self._new_session = new_session
        self._current = self._carrier = new_session(credentials, steady=False)
        self._retired = Retired()
        self._older: tuple[set[Path], ...] = ()  # validated paths of all sessions but the current one
        self._data_path: Path | None = None
        self._generation = 0
        self._due_known = False
        self._join()

    # For the checklist set.

    def current_context(self) -> Context:
        """For the checklist set: the facts of the session that candidates and credentials belong to."""
        return self._current.context

    def schedules(self) -> tuple[tuple[Context, Scheduler], ...]:
        """For the checklist set: the facts and the scheduler of each session that may have a check to send."""
        return tuple((session.context, session.scheduler) for session in self._live())

    def note_slot_used(self, next_slot_at: float) -> None:
        """For the checklist set: take note that some component has sent a check, and when the next may go."""
        self._due_known = False
        self._slots.next_at = next_slot_at

    def _join(self) -> None:
        """Let the current session's checklist, and no other, be part of the checklist set."""
        if self._seat is not None:
            for session in self._all():
                session.context.checklist.company = self._seat.company if session is self._current else None

    # The sessions.

    @property
    def gives_up_at(self) -> float:
        """When a connected agent fails if nothing answers from now on, as far as that can be told now.

        It may be later: what is being tried as that moment comes is awaited.
        """
        current = self._current.context
        at = max(current.heard_at, self._carrier.context.heard_at) + current.config.consent_expiry_s
        if current.started_at is not None and self._current is not self._carrier:
            return max(at, current.started_at + current.config.patience_s)
        return max(at, current.restarted_at + constants.RESTART_PATIENCE_S) if current.restarted_at else at

    def _live(self) -> tuple[Session, ...]:
        """Return the sessions that act of their own accord, the current one first."""
        if self._carrier is self._current:
            return (self._current,)
        return (self._current, self._carrier)

    def _by_turn(self) -> tuple[Session, ...]:
        """Return the same, but first the one that has not sent the last check: they share the slots of Ta."""
        sessions = self._live()
        return sessions[::-1] if sessions[0].context is self._slots.used_by else sessions

    def _all(self) -> Iterator[Session]:
        yield from self._live()
        yield from self._retired

    def _session_called(self, request: stun.Message) -> Session:
        """Return the session whose ufrag a request names; the current one answers for none."""
        username = request.get(stun.Username)
        if username is None or len(self._older) == 0:
            return self._current
        ufrag = username.value.partition(":")[0]
        named = (session for session in self._all() if session.context.keys.local.ufrag == ufrag)
        return next(named, self._current)

    def _session_asked(self, response: stun.Message) -> Session:
        """Return the session whose check a response answers; the current one counts those of none."""
        asked = (session for session in self._live() if session.context.runner.knows(response.transaction_id))
        return next(asked, self._current)

    def _restart(self, now: float, credentials: Credentials, *, by_peer: bool) -> None:
        replaced = self._current
        self._current = self._new_session(credentials, steady=True)
        self._current.context.restarted_at = now
        self._current.context.heard_at = replaced.context.heard_at
        self._generation += 1
        if replaced is not self._carrier:
            self._retired.add(now, replaced)
        if self._carrier.context.data_pair is None:
            self._retired.add(now, self._carrier)
            self._carrier = self._current
            self._current.context.alone_since = now
        self._list_older()
        self._join()
        self._outbox.emit(Restarted(credentials, by_peer))

    def _list_older(self) -> None:
        """Take note of which sessions there are; nothing is to keep another one alive."""
        if all(session.context is not self._slots.used_by for session in self._live()):
            self._slots.used_by = None
        self._older = tuple(session.context.validated for session in self._all() if session is not self._current)

    # What follows from a change.

    def settle_alone(self, now: float) -> None:
        """For the checklist set: let every session do what the new facts call for."""
        self._due_known = False
        if self._standing.over:
            return
        for session in self._by_turn():
            session.settle(now)
        if self._carrier is not self._current:
            self._hand_over(now)
        if self._retired.expire(now):
            self._list_older()
        self._data_path = self._carrier.context.data_path
        self._standing_follows()

    def _hand_over(self, now: float) -> None:
        """Let the current session carry the data once it has a nominated pair, or any while the old path is lost."""
        current, carrier = self._current.context, self._carrier.context
        if current.over and not carrier.over:
            self._outbox.emit(RestartFailed(current.failure))
            self._retired.bury(self._current)
            self._current = self._carrier
            self._join()
        elif current.selected is not None or (carrier.over and current.data_pair is not None):
            old, self._carrier = self._carrier, self._current
            self._retired.add(now, old)
        elif carrier.over and current.alone_since is None:
            current.alone_since = now
            current.heard_at = max(current.heard_at, carrier.heard_at)
            self._current.settle(now)  # its patience may have run out already
        self._list_older()

    def _standing_follows(self) -> None:
        current, carrier = self._current.context, self._carrier.context
        if not carrier.over:
            is_anew = carrier.state is AgentState.NEW and self._generation > 0
            self._standing.follow(AgentState.CHECKING if is_anew else carrier.state)
        elif not current.over:
            self._standing.follow(AgentState.CHECKING)
        else:
            reason = current.failure
            if carrier is not current:
                reason = f"{carrier.failure}; {reason}"
            self._outbox.emit(Failed(reason))
            self._standing.follow(AgentState.FAILED)
            self._wind_up()

    def _wind_up(self) -> None:
        """Forget what only a living agent needs."""
        for session in self._live():
            session.wind_up()
        self._retired.clear()
        self._slots.used_by = None
        self._older = ()
        self._data_path = None
