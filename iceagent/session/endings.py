"""The message for each end of which the agent knows more than the link: what happened, then what to do."""

from __future__ import annotations

from dataclasses import replace

from iceagent.agent import Agent, AgentState
from iceagent.agent.explain import Verdict, VerdictKind
from iceagent.agent.explain.verdict import CATALOGUE
from iceagent.core.constants import CONSENT_EXPIRY_S
from iceagent.errors import IceError
from iceagent.link import LinkLost
from iceagent.session.errors import NoLink, NoPath, PeerLeft, PeerLost, RelayError
from iceagent.session.outages import format_time

PEER_LOST = (
    f"the other side has not answered for {CONSENT_EXPIRY_S:.0f} s; it was stopped, or its network or this one is down"
)

_NO_SIGNALING = (
    "The path has been silent for 30 s, and the conversation at the relay, over which another path could have been "
    "agreed on, had ended before."
)
_AWAY = "The other side has not answered for {}, on no path and through no relay, and is waited for no longer."
_AGAIN = "Connect again, with a new code; a relay that keeps running keeps sessions through changes of networks."
_NOT_TRIED = frozenset((VerdictKind.CLOSED, VerdictKind.WAITING_FOR_CREDENTIALS, VerdictKind.WAITING_FOR_CANDIDATES))
_NO_PATH = "no path to the other side"
_LOST = frozenset(
    (VerdictKind.CONSENT_LOST, VerdictKind.CONSENT_REVOKED, VerdictKind.PATH_LOST, VerdictKind.NETWORK_CHANGED)
)


def no_path(agent: Agent) -> NoPath:
    """Return why no path was found, with the agent's verdict and its remedy."""
    verdict = agent.explain()
    what = "the path to the other side was lost before the session was open" if verdict.kind in _LOST else _NO_PATH
    found = NoPath(f"{what}: {worded(verdict)}")
    found.verdict = verdict
    return found


def no_link(agent: Agent, error: IceError) -> NoLink:
    """Return why the link did not open although there was a path; the path may have died meanwhile."""
    if not agent.is_answering:
        found = NoLink(f"the path to the other side was lost before the link was open: {worded(agent.explain())}")
    else:
        found = NoLink(
            f"a path to the other side was found, but {error}: its program was stopped, or packets of 1200 bytes "
            "do not get through; try again, with a new code"
        )
    found.verdict = agent.explain()
    found.__cause__ = error
    return found


def left_early(agent: Agent, error: PeerLeft | RelayError) -> PeerLeft | RelayError:
    """Return why signaling ended while a path was looked for, with what this side had seen of the network by then.

    The first side to give up ends the conversation; the other would know no more than that.
    """
    verdict = agent.explain()
    if verdict.kind in _NOT_TRIED:
        return error
    seen = "no path had answered by then" if verdict.kind is VerdictKind.CHECKING else worded(verdict)
    found = type(error)(f"{error}; seen from here: {seen}")
    found.verdict = verdict
    return found


def peer_gone(agent: Agent, gone_s: float) -> PeerLeft | RelayError:
    """Return that the other side is gone: it has hung up at the relay `gone_s` ago, and nothing has come from it."""
    return left_early(
        agent,
        PeerLeft(
            f"the other side is gone: it hung up at the relay {gone_s:.0f} s ago without a word, and nothing has come "
            "from it since; its program was stopped, or its network is down. Start it again, with a new code"
        ),
    )


def failure_of(agent: Agent, *, signaling_ended: bool = False) -> Verdict | None:
    """Return the verdict on an agent that has failed, as a session has it; None while it lives.

    The agent's own word for a restart that nobody answers is to carry its credentials to the peer. A session has done
    that: no answer on any path, and none through the relay, is a peer that does not answer. Unless the relay itself had
    gone before, or the peer from it: then no other path could be agreed on, and that is what is known.
    """
    if agent.state is not AgentState.FAILED:
        return None
    verdict = agent.explain()
    if verdict.kind is not VerdictKind.RESTART_UNANSWERED:
        return verdict
    if signaling_ended:
        return replace(verdict, summary=_NO_SIGNALING, remedy=_AGAIN)
    entry = CATALOGUE[VerdictKind.CONSENT_LOST]
    silent_s = agent.silent_s or 0.0
    summary = entry.meaning if silent_s < 2 * CONSENT_EXPIRY_S else _AWAY.format(format_time(silent_s))
    return replace(verdict, kind=VerdictKind.CONSENT_LOST, summary=summary, remedy=entry.remedy)


def peer_lost(reason: LinkLost, verdict: Verdict | None) -> PeerLost:
    """Return why a session is over whose link was lost.

    Args:
        reason: what the link says.
        verdict: what the agent said as it failed; None if it did not fail, or there is none.
    """
    if verdict is None:
        found = PeerLost(f"{reason}; connect again, with a new code")
    elif verdict.summary == CATALOGUE[VerdictKind.CONSENT_LOST].meaning:
        found = PeerLost(f"{PEER_LOST}. {verdict.remedy}")
    else:
        found = PeerLost(f"the connection to the other side is lost: {worded(verdict)}")
    found.verdict = verdict
    return found


def worded(verdict: Verdict) -> str:
    """Return a verdict's summary and remedy."""
    return f"{verdict.summary} {verdict.remedy}".rstrip()
