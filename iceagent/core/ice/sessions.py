"""The sessions of one agent: the current one, the one that carries the data, retired ones; and the agent's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from iceagent.core import constants, stun
from iceagent.core.ice.checks.pacer import Slots
from iceagent.core.ice.events import (
    AGENT_TRANSITIONS,
    AgentState,
    DropReason,
    Failed,
    Restarted,
    RestartFailed,
    StateChanged,
)
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.credentials import Credentials
from iceagent.core.ice.model.pair import PathAddresses
from iceagent.core.ice.outbox import Outbox
from iceagent.core.ice.session import IceSession

if TYPE_CHECKING:
    from iceagent.core.ice.membership import Membership


def read_message(data: bytes) -> stun.Message | DropReason | None:
    """Return the check or the answer to one, why it is dropped, or None for a keepalive."""
    try:
        message = stun.decode(data)
    except stun.StunError:
        return DropReason.STUN_MALFORMED
    fingerprint = message.verify_fingerprint()
    kind = message.message_class
    # RFC 8445 section 7.1: checks and their responses carry a FINGERPRINT; without that rule a bit flipped in its
    # type would make it an unknown attribute and pass.
    if fingerprint is False or (fingerprint is None and kind is not stun.MessageClass.INDICATION):
        return DropReason.STUN_FINGERPRINT
    if message.method != stun.Method.BINDING:
        return DropReason.STUN_METHOD
    return None if kind is stun.MessageClass.INDICATION else message  # a keepalive is not authenticated


# Two facts may come true at once, such as the first answer and the end of patience; then the state goes through these.
_NEXT_STEP: Final = {AgentState.NEW: AgentState.CHECKING, AgentState.CHECKING: AgentState.CONNECTED}


class Standing:
    """The state of the agent; FAILED and CLOSED are final."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.state = AgentState.NEW
        self.over = False
        """Whether the agent has failed or was closed."""

    def follow(self, wanted: AgentState) -> None:
        """Go to a state by allowed steps, and report each."""
        while self.state is not wanted:
            allowed = AGENT_TRANSITIONS[self.state]
            new = wanted if wanted in allowed else _NEXT_STEP.get(self.state)
            assert new in allowed, f"{self.state} to {wanted}"
            old, self.state = self.state, new
            self.over = new in (AgentState.FAILED, AgentState.CLOSED)
            self._outbox.emit(StateChanged(old, new))


class Retired:
    """Sessions that a restart has replaced, oldest first, at most `MAX_RETIRED_SESSIONS`.

    Attributes:
        checks_sent: by those that are forgotten.
    """

    def __init__(self) -> None:
        self.checks_sent = 0
        self._sessions: list[tuple[float, IceSession]] = []

    def __iter__(self) -> Iterator[IceSession]:
        return (session for _, session in self._sessions)

    def add(self, now: float, session: IceSession) -> None:
        """Retire a session; one that has failed is forgotten at once."""
        if session.facts.over:
            self.count_forgotten(session)
            return
        session.retire()
        self._sessions.append((now + constants.RESTART_LINGER_S, session))
        if len(self._sessions) > constants.MAX_RETIRED_SESSIONS:
            self._forget()

    def count_forgotten(self, session: IceSession) -> None:
        """Add the counts of a session that is forgotten."""
        self.checks_sent += session.facts.runner.checks_sent

    def expire(self, now: float) -> bool:
        """Forget those whose time is over; return whether there were any."""
        before = len(self._sessions)
        while self._sessions and now >= self._sessions[0][0]:
            self._forget()
        return len(self._sessions) < before

    def clear(self) -> None:
        """Forget all, for an agent that has ended."""
        while self._sessions:
            self._forget()

    def next_timeout(self) -> float | None:
        """Return when `expire` has something to do."""
        return self._sessions[0][0] if self._sessions else None

    def _forget(self) -> None:
        _, session = self._sessions.pop(0)
        self.count_forgotten(session)
        session.wind_up()


class Sessions:
    """The sessions of an agent, and what it has come to as a whole.

    Args:
        outbox: where datagrams and events go.
        new_facts: makes those of a session, given its credentials and `steady`.
        credentials: of the first session.
        slots: which all sessions share.
        membership: the place among components that share a checklist set, or None.

    Attributes:
        current: the one that the latest credentials and candidates belong to.
        carrier: the one whose path data takes: the current one, or while a restart is under way the one before.
        retired: those of before, which answer checks until the peer's consent to them has ended.
        older: the validated paths of all sessions but the current one.
        standing: what the agent has come to as a whole.
        data_path: (base, remote) of the pair that carries data.
        is_lost: all paths are, and only a restart can find another; see `IceConfig.outage_s`.
        generation: how many restarts there have been.
    """

    def __init__(
        self,
        outbox: Outbox,
        new_facts: Callable[..., SessionFacts],
        credentials: Credentials,
        slots: Slots,
        membership: Membership | None,
    ) -> None:
        self._outbox = outbox
        self._slots = slots
        self._membership = membership
        self._new_facts = new_facts
        self.standing = Standing(outbox)
        self.current = self.carrier = IceSession(new_facts(credentials, steady=False))
        self.retired = Retired()
        self.older: tuple[set[PathAddresses], ...] = ()
        self.data_path: PathAddresses | None = None
        self.is_lost = False
        self.generation = 0
        self._join()

    def live(self) -> tuple[IceSession, ...]:
        """Return the sessions that act of their own accord, the current one first."""
        if self.carrier is self.current:
            return (self.current,)
        return (self.current, self.carrier)

    def all(self) -> Iterator[IceSession]:
        """Return these and the retired ones."""
        yield from self.live()
        yield from self.retired

    def called(self, request: stun.Message) -> IceSession:
        """Return the session whose ufrag a request names; the current one answers for none."""
        username = request.get(stun.Username)
        if username is None or len(self.older) == 0:
            return self.current
        ufrag = username.value.partition(":")[0]
        named = (session for session in self.all() if session.facts.keys.local.ufrag == ufrag)
        return next(named, self.current)

    def asked(self, response: stun.Message) -> IceSession:
        """Return the session whose check a response answers; the current one counts those of none."""
        asked = (session for session in self.live() if session.facts.runner.knows(response.transaction_id))
        return next(asked, self.current)

    def knows(self, credentials: Credentials) -> bool:
        """Whether some session has this ufrag of ours."""
        return any(credentials.ufrag == session.facts.keys.local.ufrag for session in self.all())

    @property
    def awaits_answer(self) -> bool:
        """Whether a restart of ours has not been answered, and another session carries the data meanwhile."""
        return self.carrier is not self.current and self.current.facts.keys.remote is None

    @property
    def checks_sent(self) -> int:
        """Requests sent by all of them, those forgotten included."""
        return self.retired.checks_sent + sum(session.facts.runner.checks_sent for session in self.all())

    @property
    def gives_up_at(self) -> float:
        """See `IceAgent.gives_up_at`."""
        current = self.current.facts
        at = self._heard_at + max(current.config.consent_expiry_s, current.outage_s)
        if current.started_at is not None and self.current is not self.carrier:
            return max(at, current.started_at + current.config.patience_s)
        return max(at, current.restarted_at + constants.RESTART_PATIENCE_S) if current.restarted_at else at

    def next_timeout(self) -> float | None:
        """Return when one of them, or the end of a retired one, is due."""
        if self.is_lost:
            return self._ends_at
        times = [session.next_timeout() for session in self.live()]
        times.append(self.retired.next_timeout())
        return min((at for at in times if at is not None), default=None)

    @property
    def _heard_at(self) -> float:
        return max(self.current.facts.health.heard_at, self.carrier.facts.health.heard_at)

    @property
    def _ends_at(self) -> float:
        """When an agent without any path fails, if no restart comes."""
        is_revoked = self.current.facts.revoked or self.carrier.facts.revoked
        return self._heard_at + (0.0 if is_revoked else self.current.facts.outage_s)

    # What changes them.

    def restart(self, now: float, credentials: Credentials, *, by_peer: bool) -> None:
        """Begin a session; the one before carries the data until this one has a nominated pair."""
        replaced = self.current
        self.current = IceSession(self._new_facts(credentials, steady=True))
        self.current.facts.restarted_at = now
        self.current.facts.health.inherit(replaced.facts.health.heard_at)
        self.generation += 1
        self.is_lost = False
        if replaced is not self.carrier:
            self.retired.add(now, replaced)
        if self.carrier.facts.data_pair is None:
            self.retired.add(now, self.carrier)
            self.carrier = self.current
            self.current.facts.alone_since = now
        self._list_older()
        self._join()
        self._outbox.emit(Restarted(credentials, by_peer))

    def give_up(self) -> None:
        """Wait for no path to come back, nor for a restart's checks; the next `settle` draws the conclusion."""
        self.current.facts.outage_s = 0.0
        sessions = [session for session in self.live() if not session.facts.over]
        if self._heard_at and all(session.facts.data_pair is None for session in sessions):
            for session in sessions:
                session.lifecycle.fail(session.facts.loss or "and it is known that it will not come back")

    def settle(self, now: float) -> None:
        """Let every session do what the new facts call for, and draw the conclusions."""
        if self.standing.over:
            return
        for session in self._by_turn():
            session.settle(now)
        if self.carrier is not self.current:
            self._hand_over(now)
        if self.retired.expire(now):
            self._list_older()
        self.data_path = self.carrier.facts.data_path
        self._conclude(now)

    def wind_up(self) -> None:
        """Forget what only a living agent needs."""
        for session in self.live():
            session.wind_up()
        self.retired.clear()
        self._slots.disown()
        self.older = ()
        self.data_path = None

    # Within.

    def _by_turn(self) -> tuple[IceSession, ...]:
        """Return the live ones, first the one that has not sent the last check: they share the slots of Ta."""
        sessions = self.live()
        return sessions[::-1] if sessions[0].facts is self._slots.used_by else sessions

    def _join(self) -> None:
        """Let the current session's checklist, and no other, be part of the checklist set."""
        if self._membership is not None:
            for session in self.all():
                session.facts.checklist.in_set = self._membership.in_set if session is self.current else None

    def _list_older(self) -> None:
        """Take note of which sessions there are; nothing is to keep another one alive."""
        if all(session.facts is not self._slots.used_by for session in self.live()):
            self._slots.disown()
        self.older = tuple(session.facts.validated for session in self.all() if session is not self.current)

    def _hand_over(self, now: float) -> None:
        """Let the current session carry the data once it has a nominated pair, or any while the old path is lost."""
        current, carrier = self.current.facts, self.carrier.facts
        if current.over and not carrier.over:
            self._outbox.emit(RestartFailed(current.failure))
            self.retired.count_forgotten(self.current)
            self.current = self.carrier
            self._join()
        elif current.selected is not None or (carrier.over and current.data_pair is not None):
            old, self.carrier = self.carrier, self.current
            self.retired.add(now, old)
        elif carrier.over and current.alone_since is None:
            self.current.facts.alone_since = now
            current.health.inherit(carrier.health.heard_at)
            self.current.settle(now)  # its patience may have run out already
        self._list_older()

    def _conclude(self, now: float) -> None:
        current, carrier = self.current.facts, self.carrier.facts
        if not carrier.over:
            is_anew = carrier.state is AgentState.NEW and self.generation > 0
            self.standing.follow(AgentState.CHECKING if is_anew else carrier.state)
        elif not current.over:
            self.standing.follow(AgentState.CHECKING)
        elif now < self._ends_at and self._heard_at:
            self.is_lost = True
            self.standing.follow(AgentState.CHECKING)
        else:
            reason = current.failure
            if carrier is not current:
                reason = f"{carrier.failure}; {reason}"
            self._outbox.emit(Failed(reason))
            self.standing.follow(AgentState.FAILED)
            self.wind_up()
