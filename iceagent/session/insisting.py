"""Sessions that insist on a direct path: nothing is sent through a relay, and it is told when only that is possible.

They take no relayed candidate, of either side (`AgentConfig.candidate_types` without `relay`). That refuses what the
peer has signalled as relayed; a check that comes from its relay before that word does looks like one of any other
peer-reflexive candidate, so payload waits until the path is known for what it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iceagent.agent import Agent, AgentConfig
from iceagent.agent.explain import Verdict, VerdictKind
from iceagent.agent.outlook import refuses_relays, wait_surely_direct
from iceagent.errors import NetworkError
from iceagent.session.errors import NotDirect, PeerLeft, RelayError, SessionError
from iceagent.session.progress import Progress, Stage

if TYPE_CHECKING:
    from iceagent.session.session import Session

_HOW: Final = (
    "Forward a UDP port, or enable port mapping (PCP, NAT-PMP, UPnP), on one of the routers; or set `hard_nat` "
    "(`--hard-nat`) on both sides (docs/hard-nats.md)."
)
_OR_RELAYED: Final = "Or do not insist on a direct path: leave out --direct."
_BETWEEN: Final = frozenset(
    (
        VerdictKind.BOTH_MAP_PER_DESTINATION,
        VerdictKind.ONE_MAPS_PER_DESTINATION,
        VerdictKind.PEER_NEVER_CHECKED,
        VerdictKind.PEER_NEVER_ANSWERED,
        VerdictKind.NO_PATH,
        VerdictKind.RELAYED,
        VerdictKind.CONNECTED,
    )
)
"""What stands between the two is a NAT or a firewall: the verdict's own remedy may be a relay, which is not wanted."""
_UNDECIDED: Final = frozenset(
    (
        VerdictKind.CHECKING,
        VerdictKind.CLOSED,
        VerdictKind.WAITING_FOR_CREDENTIALS,
        VerdictKind.WAITING_FOR_CANDIDATES,
        VerdictKind.WRONG_CREDENTIALS,
        VerdictKind.NO_LOCAL_ADDRESS,
    )
)


def insists(config: AgentConfig) -> bool:
    """Return whether only direct paths are allowed."""
    return "relay" not in config.candidate_types


@asynccontextmanager
async def told_if_relayed(config: AgentConfig, agent: Agent, progress: Progress) -> AsyncIterator[None]:
    """Let it be told where the body fails for want of a direct path, and a relayed one would have been possible.

    Raises:
        NotDirect: so it is.
    """
    try:
        yield
    except (NetworkError, PeerLeft) as error:
        verdict = error.verdict if isinstance(error, SessionError) else None
        if not insists(config) or progress.stage not in (Stage.PEER, Stage.PATH):
            raise
        if verdict is None or verdict.kind in _UNDECIDED or isinstance(error, RelayError):
            raise
        if not (refuses_relays(agent) or any(server.is_turn for server in config.ice_servers)):
            raise
        raise _not_direct("there is no direct path to the other side", verdict) from error


async def surely_direct(config: AgentConfig, agent: Agent) -> None:
    """Wait, where only direct paths are allowed, until it is known that the one in use is.

    Raises:
        NotDirect: it leads through the peer's relay, and no other has come.
    """
    if insists(config) and not await wait_surely_direct(agent):
        raise _not_direct("the path that was found leads through the other side's relay", agent.explain())


def still_relayed(session: Session, seconds: float) -> NotDirect:
    """Return that a session's path has not become direct."""
    path, verdict = session.path, session.explain()
    because = f" ({path.because})" if path is not None and path.because else ""
    what = f"the path is still relayed after {seconds:g} s{because}"
    remedy = "" if verdict is None else verdict.remedy
    found = NotDirect(f"{what}. {remedy or _HOW}")
    found.verdict = verdict
    return found


def _not_direct(what: str, verdict: Verdict) -> NotDirect:
    """Return the error: a relay is no remedy where none is wanted."""
    remedy = f"{_HOW if verdict.kind in _BETWEEN else verdict.remedy} {_OR_RELAYED}".strip()
    found = NotDirect(f"{what}, and only a relayed one is possible: {verdict.summary} {remedy}")
    found.verdict = replace(verdict, remedy=remedy)
    return found
