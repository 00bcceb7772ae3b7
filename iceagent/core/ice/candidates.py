"""The two candidate lists: bounded, without duplicates, upgraded when a signalled twin comes."""

from __future__ import annotations

from enum import Enum

from iceagent.core.address import TransportAddress
from iceagent.core.ice.candidate import Candidate, without_zone
from iceagent.core.ice.events import DropReason
from iceagent.core.ice.pair import Path
from iceagent.core.ice.priority import CandidateType


class Added(Enum):
    """What became of an offered candidate that is usable."""

    NEW = "new"
    UPGRADED = "upgraded"  # it took the place of its peer-reflexive twin


def unusable(candidate: Candidate) -> DropReason | None:
    """Say why a candidate can never be part of a pair of this agent, or None."""
    if candidate.transport != "udp" or candidate.component != 1:
        return DropReason.CANDIDATE_TRANSPORT
    try:
        ip = candidate.address.ip
    except ValueError:
        return DropReason.CANDIDATE_UNRESOLVED
    if candidate.address.port == 0 or ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        return DropReason.CANDIDATE_UNUSABLE
    return None


class CandidateTable:
    """Local candidates by (address, base), remote ones by address."""

    def __init__(self, max_local: int, max_remote: int) -> None:
        self._max_local = max_local
        self._max_remote = max_remote
        self.local: dict[Path, Candidate] = {}
        self.remote: dict[TransportAddress, Candidate] = {}
        self.local_ended = False
        self.remote_ended = False

    @property
    def complete(self) -> bool:
        """Whether both sides have signalled end-of-candidates."""
        return self.local_ended and self.remote_ended

    def add_local(self, candidate: Candidate) -> Added | DropReason:
        """Add a local candidate; redundant ones are refused (RFC 8445 section 5.1.3)."""
        reason = unusable(candidate)
        if reason is not None:
            return reason
        key = (candidate.address, candidate.path_base)
        twin = self.local.get(key)
        if twin is not None and not (twin.type is CandidateType.PRFLX and candidate.type is not CandidateType.PRFLX):
            return DropReason.CANDIDATE_DUPLICATE
        if twin is None and len(self.local) >= self._max_local:
            return DropReason.CANDIDATE_LIMIT
        self.local[key] = candidate
        return Added.NEW if twin is None else Added.UPGRADED

    def add_remote(self, candidate: Candidate) -> Added | DropReason:
        """Add a remote candidate; a signalled one takes the place of its peer-reflexive twin (trap 17)."""
        reason = unusable(candidate)
        if reason is not None:
            return reason
        twin = self.remote.get(candidate.address)
        if twin is not None and (twin.type is not CandidateType.PRFLX or candidate.type is CandidateType.PRFLX):
            return DropReason.CANDIDATE_DUPLICATE
        if twin is None and len(self.remote) >= self._max_remote:
            return DropReason.CANDIDATE_LIMIT
        self.remote[candidate.address] = candidate
        return Added.NEW if twin is None else Added.UPGRADED

    def forget_base(self, base: TransportAddress) -> None:
        """Forget the local candidates of a socket that is gone."""
        for key in [key for key in self.local if key[1] == base]:
            del self.local[key]

    def find_remote(self, address: TransportAddress) -> Candidate | None:
        """Return the candidate a datagram came from; signalled link-local addresses have no zone, received ones do."""
        return self.remote.get(address) or self.remote.get(without_zone(address))

    def local_at(self, base: TransportAddress) -> Candidate | None:
        """Return the best candidate of a base: the host or relayed one where there is one."""
        own = self.local.get((base, base))
        if own is not None:
            return own
        same = [candidate for candidate in self.local.values() if candidate.path_base == base]
        return max(same, key=lambda candidate: candidate.priority, default=None)

    def local_seen_as(self, mapped: TransportAddress, base: TransportAddress) -> Candidate | None:
        """Return the local candidate of `base` that the peer sees as `mapped`."""
        known = self.local.get((mapped, base))
        if known is None and without_zone(base) == mapped:
            known = self.local.get((base, base))
        return known
