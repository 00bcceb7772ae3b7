"""Predicts whether two sides will connect, from what the network of each does. A pure function.

There is no table of rules: ICE is simulated with two NATs that have nothing but their behaviour. `docs/netcheck.md` has
the resulting table, and a test compares it with the virtual network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import product
from typing import Final, NamedTuple

from iceagent.core.discovery.behaviour import Filtering, MappingBehaviour

_ROUNDS: Final = 6  # of signalling what has been learned; nothing new comes after three


class PredictedPath(Enum):
    """How two sides will be connected."""

    DIRECT = "direct"
    RELAYED = "relayed"
    IMPOSSIBLE = "impossible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FamilyView:
    """What one side's network does to one IP version.

    Attributes:
        mapping: see `MappingBehaviour`.
        filtering: see `Filtering`.
        external_hosts: the addresses under which it is seen.
        maps_ports: the gateway opens a port when asked, which makes the NAT irrelevant.
        hairpin: whether the NAT turns round what the inside sends to its outside.
    """

    mapping: MappingBehaviour = MappingBehaviour.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    external_hosts: tuple[str, ...] = ()
    maps_ports: bool = False
    hairpin: bool | None = None


@dataclass(frozen=True, slots=True)
class SideView:
    """What one side has to connect with.

    Attributes:
        families: by IP version, those over which UDP gets out.
        relays: the transports over which TURN servers answered: `udp`, `tcp`, `tls`.
    """

    families: Mapping[int, FamilyView] = field(default_factory=dict[int, FamilyView])
    relays: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What will come of an attempt.

    Attributes:
        outcome: how, if at all.
        reason: a sentence without its full stop, for people on this side.
        certain: whether everything it rests on is known.
        family: IP version of a direct path.
    """

    outcome: PredictedPath
    reason: str
    certain: bool = True
    family: int | None = None


class _Address(NamedTuple):
    """An external address in the play: whose, and the part of the destination that it depends on."""

    owner: int
    scope: object


_SERVER: Final = _Address(2, None)


def meets(one: FamilyView, other: FamilyView) -> bool:
    """Return whether ICE finds a direct path between two sides whose behaviour is known.

    Each has been seen by one server, knows how the server saw the other, and sends there; whatever arrives teaches a
    peer-reflexive address, to which is sent in turn. A path is found when an answer comes back from where the check
    was sent (RFC 8445 section 7.2.5.2.1).
    """
    views = (_open(one), _open(other))
    sessions: defaultdict[_Address, set[_Address]] = defaultdict(set)
    known: list[set[_Address]] = [set(), set()]
    for side in (0, 1):
        sessions[_external(views, side, _SERVER)].add(_SERVER)
        known[1 - side].add(_external(views, side, _SERVER))
    for _ in range(_ROUNDS):
        sent = [(side, target) for side in (0, 1) for target in sorted(known[side], key=repr)]
        for side, target in sent:
            sessions[_external(views, side, target)].add(target)
        for side, target in sent:
            source = _external(views, side, target)
            if not _passes(views[1 - side], source, sessions[target]):
                continue
            if _external(views, 1 - side, source) == target:
                return True
            known[1 - side].add(source)
    return False


def predict(ours: SideView, theirs: SideView) -> Prediction:
    """Return how two sides will be connected, and why."""
    verdicts = [_direct(ours.families[family], theirs.families[family], family) for family in _common(ours, theirs)]
    direct = [verdict for verdict in verdicts if verdict.outcome is PredictedPath.DIRECT]
    if direct:
        return max(direct, key=lambda verdict: verdict.certain)
    unknown = next((verdict for verdict in verdicts if verdict.outcome is PredictedPath.UNKNOWN), None)
    if unknown is not None:
        return unknown
    obstacle = verdicts[0] if verdicts else Prediction(PredictedPath.IMPOSSIBLE, _no_common_ground(ours, theirs))
    if _relay_helps(ours, theirs):
        return replace(obstacle, outcome=PredictedPath.RELAYED)
    if not (ours.families or theirs.families):  # both may be in one network, or all servers down
        return replace(obstacle, outcome=PredictedPath.UNKNOWN, certain=False)
    reason = f"{obstacle.reason}; and no TURN server that both sides can use would relay"
    return Prediction(PredictedPath.IMPOSSIBLE, reason, obstacle.certain)


def _direct(ours: FamilyView, theirs: FamilyView, family: int) -> Prediction:
    """Return whether a path of one family is direct; the outcome is IMPOSSIBLE where it is not."""
    common = set(ours.external_hosts) & set(theirs.external_hosts)
    if common and MappingBehaviour.NO_NAT not in (ours.mapping, theirs.mapping):
        text = "both sides are behind the same NAT, where they reach each other by their local addresses"
        return Prediction(PredictedPath.DIRECT, text, certain=bool(ours.hairpin and theirs.hairpin), family=family)
    results = {meets(one, other) for one, other in product(_possible(ours), _possible(theirs))}
    if len(results) > 1:
        return Prediction(PredictedPath.UNKNOWN, _what_is_unknown(ours, theirs), certain=False)
    works = results == {True}
    reason = _why_direct(ours, theirs, family) if works else _why_not(ours, theirs)
    return Prediction(
        PredictedPath.DIRECT if works else PredictedPath.IMPOSSIBLE, reason, family=family if works else None
    )


def _what_is_unknown(ours: FamilyView, theirs: FamilyView) -> str:
    """Return what would have to be known for an answer."""
    views = ((ours, "this side's"), (theirs, "the other side's"))
    for key, words in (
        ("mapping", "keeps one port for all destinations"),
        ("filtering", "lets in who was not sent to"),
    ):
        unknown = [who for view, who in views if not view.maps_ports and getattr(view, key).name in _UNTOLD]
        if unknown:
            return f"too few STUN servers have answered to tell whether {' and '.join(unknown)} NAT {words}"
    return "what the NATs do is not known"


def _why_direct(ours: FamilyView, theirs: FamilyView, family: int) -> str:
    for view, who in ((ours, "this side's"), (theirs, "the other side's")):
        if view.maps_ports and not view.mapping.is_predictable:
            return f"{who} gateway opens a port when asked"
    if MappingBehaviour.NO_NAT in (ours.mapping, theirs.mapping):
        both = ours.mapping is theirs.mapping
        who = (
            "both sides have"
            if both
            else "this side has"
            if ours.mapping is MappingBehaviour.NO_NAT
            else "the other side has"
        )
        return f"{who} a public IPv{family} address"
    if ours.mapping.is_predictable and theirs.mapping.is_predictable:
        return "both NATs keep one external port per socket, so each side can tell the other where to send"
    who = "this side's" if ours.mapping.is_predictable else "the other side's"
    return f"{who} NAT lets in whatever port the stricter NAT of the other one chooses"


def _why_not(ours: FamilyView, theirs: FamilyView) -> str:
    if not ours.mapping.is_predictable and not theirs.mapping.is_predictable:
        return "both NATs map per destination, so neither side can tell the other where to send"
    hard, strict = ("this side's", "the other side's") if theirs.mapping.is_predictable else _SWAPPED
    return f"{hard} NAT maps per destination, and {strict} NAT or firewall lets in only the port it has sent to"


_NO_SERVER: Final = "no server answers either side over UDP: the servers are down, or neither network lets UDP out"
_SWAPPED: Final = ("the other side's", "this side's")


def _no_common_ground(ours: SideView, theirs: SideView) -> str:
    if not (ours.families or theirs.families):
        return _NO_SERVER
    for side, who in ((ours, "this side"), (theirs, "the other side")):
        if not side.families:  # while the relay's servers answer the other one
            return f"UDP does not get out of {who}'s network"
    ipv = {4: "IPv4", 6: "IPv6"}
    mine, other = (" and ".join(ipv[family] for family in sorted(side.families)) for side in (ours, theirs))
    return f"this side has only {mine}, the other only {other}"


def _relay_helps(ours: SideView, theirs: SideView) -> bool:
    """Return whether a relay reaches both: any of either side's, but who has no UDP needs one over TCP or TLS."""
    sides = (ours, theirs)
    return any(side.relays for side in sides) and all(side.families or side.relays & {"tcp", "tls"} for side in sides)


def _common(ours: SideView, theirs: SideView) -> list[int]:
    return sorted(set(ours.families) & set(theirs.families))


def _open(view: FamilyView) -> FamilyView:
    """Return the view with an opened port taken into account."""
    if not view.maps_ports:
        return view
    return replace(view, mapping=MappingBehaviour.ENDPOINT_INDEPENDENT, filtering=Filtering.ENDPOINT_INDEPENDENT)


def _possible(view: FamilyView) -> Iterator[FamilyView]:
    """Return all that an incomplete view may be in truth."""
    mappings = {
        MappingBehaviour.UNKNOWN: (MappingBehaviour.ENDPOINT_INDEPENDENT, MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT),
        MappingBehaviour.DESTINATION_DEPENDENT: (
            MappingBehaviour.ADDRESS_DEPENDENT,
            MappingBehaviour.ADDRESS_AND_PORT_DEPENDENT,
        ),
    }.get(view.mapping, (view.mapping,))
    filterings: tuple[Filtering, ...] = (view.filtering,)
    if view.filtering is Filtering.UNKNOWN:
        filterings = (Filtering.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    for mapping, filtering in product(mappings, filterings):
        yield replace(view, mapping=mapping, filtering=filtering)


_UNTOLD: Final = frozenset(
    {MappingBehaviour.UNKNOWN.name, MappingBehaviour.DESTINATION_DEPENDENT.name, Filtering.UNKNOWN.name}
)


def _external(views: tuple[FamilyView, FamilyView], side: int, target: _Address) -> _Address:
    """Return the address that packets of a side to `target` come from."""
    mapping = views[side].mapping
    if mapping is MappingBehaviour.ADDRESS_DEPENDENT:
        return _Address(side, target.owner)
    return _Address(side, None if mapping.is_predictable else target)


def _passes(view: FamilyView, source: _Address, sessions: set[_Address]) -> bool:
    """Return whether a NAT lets in a packet from `source` to an address that has sent to `sessions`."""
    if not sessions:
        return False
    if view.filtering is Filtering.ENDPOINT_INDEPENDENT:
        return True
    if view.filtering is Filtering.ADDRESS_DEPENDENT:
        return any(session.owner == source.owner for session in sessions)
    return source in sessions
