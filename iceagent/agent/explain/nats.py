"""What the NATs of both sides do, as far as it has shown: from servers' answers, told candidates and checks.

A NAT maps per destination (is symmetric, as people say) if one socket of ours is seen at different ports from different
places. Of our own side servers tell, and answers to our checks; of the peer's side its candidates, and the source of
its checks. The words are those of `iceagent netcheck`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from iceagent.agent.explain.facts import Facts, listed
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.ice.candidate import without_zone


@dataclass(frozen=True, slots=True)
class NatFinding:
    """Whether a side maps per destination; None where that has not shown. `evidence`: the facts, in words."""

    per_destination: bool | None
    evidence: tuple[str, ...] = ()


def our_nat(facts: Facts) -> NatFinding:
    """Return what is known of the NAT on our side."""
    seen: dict[TransportAddress, dict[TransportAddress, str]] = defaultdict(dict)
    servers: dict[TransportAddress, set[str]] = defaultdict(set)
    for answer in facts.fresh_answers:
        seen[answer.base].setdefault(answer.mapped, answer.url)
        servers[answer.base].add(answer.url)
    for candidate in facts.core.local_candidates:
        base = candidate.path_base
        if candidate.type is not ice.CandidateType.PRFLX or not seen.get(base):
            continue
        if any(mapped.host == candidate.address.host for mapped in seen[base]):
            seen[base].setdefault(candidate.address, "the peer")
    for base, places in seen.items():
        if len(places) > 1:
            words = listed([f"{mapped} to {who}" for mapped, who in places.items()])
            return NatFinding(
                True, (f"our NAT takes another port for each destination (symmetric): {base} is {words}",)
            )
    if not any(len(urls) > 1 for urls in servers.values()):
        return NatFinding(None)
    return NatFinding(False, ("our NAT keeps one port for all destinations",) if _is_mapped(facts) else ())


def guessing_alone(facts: Facts) -> tuple[str, ...]:
    """Return that hard NATs are to be passed, and that the peer takes no part; nothing if it does."""
    if not facts.config.hard_nat or facts.driver.peer_guesses:
        return ()
    return ("hard NAT: the peer takes no part; set `hard_nat` (`--hard-nat`) there, too",)


def their_nat(facts: Facts) -> NatFinding:
    """Return what is known of the NAT on the peer's side."""
    reflexive = [one for one in facts.theirs if one.type is ice.CandidateType.SRFLX]
    by_base: dict[TransportAddress, set[TransportAddress]] = defaultdict(set)
    for candidate in reflexive:
        related = candidate.related_address
        if related is not None and related.port not in (0, 9) and related.host not in ("0.0.0.0", "::"):  # noqa: S104
            by_base[related].add(candidate.address)
    for related, addresses in by_base.items():
        if len(addresses) > 1:
            words = listed([str(address) for address in sorted(addresses)])
            return NatFinding(
                True, (f"the peer's NAT takes another port for each destination (symmetric): {related} is {words}",)
            )
    told: dict[tuple[str, int], set[int]] = defaultdict(set)
    for candidate in reflexive:
        if candidate in facts.core.remote_candidates:
            told[candidate.address.host, _preference(candidate)].add(candidate.address.port)
    for candidate in facts.core.remote_candidates:
        source = without_zone(candidate.address)
        key = (source.host, _preference(candidate))
        if candidate.type is not ice.CandidateType.PRFLX or key not in told:
            continue  # from another socket of the peer's, say that of its new address, which it has yet to tell
        if source.port not in told[key]:
            ports = listed([str(port) for port in sorted(told[key])])
            return NatFinding(
                True,
                (
                    f"the peer's NAT takes another port for each destination (symmetric): {source.host} "
                    f"told port {ports}, and its checks come from port {source.port}",
                ),
            )
    return NatFinding(None)


def _preference(candidate: ice.Candidate) -> int:
    """Return the local preference, which a check has in common with the candidate of its socket (RFC 8445 7.1.1)."""
    return (candidate.priority >> 8) & 0xFFFF


def _is_mapped(facts: Facts) -> bool:
    return any(answer.mapped != answer.base for answer in facts.answers)
