"""A tunnel between two homes that outlives what is under it: packets dropped for minutes, a program that was stopped,
its relay killed and started again with nothing in its memory. The transfer under way goes on, and arrives whole.

`ICEAGENT_OUTAGE_S=150` makes the longest outage longer than the 120 s for which a relay keeps a place.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from natlab_experiments import Scenario, Tunnel, open_tunnel, side_by_side, socket_in

DROP_ALL = """
add table inet outage
add chain inet outage everything { type filter hook forward priority -200; }
add rule inet outage everything drop
"""
RESTORE = "delete table inet outage"
PIECE = 1 << 20


@dataclass(frozen=True)
class Endured:
    """What came of a transfer through an outage.

    Attributes:
        whole: whether all bytes arrived, once and in order.
        resumed_s: from the moment the network was back until bytes came again.
        told: the states of the outages that the forwarder told.
        exits: of forwarder and listener, after an interrupt of the former.
        story: all lines of the forwarder.
    """

    whole: bool
    resumed_s: float
    told: list[str]
    exits: tuple[int, int]
    story: list[dict[str, Any]]


class Reader:
    """Reads what a forward gives, slowly enough that an outage comes in the middle."""

    def __init__(self, tunnel: Tunnel, rate: int) -> None:
        tunnel.bind = tunnel.bind or tunnel.forwarder.wait_for("forwarding")["bind"]
        self.digest = hashlib.sha256()
        self.arrivals: list[tuple[float, int]] = []
        self._tunnel = tunnel
        self._rate = rate

    def read(self) -> None:
        host, _, port = self._tunnel.bind.rpartition(":")
        with socket_in(self._tunnel.namespace) as client:
            client.settimeout(400)
            client.connect((host, int(port)))
            total = 0
            while chunk := client.recv(1 << 16):
                total += len(chunk)
                self.digest.update(chunk)
                self.arrivals.append((time.monotonic(), total))
                time.sleep(len(chunk) / self._rate)


def endure(seconds: float, *, what: str) -> Endured:
    """Carry 40 MB; a third of the way in, nothing goes for so many seconds."""
    data = random.Random(what).randbytes(40 * PIECE)
    with open_tunnel(Scenario(what), data) as tunnel, ThreadPoolExecutor(1) as pool:
        tunnel.wait_direct()
        reader = Reader(tunnel, rate=4 * PIECE)
        reading = pool.submit(reader.read)
        while not reader.arrivals or reader.arrivals[-1][1] < 10 * PIECE:
            time.sleep(0.1)
        back_at = break_for(tunnel, seconds, what)
        reading.result()
        stalled = [at for at, _ in reader.arrivals if at > back_at]
        exits = (tunnel.forwarder.stop(), tunnel.listener.wait())
        lines = [*tunnel.forwarder.lines, *tunnel.forwarder.rest()]
        return Endured(
            reader.digest.digest() == hashlib.sha256(data).digest(),
            stalled[0] - back_at if stalled else 0.0,
            [line["state"] for line in lines if line["kind"] == "outage"],
            exits,
            lines,
        )


def break_for(tunnel: Tunnel, seconds: float, what: str) -> float:
    """Let it happen; return when it was over."""
    if "stopped" in what:
        tunnel.forwarder.signal(signal.SIGSTOP)
        time.sleep(seconds)
        tunnel.forwarder.signal(signal.SIGCONT)
        return time.monotonic()
    tunnel.lab.nft("nat-b", DROP_ALL)
    if "relay" in what:
        time.sleep(2)
        restart_relay(tunnel)
    time.sleep(seconds)
    if "address" in what:
        tunnel.lab.move_home("b")
    tunnel.lab.nft("nat-b", RESTORE)
    return time.monotonic()


def restart_relay(tunnel: Tunnel) -> None:
    """Kill the relay, and start it again at its port, with its options: it knows nothing of anybody."""
    url = tunnel.relay.lines[0]["url"]
    options = list(tunnel.relay.command[tunnel.relay.command.index("serve") + 1 :])
    tunnel.relay.signal(signal.SIGKILL)
    tunnel.relay.wait()
    place = options.index("--listen") + 1
    options[place] = options[place].rpartition(":")[0] + ":" + url.rpartition(":")[2].rstrip("/")
    again = tunnel.run.iceagent("serve", *options, inside=tunnel.lab.inside("inet"))
    assert again.wait_for("listening")["url"] == url


CASES = {
    "all packets dropped for 40 s": 40.0,
    "all packets dropped, the relay killed and started again": 40.0,
    "all packets dropped, another public address afterwards, the relay killed and started again": 45.0,
    "the forwarder stopped for 40 s": 40.0,
    "all packets dropped for longer still": float(os.environ.get("ICEAGENT_OUTAGE_S", "50")),
}


@pytest.fixture(scope="module")
def endured(request: pytest.FixtureRequest, laboratory: None) -> Iterator[dict[str, Future[Endured]]]:
    """The outcomes to come of the cases that selected tests name: they are carried out side by side."""
    yield from side_by_side(request, "case", lambda name: endure(CASES[name], what=name), len(CASES))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_a_transfer_goes_on_where_it_was(case: str, endured: dict[str, Future[Endured]]) -> None:
    """Both programs live: nothing that a network or a relay does in between is the end of their session."""
    outcome = endured[case].result()
    print(f"{case}: went on {outcome.resumed_s:.1f} s after the network was back")
    assert outcome.whole, outcome.story
    assert outcome.exits == (130, 0), outcome.story
    assert outcome.told[-1] == "back", outcome.story
    assert outcome.told.count("reconnecting") <= 1 + ("stopped" in case), outcome.story
