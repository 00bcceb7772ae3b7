"""What changes under a running tunnel: a host's address, its interface. Direct again in seconds, and no byte lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from natlab import Home, Natlab
from natlab_experiments import Scenario, open_tunnel, side_by_side

WORKERS = 3  # at once: what is measured here is seconds
DATA = b"x" * 10_000
DIRECT_AGAIN_S = 15.0
"""A second or two on a quiet machine. Signaling's own pings notice a dead connection after 20 to 40 s, its next attempt
may be 5 s later: this tells whether somebody has looked before."""


@dataclass(frozen=True)
class Changed:
    """What happened after the change.

    Attributes:
        fetched: whether a file came through the tunnel right after it.
        seconds: from the change to the last path line, which is the one that is wanted.
        is_direct: whether that is direct.
        ending_s: from the interrupt of the forwarder until both had ended.
        story: all lines of the forwarder.
    """

    fetched: bool
    seconds: float
    is_direct: bool
    ending_s: float
    story: list[object] = field(default_factory=list)


CHANGES: dict[str, Callable[[Natlab], None]] = {
    "the forwarder's host has another address": lambda lab: lab.move_host("a"),
    "the listener's host has another address": lambda lab: lab.move_host("b"),
    "the forwarder's host has another address after 3 s without": lambda lab: lab.move_host("a", 3.0),
    "the listener's host has another address after 3 s without": lambda lab: lab.move_host("b", 3.0),
    "the forwarder's host changes to another line": lambda lab: lab.switch_interface("a", Home(), says_so=True),
    "the listener's host changes to another line": lambda lab: lab.switch_interface("b", Home(), says_so=True),
    "the forwarder's line dies, routes change": lambda lab: lab.switch_interface("a", Home(), says_so=False),
    "the listener's line dies, routes change": lambda lab: lab.switch_interface("b", Home(), says_so=False),
}


def carry_out(change: Callable[[Natlab], None]) -> Changed:
    with open_tunnel(Scenario("a change"), DATA) as tunnel:
        assert tunnel.fetch() == DATA
        tunnel.wait_direct()
        before = len(tunnel.forwarder.lines)
        change(tunnel.lab)
        changed_at = time.monotonic()
        fetched = tunnel.fetch() == DATA
        path = tunnel.wait_direct_since(before, DIRECT_AGAIN_S)
        seconds = time.monotonic() - changed_at
        assert tunnel.fetch() == DATA
        stopped_at = time.monotonic()
        assert (tunnel.forwarder.stop(), tunnel.listener.wait()) == (130, 0)
        return Changed(fetched, seconds, path, time.monotonic() - stopped_at, list(tunnel.forwarder.lines))


@pytest.fixture(scope="module")
def changed(request: pytest.FixtureRequest, laboratory: None) -> Iterator[dict[str, Future[Changed]]]:
    """The outcomes to come of the changes that selected tests name: they are carried out side by side."""
    yield from side_by_side(request, "change", lambda name: carry_out(CHANGES[name]), WORKERS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("change", CHANGES)
def test_direct_again_soon_after_a_change(change: str, changed: dict[str, Future[Changed]]) -> None:
    """The peer has to be told, by a signaling connection that has died with the old address or the old line."""
    outcome = changed[change].result()
    print(f"{change}: {outcome.seconds:.1f} s, ended {outcome.ending_s:.1f} s after the interrupt")
    assert outcome.fetched, outcome.story
    assert outcome.is_direct, outcome.story
