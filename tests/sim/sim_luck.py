"""What is bad luck and no failure: a line that has lost each and every packet of a server's, as some lines must."""

from __future__ import annotations

from collections.abc import Iterable
from errno import EHOSTUNREACH

from sim_draw import Drawn

from iceagent.agent import Agent, Component
from iceagent.agent.report.events import DestinationUnreachable, RelayFailed, ServerFailed

SILENT_S = {ServerFailed: 5.0, RelayFailed: 10.0}  # how long a server was asked that was given up for its silence
SLACK_S = 0.001

Key = tuple[int, int]
"""A stream and a component of it."""


def components(agent: Agent) -> list[Component]:
    """Return all components of an agent, those that were given up included."""
    return [component for stream in agent.streams for component in stream.components]


def lost_servers(drawn: Drawn, agents: Iterable[Agent], since_s: float | None = None) -> set[Key]:
    """Return the components to which a live server gave nothing within its budget, for all its packets were lost.

    On a line that loses 20 % each way that happens to one in some thousands; what was not gathered cannot be used.
    With `since_s` (Trio's time) only servers count that were asked later than that.
    """
    if drawn.is_clean:
        return set()
    found: set[Key] = set()
    for component in (one for agent in agents for one in components(agent)):
        for at, event in component.driver.timeline.entries():
            if since_s is not None and at < since_s + SILENT_S.get(type(event), 0.0) - SLACK_S:
                continue
            # A permission that a server never answered for is told as EHOSTUNREACH.
            if isinstance(event, DestinationUnreachable):
                is_silent = event.errno == EHOSTUNREACH and since_s is None
            else:
                is_silent = isinstance(event, ServerFailed | RelayFailed) and (
                    "dead" not in event.url and event.reason.startswith("no answer")
                )
            if is_silent:
                found.add((component.stream, component.id))
    return found


def is_for_want_of_a_server(drawn: Drawn, agents: Iterable[Agent], since_s: float | None = None) -> bool:
    """Whether the components without a path are all such ones as `lost_servers` returns.

    A side that ends its candidates without one for a component has no such component, as its peer sees it. So the peer
    gives up its own (RFC 8445 section 6.1.2.2), and a server that answers after that comes too late.
    """
    sides = tuple(agents)
    pathless = {(one.stream, one.id) for side in sides for one in components(side) if one.selected_pair is None}
    return bool(pathless) and pathless <= lost_servers(drawn, sides, since_s)


def has_heard_nothing(drawn: Drawn, number: int) -> bool:
    """Whether a line that loses packets has lost all that ever came to one of the two over UDP.

    To an agent that looks as if UDP did not get out, however often it asks. What a stranger sent does not count, nor
    does a trace that has forgotten how it began.
    """
    records = drawn.net.trace
    is_whole = sum(one.event == "send" for one in records) == drawn.net.statistics().packets_sent
    if drawn.is_clean or not is_whole:
        return False
    strangers = set(drawn.mallory.addresses())
    heard = [one.packet for one in records if one.event == "deliver" and one.place == drawn.hosts[number].name]
    return not any(
        not packet.is_tcp and packet.quote is None and packet.source.host not in strangers for packet in heard
    )
