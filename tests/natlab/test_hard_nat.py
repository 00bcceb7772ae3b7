"""Hard NATs on real kernels, with the real command line: relayed at once, direct soon after, if both sides opt in.

`make natlab-hard` (`ICEAGENT_HARD_RUNS=10`) plays each layout ten times and prints how many became direct, and when; by
default it is three times, so that the laboratory takes minutes and not a quarter of an hour.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest
from natlab import Home, NatKind
from natlab_experiments import Scenario, open_tunnel
from processes import Ended

RUNS = int(os.environ.get("ICEAGENT_HARD_RUNS", "3"))
LEAST = 0.9  # of the runs; ports are guessed, and one of some hundred misses for long
WORKERS = 3  # runs at once, of all rows: half of a run is waiting, and more would measure this machine
PATIENCE_S = 25.0

STRICT, HARD = Home(nat=NatKind.PORT_RESTRICTED), Home(nat=NatKind.SYMMETRIC)
BELOW_A_CARRIER = Home(nat=NatKind.PORT_RESTRICTED, carrier=NatKind.SYMMETRIC)


def seconds_to_direct(scenario: Scenario) -> float | None:
    """Return how long after it was started the forwarder had a direct path, seconds; None if it never had."""
    data = b"x" * 1000
    with open_tunnel(scenario, data) as tunnel:
        assert tunnel.fetch() == data
        path, at = [line for line in tunnel.forwarder.lines if line["kind"] == "path"][-1], tunnel.clock()
        with suppress(Ended):
            while not path["direct"]:
                path = tunnel.forwarder.wait_for("path", timeout_s=PATIENCE_S)
                at = tunnel.clock()
        assert tunnel.fetch() == data
        exits = (tunnel.forwarder.stop(), tunnel.listener.wait())
        assert exits == (130, 0)
        return at if path["direct"] else None


LAYOUTS = {
    "port-restricted to symmetric": (STRICT, HARD),
    "symmetric to port-restricted": (HARD, STRICT),
    "port-restricted to a carrier's symmetric": (STRICT, BELOW_A_CARRIER),
}


SERVERS = {"one server": 1, "two servers": 2}
Row = tuple[str, str]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, laboratory: None) -> Iterator[dict[Row, list[Future[float | None]]]]:
    """The runs to come of each row that a selected test names: they are carried out side by side."""
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    rows = [(spec.params["layout"], spec.params["servers"]) for spec in specs if spec and "layout" in spec.params]
    with ThreadPoolExecutor(WORKERS) as pool:
        begun: dict[Row, list[Future[float | None]]] = {row: [] for row in rows}
        for number in range(RUNS):  # of every row one, so that a busy minute is no row's own
            for layout, servers in rows:
                name = f"{layout}, {servers}, run {number}"
                scenario = Scenario(name, *LAYOUTS[layout], hard_nat=True, stun_servers=SERVERS[servers])
                begun[layout, servers].append(pool.submit(seconds_to_direct, scenario))
        yield begun
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("servers", SERVERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_hard_nats_are_passed(
    layout: str,
    servers: str,
    runs: dict[Row, list[Future[float | None]]],
    record_property: Callable[[str, object], None],
) -> None:
    """What the virtual network promises, kernels keep: conntrack, ICMP and descriptors are real here.

    With one server, which is what every relay of ours hands out, no side can tell beforehand which one is the hard one.
    """
    times = [run.result() for run in runs[layout, servers]]
    record_property("seconds", times)
    direct = [one for one in times if one is not None]
    shown = " ".join("-" if one is None else f"{one:.1f}" for one in times)
    print(f"\n{layout}, {servers}: {len(direct)} of {RUNS} direct, seconds after typing forward: {shown}")
    assert len(direct) >= math.floor(LEAST * RUNS), times


def test_who_did_not_opt_in_stays_relayed() -> None:
    """One side's wish changes nothing, and costs nothing."""
    scenario = Scenario("one side only", STRICT, HARD, hard_nat=True, refuses="b")
    with open_tunnel(scenario, b"x") as tunnel:
        assert not tunnel.line["direct"]
        with pytest.raises(Ended):
            tunnel.forwarder.wait_for("path", timeout_s=6.0)
        tunnel.forwarder.stop()
