"""What the NATs of both sides do, as far as servers' answers, signalled candidates and checks have shown it.

A NAT maps per destination (it is symmetric) if two servers see one socket at different ports at the same time. For our
own side the servers' answers show it. For the peer's side its candidates do, if they were first signalled together: a
NAT that was restarted in between gives another port, and the peer may signal the old port together with the new one.
That a peer sees another port than a server did is a hint and no proof. A gateway that accepted a check of the peer for
itself, before ours left, holds the port; one that was restarted has given another port since. The texts are those
of `iceagent netcheck`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from iceagent.agent.explain.facts import Facts, listed
from iceagent.agent.report.events import ServerAnswered
from iceagent.agent.report.signalling_times import AT_ONCE_S
from iceagent.core import ice
from iceagent.core.address import TransportAddress, without_zone

_OR_HELD: Final = "its NAT maps per destination (symmetric), or something holds that port there"


@dataclass(frozen=True, slots=True)
class NatFinding:
    """Whether a side maps per destination; None where that has not shown. `evidence`: the facts, in words."""

    per_destination: bool | None
    evidence: tuple[str, ...] = ()


def our_nat(facts: Facts) -> NatFinding:
    """Return what is known of the NAT on our side."""
    answers_of: dict[TransportAddress, list[tuple[float, ServerAnswered]]] = defaultdict(list)
    for at, answer in facts.fresh_answers:
        answers_of[answer.base].append((at, answer))
    for base, answers in answers_of.items():
        if _differ(answers):
            words = listed([f"{answer.mapped} to {answer.url}" for _, answer in answers])
            return NatFinding(
                True, (f"our NAT takes another port for each destination (symmetric): {base} is {words}",)
            )
    hosts = [{answer.server.host for _, answer in answers} for answers in answers_of.values()]
    if any(len(several) > 1 for several in hosts):
        return NatFinding(False, ("our NAT keeps one port for all destinations",) if _is_mapped(facts) else ())
    return NatFinding(None, _seen_elsewhere(facts, answers_of))


def _differ(answers: Sequence[tuple[float, ServerAnswered]]) -> bool:
    """Whether two servers have seen one socket at different ports of one address, and that at one time.

    Another address is that of a router which was given a new one, or of another router.
    """
    return any(
        one.server != other.server
        and one.mapped != other.mapped
        and one.mapped.host == other.mapped.host
        and max(at, later) - min(at - one.rtt_s, later - other.rtt_s) <= AT_ONCE_S
        for at, one in answers
        for later, other in answers
    )


def _seen_elsewhere(
    facts: Facts, answers_of: dict[TransportAddress, list[tuple[float, ServerAnswered]]]
) -> tuple[str, ...]:
    for candidate in facts.core.local_candidates:
        mapped = [answer.mapped for _, answer in answers_of.get(candidate.path_base, ())]
        if candidate.type is not ice.CandidateType.PRFLX or candidate.address in mapped:
            continue
        if any(one.host == candidate.address.host for one in mapped):
            seen = f"servers see us at {listed([str(one) for one in dict.fromkeys(mapped)])}, the peer at "
            return (f"{seen}{candidate.address}: {_OR_HELD.replace('its', 'our').replace('there', 'here')}",)
    return ()


def guessing_alone(facts: Facts) -> tuple[str, ...]:
    """Return that hard NATs are to be passed, and that the peer takes no part; nothing if it does."""
    others = facts.gatherer.other_ways
    if not facts.config.hard_nat or (others is not None and others.peer_takes_part):
        return ()
    return ("hard NAT: the peer takes no part; set `hard_nat` (`--hard-nat`) there, too",)


def their_nat(facts: Facts) -> NatFinding:
    """Return what is known of the NAT on the peer's side."""
    # While a restart waits for its answer the session before it, whose pairs there are, is the latest known.
    present = facts.core.remote_candidates or tuple(dict.fromkeys(pair.remote for pair in facts.core.pairs))
    reflexive = [one for one in present if one.type is ice.CandidateType.SRFLX and one.transport == "udp"]
    by_base: dict[TransportAddress, list[ice.Candidate]] = defaultdict(list)
    for candidate in reflexive:
        related = candidate.related_address
        if related is not None and related.port not in (0, 9) and related.host not in ("0.0.0.0", "::"):  # noqa: S104
            by_base[related].append(candidate)
    for related, candidates in by_base.items():
        addresses = _differing(facts, candidates)
        if addresses:
            words = listed([str(address) for address in sorted(addresses)])
            return NatFinding(
                True, (f"the peer's NAT takes another port for each destination (symmetric): {related} is {words}",)
            )
    signalled: dict[tuple[str, int], set[int]] = defaultdict(set)
    for candidate in reflexive:
        signalled[candidate.address.host, _preference(candidate)].add(candidate.address.port)
    for candidate in present:
        source = without_zone(candidate.address)
        key = (source.host, _preference(candidate))
        if candidate.type is not ice.CandidateType.PRFLX or key not in signalled:
            continue  # from another socket of the peer, such as one of a new address that is not signalled yet
        if source.port not in signalled[key]:
            ports = listed([str(port) for port in sorted(signalled[key])])
            hint = f"{source.host} signalled port {ports}, and its checks come from port {source.port}: {_OR_HELD}"
            return NatFinding(None, (hint,))
    return NatFinding(None)


def _differing(facts: Facts, candidates: Sequence[ice.Candidate]) -> set[TransportAddress]:
    """Return those addresses of one base of the peer's that differ in the port alone, and were learned at one time."""
    return {
        candidate.address
        for one, other in combinations(candidates, 2)
        if one.address.host == other.address.host and one.address.port != other.address.port
        if facts.driver.signalling_times.were_together(one, other)
        for candidate in (one, other)
    }


def _preference(candidate: ice.Candidate) -> int:
    """Return the local preference, which a check has in common with the candidate of its socket (RFC 8445 7.1.1)."""
    return (candidate.priority >> 8) & 0xFFFF


def _is_mapped(facts: Facts) -> bool:
    return any(answer.mapped != answer.base for answer in facts.answers)
