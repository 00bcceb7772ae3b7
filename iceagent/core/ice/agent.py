"""The ICE agent, sans-IO: bytes, events and explicit time. A thin face over the parts, one file each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice.candidate import Candidate
from iceagent.core.ice.candidates import Added
from iceagent.core.ice.config import IceConfig
from iceagent.core.ice.consent import ConsentKeeper
from iceagent.core.ice.context import Context
from iceagent.core.ice.credentials import Credentials, generate_credentials
from iceagent.core.ice.events import (
    AgentState,
    DropReason,
    IceEvent,
    LocalCandidateAdded,
    RemoteCandidateAdded,
    Verdict,
)
from iceagent.core.ice.keepalive import Keepalive
from iceagent.core.ice.lifecycle import Lifecycle
from iceagent.core.ice.nomination import Nominator
from iceagent.core.ice.outbox import Outbox
from iceagent.core.ice.pair import CandidatePair, PairState, Path
from iceagent.core.ice.requests import RequestHandler
from iceagent.core.ice.responses import ResponseHandler
from iceagent.core.ice.roles import Role
from iceagent.core.ice.scheduler import Scheduler
from iceagent.core.transmit import Transmit

_DEFAULT_CONFIG = IceConfig()


class IceAgent:
    """One ICE session with one peer: one data stream, one component, UDP (RFC 8445, full implementation).

    Use: call one method that changes something, then drain `poll_transmit` and `poll_event`, then wait for a datagram
    or `next_timeout`. Times are seconds of one monotonic clock. No method raises for anything the network or the peer
    did. Local addresses are those of sockets, that is the bases of candidates.

    Args:
        role: CONTROLLING for the side that starts (RFC 8445 section 6.1.1); a conflict settles itself.
        randbytes: source of unpredictable bytes, such as `secrets.token_bytes`.
        config: settings.
        credentials: our own; fresh ones by default.
    """

    def __init__(
        self,
        *,
        role: Role,
        randbytes: Callable[[int], bytes],
        config: IceConfig = _DEFAULT_CONFIG,
        credentials: Credentials | None = None,
    ) -> None:
        context = Context(role, randbytes, config, credentials or generate_credentials(randbytes))
        self._context = context
        self._outbox: Outbox = context.outbox
        self._validated: set[Path] = context.validated
        self._nominator = Nominator(context)
        self._consent = ConsentKeeper(context, self._nominator)
        self._responses = ResponseHandler(context, self._nominator, self._consent)
        self._requests = RequestHandler(context, self._nominator)
        self._keepalive = Keepalive(context)
        self._scheduler = Scheduler(context)
        self._lifecycle = Lifecycle(context)

    # What is.

    @property
    def credentials(self) -> Credentials:
        """Our username fragment and password, to be sent to the peer."""
        return self._context.keys.local

    @property
    def remote_credentials(self) -> Credentials | None:
        """The peer's, or None before they came."""
        return self._context.keys.remote

    @property
    def role(self) -> Role:
        """Our present role."""
        return self._context.roles.role

    @property
    def state(self) -> AgentState:
        """Where the session stands."""
        return self._context.state

    @property
    def selected_pair(self) -> CandidatePair | None:
        """The pair both agents agreed on, or None before nomination and after the end."""
        selected = self._context.selected
        return None if selected is None else selected.view()

    @property
    def pairs(self) -> tuple[CandidatePair, ...]:
        """All pairs of the checklist, best first."""
        ranked = sorted(self._context.checklist, key=lambda pair: pair.priority, reverse=True)
        return tuple(pair.view() for pair in ranked)

    @property
    def local_candidates(self) -> tuple[Candidate, ...]:
        """Our candidates, peer-reflexive ones included, oldest first."""
        return tuple(self._context.table.local.values())

    @property
    def remote_candidates(self) -> tuple[Candidate, ...]:
        """The peer's candidates, peer-reflexive ones included, oldest first."""
        return tuple(self._context.table.remote.values())

    @property
    def counters(self) -> Counter[DropReason]:
        """How often each thing was dropped or refused (live object, do not change)."""
        return self._outbox.counters

    @property
    def checks_sent(self) -> int:
        """Requests sent so far: checks, their retransmissions, nomination and consent."""
        return self._context.runner.checks_sent

    def is_validated(self, local: TransportAddress, remote: TransportAddress) -> bool:
        """Whether data from `remote` at the socket `local` may reach the user; one set lookup (trap 3)."""
        return (local, remote) in self._validated

    def data_pair(self) -> tuple[TransportAddress, TransportAddress] | None:
        """Return (local base, remote) to send application data on, or None; one attribute.

        It is the selected pair, or before nomination the best valid one (RFC 8445 section 12.1). It ends with consent.
        """
        return self._context.data_path

    # What changes it.

    def set_remote_credentials(self, now: float, credentials: Credentials, *, lite: bool = False) -> None:
        """Take the peer's credentials and begin to check.

        Args:
            now: the present.
            credentials: the peer's. Setting the same ones again does nothing.
            lite: the peer is a lite implementation, so we are controlling (RFC 8445 section 6.1.1).

        Raises:
            ValueError: other credentials have been set before; that would be an ICE restart.
        """
        context = self._context
        if context.over or credentials == context.keys.remote:
            return
        if context.keys.remote is not None:
            raise ValueError("the peer's credentials are already set; new ones need a new session")
        context.keys.set_remote(credentials)
        context.started_at = now
        if lite and not context.roles.controlling:
            context.roles.switch()
            context.role_changed()
        context.checklist.start()
        self._requests.process_early(now)
        self._settle(now)

    def add_local_candidate(self, now: float, candidate: Candidate) -> bool:
        """Use a gathered candidate; return False if it is redundant or unusable (see `counters`).

        Source: RFC 8445 sections 5.1.3 and 6.1.2, RFC 8838 section 10.
        """
        context = self._context
        if context.over:
            return False
        added = context.table.add_local(candidate)
        if not isinstance(added, Added):
            context.drop(added)
            return False
        context.candidate_at = now
        self._outbox.emit(LocalCandidateAdded(candidate))
        if added is Added.UPGRADED:
            self._upgrade_local(candidate)
        self._form((candidate, remote) for remote in context.table.remote.values())
        self._settle(now)
        return True

    def end_of_local_candidates(self, now: float) -> None:
        """Take note that gathering is over."""
        self._context.table.local_ended = True
        self._settle(now)

    def add_remote_candidate(self, now: float, candidate: Candidate | None) -> bool:
        """Use a candidate of the peer, or with None its end-of-candidates; return False if it was dropped.

        The address must be an IP literal: names (`.local`) are resolved before. Unusable candidates are counted.

        Source: RFC 8838 sections 11 and 13.
        """
        context = self._context
        if context.over:
            return False
        if candidate is None:
            context.table.remote_ended = True
            self._settle(now)
            return True
        added = context.table.add_remote(candidate)
        if not isinstance(added, Added):
            context.drop(added)
            return False
        context.candidate_at = now
        self._outbox.emit(RemoteCandidateAdded(candidate))
        if added is Added.UPGRADED:
            self._upgrade_remote(candidate)
        self._form((local, candidate) for local in list(context.table.local.values()))
        if added is Added.NEW and context.is_settled(now):
            self._check_late(candidate)
        self._nominator.refresh(now)
        self._settle(now)
        return True

    def handle_datagram(self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> Verdict:
        """Deal with a datagram that came from `remote` at the socket bound to `local`; never raises."""
        context = self._context
        if context.over:
            # A failed agent no longer answers either: answers would keep up the peer's consent to a dead session.
            context.drop(DropReason.SESSION_OVER)
            return Verdict.DROPPED
        if not stun.looks_like_stun(data):
            return self._handle_data((local, remote), data)
        reason = self._handle_stun(now, local, remote, data)
        self._settle(now)
        if reason is None:
            return Verdict.CONSUMED
        context.drop(reason)
        return Verdict.DROPPED

    def handle_unreachable(self, now: float, local: TransportAddress, remote: TransportAddress) -> None:
        """Take note of an ICMP error: a datagram from `local` to `remote` did not arrive, they say.

        It concerns that one path (trap 28) and, not being authenticated, fails nothing: checks that are out end
        sooner if nothing answers. Consent is not touched.
        """
        if self._context.over:
            return
        self._context.drop(DropReason.UNREACHABLE)
        self._context.runner.handle_unreachable(now, (local, remote))
        self._settle(now)

    def handle_base_lost(self, now: float, base: TransportAddress) -> None:
        """Take note that the socket of a base is gone, such as a relayed address whose server was restarted.

        Its candidates and pairs are forgotten. If it carried the data, the other pairs are checked, also those of
        candidates added from now on; the session fails only when none of them works while consent lasts.
        """
        if self._context.over:
            return
        self._consent.lose_base(now, base)
        self._settle(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due at `now`; call it when `next_timeout` has come, or at any other time."""
        if self._context.over:
            return
        for check in self._context.runner.handle_timeout(now):
            self._responses.failed(check)
        self._settle(now)

    def close(self, now: float) -> None:
        """End the session: nothing is sent or answered any more, and no timer is left (trap 27). Idempotent."""
        self._lifecycle.close()
        self._wind_up(now)
        self._outbox.transmits.clear()

    # What comes out.

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called, or None."""
        if self._context.over:
            return None
        parts = (
            self._context.runner.next_timeout(),
            self._scheduler.next_timeout(),
            self._nominator.next_timeout(),
            self._consent.next_timeout(),
            self._keepalive.next_timeout(),
            self._lifecycle.next_timeout(),
        )
        return min((at for at in parts if at is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._outbox.transmits.popleft() if self._outbox.transmits else None

    def poll_event(self) -> IceEvent | None:
        """Return the next event, or None."""
        return self._outbox.events.popleft() if self._outbox.events else None

    # Within.

    def _handle_data(self, path: Path, data: bytes) -> Verdict:
        if path in self._validated:
            return Verdict.APPLICATION_DATA
        context = self._context
        pair = context.checklist.pairs.get(path)
        heard = self._requests.has_early(path) if pair is None else pair.heard and not pair.consent_lost
        if not heard:
            context.drop(DropReason.DATA_UNVALIDATED)
            return Verdict.DROPPED
        if not context.held.hold(path, data):
            context.drop(DropReason.DATA_HELD_OVERFLOW)
            return Verdict.DROPPED
        return Verdict.HELD

    def _handle_stun(
        self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes
    ) -> DropReason | None:
        try:
            message = stun.decode(data)
        except stun.StunError:
            return DropReason.STUN_MALFORMED
        self._consent.expire(now)
        fingerprint = message.verify_fingerprint()
        kind = message.message_class
        # RFC 8445 section 7.1: checks and their responses carry a FINGERPRINT; without that rule a bit flipped in its
        # type would make it an unknown attribute and pass.
        if fingerprint is False or (fingerprint is None and kind is not stun.MessageClass.INDICATION):
            return DropReason.STUN_FINGERPRINT
        if message.method != stun.Method.BINDING:
            return DropReason.STUN_METHOD
        if kind is stun.MessageClass.INDICATION:
            return None  # a keepalive; it proves nothing (trap 14)
        if kind is stun.MessageClass.REQUEST:
            return self._requests.handle(now, local, remote, message)
        outcome = self._context.runner.handle_response(now, local, remote, message)
        if isinstance(outcome, DropReason):
            return outcome
        self._responses.apply(now, outcome)
        return None

    def _settle(self, now: float) -> None:
        """Let every part do what the new facts call for; afterwards nothing is due at or before `now`."""
        if self._context.over:
            return
        self._consent.advance(now)
        self._nominator.advance(now)
        self._scheduler.advance(now)
        self._keepalive.advance(now)
        self._lifecycle.advance(now)
        if self._context.over:
            self._wind_up(now)

    def _form(self, candidates: Iterable[tuple[Candidate, Candidate]]) -> None:
        if not self._context.checklist.form(candidates, self._context.roles.controlling):
            self._context.drop(DropReason.PAIR_LIMIT)

    def _check_late(self, candidate: Candidate) -> None:
        """Check the pairs of a candidate that comes long after a pair was selected: the peer may have lost its path.

        Without that a peer whose relay was restarted could not be reached until our side has noticed, too.
        """
        self._context.doubted = True
        for pair in self._context.checklist:
            if pair.remote is candidate:
                self._context.checklist.set_state(pair, PairState.WAITING)
                self._context.checklist.trigger(pair)

    def _upgrade_remote(self, candidate: Candidate) -> None:
        """Let the pairs of a peer-reflexive candidate show its signalled twin, nomination kept (trap 17)."""
        for pair in self._context.checklist:
            if pair.remote.address == candidate.address:
                pair.remote = candidate
                pair.rank(self._context.roles.controlling)

    def _upgrade_local(self, candidate: Candidate) -> None:
        for pair in self._context.checklist:
            valid = pair.valid_local
            if valid is not None and (valid.address, valid.base) == (candidate.address, candidate.base):
                pair.valid_local = candidate
                pair.rank(self._context.roles.controlling)

    def _wind_up(self, now: float) -> None:
        """Forget what only a living session needs."""
        context = self._context
        context.runner.clear()
        context.held.clear()
        context.validated.clear()
        self._requests.clear()
        context.data_pair = context.selected = None
        context.data_path = None
