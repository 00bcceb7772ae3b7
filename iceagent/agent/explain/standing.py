"""Verdicts on agents that are connected, and on those that were."""

from __future__ import annotations

import errno

from iceagent.agent.explain.facts import Facts, plural
from iceagent.agent.explain.verdict import RELAY_CATALOGUE, Verdict, VerdictKind, beyond_guessing, verdict
from iceagent.agent.explain.why_relayed import why_relayed
from iceagent.agent.report.events import RelayLost, path_kind
from iceagent.agent.stops import FATAL_S, stopped_since
from iceagent.core import ice
from iceagent.core.constants import CONSENT_EXPIRY_S

RESTART_ANSWER_S = 10.0
"""Ours: signaling that takes longer than this to carry a restart's answer is probably gone."""


def standing_verdict(facts: Facts) -> Verdict:
    """Return the verdict on an agent that is connected."""
    since = facts.restart_unanswered_since
    if since is not None and facts.now >= since + RESTART_ANSWER_S:
        summary = "The restart begun {} ago has not been answered; data goes on over the path of before."
        evidence = (f"restart begun {facts.ago(since)} ago", *facts.general())
        return verdict(VerdictKind.RESTART_UNANSWERED, summary.format(facts.ago(since)), evidence)
    pair = facts.core.selected_pair
    general = tuple(facts.general())
    if pair is None:
        cause = lost_cause(facts) if facts.core.stranded else None
        if cause is not None:  # other pairs still have consent, and none of them answers
            return cause
        return verdict(VerdictKind.CONNECTED, "A path to the peer works; the best is being chosen.", general)
    if pair.is_relayed:
        return _relayed(facts, pair)
    kinds = f"{pair.local.type.value} to {pair.remote.type.value}"
    way = " by TCP" if pair.local.transport == "tcp" else ""
    summary = f"Connected directly over IPv{pair.remote.address.family}{way}, {kinds}{_rtt(pair)}."
    return verdict(VerdictKind.CONNECTED, summary, (*_restart_failed(facts), *general))


def _relayed(facts: Facts, pair: ice.CandidatePair) -> Verdict:
    why = why_relayed(facts, pair)
    entry = RELAY_CATALOGUE[why.reason]
    by = facts.driver.relay_transports.get(pair.local.path_base)
    ours = "the peer's relay" if by is None else f"our relay, reached over {by.upper()}"
    return Verdict(
        VerdictKind.RELAYED,
        f"Relayed over IPv{pair.remote.address.family} by {ours}, because {entry.meaning}{_rtt(pair)}.",
        tuple(dict.fromkeys((*why.evidence, *_tried(facts), *_restart_failed(facts), *facts.general()))),
        beyond_guessing(entry.remedy) if facts.config.hard_nat else entry.remedy,
        why.reason,
    )


def _tried(facts: Facts) -> list[str]:
    direct = [pair for pair in facts.core.pairs if path_kind(pair) == "direct"]
    running = [pair for pair in direct if pair.state is ice.PairState.IN_PROGRESS]
    if running:
        return [f"{plural(len(running), 'direct pair')} of {len(direct)} still being tried"]
    return [f"{plural(len(direct), 'direct pair')} tried in vain"] if direct else []


def _rtt(pair: ice.CandidatePair) -> str:
    return "" if pair.rtt_s is None else f", round trip {pair.rtt_s * 1000:.1f} ms"


def _restart_failed(facts: Facts) -> list[str]:
    failed = facts.last(ice.RestartFailed)
    return [] if failed is None else [f"a restart {facts.ago(failed[0])} ago found no other path: {failed[1].reason}"]


def lost_cause(facts: Facts) -> Verdict | None:
    """Return why an agent that was connected is not, as far as that can be known; None if nothing but silence shows."""
    since = facts.restart_unanswered_since
    changed = facts.network_changed
    lost = facts.last(ice.ConsentLost)
    evidence = [*_change_lines(facts), *_loss_lines(facts)]
    stopped_s = stopped_since(facts.core.heard_at, facts.driver.timeline)
    if stopped_s and (stopped_s >= FATAL_S or not facts.is_over):
        summary = (
            f"This machine slept, or this program was stopped, for {stopped_s:.0f} s, and the peer has not answered "
            "since: it gives up after 30 s."
        )
        return verdict(VerdictKind.STOPPED, summary, (*evidence, *facts.general()))
    gone = _own_address_gone(facts)
    if gone is not None:
        summary = f"This machine lost its address {gone}, which carried the connection, and no other leads to the peer."
        remedy = "Connect this machine to a network" + (", then connect again." if facts.is_over else ".")
        return verdict(VerdictKind.NETWORK_CHANGED, summary, (*evidence, *facts.general()), remedy)
    if facts.is_over and lost is not None and _is_refused(facts, lost):
        host = lost[1].pair.remote.address.host
        summary = f"The peer stopped answering for 30 s, and {host} says that its program has ended."
        return verdict(VerdictKind.CONSENT_LOST, summary, (*evidence, *facts.general()), "Start it again, and connect.")
    if facts.core.state is ice.AgentState.DISCONNECTED and since is None and not _is_since(facts, changed):
        return verdict(VerdictKind.SILENT, evidence=(*evidence, *facts.general()))
    if since is not None and (facts.is_over or facts.now >= since + RESTART_ANSWER_S):
        evidence.insert(0, f"restart begun {facts.ago(since)} ago, and no credentials of the peer have come since")
        return verdict(VerdictKind.RESTART_UNANSWERED, evidence=(*evidence, *facts.general()))
    if _is_since(facts, changed) and (not facts.is_over or not facts.gatherer.bases):
        return verdict(VerdictKind.NETWORK_CHANGED, evidence=(*evidence, *facts.general()))
    if changed is not None and lost is not None and lost[1].pair.local.path_base in changed[1].lost:
        # The path went with our own interface; whatever the peer does, it could not have answered.
        return verdict(VerdictKind.NETWORK_CHANGED, evidence=(*evidence, *facts.general()))
    if lost is not None and lost[1].revoked:
        return verdict(VerdictKind.CONSENT_REVOKED, evidence=(*evidence, *facts.general()))
    if lost is not None and (facts.is_over or not facts.core.restarting):
        return verdict(VerdictKind.CONSENT_LOST, evidence=(*evidence, *facts.general()))
    if facts.is_over:
        return verdict(VerdictKind.PATH_LOST, evidence=(*evidence, *facts.general()))
    return verdict(VerdictKind.SILENT, evidence=(*evidence, *facts.general()))


def _is_since(facts: Facts, event: tuple[float, object] | None) -> bool:
    """Whether something happened after the agent was last connected, or just before the path broke."""
    if event is None:
        return False
    states = facts.driver.timeline.latest(ice.StateChanged)
    connected = [at for at, one in states if one.new in (ice.AgentState.CONNECTED, ice.AgentState.COMPLETED)]
    return bool(connected) and event[0] >= max(connected)


def _own_address_gone(facts: Facts) -> str | None:
    """Return the address that carried the data if this machine has it no more; None otherwise.

    After consent is lost the pair is known from that; before, the core still has it.
    """
    lost = facts.last(ice.ConsentLost)
    pair = facts.core.selected_pair or (None if lost is None else lost[1].pair)
    if pair is None or pair.local.type is ice.CandidateType.RELAY:
        return None
    base = pair.local.path_base
    if pair.local.transport != "udp" or base in {one.address for one in facts.gatherer.bases}:
        return None
    return base.host


def _is_refused(facts: Facts, lost: tuple[float, ice.ConsentLost]) -> bool:
    """Whether ICMP says that nobody listens any more where the data went; beside 30 s of silence it may be believed."""
    if lost[1].revoked:
        return False
    remote = lost[1].pair.remote.address
    return any(one.remote == remote and one.errno == errno.ECONNREFUSED for one in facts.unreachable)


def _change_lines(facts: Facts) -> list[str]:
    changed = facts.network_changed
    if changed is None:
        return []
    at, event = changed
    parts = [f"the network changed {facts.ago(at)} ago ({', '.join(event.changes)})"]
    parts += [f"{address.host} is gone" for address in event.lost]
    parts += [f"{address.host} is new" for address in event.gained]
    return [", ".join(parts)]


def _loss_lines(facts: Facts) -> list[str]:
    lines = []
    lost = facts.last(ice.ConsentLost)
    if lost is not None:
        word = "revoked" if lost[1].revoked else f"expired, after {CONSENT_EXPIRY_S:g} s without an answer"
        pair = lost[1].pair
        lines.append(f"consent on {pair.local.type.value} to {pair.remote.type.value} {word}, {facts.ago(lost[0])} ago")
    relay = facts.last(RelayLost)
    if relay is not None:
        lines.append(f"the relay at {relay[1].address} was lost {facts.ago(relay[0])} ago: {relay[1].reason}")
    return lines
