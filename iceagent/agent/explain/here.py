"""Causes on this machine, and causes in signaling: what came from the peer, and what did not."""

from __future__ import annotations

from iceagent.agent.explain.facts import Facts, listed, plural, versions
from iceagent.agent.explain.relays import relay_cause
from iceagent.agent.explain.verdict import Verdict, VerdictKind, verdict
from iceagent.core import ice
from iceagent.core.address import TransportAddress


def local_cause(facts: Facts) -> Verdict | None:
    """Return what keeps this machine from having candidates, or None."""
    gatherer, config = facts.gatherer, facts.config
    if gatherer.bases or gatherer.relays.allocations:
        return _types_cause(facts) or _scope_cause(facts)
    if config.transport_policy == "relay" and (gatherer.addresses_usable or not gatherer.finished):
        return relay_cause(facts)
    if gatherer.addresses_seen:
        evidence = (
            f"{plural(gatherer.addresses_seen, 'address', 'addresses')} found",
            *facts.driver.policy.facts(),
        )
        return verdict(VerdictKind.FILTERED_BY_POLICY, "No address of this machine may be used.", evidence)
    return verdict(VerdictKind.NO_LOCAL_ADDRESS)


def _types_cause(facts: Facts) -> Verdict | None:
    """Return that there are sockets, and none of them gave a candidate of a type that is allowed."""
    if facts.ours or not facts.gatherer.finished:
        return None
    if facts.config.transport_policy == "relay" and (cause := relay_cause(facts)) is not None:
        return cause
    types = ", ".join(map(str, facts.config.candidate_types))
    summary = f"There is no candidate of the types that are allowed here: {types}."
    return verdict(VerdictKind.FILTERED_BY_POLICY, summary, (f"candidate_types={types}", *facts.general()))


def _scope_cause(facts: Facts) -> Verdict | None:
    """Return that the addresses of one side lead no farther than its machine or cable, and the other is not there."""
    ours = {_scope(candidate.path_base) for candidate in facts.core.local_candidates}
    theirs = {_scope(candidate.address) for candidate in facts.core.remote_candidates}
    if not ours or not theirs or ours & theirs:
        return None
    if "" not in ours:
        only = facts.config.families if len(facts.config.families) == 1 else ()
        family = f"{versions(only)} " if only else ""
        summary = f"This machine has no {family}address but {listed(sorted(ours))}, and the peer is not there."
        remedy = "Give it one, or allow the other IP version, too." if only else None
        return verdict(VerdictKind.NO_LOCAL_ADDRESS, summary, tuple(facts.general()), remedy)
    if "" not in theirs and facts.core.remote_candidates_ended:
        summary = f"The peer has no address but {listed(sorted(theirs))}, and this machine is not there."
        return verdict(VerdictKind.UNUSABLE_CANDIDATES, summary, tuple(facts.general()))
    return None


def _scope(address: TransportAddress) -> str:
    """Return what an address is confined to: "" for none."""
    if address.ip.is_loopback:
        return "those of loopback"
    return "link-local ones, which end with its own cable" if address.ip.is_link_local else ""


def signaling_cause(facts: Facts) -> Verdict | None:
    """Return what signaling has not brought, or brought wrong, or None."""
    if facts.core.remote_credentials is None:
        return verdict(
            VerdictKind.WAITING_FOR_CREDENTIALS, "The peer's credentials are not known yet.", tuple(facts.general())
        )
    return _candidates_cause(facts) or _fit_cause(facts)


def credentials_cause(facts: Facts) -> Verdict | None:
    """Return that the two sides do not hold each other's description, in whatever state; None if nothing says so.

    Where only the peer is mistaken, our checks are answered and we are connected, but the peer never is.
    """
    signs = facts.core.signs
    if not (signs.ours_is_not_known or signs.theirs_is_not_known):
        return None
    counted = (
        (signs.requests_keyed_wrong, "from a host of the peer's named both sides and failed authentication"),
        (signs.requests_naming_old, "of the peer named an earlier user name fragment of ours"),
        (signs.requests_of_nobody, "from an address that the peer has signalled named somebody else"),
        (signs.requests_of_another, "keyed with our password named another peer than the one we know"),
    )
    evidence = [f"{plural(number, 'check')} {what}" for number, what in counted if number]
    if signs.answers_keyed_wrong:
        evidence.append(f"{plural(signs.answers_keyed_wrong, 'answer')} to our checks failed authentication")
    if signs.answers_refusing:
        evidence.append(f"{plural(signs.answers_refusing, 'check')} of ours were refused with 400 or 401")
    if signs.ours_is_not_known and signs.theirs_is_not_known:
        summary = "Neither side holds the other's present description."
    elif signs.ours_is_not_known:
        summary = "The peer does not hold our present description: its checks are not keyed with our credentials."
    else:
        summary = "We do not hold the peer's present description: it does not accept our checks, or is another one."
    return verdict(VerdictKind.WRONG_CREDENTIALS, summary, (*evidence, *facts.general()))


def _candidates_cause(facts: Facts) -> Verdict | None:
    core = facts.core
    if core.remote_candidates:
        return None
    general = tuple(facts.general())
    refused = facts.refused_candidates
    if facts.refused_by_policy:
        return _filtered(facts)
    if set(refused) == {ice.DropReason.CANDIDATE_TRANSPORT}:
        return verdict(VerdictKind.NO_COMMON_TRANSPORT, evidence=general)
    if refused:
        summary = f"The peer has sent {plural(refused.total(), 'candidate')}, and none can be used."
        return verdict(VerdictKind.UNUSABLE_CANDIDATES, summary, general)
    if core.remote_candidates_ended:
        summary = "The peer has no candidate: it has no address, or none that it may use."
        return verdict(VerdictKind.UNUSABLE_CANDIDATES, summary, general, "See what the peer's own side says.")
    return verdict(VerdictKind.WAITING_FOR_CANDIDATES, evidence=general)


def _filtered(facts: Facts) -> Verdict:
    which = "" if not facts.core.remote_candidates else " that could be reached from here"
    summary = f"No address of the peer's{which} may be used: the configuration here leaves out all of its candidates."
    return verdict(VerdictKind.FILTERED_BY_POLICY, summary, (*facts.driver.policy.facts(), *facts.general()))


def _fit_cause(facts: Facts) -> Verdict | None:
    """What both sides have, and do not have in common; said once nothing more is to be expected."""
    core = facts.core
    if not core.local_candidates or core.pairs or not (facts.is_over or facts.gatherer.finished):
        return None
    ours, theirs = facts.our_families, facts.their_families
    if not ours & theirs:
        if facts.refused_by_policy and ours & facts.driver.policy.signalled_families:
            return _filtered(facts)
        summary = f"We have {versions(ours)} addresses, the peer only {versions(theirs)}."
        return verdict(VerdictKind.NO_COMMON_FAMILY, summary, tuple(facts.general()))
    transports = [{one.transport for one in side} for side in (core.local_candidates, core.remote_candidates)]
    if not transports[0] & transports[1]:
        words = [", ".join(sorted(side)).upper() for side in transports]
        summary = f"Our candidates use {words[0]}, the peer's only {words[1]}."
        return verdict(VerdictKind.NO_COMMON_TRANSPORT, summary, tuple(facts.general()))
    return None
