"""Faults between real NATs: a process killed at any moment, and a tunnel that nobody uses while NATs forget.

The moments are drawn from `ICEAGENT_SEED` (8 unless it is set): while the forwarder dials or tries paths, shakes hands,
and in the middle of a transfer.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from natlab_experiments import Scenario, Tunnel, fetch, open_commands, open_tunnel
from processes import Ended

SEED = int(os.environ.get("ICEAGENT_SEED", "8"))
WORKERS = 9  # at once: nearly all of their time is waiting for a silent peer
BYTES = 60_000_000
SURVIVOR_S = 45.0  # more than the 30 s after which consent is lost (RFC 7675)
BREAKS = {3, 4, 5, 6}
"""Exits that blame the relay, the code, the path or an absent peer: not 1, our own fault, nor 0, a good end."""

IDLE = "45 s"
FORGETFUL_S = 20
IDLE_S = 45.0
DATA = b"x" * 10_000

Moment = tuple[str, str]
VICTIMS = ("listener", "forwarder")
PHASES = {"typed": 1.5, "path": 0.3, "forwarding": 1.0, "forwarding, again": 1.0}
"""What the forwarder has come to, and how many seconds later the kill comes at most."""
DELAYS = {
    (victim, phase): random.Random(f"{SEED} {victim} {phase}").uniform(0.0, longest_s)
    for victim in VICTIMS
    for phase, longest_s in PHASES.items()
}


@dataclass(frozen=True)
class Killed:
    """What a killed process left behind.

    Attributes:
        arrived: bytes that the reader of the forward had when its stream ended; None if it was reset or never began.
        exit: the survivor's; None for a listener that nobody had met, which waits on.
        seconds: from the kill to the survivor's end.
        story: all that the survivor printed.
    """

    arrived: int | None
    exit: int | None
    seconds: float
    story: str


def read_to_the_end(tunnel: Tunnel) -> int | None:
    """Return how many bytes came before a clean end of the stream; None if it was reset."""
    with suppress(OSError):
        return len(fetch(tunnel.namespace, tunnel.bind))
    return None


def kill(moment: Moment) -> Killed:
    """Kill one side so long after the forwarder has come so far."""
    victim, phase = moment
    with open_commands(Scenario(f"{victim} killed"), bytes(BYTES)) as tunnel, ThreadPoolExecutor(1) as pool:
        dying, other = tunnel.listener, tunnel.forwarder
        if victim == "forwarder":
            dying, other = other, dying
        reading: Future[int | None] | None = None
        if phase != "typed":
            line = tunnel.forwarder.wait_for(phase.partition(",")[0])
            if line["kind"] == "forwarding":
                tunnel.bind = line["bind"]
                reading = pool.submit(read_to_the_end, tunnel)
        time.sleep(DELAYS[moment])
        dying.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        code: int | None = None
        with suppress(Ended):
            code = other.wait(SURVIVOR_S)
        seconds = time.monotonic() - killed_at
        if code is None:
            other.stop()
        lines = [str(line) for line in [*other.lines, *other.rest()]]
        arrived = None if reading is None else reading.result()
        return Killed(arrived, code, seconds, "\n".join([*lines, *other.errors]))


def stay_idle() -> tuple[bytes, list[dict[str, Any]], tuple[int, int]]:
    """Leave a tunnel alone; return what a fetch then gives, what was said meanwhile, and both exits."""
    with open_tunnel(Scenario("forgetful NATs"), DATA) as tunnel:
        for node in ("nat-a", "nat-b"):
            tunnel.lab.forget_after(node, FORGETFUL_S)
        assert tunnel.fetch() == DATA
        tunnel.wait_direct()
        before = len(tunnel.forwarder.lines)
        time.sleep(IDLE_S)
        fetched = tunnel.fetch()
        said = [*tunnel.forwarder.lines[before:], *tunnel.forwarder.rest()]
        return fetched, said, (tunnel.forwarder.stop(), tunnel.listener.wait())


class Runs(NamedTuple):
    """The outcomes to come of what selected tests name: all is carried out side by side."""

    killed: dict[Moment, Future[Killed]]
    idle: Future[tuple[bytes, list[dict[str, Any]], tuple[int, int]]]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, laboratory: None) -> Iterator[Runs]:
    """Begin everything at once."""
    specs: list[dict[str, Any]] = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    named = [(one["victim"], one["phase"]) for one in specs if "victim" in one]
    with ThreadPoolExecutor(WORKERS) as pool:
        idle: Future[Any] = pool.submit(stay_idle) if any("idle" in one for one in specs) else Future()
        yield Runs({moment: pool.submit(kill, moment) for moment in named}, idle)
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_killed_at_any_moment(victim: str, phase: str, runs: Runs) -> None:
    """Nothing short looks whole, and the other side ends by itself, with an exit that says why."""
    outcome = runs.killed[victim, phase].result()
    shown = f"the {victim} killed {DELAYS[victim, phase]:.2f} s after `{phase}`"
    print(f"{shown}: exit {outcome.exit} after {outcome.seconds:.1f} s, {outcome.arrived} bytes before a clean end")
    assert outcome.arrived in (None, BYTES), f"{shown}: a truncated stream ended cleanly\n{outcome.story}"
    if (victim, phase) == ("forwarder", "typed") and outcome.exit is None:
        assert "'stage': 'path'" not in outcome.story, f"{shown}: the listener had met it\n{outcome.story}"
        return
    assert outcome.exit in BREAKS, f"{shown}: exit {outcome.exit}\n{outcome.story}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("idle", [IDLE])
def test_an_idle_tunnel_behind_forgetful_nats(idle: str, runs: Runs) -> None:
    """Routers that forget a mapping of UDP after 20 s: what nobody uses for longer is there at the first word."""
    fetched, said, exits = runs.idle.result()
    assert fetched == DATA
    assert not said, "an idle path is kept, not found anew"
    assert exits == (130, 0)
