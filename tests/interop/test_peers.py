"""Our agent with other people's: the RFCs are what both have read, and these tests whether both read the same."""

from __future__ import annotations

from typing import Any

import pytest
from interop import DATAGRAMS, Implementation, Meeting, open_meeting
from natlab import INTERNET_HOST, Natlab

pytestmark = [pytest.mark.root, pytest.mark.processes]

ROLES = [
    pytest.param(("controlling", "controlled"), id="we control"),
    pytest.param(("controlled", "controlling"), id="they control"),
]
TRICKLE = [pytest.param(True, id="trickled"), pytest.param(False, id="whole")]


def options(roles: tuple[str, str], trickle: bool, **others: Any) -> list[dict[str, Any]]:
    return [{"role": role, "trickle": trickle, "family": 4, **others} for role in roles]


def meet(meeting: Meeting, kinds: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let them connect over candidates of these kinds, then send both ways; return both `connected` lines."""
    mine, its = meeting.introduce()
    assert mine["local"][0] in kinds, meeting.story()
    assert mine["remote"][0] in kinds, meeting.story()
    if not its.get("datagrams", True):
        return mine, its
    for received in meeting.exchange():
        assert received["count"] == DATAGRAMS, f"{received}\n{meeting.story()}"
        assert received["strange"] == 0
    return mine, its


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("trickle", TRICKLE)
@pytest.mark.parametrize("roles", ROLES)
def test_on_one_lan(lan: Natlab, other: Implementation, roles: tuple[str, str], trickle: bool, family: int) -> None:
    """Host candidates alone: checks, nomination, data."""
    given = options(roles, trickle, family=family)
    with open_meeting(lan, ("host-a", "host-a2"), other, given) as meeting:
        meet(meeting, {"host", "prflx"})  # a check may come before the candidate it comes from


@pytest.mark.parametrize("trickle", TRICKLE)
@pytest.mark.parametrize("roles", ROLES)
def test_over_tcp_on_one_lan(lan: Natlab, other: Implementation, roles: tuple[str, str], trickle: bool) -> None:
    """RFC 6544 with the one peer that has it, UDP switched off there: types, frames, checks sent once."""
    if other.name != "libnice":
        pytest.skip(f"{other.name} has no candidates over TCP")
    given = options(roles, trickle, tcp=True)
    with open_meeting(lan, ("host-a", "host-a2"), other, given) as meeting:
        meet(meeting, {"host", "prflx"})


@pytest.mark.parametrize("trickle", TRICKLE)
@pytest.mark.parametrize("roles", ROLES)
def test_through_two_nats(homes: Natlab, other: Implementation, roles: tuple[str, str], trickle: bool) -> None:
    """Both learn their outside address of our STUN server, and open their NATs with checks."""
    given = options(roles, trickle, stun=[INTERNET_HOST, 3478])
    with open_meeting(homes, ("host-a", "host-b"), other, given) as meeting:
        meet(meeting, {"host", "srflx", "prflx"})


@pytest.mark.parametrize("role", ["controlling", "controlled"])
def test_a_role_conflict_is_sorted_out(lan: Natlab, other: Implementation, role: str) -> None:
    """Both say the same; RFC 8445 section 7.3.1.1 must leave one in each role."""
    if other.name == "libdatachannel":
        pytest.skip("libdatachannel's role follows from who offers")
    with open_meeting(lan, ("host-a", "host-a2"), other, options((role, role), trickle=False)) as meeting:
        meet(meeting, {"host"})


@pytest.mark.parametrize("trickle", TRICKLE)
@pytest.mark.parametrize("roles", ROLES)
def test_two_components_of_one_stream(
    homes: Natlab, other: Implementation, roles: tuple[str, str], trickle: bool
) -> None:
    """Each has sockets and a pair of its own, as RTP and RTCP had; nothing that one sends comes out of the other."""
    if other.name == "libdatachannel":
        pytest.skip("libdatachannel has one component")
    given = options(roles, trickle, stun=[INTERNET_HOST, 3478], components=2)
    with open_meeting(homes, ("host-a", "host-b"), other, given) as meeting:
        meet(meeting, {"host", "srflx", "prflx"})


def test_a_peer_with_fewer_components(lan: Natlab, other: Implementation) -> None:
    """It has one, we have two: ours connects with that one alone (RFC 8445 section 6.1.2.2)."""
    mine, its = options(("controlling", "controlled"), trickle=False)
    with open_meeting(lan, ("host-a", "host-a2"), other, [{**mine, "components": 2}, its]) as meeting:
        meeting.introduce()


@pytest.mark.parametrize("relayed", ["theirs", "ours", "both"])
@pytest.mark.parametrize("roles", ROLES)
def test_behind_a_relay(
    homes: Natlab, other: Implementation, relay: dict[str, Any], roles: tuple[str, str], relayed: str
) -> None:
    """One side, or each, has nothing but a relayed candidate: checks and data go there and come from there."""
    mine, its = options(roles, relayed != "theirs", stun=[INTERNET_HOST, 3478])
    mine |= {**relay, "relay_only": True} if relayed in ("ours", "both") else {}
    its |= {**relay, "relay_only": True} if relayed in ("theirs", "both") else {}
    with open_meeting(homes, ("host-a", "host-b"), other, [mine, its]) as meeting:
        found, _ = meet(meeting, {"host", "srflx", "prflx", "relay"})
        if relayed in ("theirs", "both"):
            assert found["remote"][1] == INTERNET_HOST
        if relayed in ("ours", "both"):
            assert found["local"][:2] == ["relay", INTERNET_HOST]
