"""The peer's candidates that its checks reveal, and the room they may take: RFC 8445 section 7.3.1.3."""

from __future__ import annotations

from iceagent.core import constants
from iceagent.core.address import without_zone
from iceagent.core.ice.choice.nomination import Nominator
from iceagent.core.ice.events import DropReason, RemoteCandidateAdded
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.candidate import Candidate, remote_prflx_candidate
from iceagent.core.ice.model.candidates import Added
from iceagent.core.ice.model.pair import CheckPair, PairState, PathAddresses
from iceagent.core.ice.model.priority import CandidateType
from iceagent.core.ice.model.tcp import COUNTERPART


def learn_remote(
    facts: SessionFacts, nominator: Nominator, now: float, local: Candidate, path: PathAddresses, priority: int
) -> Candidate | None:
    """Add the peer-reflexive candidate that a check reveals, which came over `path` to `local`; None without room."""
    if local.transport == "tcp":
        _forget_dead_connections(facts, path)
    if not _make_room(facts, nominator, now, path):
        facts.outbox.drop(DropReason.CANDIDATE_LIMIT)
        return None
    tcp_type = COUNTERPART.get(local.tcp_type or "")  # RFC 6544 section 7.2
    fresh = remote_prflx_candidate(
        without_zone(path[1]),
        priority,
        facts.table.component,
        transport=local.transport,
        tcp_type=tcp_type,
    )
    added = add_remote(facts, fresh)
    if not isinstance(added, Added):
        facts.outbox.drop(added)
        return None
    facts.outbox.emit(RemoteCandidateAdded(fresh))
    return fresh


def _forget_dead_connections(facts: SessionFacts, path: PathAddresses) -> None:
    """Make room for a peer that connects again: an active candidate has another port each time."""
    base, remote = path
    for pair in list(facts.checklist):
        same_host = pair.base == base and pair.destination.host == remote.host
        is_dead = pair.state is PairState.FAILED and pair is not facts.data_pair
        if same_host and is_dead and pair.remote.type is CandidateType.PRFLX:
            forget_pair(facts, pair)
            facts.table.forget_remote(pair.remote)


def _make_room(facts: SessionFacts, nominator: Nominator, now: float, path: PathAddresses) -> bool:
    """Return whether another address of the host that a check came from may be learnt, in place of one if need be.

    Deviation from RFC 8445 section 7.3.1.3, which learns them all: two NATs that map per destination and filter
    nothing show every check under a new address. Each triggers the next, none can succeed, and since triggered
    checks go first no other pair, that of a relay for instance, would ever get its turn. So a host has but so many
    addresses that lead nowhere. One that a NAT has replaced since gives way, or else the one asked longest ago,
    once its check is out of reach: who sends forged checks, or gets another port every hour, locks no host out.
    """
    base, remote = path
    fruitless = [
        pair
        for pair in facts.checklist
        if pair.remote.type is CandidateType.PRFLX
        and pair.base == base
        and pair.destination.host == remote.host
        and pair is not facts.data_pair
        and pair is not facts.selected
        and not pair.consent_lost
        and not facts.has_fresh_consent(now, pair)
    ]
    if len(fruitless) < constants.MAX_FRUITLESS_REFLEXIVE:
        return True
    oldest = min(fruitless, key=lambda pair: (not pair.is_valid, pair.last_response_at, pair.last_sent_at))
    out_of_reach = not oldest.is_pending and now >= oldest.last_sent_at + constants.CHECK_TIMEOUT_S
    if not (oldest.is_valid or out_of_reach):
        return False
    if oldest.is_valid:
        nominator.invalidate(now, oldest)  # it may be about to be nominated
    forget_pair(facts, oldest)
    if all(pair.remote is not oldest.remote for pair in facts.checklist):
        facts.table.forget_remote(oldest.remote)
    return True


def add_remote(facts: SessionFacts, candidate: Candidate) -> Added | DropReason:
    """Add a candidate of the peer to the table, in place of one known from checks alone if there is no room.

    Checks can be replayed from forged sources. What they fill the table with must not keep out an address that the
    peer comes to have later.
    """
    added = facts.table.add_remote(candidate)
    if added is DropReason.CANDIDATE_LIMIT and (fruitless := _fruitless_remote(facts)) is not None:
        for pair in [pair for pair in facts.checklist if pair.remote == fruitless]:
            forget_pair(facts, pair)
        facts.table.forget_remote(fruitless)
        added = facts.table.add_remote(candidate)
    return added


def _fruitless_remote(facts: SessionFacts) -> Candidate | None:
    """Return the oldest candidate known from checks alone that has never answered, and is not being asked."""
    triggered = facts.checklist.triggered
    needed = {
        pair.remote
        for pair in facts.checklist
        if pair.responses_received or pair.state is PairState.IN_PROGRESS or pair in triggered
    }
    reflexive = (one for one in facts.table.remote.values() if one.type is CandidateType.PRFLX)
    return next((one for one in reflexive if one not in needed), None)


def forget_pair(facts: SessionFacts, pair: CheckPair) -> None:
    """Take a pair out of everything, with the checks of it."""
    facts.runner.discard_pair(pair)
    facts.checklist.forget(pair)
    facts.validated.discard(pair.path)
